"""Lyapunov exponents of any one-step map: the rates at which products of its step Jacobians stretch volumes.

The exponents are λ_i = lim 1/T log R_ii, where J_T ... J_1 Q_0 = Q R (Benettin, Galgani, Giorgilli, Strelcyn 1980).
The same R can be obtained without a QR at every step: with elimination, J_t L_{t-1} = L_t U_t, the product telescopes
to L_T (U_T ... U_1), and QR = L_T then gives log R_ii = Σ_t log|U_t,ii| + log|R_ii(L_T)| exactly, for a third of the
work. Partial pivoting keeps L_t well conditioned and, since it takes the large rows first, preserves the relative
accuracy of the small ones: the rows of a saturated network's J_t = diag(φ′) W differ by many decades, and a QR that
does not sort them loses the tail of the spectrum.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from gradient_horizon.measures.log_determinants import LogDet, log_dets_by_elimination, user_log_dets
from gradient_horizon.measures.states import FlatStep
from gradient_horizon.measures.trajectory import Trajectory, sequence_length, system_of
from gradient_horizon.measures.volume_growth import Growth, Stretch, grow, grow_in_float64, start_from, stretch_by
from gradient_horizon.measures.wide import in_float64, lifted_jacobian
from gradient_horizon.numerics import lapack, sums
from gradient_horizon.numerics.arrays import PyTree, Scalar, Step
from gradient_horizon.numerics.compiled import compiled_once
from gradient_horizon.numerics.derivatives import with_derivative_of
from gradient_horizon.numerics.fallback import held, step_of_arrays, with_care
from gradient_horizon.numerics.keys import fixed_orthogonal
from gradient_horizon.numerics.orthogonal import log_growth

_log = logging.getLogger(__name__)
GROUPS = 10  # groups of consecutive steps; their means give the standard error


class LyapunovSpectrum(NamedTuple):
    """The first k Lyapunov exponents of a map with n state entries: natural logs per step.

    - `exponents`: (k,), descending; -inf for directions that some step maps to zero.
    - `standard_error`: (k,), the standard deviation of the means over `GROUPS` groups of consecutive steps, divided
      by √`GROUPS`. Valid if a group is longer than the correlations. NaN if the exponent is not finite or there are
      fewer than 4 steps.
    - `sum_rule_error`: |Σ_i λ_i - mean_t log|det J_t|| / n, per step and unit. NaN if some J_t is singular (both sides
      are then -inf, and the finite exponents go unchecked), or if k < n. It detects a lost tail, but not errors that
      neighbouring exponents exchange; inf if `every` is so large that a direction was lost altogether.
    - `kaplan_yorke_dimension`: j + Σ_{i≤j} λ_i / |λ_{j+1}|, with j the largest number such that Σ_{i≤j} λ_i ≥ 0; 0 if
      λ_1 < 0, and n if the whole sum is not negative. NaN if the k exponents do not reach that far.
    - `entropy_rate`: the sum of the positive exponents (Ruelle's upper bound, and Pesin's value). NaN if k < n and all
      k are positive.
    """

    exponents: Array
    standard_error: Array
    sum_rule_error: Array
    kaplan_yorke_dimension: Array
    entropy_rate: Array


def kaplan_yorke_dimension(exponents: Float[Array, " k"], n: int) -> Scalar:
    """The Kaplan-Yorke dimension from the first k of n exponents, descending (Frederickson et al. 1983)."""
    k = exponents.shape[0]
    total = jnp.cumsum(exponents)
    whole = jnp.sum((total >= 0).astype(jnp.int32))
    last = jnp.where(whole > 0, total[whole - 1], 0)
    crossing = exponents[jnp.minimum(whole, k - 1)]
    partial = whole.astype(exponents.dtype) + last / jnp.where(crossing < 0, -crossing, 1)
    unreached = n if k == n else jnp.nan
    dimension = jnp.where(whole < k, partial, jnp.asarray(unreached, exponents.dtype))
    return jnp.where(jnp.any(jnp.isnan(exponents)), jnp.nan, dimension)


def entropy_rate(exponents: Float[Array, " k"], n: int) -> Scalar:
    """The sum of the positive exponents, from the first k of n, descending; in nats per step."""
    total = jnp.sum(jnp.where(exponents <= 0, 0, exponents))
    return total if exponents.shape[0] == n else jnp.where(exponents[-1] > 0, jnp.nan, total)


def lyapunov_exponents(
    step: Step,
    params: PyTree,
    h0: PyTree,
    xs: PyTree = None,
    *,
    steps: int | None = None,
    transient: int = 0,
    count: int | None = None,
    every: int = 1,
    log_det: LogDet | None = None,
    trajectory: Trajectory | None = None,
) -> LyapunovSpectrum:
    """The Lyapunov exponents of a one-step map along the trajectory from `h0`, natural logs per step.

    **Arguments:**

    - `step`: `step(params, h, x) -> h`; the state may be any pytree of arrays, n entries in all, including complex and
      16-bit ones, and may also hold integers and keys (see `states`).
    - `xs`: a pytree with leading axis T, or None with `steps` = T.
    - `transient`: the number of the T steps to discard. The tangent vectors are carried through them, so that they
      are aligned when counting starts.
    - `count`: the number of exponents to compute, from the largest (None: all n). Fewer cost less, but cannot be
      checked by the sum rule. All are computed nevertheless if one of the vectors has entries far below its largest
      (2^-40), which might underflow and grow again, as in parts of the state that no other part reaches.
    - `every`: the number of steps between eliminations. Directions further apart than 1/eps after that many steps lose
      their digits. 1 is safe at every gain; larger values pay off if the condition number of one step is small.
    - `log_det`: `log_det(params, h, x)`, a separate formula for log|det J_t|, for the sum rule, such as
      `VanillaCell.log_abs_det`. None: by elimination of every J_t, which about doubles the cost.
    - `trajectory`: the result of `rollout` for the same arguments, if available (say, with `rescale`); by default it
      is computed.

    **Complex states:** for a holomorphic step, n exponents. Each occurs twice among those of the real and imaginary
    parts, and counts twice in the dimension and the entropy. For any other step, the 2n exponents of the real and
    imaginary parts. The linearisation of a step shows whether it is holomorphic (see `holomorphic`).

    **Derivatives:** of exponents and standard errors, forward and reverse, by a QR at every step (see `orthogonal`);
    NaN for a direction that dies, and where rounding leaves no digits.

    **Returns:** `LyapunovSpectrum`, in the state's dtype. An exponent is -inf if a step maps its direction exactly to
    zero (dead ReLU units) or if, with `every` = 1, none of its pivots exceeds rounding (W of lower rank). A saturated
    unit whose φ′ underflows in float32 counts as dead. All NaN if a state is not finite.

    **Accuracy:** against a row-sorted QR in float64 along the same tanh Jacobians (N = 64 and 256, g = 0.8 to 10, 200
    steps), the worst single exponent was off by 1e-10 in float64. In float32 it was off by 2e-3, and at g = 3, N = 256
    by 1e-2 (over 1000 steps by 3e-3): errors that neighbours exchange, well below their standard errors. Such a QR at
    every step would reduce the float32 error to a tenth, at 2 to 4 times the cost.

    The logs are summed in two floats (see `sums`): over 10⁶ steps of float32 each exponent, and its standard error, is
    off by 1e-7 or by the rounding of its own single steps.

    Logs a warning if the sum rule is violated by more than 100 √n eps, which rounding does not explain (except inside a
    transformation such as `jax.jit`, where values are not known).

    **Raises:** `ValueError` for a setting out of range.
    """
    settings = {"steps": steps, "transient": transient, "count": count, "every": every, "log_det": log_det}
    spectrum = _spectrum(step, params, h0, xs, trajectory=trajectory, **settings)
    violation = spectrum.sum_rule_error
    n = sum(jnp.size(leaf) for leaf in jax.tree.leaves(h0))
    limit = 100 * n**0.5 * float(jnp.finfo(violation.dtype).eps)
    if not isinstance(violation, Tracer) and float(violation) > limit:
        _log.warning(
            "sum rule broken by %.1e per step and unit, where rounding explains %.1e: the smallest exponents are wrong"
            " (float64, or a smaller `every`, keeps them)",
            float(violation),
            limit,
        )
    return spectrum


@compiled_once
def _spectrum(
    step: Step,
    params: PyTree,
    h0: PyTree,
    xs: PyTree,
    *,
    steps: int | None,
    transient: int,
    count: int | None,
    every: int,
    log_det: LogDet | None,
    trajectory: Trajectory | None,
) -> LyapunovSpectrum:
    length = sequence_length(xs, steps)
    system = system_of(step, params, h0, xs, steps=steps, trajectory=trajectory)
    layout, window = system.layout, system.window
    n, dtype = layout.size, layout.dtype
    # each exponent of a holomorphic step occurs twice among the real ones, and is reported once
    copies = 2 if system.is_holomorphic else 1
    count = n // copies if count is None else count
    _check(length, n // copies, transient, count, every)
    all_finite = jnp.all(system.trajectory.finite)
    schedule = _Schedule(transient, length - transient, every)
    whole_basis = _start(n, copies)
    basis = whole_basis[:, : count * copies]
    is_whole = count * copies == n

    # traced values held by `params` and the step become an argument, `closed`
    flat_step, closed = step_of_arrays(lambda h, x: system.step(params, h, x), *window)
    constant, constants = held((window, closed))
    stretch = stretch_by(flat_step, constants, dtype)
    quick, is_lost = _by_elimination(stretch, constant, jnp.asarray(basis.T, dtype), schedule)
    counted = schedule.counted(constant)
    needs_log_dets = is_whole and log_det is None  # for the sum rule
    log_dets = jnp.zeros(schedule.length, dtype)
    if needs_log_dets:
        log_dets = log_dets_by_elimination(stretch, counted, n, dtype)
    with_64_bits = jnp.result_type(float) == jnp.float64

    # With fewer vectors than the state has entries, what underflows in all of them is lost; with n vectors, what one
    # loses another still has.
    careful = partial(_by_sorted_qr, flat_step, whole_basis, schedule, count * copies, needs_log_dets, with_64_bits)
    with jax.enable_x64(True):
        results, log_dets = with_care(is_lost & all_finite, (quick, log_dets), careful, closed, window)
    route = partial(_by_orthogonal_route, flat_step, basis, schedule)
    results = with_derivative_of(route, results, closed, window)
    exponents, error = jax.tree.map(lambda values: jnp.where(all_finite, values, jnp.nan), results)
    if is_whole and log_det is not None:
        log_dets = user_log_dets(log_det, layout, held(params), counted, copies)
    return _summarise(exponents, error, log_dets, n, copies, every)


class _Schedule(NamedTuple):
    """How the steps are used: `transient` of them align the vectors, and the next `length` are measured.

    The vectors are reduced after `every` steps.
    """

    transient: int
    length: int
    every: int

    @property
    def groups(self) -> int:
        """The number of groups of consecutive steps whose means give the standard error; 1: there is none."""
        return min(GROUPS, self.length // 2) if self.length >= 4 else 1

    @property
    def size(self) -> int:
        """The number of steps of a group."""
        return self.length // self.groups

    def counted(self, window: PyTree) -> PyTree:
        """The steps after the transient."""
        return jax.tree.map(lambda leaf: leaf[self.transient :], window)

    def grouped(self, counted: PyTree) -> tuple[PyTree, PyTree]:
        """These steps in groups, with leading axes (`groups`, `size`), and the steps left over."""
        cut = self.groups * self.size
        whole = jax.tree.map(lambda leaf: leaf[:cut].reshape(self.groups, self.size, *leaf.shape[1:]), counted)
        return whole, jax.tree.map(lambda leaf: leaf[cut:], counted)


class _Measured(NamedTuple):
    exponents: Array  # (k,), descending
    error: Array  # (k,), of each


def _align(
    stretch: Stretch, window: PyTree, basis: Float[Array, "k n"], schedule: _Schedule
) -> tuple[Growth, Bool[Array, " k"]]:
    """Carry `basis` through the transient; also return which directions one of its steps maps to zero."""
    growth = start_from(basis)
    if not schedule.transient:
        return growth, jnp.zeros(len(basis), bool)
    early = jax.tree.map(lambda leaf: leaf[: schedule.transient], window)
    growth, gained = grow(stretch, schedule.every, growth, early)
    return growth, gained.total == -jnp.inf


def _count(stretch: Stretch, window: PyTree, growth: Growth, schedule: _Schedule) -> tuple[Growth, sums.Sum, sums.Sum]:
    """Carry `growth` over the steps after the transient.

    Returns it, the growth of log R_ii in each group of steps, and the same followed by that in the steps left over.
    """
    whole, rest = schedule.grouped(schedule.counted(window))
    growth, by_group = lax.scan(partial(grow, stretch, schedule.every), growth, whole)
    if schedule.groups * schedule.size == schedule.length:
        return growth, by_group, by_group
    growth, last = grow(stretch, schedule.every, growth, rest)
    return growth, by_group, jax.tree.map(lambda some, one: jnp.concatenate([some, one[None]]), by_group, last)


def _by_elimination(
    stretch: Stretch, window: PyTree, basis: Float[Array, "k n"], schedule: _Schedule
) -> tuple[_Measured, Bool[Array, ""]]:
    """The exponents and their errors, and True if something may have been lost."""
    aligned, died_early = _align(stretch, window, basis, schedule)
    growth, by_group, parts = _count(stretch, window, aligned, schedule)
    # if steps are multiplied before elimination, pivots below rounding mean that `every` is too large instead
    is_dead = died_early | growth.unresolved if schedule.every == 1 else died_early
    exponents = jnp.where(is_dead, -jnp.inf, sums.value(sums.total(parts)) / schedule.length)
    # subtract what the groups have in common before rounding anything to one float
    first = jax.tree.map(lambda part: part[:1], by_group)
    apart = sums.value(sums.join(by_group, sums.negative(first))) / schedule.size
    return _sorted(exponents, _standard_error(apart)), growth.lost


def _by_sorted_qr(
    flat_step: FlatStep,
    basis: Float[np.ndarray, "n n"],
    schedule: _Schedule,
    count: int,
    with_log_dets: bool,
    with_64_bits: bool,
    closed: PyTree,
    window: PyTree,
) -> tuple[_Measured, Float[Array, " T"]]:
    """The first `count` exponents with their errors, and log|det J_t|, by a QR in float64 at every step.

    `with_64_bits`: whether the step runs with 64 bits enabled, as it does in the caller's program.
    """
    dtype = window[0].dtype

    def jacobian(inputs):
        h, x = inputs
        with jax.enable_x64(with_64_bits):
            lifted = lifted_jacobian(lambda h: flat_step(closed, h, x), h)
        return in_float64(lifted)

    numbers = np.arange(-schedule.transient, schedule.length, dtype=np.int32)
    parts = np.where(numbers < 0, 0, 1 + np.minimum(numbers // schedule.size, schedule.groups)).astype(np.int32)
    eps = float(jnp.finfo(dtype).eps)
    totals, unresolved, log_dets = grow_in_float64(jacobian, window, basis, eps, parts, with_log_dets)
    means = jnp.sum(totals[1:], axis=0) / schedule.length
    exponents = jnp.where(unresolved | (totals[0] == -jnp.inf), -jnp.inf, means)
    every_one = _sorted(exponents, _standard_error(totals[1 : 1 + schedule.groups] / schedule.size))
    results = _Measured(*(values[:count] for values in every_one)), log_dets[schedule.transient :]
    return jax.tree.map(lambda values: values.astype(dtype), results)


def _by_orthogonal_route(
    flat_step: FlatStep, basis: Float[np.ndarray, "n k"], schedule: _Schedule, closed: PyTree, window: PyTree
) -> tuple[_Measured, Bool[Array, " k"]]:
    """The exponents and their errors, and where they have a derivative."""
    growth, is_sure = log_growth(flat_step, closed, window, jnp.asarray(basis, window[0].dtype))
    logs = growth[schedule.transient :]
    exponents = sums.mean(logs)
    error = _standard_error(jnp.mean(schedule.grouped(logs)[0], axis=1))
    order = jnp.argsort(-exponents)
    return _Measured(exponents[order], error[order]), lax.cummin(is_sure[order].astype(jnp.int32)) > 0


def _sorted(exponents: Float[Array, " k"], error: Float[Array, " k"]) -> _Measured:
    """Both in descending order of the exponents, with NaN as the error of an exponent that is not finite."""
    of_finite = jnp.where(jnp.isfinite(exponents), error, jnp.nan)
    order = lapack.descending(exponents)
    return _Measured(exponents[order], of_finite[order])


def _summarise(
    exponents: Float[Array, " k"],
    error: Float[Array, " k"],
    log_dets: Float[Array, " T"],
    n: int,
    copies: int,
    every: int,
) -> LyapunovSpectrum:
    """The spectrum of a state with n entries, from exponents that each occur `copies` times."""
    if len(exponents) == n:
        # the violation is not to be differentiated
        gap = jnp.abs(jnp.mean(held(exponents)) - sums.mean(log_dets) / n)
        # with `every` = 1, an exponent of -inf is due to W or to a dead unit, not to a lost direction
        violation = jnp.where(jnp.isfinite(gap), gap, jnp.nan) if every == 1 else gap
    else:
        violation = jnp.asarray(jnp.nan, exponents.dtype)
    dimension, entropy = kaplan_yorke_dimension(exponents, n), entropy_rate(exponents, n)
    single, single_error = (jnp.mean(values.reshape(-1, copies), axis=1) for values in (exponents, error))
    return LyapunovSpectrum(single, single_error, violation, dimension, entropy)


def _check(length: int, n: int, transient: int, count: int, every: int) -> None:
    if not 0 <= transient < length:
        raise ValueError(f"transient: {transient}; allowed: from 0 to {length - 1}, one less than the number of steps")
    if not 1 <= count <= n:
        raise ValueError(f"count: {count}; allowed: from 1 to {n}, the size of the state")
    if every < 1:
        raise ValueError(f"every: {every}; allowed: a whole number of at least 1")


def _start(n: int, copies: int) -> Float[np.ndarray, "n n"]:
    """An orthonormal basis; for pairs of complex numbers (`copies` = 2), each vector is followed by i times itself."""
    return fixed_orthogonal(n) if copies == 1 else np.kron(fixed_orthogonal(n // copies), np.eye(copies))


def _standard_error(means: Float[Array, "groups k"]) -> Float[Array, " k"]:
    """The standard error of the mean over all groups, from the `means` of the groups."""
    groups = means.shape[0]
    if groups == 1:
        return jnp.full_like(means[0], jnp.nan)
    return jnp.std(means, axis=0, ddof=1) / groups**0.5

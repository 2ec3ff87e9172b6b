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
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from gradient_horizon.measures.states import FlatStep, Layout
from gradient_horizon.measures.trajectory import Trajectory, sequence_length, system_of
from gradient_horizon.measures.wide import in_float64, jacobian_by_entry, lifted_jacobian
from gradient_horizon.numerics import lapack, lu, sums
from gradient_horizon.numerics.arrays import PyTree, Scalar, Step
from gradient_horizon.numerics.compiled import compiled_once
from gradient_horizon.numerics.derivatives import push, push_rows, with_derivative_of
from gradient_horizon.numerics.exponents import LOG_2, bits_of, normalise, power_of_two
from gradient_horizon.numerics.fallback import held, step_of_arrays, with_care
from gradient_horizon.numerics.graded import ZERO, Graded, graded, graded_product, log_norm
from gradient_horizon.numerics.keys import fixed_normal, fixed_orthogonal
from gradient_horizon.numerics.orthogonal import log_growth

LogDet: TypeAlias = Callable[[PyTree, PyTree, PyTree], Scalar]

_log = logging.getLogger(__name__)
BLOCKS = 10
_THIN = 2.0**-40  # smaller ratios do not arise by chance, and float32 reaches down to 2^-126


class LyapunovSpectrum(NamedTuple):
    """The first k Lyapunov exponents of a map with n state entries: natural logs per step.

    - `exponents`: (k,), descending; -inf for directions that some step maps to zero.
    - `standard_error`: (k,), the standard deviation of the means over `BLOCKS` consecutive blocks of steps, divided
      by √`BLOCKS`. Valid if a block is longer than the correlations. NaN if the exponent is not finite or there are
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


def _volumes(basis: Float[Array, "n k"]) -> Float[Array, " k"]:
    return jnp.log(jnp.abs(jnp.diagonal(lapack.triangular_factor(basis))))


class _Growth(NamedTuple):
    basis: Array  # (k, n), vectors as rows, so that each is contiguous in memory
    volumes: Array  # (k,) log R_ii of the basis
    unresolved: Array  # (k,) True if no pivot has yet exceeded the rounding of its row
    lost: Array  # True if something may have been lost next to a vector's largest entry or beyond the range of floats


# stretch(vectors, (h, x)): the vectors (k, n) after a step, up to a power of two, and the exponent of that power.
_Stretch: TypeAlias = Callable[[Float[Array, "k n"], PyTree], tuple[Float[Array, "k n"], Int[Array, ""]]]


def _stretch_by(flat_step: FlatStep, params: PyTree, dtype: DTypeLike) -> _Stretch:
    """A `_Stretch` by the linearised step.

    The vectors are lifted far enough that neither small entries of J_t nor the results of eliminating them underflow.
    """
    lift = bits_of(dtype).bias // 2

    def stretch(vectors, inputs):
        h, x = inputs
        return push_rows(flat_step, params, h, x, vectors * 2.0**lift), jnp.int32(-lift)

    return stretch


def _grow(stretch: _Stretch, every: int, before: _Growth, window: PyTree):
    """Carry `before` over a window of steps (states and inputs); also return the growth of log R_ii, a `Sum` (k,)."""
    states, _ = window
    length, n = states.shape
    dtype = before.basis.dtype
    far = 2.0 ** (bits_of(dtype).bias - 24)

    def one(carry, inputs):
        vectors, exponent = carry
        vectors, gained = stretch(vectors, inputs)
        vectors, size = normalise(vectors)
        return (vectors, exponent + gained + size), None

    def over(vectors, inputs):
        if every == 1:
            return stretch(vectors, jax.tree.map(lambda leaf: leaf[0], inputs))
        return lax.scan(one, (vectors, jnp.int32(0)), inputs)[0]

    def group(carry, inputs):
        basis, logs, unresolved, lost = carry
        if len(basis) < n:
            ends, exponent = over(jnp.concatenate([basis, other]), inputs)
            stretched, row = ends[:-1], ends[-1:]
            # compared to what the same row of J_t gives for a vector with entries of similar size
            lost = lost | jnp.any(jnp.abs(stretched) < _THIN * jnp.abs(row))
        else:
            stretched, exponent = over(basis, inputs)
        factors = lu.lu(stretched)
        pivots = jnp.abs(factors.diagonal)
        lost = lost | ~jnp.all((pivots == 0) | ((pivots >= 1 / far) & (pivots <= far)))
        rounding = jnp.max(jnp.abs(stretched), axis=0)[factors.places] * (n * jnp.finfo(dtype).eps)
        return (factors.lower, sums.add_log(logs, pivots, exponent), unresolved & (pivots <= rounding), lost), None

    other = jnp.asarray(fixed_normal(1, n), dtype)
    groups = length // every
    cut = groups * every
    carry = (before.basis, sums.zero(before.volumes), before.unresolved, before.lost)
    if groups:
        split = jax.tree.map(lambda leaf: leaf[:cut].reshape(groups, every, *leaf.shape[1:]), window)
        carry, _ = lax.scan(group, carry, split)
    if cut < length:
        carry, _ = group(carry, jax.tree.map(lambda leaf: leaf[cut:], window))
    basis, logs, unresolved, lost = carry
    volumes = _volumes(basis.T)
    return _Growth(basis, volumes, unresolved, lost), sums.add(sums.add(logs, volumes), -before.volumes)


def _log_abs_det(matrix: Float[Array, "n n"]) -> Scalar:
    """By QR: JAX cannot compile an elimination, with its indices, if only part of a program has 64 bits enabled."""
    return jnp.sum(jnp.log(jnp.abs(jnp.diagonal(lapack.graded_qr(matrix)[1]))))


def _grown_in_float64(
    jacobian: Callable[[PyTree], tuple[Float[Array, "n n"], Int[Array, ""]]],
    window: PyTree,
    start: Float[np.ndarray, "n n"],
    eps: float,
    parts: Int[np.ndarray, " T"],
    with_log_dets: bool,
) -> tuple[Float[Array, "parts n"], Bool[Array, " n"], Float[Array, " T"]]:
    """Growth of log R_ii by a sorted QR at every step, summed over the steps of each part.

    Also returns which directions have never risen above the rounding `eps` of the Jacobians, and log|det J_t|, or
    zeros. `jacobian((h, x))` is J_t as a matrix in float64 and the exponent of a power of two. 64 bits must be enabled.
    """
    n = len(start)

    def advance(carry, inputs):
        basis, totals, unresolved = carry
        inputs, part = inputs
        matrix, exponent = jacobian(inputs)
        stretched = jnp.matmul(matrix, basis, precision="highest")
        basis, r = lapack.graded_qr(stretched)
        pivots = jnp.abs(jnp.diagonal(r))
        sizes = -jnp.sort(-jnp.max(jnp.abs(stretched), axis=1))
        powers = exponent.astype(jnp.float64) * LOG_2
        totals = totals + jnp.where(numbers == part, jnp.log(pivots) + powers, 0)
        unresolved = unresolved & (pivots <= sizes * (n * eps))
        return (basis, totals, unresolved), _log_abs_det(matrix) + n * powers if with_log_dets else jnp.zeros(())

    numbers = np.arange(parts.max() + 1, dtype=np.int32)[:, None]
    carry = (jnp.asarray(start), jnp.zeros((len(numbers), n)), jnp.ones(n, bool))
    (_, totals, unresolved), log_dets = lax.scan(advance, carry, (window, parts))
    return totals, unresolved, log_dets


def _blocks_of(window: PyTree, blocks: int, length: int) -> tuple[PyTree, PyTree]:
    cut = blocks * length
    whole = jax.tree.map(lambda leaf: leaf[:cut].reshape(blocks, length, *leaf.shape[1:]), window)
    return whole, jax.tree.map(lambda leaf: leaf[cut:], window)


def _check(length: int, n: int, transient: int, count: int, every: int) -> None:
    if not 0 <= transient < length:
        raise ValueError(f"transient: {transient}; allowed: from 0 to {length - 1}, one less than the steps there are")
    if not 1 <= count <= n:
        raise ValueError(f"count: {count}; allowed: from 1 to {n}, the size of the state")
    if every < 1:
        raise ValueError(f"every: {every}; allowed: a whole number of at least 1")


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
    - `transient`: how many of the T steps to discard. The tangent vectors are carried through them, so that they are
      aligned when counting starts.
    - `count`: how many exponents to compute, from the largest (None: all n). Fewer cost less, but cannot be checked by
      the sum rule. All are computed nevertheless if one of the vectors has entries far below its largest (2^-40), which
      might underflow and grow again: parts of the state that no other part reaches.
    - `every`: the number of steps between eliminations. Directions further apart than 1/eps after that many steps lose
      their digits. 1 is safe at every gain; larger values pay off if the condition number of one step is small.
    - `log_det`: `log_det(params, h, x)`, a separate formula for log|det J_t|, for the sum rule, such as
      `VanillaCell.log_abs_det`. None: by elimination of every J_t, which about doubles the cost.
    - `trajectory`: the result of `rollout` for the same arguments, if available (say, with `rescale`); by default it
      is computed.

    **Complex states:** for a holomorphic step, n exponents. Each occurs twice among those of the real and imaginary
    parts, and counts twice in the dimension and the entropy. For any other step, the 2n exponents of the real and
    imaginary parts. Whether a step is holomorphic is read from its linearisation (see `holomorphic`).

    **Derivatives:** of exponents and standard errors, forward and reverse, by a QR at every step (see `orthogonal`);
    NaN for a direction that dies, and where rounding leaves no digits.

    **Returns:** `LyapunovSpectrum`, in the state's dtype. An exponent is -inf if a step maps its direction exactly to
    zero (dead ReLU units) or if, with `every` = 1, none of its pivots exceeds rounding (W of lower rank). A saturated
    unit whose φ′ underflows in float32 counts as dead. All NaN if a state is not finite.

    **Accuracy:** against a row-sorted QR in float64 along the same tanh Jacobians (N = 64 and 256, g = 0.8 to 10, 200
    steps), the worst single exponent was off by 1e-10 in float64. In float32 it was off by 2e-3, and at g = 3, N = 256
    by 1e-2 (over 1000 steps by 3e-3): errors that neighbours exchange, well below their standard errors. Such a QR at
    every step would leave a tenth of that in float32, at 2 to 4 times the cost.

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
    trajectory, layout = system.trajectory, system.layout
    # each exponent of a holomorphic step occurs twice among the real ones, and is reported once
    times = 2 if system.is_holomorphic else 1
    n, dtype = layout.size, layout.dtype
    count = n // times if count is None else count
    _check(length, n // times, transient, count, every)
    count *= times
    all_finite = jnp.all(trajectory.finite)
    length -= transient
    eps = float(jnp.finfo(dtype).eps)
    blocks = min(BLOCKS, length // 2) if length >= 4 else 1
    size = length // blocks

    def outcome(exponents, error):
        error = jnp.where(jnp.isfinite(exponents), error, jnp.nan)
        order = lapack.descending(exponents)
        return exponents[order], error[order]

    def quick(stretch, window):
        """Exponents and their errors, and True if something may have been lost."""
        early = jax.tree.map(lambda leaf: leaf[:transient], window)
        counted = jax.tree.map(lambda leaf: leaf[transient:], window)
        basis = jnp.asarray(_start(n, times)[:, :count].T, dtype)
        growth = _Growth(basis, jnp.zeros(count, dtype), jnp.ones(count, bool), jnp.zeros((), bool))
        grow = partial(_grow, stretch, every)
        dead = jnp.zeros(count, bool)
        if transient:
            growth, gained = grow(growth, early)
            dead = gained.total == -jnp.inf
        whole, rest = _blocks_of(counted, blocks, size)
        growth, gained = lax.scan(grow, growth, whole)
        parts = gained
        if blocks * size < length:
            growth, last = grow(growth, rest)
            parts = jax.tree.map(lambda of_blocks, of_rest: jnp.concatenate([of_blocks, of_rest[None]]), gained, last)
        # if steps are multiplied before elimination, pivots below rounding mean that `every` is too large instead
        dead = dead | growth.unresolved if every == 1 else dead
        exponents = jnp.where(dead, -jnp.inf, sums.value(sums.total(parts)) / length)
        # subtract what the blocks have in common before rounding anything to one float
        apart = sums.value(sums.join(gained, sums.negative(jax.tree.map(lambda part: part[:1], gained)))) / size
        return outcome(exponents, _standard_error(apart)), growth.lost

    def by_orthogonal_route(closed, window):
        """The exponents and their errors, and where they have a derivative."""
        logs, is_sure = log_growth(flat_step, closed, window, jnp.asarray(_start(n, times)[:, :count], dtype))
        logs = logs[transient:]
        exponents = sums.mean(logs)
        error = _standard_error(jnp.mean(_blocks_of(logs, blocks, size)[0], axis=1))
        order = jnp.argsort(-exponents)
        return (exponents[order], error[order]), lax.cummin(is_sure[order].astype(jnp.int32)) > 0

    # traced values held by `params` and the step become an argument, `closed`
    flat_step, closed = step_of_arrays(lambda h, x: system.step(params, h, x), *system.window)
    window = system.window
    constant, constants = held((window, closed))
    stretch = _stretch_by(flat_step, constants, dtype)
    measured, lost = quick(stretch, constant)
    after = jax.tree.map(lambda leaf: leaf[transient:], constant)
    eliminates = count == n and log_det is None  # for the sum rule
    log_dets = jnp.zeros(length, dtype)
    if eliminates:
        eye = jnp.eye(n, dtype=dtype)

        def pivots(inputs):
            vectors, power = stretch(eye, inputs)
            return lu.lu(vectors.T).diagonal, power

        diagonals, powers = lax.map(pivots, after)
        log_dets = lu.log_abs_product(diagonals, powers)
    with_64_bits = jnp.result_type(float) == jnp.float64

    # With fewer vectors than the state has entries, what underflows in all of them is lost; with n vectors, what one
    # loses another still has.
    def careful(closed, window):
        def jacobian(inputs):
            h, x = inputs
            with jax.enable_x64(with_64_bits):  # run the step under the caller's setting
                lifted = lifted_jacobian(lambda h: flat_step(closed, h, x), h)
            return in_float64(lifted)

        numbers = np.arange(-transient, length, dtype=np.int32)
        parts = np.where(numbers < 0, 0, 1 + np.minimum(numbers // size, blocks)).astype(np.int32)
        totals, unresolved, log_dets = _grown_in_float64(jacobian, window, _start(n, times), eps, parts, eliminates)
        exponents = jnp.sum(totals[1:], axis=0) / length
        exponents = jnp.where(unresolved | (totals[0] == -jnp.inf), -jnp.inf, exponents)
        exponents, error = outcome(exponents, _standard_error(totals[1 : 1 + blocks] / size))
        return jax.tree.map(
            lambda values: values.astype(dtype), ((exponents[:count], error[:count]), log_dets[transient:])
        )

    with jax.enable_x64(True):
        measured, log_dets = with_care(lost & all_finite, (measured, log_dets), careful, closed, window)
    measured = with_derivative_of(by_orthogonal_route, measured, closed, window)
    exponents, error = jax.tree.map(lambda values: jnp.where(all_finite, values, jnp.nan), measured)
    if count == n:
        # the error is not to be differentiated
        if log_det is not None:
            log_dets = _given_log_dets(layout, held(params), after, log_det, times)
        violation = jnp.abs(jnp.mean(held(exponents)) - sums.mean(log_dets) / n)
        if every == 1:  # an exponent of -inf is due to W or to a dead unit, not to a lost direction
            violation = jnp.where(jnp.isfinite(violation), violation, jnp.nan)
    else:
        violation = jnp.asarray(jnp.nan, dtype)
    dimension, entropy = kaplan_yorke_dimension(exponents, n), entropy_rate(exponents, n)
    exponents, error = (jnp.mean(values.reshape(-1, times), axis=1) for values in (exponents, error))
    return LyapunovSpectrum(exponents, error, violation, dimension, entropy)


def _start(n: int, times: int) -> Float[np.ndarray, "n n"]:
    """An orthonormal basis; for pairs of complex numbers (`times` = 2), each vector is followed by i times itself."""
    return fixed_orthogonal(n) if times == 1 else np.kron(fixed_orthogonal(n // times), np.eye(times))


def _standard_error(means: Float[Array, "blocks k"]) -> Float[Array, " k"]:
    """The standard error of the mean over all blocks, from the `means` of the blocks."""
    blocks = means.shape[0]
    if blocks == 1:
        return jnp.full_like(means[0], jnp.nan)
    return jnp.std(means, axis=0, ddof=1) / blocks**0.5


def largest_lyapunov_exponent(
    step: Step, params: PyTree, h0: PyTree, trajectory: Trajectory, xs: PyTree = None, transient: int = 0
) -> Scalar:
    """The growth of one tangent vector after `transient` of the steps of `trajectory`, natural log per step.

    `lyapunov_exponents` with `count` = 1, without its errors: one vector needs no elimination, only a power of two per
    step. If one of its entries falls more than 2^42 (float64: 2^341) below the largest, the computation is repeated
    with an exponent for each entry (`_largest_by_entry`), so that a unit or a block that no other reaches can fall far
    below the rest and still grow again. (Only the structure of `h0` is used.) -inf if the vector dies, NaN if a state
    is not finite.
    """
    flat_step, params, xs, trajectory, *_ = system_of(step, params, h0, xs, trajectory=trajectory)
    before = trajectory.states[:-1]
    n, dtype = before.shape[1], before.dtype
    room = bits_of(dtype).bias // 3  # products of entries of at least 1 with entries of J do not underflow
    lift = float(2.0**room)

    def advance(carry, inputs):
        vector, logs = carry
        h, x = inputs
        raw = push(flat_step, params, h, x, (vector * lift)[:, None])[:, 0]
        vector, gained = normalise(raw)
        logs = sums.add_powers(logs, gained - room)
        return (vector, logs), (raw, gained)

    start, _ = normalise(jnp.asarray(fixed_normal(n), dtype))
    window = (before, xs)
    none = sums.zero(before[0, 0])
    (vector, _), early = lax.scan(advance, (start, none), jax.tree.map(lambda leaf: leaf[:transient], window))
    begun = vector
    (vector, logs), late = lax.scan(advance, (vector, none), jax.tree.map(lambda leaf: leaf[transient:], window))
    grown = sums.value(sums.add(sums.add(logs, _log_length(vector)), -_log_length(begun)))
    is_over = ~jnp.any(vector != 0)
    rate = jnp.where(is_over, -jnp.inf, grown / (trajectory.length - transient))

    raw, gained = jax.tree.map(lambda *parts: jnp.concatenate(parts), early, late)
    smallest = jnp.min(jnp.where(raw == 0, jnp.inf, jnp.abs(raw)), axis=1)
    # 2^(gained - room) underflows only if the whole vector nearly does, and then nothing is safe
    is_safe = (gained > room // 2) & (smallest >= power_of_two(jnp.maximum(gained - room, -room), dtype))
    is_safe = (is_safe & jnp.all(jnp.isfinite(raw), axis=1)) | jnp.all(raw == 0, axis=1)
    all_finite = jnp.all(trajectory.finite)

    careful_step, closed = step_of_arrays(lambda h, x: flat_step(params, h, x), *window)

    def by_entry(closed, window):
        return _largest_by_entry(careful_step, closed, window, transient)

    rate = with_care(all_finite & ~jnp.all(is_safe), rate, by_entry, closed, window)
    return jnp.where(all_finite, rate, jnp.nan)


def _log_length(vector: Float[Array, " n"]) -> Scalar:
    return 0.5 * jnp.log(jnp.sum(vector * vector))


def _largest_by_entry(flat_step: FlatStep, params: PyTree, window: PyTree, transient: int) -> Scalar:
    """`largest_lyapunov_exponent` with an exponent for each entry of the vector, which requires forming every J_t."""
    before, _ = window
    length, n, dtype = len(before), before.shape[1], before.dtype

    def advance(carry, inputs):
        vector, logs, lost = carry
        h, x = inputs
        vector = graded_product(jacobian_by_entry(lambda h: flat_step(params, h, x), h), vector)
        largest = jnp.max(vector.exponents)
        largest = jnp.where(largest == ZERO, 0, largest)
        is_zero = vector.exponents == ZERO
        exponents = jnp.where(is_zero, ZERO, vector.exponents - largest)
        lost = lost | jnp.any(~is_zero & (exponents < ZERO // 2))
        return (Graded(vector.rows, exponents), sums.add_powers(logs, largest), lost), None

    start = graded(jnp.asarray(fixed_normal(n), dtype)[:, None])
    carry = (start, sums.zero(before[0, 0]), jnp.zeros((), bool))
    (vector, _, lost), _ = lax.scan(advance, carry, jax.tree.map(lambda leaf: leaf[:transient], window))
    begun = log_norm(vector)
    carry = (vector, sums.zero(before[0, 0]), lost)
    (vector, logs, lost), _ = lax.scan(advance, carry, jax.tree.map(lambda leaf: leaf[transient:], window))
    grown = sums.value(sums.add(sums.add(logs, log_norm(vector)), -begun))
    rate = jnp.where(begun == -jnp.inf, -jnp.inf, grown / (length - transient))
    return jnp.where(lost, jnp.nan, rate)


def _given_log_dets(layout: Layout, params: PyTree, window: PyTree, log_det: LogDet, times: int) -> Float[Array, " T"]:
    """log|det J_t| of the real pairs, from the user's `log_det`."""

    def given(h, x):
        x, carried = x if layout.carries else (x, [])
        return times * log_det(params, layout.unpack(h, carried), x)

    return jax.vmap(given)(*window)

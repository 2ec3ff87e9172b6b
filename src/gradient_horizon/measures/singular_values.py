"""Logs of all singular values of a product of step Jacobians, whatever its condition number.

A product formed as a matrix resolves σ_i only to eps σ_1: beyond a condition number of 1/eps its small singular values
are noise. Here the product is never formed as one matrix of floats:

1. Backwards: pull an orthogonal matrix through the transposes with a QR at each step, which aligns Q_0 with the right
   singular vectors (one half of an orthogonal iteration).
2. Forwards: J_t Q_{t-1} = Q_t R_t by a QR with sorted rows, accumulating R_T ... R_1 = diag(2^e) X with an integer
   exponent for each row: graded, with X well conditioned.
3. One-sided Jacobi on the rows of diag(2^e) X, with the exponents kept separate. What the alignment left unresolved
   (clusters, neighbours that have not separated) is resolved here to the last digit.

Everything runs in float64, on Jacobians in the precision of the state. What cannot be resolved is not guessed:

- A singular value is reported as zero if the zeros of the factors make it so (see `structural_rank`). If the rank drops
  along the way, whatever a pivoted QR leaves below it is rounding, and is dropped.
- If parts that grow and decay at different times are mixed, rounding in the middle of a product is not small compared
  to the final product: after diag(s^m, 1) and then diag(1, s^m), all that is left is an eps of the first unit in the
  second. Each product is therefore carried twice, the second time with 64 times as much rounding; if that changes
  log σ_i by 64 times 1e-4 or more, log σ_i is NaN, and so are all later ones, since rounding above a value takes its
  place. Parts that no factor mixes are not mixed here either: the start keeps them separate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from gradient_horizon.measures.trajectory import Trajectory, ever, sequence_length, system_of
from gradient_horizon.measures.wide import in_float64, lifted_jacobian
from gradient_horizon.numerics import lapack
from gradient_horizon.numerics.arrays import PyTree, Step
from gradient_horizon.numerics.compiled import compiled_once
from gradient_horizon.numerics.derivatives import with_derivative_of
from gradient_horizon.numerics.exponents import LOG_2
from gradient_horizon.numerics.fallback import held, step_of_arrays
from gradient_horizon.numerics.graded import Graded, graded_product, graded_svd
from gradient_horizon.numerics.keys import fixed_normal
from gradient_horizon.numerics.orthogonal import log_growth
from gradient_horizon.numerics.structural_rank import everything, parts_of_last_layer, through

_NEXT_TO_NOTHING = 1e-8
_MORE = 64.0
_EPS = float(np.finfo(np.float64).eps)
_NUDGE = _MORE * _EPS
_APART = 1e-6  # in nats: the vectors, and derivatives, of closer singular values are rounding
_SURE = 1e-4 * _MORE  # in nats: change allowed with `_MORE` times the rounding; without, the error is typically 1e-4


def log_singular_values(
    step: Step, params: PyTree, h0: PyTree, xs: PyTree = None, *, steps: int | None = None
) -> Float[Array, " n"]:
    """Natural logs of all n singular values of ∂h_T/∂h_0 = J_T ... J_1, descending, for any one-step map.

    **Arguments:**

    - `step`: `step(params, h, x) -> h`; the state may be any pytree of arrays, n entries in all, including complex and
      16-bit ones, and may also hold integers and keys (see `states`).
    - `xs`: a pytree with leading axis T, or None with `steps` = T.

    **Complex states:** for a holomorphic step, the n singular values of its complex Jacobian; for any other, the 2n of
    its real and imaginary parts. The linearisation of a step shows whether it is holomorphic (see `holomorphic`).

    **Derivatives:** forward and reverse (see `orthogonal`); NaN where two singular values agree to 1e-6, and where
    rounding leaves no digits.

    **Returns:** (n,), in the state's dtype. -inf where a singular value is exactly zero because entries of the factors
    are (dead ReLU units, cells that are shifted out, blocks without a way back). All NaN if a state is not finite. NaN
    from the first value on that rounding in float64 leaves with fewer than three decimals, which happens if parts that
    grow and decay at different times are mixed, or if factors are singular to rounding (W of lower rank).

    **Algorithm:** a product QR from the aligned start of an orthogonal iteration, then one-sided Jacobi on the graded
    triangular product (see the module docstring; Stewart 1995 and Demmel and Veselić 1992 for the two halves).

    **Accuracy:** the singular values are those of factors J_t (I + E_t) with ‖E_t‖ about n eps κ(J_t), where κ(J_t) is
    the condition number of one factor after its rows are scaled to equal norms and eps is that of float64: log σ_i is
    off by about that, summed over the steps, whatever the condition number of the product.

    **Raises:** `ValueError` for a wrong length or a step that changes the shape or dtype of its state.
    """
    length = sequence_length(xs, steps)
    return log_singular_values_at_lags(step, params, h0, xs, steps=length, lags=(length,))[0]


@compiled_once
def log_singular_values_at_lags(
    step: Step,
    params: PyTree,
    h0: PyTree,
    xs: PyTree = None,
    *,
    lags: Sequence[int],
    steps: int | None = None,
    trajectory: Trajectory | None = None,
) -> Float[Array, "lags n"]:
    """Natural logs of all n singular values of ∂h_T/∂h_{T-τ} at each lag τ: `log_singular_values` of the last τ steps.

    One backward pass from T aligns the starts of all lags; each lag has its own forward pass. The work therefore grows
    with T plus the sum of the lags.

    **Arguments:** those of `log_singular_values`, and

    - `lags`: whole numbers from 1 to T, ascending.
    - `trajectory`: the result of `rollout` for the same arguments, if available (say, with `rescale`); by default it
      is computed.

    **Returns:** (number of lags, n), in the state's dtype; -inf and NaN as in `log_singular_values`, NaN at every lag
    whose product touches a state that is not finite.

    **Raises:** `ValueError` as in `log_singular_values`, and for any other `lags`.
    """
    length = sequence_length(xs, steps)
    if not lags or list(lags) != sorted(set(lags)) or lags[0] < 1 or lags[-1] > length:
        raise ValueError(f"lags: {list(lags)}; allowed: whole numbers from 1 to T = {length}, ascending")
    system = system_of(step, params, h0, xs, steps=steps, trajectory=trajectory)
    n, dtype = system.layout.size, system.layout.dtype
    # each singular value of a holomorphic step occurs twice among the real ones, and is reported once
    times = 2 if system.is_holomorphic else 1
    window = jax.tree.map(jnp.asarray, system.window)
    with_64_bits = jnp.result_type(float) == jnp.float64
    # traced values held by `params` and the step become an argument, `closed`
    flat_step, closed = step_of_arrays(lambda h, x: system.step(params, h, x), *window)
    constant, constants = held((window, closed))

    def jacobian(time):
        with jax.enable_x64(with_64_bits):  # run the step under the caller's setting
            h, x = jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, time, keepdims=False), constant)
            lifted = lifted_jacobian(lambda h: flat_step(constants, h, x), h)
        return in_float64(lifted)

    with jax.enable_x64(True):
        logs, starts = _at_lags(jacobian, n, length, lags)
        are_apart = _are_apart(logs, times)
    logs, starts = logs.astype(dtype), starts.astype(dtype)

    def by_orthogonal_route(closed, window):
        """log σ_i as the sum over t of log R_t,ii, with the right singular vectors as the initial basis.

        These maximise σ_1 ⋯ σ_i, so their own derivatives drop out.
        """

        def over(lag, start):
            return log_growth(flat_step, closed, jax.tree.map(lambda leaf: leaf[length - lag :], window), start)

        growths, are_sure = zip(*map(over, lags, starts), strict=True)
        logs = jnp.stack([jnp.sum(growth, axis=0) for growth in growths])
        return logs, jnp.stack(are_sure) & are_apart

    logs = with_derivative_of(by_orthogonal_route, logs, closed, window)
    touches_bad = ever(~system.trajectory.finite[::-1])[np.asarray(lags, np.int32)]
    logs = jnp.where(touches_bad[:, None], jnp.nan, logs)
    return jnp.mean(logs.reshape(len(lags), -1, times), axis=2)


def _are_apart(logs: Float[Array, "lags n"], times: int) -> Bool[Array, "lags n"]:
    """True where the singular vectors are unique: no neighbour is as large, apart from the `times` copies of each."""
    groups = logs.reshape(len(logs), -1, times)
    gaps = groups[:, :-1, -1] - groups[:, 1:, 0] > _APART
    ends = jnp.ones((len(logs), 1), bool)
    below, above = (jnp.concatenate(parts, axis=1) for parts in ((gaps, ends), (ends, gaps)))
    return jnp.repeat(below & above, times, axis=1)


class _Product(NamedTuple):
    """J_t ... J_1 = `basis` · `rows`."""

    basis: Array
    rows: Graded


def _at_lags(
    jacobian: Callable[[Int[Array, ""]], tuple[Float[Array, "n n"], Int[Array, ""]]],
    n: int,
    length: int,
    lags: Sequence[int],
) -> tuple[Float[Array, "lags n"], Float[Array, "lags n n"]]:
    """Log singular values of the product of the last τ of `length` factors, for each τ in `lags`, in float64.

    Also returns the right singular vectors.
    """
    identity = Graded(jnp.eye(n), jnp.zeros(n, jnp.int32))
    places = jnp.arange(n, dtype=jnp.int32)

    def align(back, carry):
        rows, growth = carry
        factor, _ = jacobian(jnp.int32(length - 1) - back)
        q, r = lapack.qr(jnp.matmul(rows, factor, precision="highest").T)
        return q.T, growth + jnp.log(jnp.abs(jnp.diagonal(r)))

    def advance(time, carry):
        product, nudged, reach, total = carry
        factor, exponent = jacobian(time)
        after = through(reach, factor != 0, time)

        def times(product, noise=None):
            image = jnp.where(places < reach.rank, product.basis, 0)
            stretched = jnp.matmul(factor, image, precision="highest")
            if noise is not None:
                # every entry rounds by a few eps of its row, except those with only zero terms
                terms = jnp.matmul(jnp.abs(factor), jnp.abs(image))
                size = jnp.where(terms > 0, jnp.max(terms, axis=1, keepdims=True), 0)
                stretched = stretched + _NUDGE * noise * size
            basis, r = _factors(stretched, after.rank, reach.rank)
            r = jnp.where((places < after.rank)[:, None], jnp.triu(r), 0)
            return _Product(basis, graded_product(r, product.rows))

        with jax.enable_x64(False):  # JAX's 64-bit draws do not compile unless the caller has enabled them
            noise = jax.random.normal(jax.random.fold_in(jax.random.key(1), time), (n, n))
        return times(product), times(nudged, noise.astype(jnp.float64)), after, total + exponent

    def measure(carry, stretch):
        shorter, lag = stretch
        rows, growth = lax.fori_loop(shorter, lag, align, carry)
        # The directions that grew most come first, even if unmixed parts have changed places along the way. Any start
        # will do, so tiny entries are dropped: parts that no factor mixes must not be mixed by the start.
        first = rows[lapack.descending(growth)].T
        start, _ = lapack.qr(jnp.where(jnp.abs(first) < _NEXT_TO_NOTHING, 0, first))
        empty = _Product(start, identity)
        product, nudged, reach, total = lax.fori_loop(
            jnp.int32(length) - lag, jnp.int32(length), advance, (empty, empty, everything(n), jnp.int32(0))
        )
        logs, turned = graded_svd(product.rows)
        others, _ = graded_svd(nudged.rows)
        is_sure = jnp.isfinite(logs) & (jnp.abs(logs - others) < _SURE)
        is_sure = jnp.cumsum(~is_sure, dtype=jnp.int32) == 0  # beyond one that is not reliable, values may be of others
        logs = logs + total.astype(jnp.float64) * LOG_2
        logs = jnp.where(places < reach.rank, jnp.where(is_sure, logs, jnp.nan), -jnp.inf)
        return (rows, growth), (logs, jnp.matmul(start, turned.T, precision="highest"))

    whole = np.asarray(lags, np.int32)
    stretches = (np.concatenate([np.zeros(1, np.int32), whole[:-1]]), whole)
    together = parts_of_last_layer(lambda time: jacobian(time)[0] != 0, n, jnp.int32(length - lags[-1]), length)
    pure, _ = lapack.qr(jnp.where(together, fixed_normal(n, n), 0))
    start = (pure.T, jnp.zeros(n))
    return lax.scan(measure, start, jax.tree.map(jnp.asarray, stretches))[1]


def _factors(
    stretched: Float[Array, "n n"], rank: Int[Array, ""], before: Int[Array, ""]
) -> tuple[Float[Array, "n n"], Float[Array, "n n"]]:
    """Q and R of `stretched`; if its rank has dropped to `rank`, without the rows of R that are pure rounding."""
    q, r = lapack.graded_qr(stretched)

    def revealed(_):
        left, right = lapack.rank_revealing_qr(lax.optimization_barrier((stretched, rank))[0])
        leading = jnp.where((jnp.arange(len(right), dtype=jnp.int32) < rank)[:, None], right, 0)
        turn, r = lapack.qr(leading)
        return jnp.zeros((), bool), jnp.matmul(left, turn, precision="highest"), r

    _, q, r = lax.while_loop(lambda carry: carry[0], revealed, (rank < before, q, r))
    return q, r

"""Log norms of ∂h_t/∂h_s for every pair s < t, at a fraction of the cost of separate runs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from gradient_horizon.measures.trajectory import Trajectory, system_of
from gradient_horizon.measures.wide import jacobian_by_entry, sized_jacobian
from gradient_horizon.numerics import extended_range
from gradient_horizon.numerics.arrays import PyTree, Step
from gradient_horizon.numerics.compiled import compiled_once
from gradient_horizon.numerics.exponents import LOG_2, is_kept, normalise, room_of
from gradient_horizon.numerics.extended_range import ZERO, Extended
from gradient_horizon.numerics.fallback import step_of_arrays, with_care

LEAF = 8  # shortest stretch, in steps; direct products are cheaper within it
_ROOM = 200  # upper limit: the product of two squared entries, 2^-800, still fits in float64
_CAREFUL_ENTRIES = 2**20  # entries, over several starts, of the products formed side by side


@compiled_once
def log_jacobian_norms_all_pairs(
    step: Step,
    params: PyTree,
    h0: PyTree,
    xs: PyTree = None,
    *,
    steps: int | None = None,
    trajectory: Trajectory | None = None,
) -> Float[Array, "T T"]:
    """Natural logs of ‖∂h_t/∂h_s‖_F for all 0 ≤ s < t ≤ T: entry (t - 1, s); NaN where s ≥ t.

    Pairs on either side of a time c share two sets of products, A_t = ∂h_t/∂h_c and B_s = ∂h_c/∂h_s, and

        ‖A_t B_s‖_F² = tr(A_tᵀA_t B_s B_sᵀ),

    so once the Gram matrices are known, a pair costs one inner product of N² numbers instead of a product of N³. The
    triangle is halved at c = T/2, and the halves again, down to direct products of `LEAF` steps: about
    12 T N³ log2(T/LEAF) + T² N² operations instead of T² N³.

    The Gram matrices are formed in float64 whatever the precision of the state. Cancellation in their inner product
    costs a factor of ‖A‖²‖B‖²/‖AB‖²; if fewer than four digits remain, the entry is NaN rather than noise. The rounding
    of A and B themselves, in the state's precision, is amplified by ‖A‖‖B‖/‖AB‖: about 1e-5 in float32, and 1e-4 far
    above the edge of chaos. An entry is -inf if the product is exactly zero (but NaN if non-zero terms cancel to zero),
    and NaN if the product touches a state that is not finite.

    A and B have one exponent each. If an entry of either falls more than 2^42 (float64: 2^200) below the largest, as
    happens when units grow and decay at different times, every pair is instead formed by direct products with an
    exponent for each entry (see `extended_range`), which loses nothing and takes about ten times T² N³ operations.
    Derivatives are NaN where the two results differ.

    `trajectory` is the result of `rollout` for the same arguments, if available; by default it is computed.

    **Returns:** shape (T, T), float64. **Raises:** `ValueError` as `log_jacobian_norms` does.
    """
    system = system_of(step, params, h0, xs, steps=steps, trajectory=trajectory)
    trajectory = system.trajectory
    before = trajectory.states[:-1]
    # Products that touch a state that is not finite end up NaN and must not make the rest suspect.
    is_good = trajectory.finite[:-1] & trajectory.finite[1:]
    eye = jnp.eye(before.shape[1], dtype=before.dtype)
    # traced values held by `params` and the step become an argument, `closed`
    flat_step, closed = step_of_arrays(lambda h, x: system.step(params, h, x), *system.window)
    with_64_bits = jnp.result_type(float) == jnp.float64

    def form(hx):
        return sized_jacobian(lambda h: flat_step(closed, h, hx[1]), hx[0])

    jacobians, exponents, are_safe = lax.map(form, system.window)
    jacobians = jnp.where(is_good[:, None, None], jacobians, eye[None])
    exponents = jnp.where(is_good, exponents, 0)
    so_far = jnp.cumsum(exponents, dtype=jnp.int32)

    def by_entry(closed, window, is_good):
        def advance(inputs):
            (h, x), is_good = inputs
            values = jacobian_by_entry(lambda h: flat_step(closed, h, x), h)
            return jax.tree.map(lambda *parts: jnp.where(is_good, *parts), values, extended_range.extended(eye))

        with jax.enable_x64(with_64_bits):  # run the step under the caller's setting
            jacobians = lax.map(advance, (window, is_good))
        return _by_entry(jacobians)

    with jax.enable_x64(True):
        logs, is_safe = _triangle(jacobians, len(before))
        is_safe = is_safe & jnp.all(are_safe | ~is_good)
        logs = logs + (so_far[:, None] - so_far[None, :] + exponents[None, :]).astype(jnp.float64) * LOG_2
        logs = with_care(~is_safe, logs, by_entry, closed, system.window, is_good)
        bad = (~trajectory.finite).astype(jnp.int32)
        so_far = jnp.cumsum(bad, dtype=jnp.int32)  # among h_0 .. h_t
        logs = logs - system.log_norm_of_pairs
        return jnp.where(so_far[1:, None] - (so_far - bad)[None, :-1] > 0, jnp.nan, logs)


@jax.jit(static_argnums=1)
def _triangle(jacobians: Float[Array, "T n n"], steps: int) -> tuple[Float[Array, "T T"], Bool[Array, ""]]:
    """The triangle, and True if no product can have lost an entry."""
    n = jacobians.shape[1]
    halvings = max(0, (steps // LEAF).bit_length() - 1)
    leaf = -(-steps // 2**halvings)
    length = leaf * 2**halvings
    padding = jnp.broadcast_to(jnp.eye(n, dtype=jacobians.dtype), (length - steps, n, n))
    jacobians = jnp.concatenate([jacobians, padding])
    logs = jnp.full((length, length), jnp.nan, jnp.float64)
    half = length // 2
    is_safe = jnp.ones((), bool)
    while half >= leaf:
        blocks, are_safe = _across(jacobians, half)
        is_safe = is_safe & jnp.all(are_safe)
        for index, block in enumerate(blocks):
            start = 2 * half * index
            logs = logs.at[start + half : start + 2 * half, start : start + half].set(block)
        half //= 2
    blocks, are_safe = _within(jacobians, leaf)
    for index, block in enumerate(blocks):
        start = leaf * index
        logs = logs.at[start : start + leaf, start : start + leaf].set(block)
    return logs[:steps, :steps], is_safe & jnp.all(are_safe)


@jax.jit
def _by_entry(jacobians: Extended) -> Float[Array, "T T"]:
    """The triangle by direct products from every start, with an exponent for each entry: nothing is lost."""
    steps, n, _ = jacobians.mantissa.shape
    many = max(1, min(steps, _CAREFUL_ENTRIES // n**2))
    times = jnp.arange(steps)
    identity = Extended(*(jnp.tile(part, many) for part in extended_range.identity(n, jacobians.mantissa.dtype)))
    nothing = Extended(jnp.zeros_like(identity.mantissa), jnp.full_like(identity.exponent, ZERO))

    def from_starts(starts):
        def advance(products, inputs):
            time, jacobian = inputs
            begins = jnp.repeat(starts == time, n)[None]
            products = jax.tree.map(lambda new, old: jnp.where(begins, new, old), identity, products)
            products = extended_range.product(jacobian, products)
            apart = Extended(*(part.reshape(n, many, n) for part in products))
            largest = jnp.max(apart.exponent, axis=(0, 2))
            floats = extended_range.relative_to(apart, largest[None, :, None]).astype(jnp.float64)
            exponent = jnp.where(largest == ZERO, 0, largest).astype(jnp.float64)
            return products, 0.5 * jnp.log(jnp.sum(floats**2, axis=(0, 2))) + exponent * LOG_2

        return lax.scan(advance, nothing, (times, jacobians))[1]

    starts = jnp.arange(-(-steps // many) * many).reshape(-1, many)
    logs = jnp.concatenate(jnp.unstack(lax.map(from_starts, starts)), axis=1)[:, :steps]
    return jnp.where(times[:, None] < times[None, :], jnp.nan, logs)


def _multiplied(left: Float[Array, "n n"], right: Float[Array, "n n"]):
    """`left` · `right`, one of them lifted by 2^room, normalised; its exponent; True if no entry can have been lost."""
    room = min(room_of(left.dtype), _ROOM)
    raw = left @ right
    matrix, gained = normalise(raw)
    return matrix, gained - room, is_kept(raw, matrix, room)


def _gram(columns: Float[Array, "n m"]) -> Float[Array, " entries"]:
    """The entries of CᵀC in float64, as a vector: inner products of two such vectors are those of the matrices.

    By symmetry only three of the four quarters are formed, and the off-diagonal one counts twice.
    """
    half = columns.shape[1] // 2
    columns = columns.astype(jnp.float64)
    first, last = columns[:, :half], columns[:, half:]
    quarters = (first.T @ first, last.T @ last, 2**0.5 * (first.T @ last))
    return jnp.concatenate([quarter.ravel() for quarter in quarters])


def _grams(factors: Float[Array, "k n n"], *, left: bool):
    """Gram matrices of the running products of `factors`, their exponents, and the lengths of columns or rows.

    If `left`, of A = F_k .. F_1: AᵀA, up to 2^(2 exponent), and the lengths of A's columns. Otherwise of
    B = F_1 .. F_k: B Bᵀ and the lengths of B's rows. Shapes (k, entries), (k,), (k, n); and True if none of the
    products can have lost an entry.
    """
    lift = 2.0 ** min(room_of(factors.dtype), _ROOM)  # see `room_of`

    def advance(carry, factor):
        matrix, exponent = carry
        matrix = matrix * lift
        matrix, gained, is_safe = _multiplied(*((factor, matrix) if left else (matrix, factor)))
        exponent = exponent + gained
        columns = matrix if left else matrix.T
        lengths = jnp.sqrt(jnp.sum(columns.astype(jnp.float64) ** 2, axis=0))
        return (matrix, exponent), (_gram(columns), exponent, lengths, is_safe)

    start = (jnp.eye(factors.shape[1], dtype=factors.dtype), jnp.zeros((), jnp.int32))
    grams, exponents, lengths, are_safe = lax.scan(advance, start, factors)[1]
    return grams, exponents, lengths, jnp.all(are_safe)


def _across(jacobians: Float[Array, "L n n"], half: int) -> tuple[Float[Array, "S H H"], Bool[Array, " S"]]:
    """For each stretch of 2 · `half` steps, the pairs on either side of its middle, and True if nothing was lost."""
    n = jacobians.shape[1]

    def pairs(stretch):
        late, late_exponent, columns, late_safe = _grams(stretch[half:], left=True)  # of ∂h_{c+k}/∂h_c
        early, early_exponent, rows, early_safe = _grams(stretch[:half][::-1], left=False)  # of ∂h_c/∂h_{c-k}
        squares = late @ early.T
        # Two bounds on the rounding error, as term (i, j) is at most |a_i||a_j||b_i||b_j|, a_i the columns of A and b_i
        # the rows of B: the second is the tighter one if some are much smaller than others.
        of_norms = jnp.linalg.norm(late, axis=1)[:, None] * jnp.linalg.norm(early, axis=1)[None, :]
        noise = 1e-12 * jnp.minimum(of_norms, (columns @ rows.T) ** 2)
        exponent = (late_exponent[:, None] + early_exponent[None, :]).astype(jnp.float64)
        logs = 0.5 * jnp.log(jnp.where(squares > noise, squares, jnp.nan)) + exponent * LOG_2
        # No column meets a row: every term of the product is zero. (Otherwise terms may round and cancel to zero.)
        meet = (columns != 0).astype(jnp.float64) @ (rows != 0).astype(jnp.float64).T
        return jnp.where(meet == 0, -jnp.inf, logs)[:, ::-1], late_safe & early_safe

    return lax.map(pairs, jacobians.reshape(-1, 2 * half, n, n))


def _within(jacobians: Float[Array, "L n n"], leaf: int) -> tuple[Float[Array, "S K K"], Bool[Array, " S"]]:
    """For each leaf, all its pairs by direct products, and True if nothing was lost."""
    n = jacobians.shape[1]
    lift = 2.0 ** min(room_of(jacobians.dtype), _ROOM)

    def advance(carry, factor):
        matrix, exponent = carry
        matrix, gained, is_safe = _multiplied(factor, matrix * lift)
        exponent = exponent + gained
        square = jnp.sum(matrix.astype(jnp.float64) ** 2)
        return (matrix, exponent), (0.5 * jnp.log(square) + exponent.astype(jnp.float64) * LOG_2, is_safe)

    def pairs(stretch):
        start = (jnp.eye(n, dtype=jacobians.dtype), jnp.zeros((), jnp.int32))
        columns = [lax.scan(advance, start, stretch[first:])[1] for first in range(leaf)]
        is_safe = jnp.all(jnp.concatenate([are_safe for _, are_safe in columns]))
        logs = [jnp.concatenate([jnp.full(leaf - len(logs), jnp.nan), logs]) for logs, _ in columns]
        return jnp.stack(logs, axis=1), is_safe

    return lax.map(pairs, jacobians.reshape(-1, leaf, n, n))

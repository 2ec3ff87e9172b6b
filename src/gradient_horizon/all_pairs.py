"""The whole triangle: log norms of ∂h_t/∂h_s for every pair s < t, at a fraction of the cost of separate runs."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from gradient_horizon.arrays import PyTree, Step
from gradient_horizon.rollout import Trajectory, flatten_step, rollout
from gradient_horizon.scaling import normalise

LEAF = 8  # steps, at least, within which direct products are cheaper
_LOG_2 = 0.6931471805599453


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

    so with the Gram matrices at hand a pair costs one inner product of N² numbers instead of a product of N³. The
    triangle is halved at c = T/2 and again, down to direct products of `LEAF` steps: some
    12 T N³ log2(T/LEAF) + T² N² operations instead of T² N³.

    The Gram matrices are formed in float64 whatever the precision of the state. Their inner product cancels by
    ‖A‖²‖B‖²/‖AB‖²; where that leaves fewer than four digits the entry is NaN rather than noise. A and B themselves
    round in the state's precision, times ‖A‖‖B‖/‖AB‖: some 1e-5 in float32, 1e-4 far above the edge of chaos. -inf
    where the product is exactly zero, NaN where it touches a state that is not finite.

    `trajectory` is what `rollout` gave for these, where it is at hand; None: it is computed.

    **Returns:** shape (T, T), float64. **Raises:** `ValueError` as `log_jacobian_norms` does.
    """
    flat_step, _ = flatten_step(step, h0)
    trajectory = rollout(step, params, h0, xs, steps=steps) if trajectory is None else trajectory
    before = trajectory.states[:-1]
    jacobians = lax.map(lambda hx: jax.jacfwd(flat_step, argnums=1)(params, *hx), (before, xs))
    with jax.enable_x64(True):
        logs = _triangle(jacobians, len(before))
    bad = (~trajectory.finite).astype(jnp.int32)
    so_far = jnp.cumsum(bad)  # among h_0 .. h_t
    return jnp.where(so_far[1:, None] - (so_far - bad)[None, :-1] > 0, jnp.nan, logs)


@jax.jit(static_argnums=1)
def _triangle(jacobians: Float[Array, "T n n"], steps: int) -> Float[Array, "T T"]:
    n = jacobians.shape[1]
    halvings = max(0, (steps // LEAF).bit_length() - 1)
    leaf = -(-steps // 2**halvings)
    length = leaf * 2**halvings
    padding = jnp.broadcast_to(jnp.eye(n, dtype=jacobians.dtype), (length - steps, n, n))
    jacobians = jnp.concatenate([jacobians, padding])
    logs = jnp.full((length, length), jnp.nan, jnp.float64)
    half = length // 2
    while half >= leaf:
        blocks = _across(jacobians, half)
        for index, block in enumerate(blocks):
            start = 2 * half * index
            logs = logs.at[start + half : start + 2 * half, start : start + half].set(block)
        half //= 2
    for index, block in enumerate(_within(jacobians, leaf)):
        start = leaf * index
        logs = logs.at[start : start + leaf, start : start + leaf].set(block)
    return logs[:steps, :steps]


def _gram(columns: Float[Array, "n m"]) -> Float[Array, " entries"]:
    """The entries of CᵀC, in float64, whose inner product with another's is that of the matrices.

    It is symmetric: of four quarters three are formed, and the one off the diagonal counts twice.
    """
    half = columns.shape[1] // 2
    columns = columns.astype(jnp.float64)
    first, last = columns[:, :half], columns[:, half:]
    quarters = (first.T @ first, last.T @ last, 2**0.5 * (first.T @ last))
    return jnp.concatenate([quarter.ravel() for quarter in quarters])


def _grams(factors: Float[Array, "k n n"], *, left: bool) -> tuple[Float[Array, "k entries"], Int[Array, " k"]]:
    """AᵀA of the running products A = F_k .. F_1 (`left`), or B Bᵀ of B = F_1 .. F_k, up to 2^(2 exponent)."""

    def advance(carry, factor):
        matrix, exponent = carry
        matrix, gained = normalise(factor @ matrix if left else matrix @ factor)
        exponent = exponent + gained
        return (matrix, exponent), (_gram(matrix if left else matrix.T), exponent)

    start = (jnp.eye(factors.shape[1], dtype=factors.dtype), jnp.zeros((), jnp.int32))
    return lax.scan(advance, start, factors)[1]


def _across(jacobians: Float[Array, "L n n"], half: int) -> Float[Array, "S H H"]:
    """For each stretch of 2 · `half` steps, the pairs on either side of its middle."""
    n = jacobians.shape[1]

    def pairs(stretch):
        late, late_exponent = _grams(stretch[half:], left=True)  # of ∂h_{c+k}/∂h_c
        early, early_exponent = _grams(stretch[:half][::-1], left=False)  # of ∂h_c/∂h_{c-k}
        squares = late @ early.T
        noise = 1e-12 * jnp.linalg.norm(late, axis=1)[:, None] * jnp.linalg.norm(early, axis=1)[None, :]
        exponent = (late_exponent[:, None] + early_exponent[None, :]).astype(jnp.float64)
        logs = 0.5 * jnp.log(jnp.where(squares > noise, squares, jnp.nan)) + exponent * _LOG_2
        # Only products that are zero in every term give an inner product of exactly zero.
        return jnp.where(squares == 0, -jnp.inf, logs)[:, ::-1]

    return lax.map(pairs, jacobians.reshape(-1, 2 * half, n, n))


def _within(jacobians: Float[Array, "L n n"], leaf: int) -> Float[Array, "S K K"]:
    """For each leaf, all its pairs by direct products."""
    n = jacobians.shape[1]

    def advance(carry, factor):
        matrix, exponent = carry
        matrix, gained = normalise(factor @ matrix)
        exponent = exponent + gained
        square = jnp.sum(matrix.astype(jnp.float64) ** 2)
        return (matrix, exponent), 0.5 * jnp.log(square) + exponent.astype(jnp.float64) * _LOG_2

    def pairs(stretch):
        start = (jnp.eye(n, dtype=jacobians.dtype), jnp.zeros((), jnp.int32))
        columns = [lax.scan(advance, start, stretch[first:])[1] for first in range(leaf)]
        return jnp.stack([jnp.concatenate([jnp.full(leaf - len(logs), jnp.nan), logs]) for logs in columns], axis=1)

    return lax.map(pairs, jacobians.reshape(-1, leaf, n, n))

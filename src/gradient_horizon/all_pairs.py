"""The whole triangle: log norms of ∂h_t/∂h_s for every pair s < t, at a fraction of the cost of separate runs."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from gradient_horizon.arrays import PyTree, Step
from gradient_horizon.rollout import Trajectory, flatten_step, rollout
from gradient_horizon.scaling import normalise

LEAF = 4  # steps, at least, within which direct products are cheaper
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
    ‖A‖²‖B‖²/‖AB‖²; where that leaves fewer than four digits the entry is NaN rather than noise. -inf where the product
    is exactly zero, NaN where it touches a state that is not finite.

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


Products = tuple[Float[Array, "k n n"], Int[Array, " k"]]


def _products(factors: Float[Array, "k n n"], *, left: bool) -> Products:
    """Running products of `factors`, each new one multiplied from the left or from the right, normalised."""

    def advance(carry, factor):
        matrix, exponent = carry
        product = factor @ matrix if left else matrix @ factor
        matrix, gained = normalise(product)
        return (matrix, exponent + gained), (matrix, exponent + gained)

    start = (jnp.eye(factors.shape[1], dtype=factors.dtype), jnp.zeros((), jnp.int32))
    return lax.scan(advance, start, factors)[1]


@jax.jit(static_argnums=1)
def _across(jacobians: Float[Array, "L n n"], half: int) -> Float[Array, "S H H"]:
    """For each stretch of 2 · `half` steps, the pairs on either side of its middle."""
    n = jacobians.shape[1]

    def pairs(stretch):
        late, late_exponent = _products(stretch[half:], left=True)  # ∂h_{c+k}/∂h_c
        early, early_exponent = _products(stretch[:half][::-1], left=False)  # ∂h_c/∂h_{c-k}
        late, early = late.astype(jnp.float64), early.astype(jnp.float64)
        gram_late = jnp.einsum("kij,kil->kjl", late, late).reshape(half, n * n)
        gram_early = jnp.einsum("kij,klj->kil", early, early).reshape(half, n * n)
        squares = gram_late @ gram_early.T
        noise = 1e-12 * jnp.linalg.norm(gram_late, axis=1)[:, None] * jnp.linalg.norm(gram_early, axis=1)[None, :]
        exponent = (late_exponent[:, None] + early_exponent[None, :]).astype(jnp.float64)
        logs = 0.5 * jnp.log(jnp.where(squares > noise, squares, jnp.nan)) + exponent * _LOG_2
        # Only products that are zero in every term give an inner product of exactly zero.
        return jnp.where(squares == 0, -jnp.inf, logs)[:, ::-1]

    return lax.map(pairs, jacobians.reshape(-1, 2 * half, n, n))


@jax.jit(static_argnums=1)
def _within(jacobians: Float[Array, "L n n"], leaf: int) -> Float[Array, "S K K"]:
    """For each leaf, all its pairs by direct products."""
    n = jacobians.shape[1]

    def pairs(stretch):
        columns = []
        for first in range(leaf):
            matrices, exponents = _products(stretch[first:], left=True)
            squares = jnp.sum(matrices.astype(jnp.float64) ** 2, axis=(1, 2))
            logs = 0.5 * jnp.log(squares) + exponents.astype(jnp.float64) * _LOG_2
            columns.append(jnp.concatenate([jnp.full(first, jnp.nan), logs]))
        return jnp.stack(columns, axis=1)

    return lax.map(pairs, jacobians.reshape(-1, leaf, n, n))

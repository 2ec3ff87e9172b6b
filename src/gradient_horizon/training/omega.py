"""Pascanu's regulariser Ω, which penalises gradients that grow or shrink from one step to the one before.

Source: R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural networks", ICML 2013,
equations 9 and 10, and the code of that paper. Where the two differ, this module follows the code: the mean, not the
sum, over the steps and sequences whose ‖d_t‖² is at least 1e-20, and the ratio of squares.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gradient_horizon.numerics.arrays import Matrix, Scalar
from gradient_horizon.training.spec import Omega

SMALLEST_SQUARE = 1e-20


def omega(
    recurrent: Matrix,
    deltas: Float[Array, "T B N"],
    gradients: Float[Array, "T B N"],
    *,
    squared: bool = True,
) -> Scalar:
    """Ω = mean of (‖Wᵀ δ_t‖²/‖d_t‖² - 1)² over the steps t and the sequences with ‖d_t‖² ≥ 1e-20; 0 if there are none.

    W = `recurrent`, d_t = ∂L/∂h_t = `gradients`, δ_t = φ′(a_t) d_t = ∂L/∂a_t = `deltas`. Unless `squared`, the ratio is
    that of the norms. (The paper's code computes 0/0 if no term is left.)
    """
    before = jnp.sum(jnp.square(gradients), axis=-1)
    after = jnp.sum(jnp.square(jnp.matmul(deltas, recurrent)), axis=-1)
    kept = before >= SMALLEST_SQUARE
    ratio = jnp.where(kept, after, 1) / jnp.where(kept, before, 1)
    if not squared:  # the root of 0 has no derivative
        ratio = jnp.sqrt(jnp.where(ratio > 0, ratio, 1)) * (ratio > 0).astype(ratio.dtype)
    count = jnp.maximum(jnp.sum(kept.astype(ratio.dtype)), 1)
    return jnp.sum(jnp.where(kept, jnp.square(ratio - 1), 0)) / count


def omega_gradient(
    settings: Omega, recurrent: Matrix, deltas: Float[Array, "T B N"], gradients: Float[Array, "T B N"]
) -> Matrix:
    """`settings.weight` ∂Ω/∂W, with the states and d_t held fixed."""
    weight = jnp.asarray(settings.weight, recurrent.dtype)
    return weight * jax.grad(lambda w: omega(w, deltas, gradients, squared=settings.squared))(recurrent)

"""The orthogonal route: tangent vectors propagated along a trajectory and orthonormalised at every step.

It is slower than elimination (see `lyapunov`) and less accurate far below the leading directions. But as it uses
neither loops of unknown length nor LAPACK, it can be differentiated in forward and reverse mode, and the measures take
their derivatives from it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from gradient_horizon.numerics.arrays import PyTree
from gradient_horizon.numerics.derivatives import jvp_columns
from gradient_horizon.numerics.exponents import LOG_2, normalise


def orthonormalised(matrix: Float[Array, "n k"]) -> tuple[Float[Array, "n k"], Float[Array, " k"], Float[Array, " k"]]:
    """Q and log R_ii of `matrix` = Q R by Gram-Schmidt applied twice, and R_ii as a fraction of its column's length."""

    def column(q, inputs):
        vector, place = inputs
        length = jnp.sqrt(jnp.sum(jnp.square(vector)))
        for _ in range(2):
            vector = vector - jnp.matmul(q, jnp.matmul(q.T, vector))
        norm = jnp.sqrt(jnp.sum(jnp.square(vector)))
        return q + jnp.outer(vector / norm, place), (jnp.log(norm), lax.stop_gradient(norm / length))

    q, (logs, share) = lax.scan(
        column, jnp.zeros_like(matrix), (matrix.T, jnp.eye(matrix.shape[1], dtype=matrix.dtype))
    )
    return q, logs, share


def log_growth(
    flat_step: Callable[..., Array], params: PyTree, window: PyTree, basis: Float[Array, "n k"]
) -> tuple[Float[Array, "T k"], Bool[Array, " k"]]:
    """log R_t,ii of J_t Q_{t-1} = Q_t R_t from the orthonormal Q_0 = `basis`, and which directions have a derivative.

    The rounding error of the derivative of log R_t,ii is eps times the ratio of its column's length to R_t,ii, or the
    same for an earlier column if that is larger. A derivative is accepted if this is below √eps at every step.
    """

    @jax.checkpoint
    def advance(basis, inputs):
        h, x = inputs
        # the squares of very short or long vectors would under- or overflow
        stretched, exponent = normalise(jvp_columns(flat_step, params, h, x, basis))
        basis, logs, share = orthonormalised(stretched)
        return basis, (logs + exponent.astype(logs.dtype) * LOG_2, share)

    _, (logs, shares) = lax.scan(advance, basis, window)
    least = jnp.min(jnp.where(jnp.isnan(shares), 0, shares), axis=0)
    return logs, lax.cummin(least) > float(jnp.finfo(basis.dtype).eps) ** 0.5

"""log|det J_t| at every step of a trajectory: the other side of the sum rule for Lyapunov exponents."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from gradient_horizon.measures.states import Layout
from gradient_horizon.measures.volume_growth import Stretch
from gradient_horizon.numerics import lu
from gradient_horizon.numerics.arrays import PyTree, Scalar

LogDet: TypeAlias = Callable[[PyTree, PyTree, PyTree], Scalar]  # log_det(params, h, x) = log|det ∂step/∂h|


def log_dets_by_elimination(stretch: Stretch, window: PyTree, n: int, dtype: DTypeLike) -> Float[Array, " T"]:
    """log|det J_t| at each step (h, x) of `window`, by elimination of J_t, for a state of n entries."""
    eye = jnp.eye(n, dtype=dtype)

    def pivots(inputs):
        vectors, power = stretch(eye, inputs)
        return lu.lu(vectors.T).diagonal, power

    diagonals, powers = lax.map(pivots, window)
    return lu.log_abs_product(diagonals, powers)


def user_log_dets(log_det: LogDet, layout: Layout, params: PyTree, window: PyTree, copies: int) -> Float[Array, " T"]:
    """log|det J_t| of the real pairs, from the user's `log_det`."""

    def of_step(h, x):
        x, carried = x if layout.carries else (x, [])
        return copies * log_det(params, layout.unpack(h, carried), x)

    return jax.vmap(of_step)(*window)

"""Shaped array types (N hidden units, D inputs, T steps), and a check that JAX supports a dtype."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

PyTree: TypeAlias = Any
Step: TypeAlias = Callable[[Any, Any, Any], Any]  # step(params, h, x) -> h
RandomKey: TypeAlias = Key[Array, ""]
# One array for each matrix of a cell's step, in the order in which the step uses them: one, or two for a GRU.
Factors: TypeAlias = tuple[Array, ...]
Number: TypeAlias = (
    Any  # may be traced; as it is a leaf of a pytree, JAX may also put an object in its place that is not a number
)
Scalar: TypeAlias = Float[Array, ""]
Vector: TypeAlias = Float[Array, " N"]
Matrix: TypeAlias = Float[Array, "N N"]
Series: TypeAlias = Float[Array, " T"]
IntSeries: TypeAlias = Int[Array, " T"]


def available(dtype: DTypeLike) -> np.dtype[Any]:
    """Return `dtype` if JAX computes in it; raise `ValueError` if JAX would silently use a narrower type.

    Unless its 64-bit numbers are enabled, JAX turns float64 into float32.
    """
    requested = jnp.dtype(dtype)
    if jax.dtypes.canonicalize_dtype(requested) != requested:
        allowed = f"float32, or {requested} after jax.config.update('jax_enable_x64', True)"
        raise ValueError(f"dtype: {requested} is not allowed; allowed: {allowed}")
    return requested

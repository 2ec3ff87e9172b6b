"""Named keys and draws that do not depend on the precision of the computation."""

import zlib

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from gradient_horizon.arrays import RandomKey


def named_key(key: RandomKey, name: str) -> RandomKey:
    """The key of one source of randomness (`"weights"`, `"state"`, ...), folded in by its name.

    Sources stay independent of each other and of the order in which they are drawn.
    """
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def normal(key: RandomKey, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Standard normal numbers, drawn in float32 and cast.

    JAX draws different numbers in float32 and in float64; one seed must mean one network in both.
    """
    return jax.random.normal(key, shape, jnp.float32).astype(dtype)

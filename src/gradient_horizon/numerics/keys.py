"""Keys derived from names and sizes, and random draws that do not depend on the precision of the computation.

Any change to the numbers that a seed draws must increase `schema.DRAWS`.
"""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from gradient_horizon.numerics.arrays import RandomKey, available


def named_key(key: RandomKey, name: str) -> RandomKey:
    """The key of one source of randomness (`"weights"`, `"state"`, ...): its name folded into `key`.

    Sources are independent of each other and of the order in which they are drawn.
    """
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def sized_key(key: RandomKey, *sizes: int) -> RandomKey:
    """The key of a draw of these sizes, which are folded into `key` one after another.

    JAX draws a short array and the first entries of a long one from the same bits, so that without this, networks of
    two sizes would share their numbers.
    """
    for size in sizes:
        key = jax.random.fold_in(key, size)
    return key


def normal(key: RandomKey, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Standard normal numbers, drawn in float32 and cast; draws of different shapes are independent.

    JAX draws different numbers in float32 and in float64, but one seed must mean the same network in both. Raises
    `ValueError` for float64 if JAX's 64-bit numbers are disabled.
    """
    return jax.random.normal(sized_key(key, *shape), shape, jnp.float32).astype(available(dtype))


def fixed_normal(*shape: int) -> Float[np.ndarray, "..."]:
    """Standard normal numbers, always the same, to start a search from. Drawn on the host: nothing to compile."""
    return np.random.default_rng(0).standard_normal(shape)


def fixed_orthogonal(n: int) -> Float[np.ndarray, "n n"]:
    """An orthogonal matrix, always the same, in float64."""
    return np.linalg.qr(fixed_normal(n, n))[0]

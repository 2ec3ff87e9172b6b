"""Keys by name and by size, and draws that do not depend on the precision of the computation.

Whatever changes the numbers that a seed draws raises `schema.DRAWS`.
"""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from gradient_horizon.numerics.arrays import RandomKey, available


def named_key(key: RandomKey, name: str) -> RandomKey:
    """The key of one source of randomness (`"weights"`, `"state"`, ...), folded in by its name.

    Sources stay independent of each other and of the order in which they are drawn.
    """
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def sized_key(key: RandomKey, *sizes: int) -> RandomKey:
    """The key of a draw of these sizes, folded in one after the other.

    JAX draws the entries of a short array and the first entries of a long one from the same bits, so that one key
    would give networks of two sizes that share their numbers.
    """
    for size in sizes:
        key = jax.random.fold_in(key, size)
    return key


def normal(key: RandomKey, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Standard normal numbers, drawn in float32 and cast; those of two shapes are independent.

    JAX draws different numbers in float32 and in float64; one seed must mean one network in both. Raises `ValueError`
    for float64 where JAX's 64-bit numbers are off.
    """
    return jax.random.normal(sized_key(key, *shape), shape, jnp.float32).astype(available(dtype))


def fixed_normal(*shape: int) -> Float[np.ndarray, "..."]:
    """Standard normal numbers, always the same: where a search may start. Drawn on the host: nothing to compile."""
    return np.random.default_rng(0).standard_normal(shape)


def fixed_orthogonal(n: int) -> Float[np.ndarray, "n n"]:
    """An orthogonal matrix, always the same, in float64."""
    return np.linalg.qr(fixed_normal(n, n))[0]

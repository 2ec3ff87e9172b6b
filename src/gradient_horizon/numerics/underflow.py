"""Whether a product of Jacobians, as floats under one exponent, may have lost an entry to underflow.

The product is kept at a norm of 2^`room`, and every step is asked whether an entry that is not zero lies below 1
(`is_safe`): as long as none does, no term of the next product can underflow.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from gradient_horizon.numerics.exponents import bits_of, power_of_two

# Bits that entries of two vectors may lie apart for the one to stand for the other. Few are not enough: that one of the
# n² entries lies b bits below its neighbour in the first vector has a chance of n² / 2^b.
_ALIKE = 40


def room(dtype: Any) -> int:
    """Products are scaled to a norm of 2^`room`: entries down to 2^-`room` of it are at least 1."""
    return bits_of(dtype).bias // 3


def _exponent(number: Float[Array, "..."]) -> Int[Array, "..."]:
    """The e with 2^e ≤ |`number`| < 2^(e+1), of normal numbers."""
    bits = bits_of(number.dtype)
    return (lax.bitcast_convert_type(jnp.abs(number), bits.integer) >> bits.mantissa).astype(jnp.int32) - bits.bias


@jax.jit
def smallest(matrix: Float[Array, "*many n m"]) -> Float[Array, "*many"]:
    """The size of the smallest entry that is not zero; NaN if there is none."""
    bits = bits_of(matrix.dtype)
    one = jnp.ones((), bits.unsigned)
    # Floats without a sign are in the order of whole numbers, and 0 less 1 is the largest. Halves are compared entry by
    # entry, which the processor does for many at once, as it does not for a minimum over an axis.
    pattern = (lax.bitcast_convert_type(matrix, bits.unsigned) << one) - one
    while pattern.shape[-2] % 2 == 0:
        half = pattern.shape[-2] // 2
        pattern = jnp.minimum(pattern[..., :half, :], pattern[..., half:, :])
    return lax.bitcast_convert_type((jnp.min(pattern, axis=(-2, -1)) >> one) + one, matrix.dtype)


@jax.jit
def size(square: Float[Array, "..."]) -> tuple[Float[Array, "..."], Int[Array, "..."]]:
    """√`square` as a mantissa in [1, 2) and an exponent; 0 and `room` for 0."""
    exponent = jnp.where(square == 0, room(square.dtype), _exponent(square) >> 1)
    return jnp.sqrt(square) * power_of_two(-exponent, square.dtype), exponent


@jax.jit
def is_safe(square: Float[Array, " T"], smallest: Float[Array, " T"]) -> Bool[Array, " T"]:
    """Whether no entry is lost in the products of one step each, nor in those after them.

    Scaled to a norm of 2^42 (float64: 2^341), no entry but zeros may lie below 1. Then no term of the next product, an
    entry of J times such an entry, underflows: its zeros are true zeros, and no sum misses a digit. If one is smaller,
    or the norm leaves the range in which its square is right, the step is not safe.
    """
    bits = bits_of(square.dtype)
    exponent = size(square)[1]
    is_moderate = (exponent >= -(bits.bias // 4)) & (exponent <= bits.bias // 2 - 2)
    least = jnp.where(jnp.isnan(smallest), bits.bias, _exponent(smallest))
    return is_moderate & (least >= exponent - room(square.dtype))


@partial(jax.jit, static_argnums=0)
def are_alike(anchor: str, matrix: Float[Array, "n n"]) -> Bool[Array, ""]:
    """Whether the first vector stands for all: the others are zero, or where it is zero and nowhere else, and in no
    entry more than 2^40 times smaller.

    All go through the same J, so an entry of another one is then no more than about 2^40 times smaller than that of
    the first one at every later step too, if not by cancellation, whose rounding is the larger loss. Where the first
    one's entries are at least 1, the largest term of another one's is at least 2^-40 / n, and what underflows beside
    it, below 2^-126, is nothing to float32.
    """
    vectors = jnp.abs(matrix if anchor == "end" else matrix.T)
    is_zero = jnp.all(vectors == 0, axis=1, keepdims=True)
    first = vectors[:1]
    is_like = (vectors >= first * 2.0**-_ALIKE) & ((vectors == 0) == (first == 0))
    return jnp.all(is_zero | is_like)

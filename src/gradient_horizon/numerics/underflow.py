"""Tests for whether a product of Jacobians, held as floats with one common exponent, may have underflowed.

The product is kept at a norm of 2^`room`, and every step is checked for nonzero entries below 1 (`is_safe`): as long as
there are none, no term of the next product can underflow.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from gradient_horizon.numerics.exponents import bits_of, power_of_two

# How many bits the entries of a vector may lie below those of the vector that represents it. A few are not enough: the
# probability that one of the n² entries lies b bits below its counterpart in the first vector is n² / 2^b.
_ALIKE = 40


def room(dtype: Any) -> int:
    """The exponent of the norm that products are scaled to: entries down to 2^-`room` of that norm are at least 1."""
    return bits_of(dtype).bias // 3


def _exponent(number: Float[Array, "..."]) -> Int[Array, "..."]:
    """The e with 2^e ≤ |`number`| < 2^(e+1), for normal numbers."""
    bits = bits_of(number.dtype)
    return (lax.bitcast_convert_type(jnp.abs(number), bits.integer) >> bits.mantissa).astype(jnp.int32) - bits.bias


@jax.jit
def smallest(matrix: Float[Array, "*many n m"]) -> Float[Array, "*many"]:
    """The absolute value of the smallest nonzero entry; NaN if there is none."""
    bits = bits_of(matrix.dtype)
    one = jnp.ones((), bits.unsigned)
    # Without the sign, the bits of floats are ordered as unsigned integers, of which 0 - 1 is the largest. Halves are
    # compared entry by entry, which vectorises; a minimum over an axis does not.
    pattern = (lax.bitcast_convert_type(matrix, bits.unsigned) << one) - one
    while (rows := pattern.shape[-2]) > 1:
        half = (rows + 1) // 2  # of an odd number, the middle one belongs to both
        pattern = jnp.minimum(pattern[..., :half, :], pattern[..., rows - half :, :])
    least = jnp.min(pattern, axis=(-2, -1))
    size = lax.bitcast_convert_type((least >> one) + one, matrix.dtype)
    return jnp.where(least == ~jnp.zeros((), bits.unsigned), jnp.nan, size)


@jax.jit
def size(square: Float[Array, "..."]) -> tuple[Float[Array, "..."], Int[Array, "..."]]:
    """√`square` as a mantissa in [1, 2) and an exponent; 0 gives 0 and `room`."""
    exponent = jnp.where(square == 0, room(square.dtype), _exponent(square) >> 1)
    return jnp.sqrt(square) * power_of_two(-exponent, square.dtype), exponent


@jax.jit
def is_safe(square: Float[Array, " T"], smallest: Float[Array, " T"]) -> Bool[Array, " T"]:
    """True for each step whose product has lost no entry and whose next product will lose none.

    If the product is scaled to a norm of 2^42 (float64: 2^341), no nonzero entry may lie below 1. Then no term of the
    next product (an entry of J times such an entry) underflows: its zeros are true zeros, and no sum misses a digit. If
    an entry is smaller, or the norm leaves the range in which its square is accurate, the step is not safe.
    """
    bits = bits_of(square.dtype)
    exponent = size(square)[1]
    is_moderate = (exponent >= -(bits.bias // 4)) & (exponent <= bits.bias // 2 - 2)
    least = jnp.where(jnp.isnan(smallest), bits.bias, _exponent(smallest))
    return is_moderate & (least >= exponent - room(square.dtype))


@partial(jax.jit, static_argnums=0)
def are_alike(anchor: str, matrix: Float[Array, "n n"]) -> Bool[Array, ""]:
    """True if the first vector represents all others.

    That is, each of the others is zero as a whole, or has its zeros exactly where the first one has them and no entry
    more than 2^40 times smaller than the first one's.

    All vectors are multiplied by the same J. At every later step, too, an entry of another vector is therefore at most
    about 2^40 times smaller than the first one's, except by cancellation, whose rounding is the larger loss. If the
    entries of the first vector are at least 1, the largest term of any other's is at least 2^-40 / n; terms that
    underflow beside it, below 2^-126, are negligible in float32.
    """
    vectors = jnp.abs(matrix if anchor == "end" else matrix.T)
    first = vectors[:1]
    is_like = (vectors >= first * 2.0**-_ALIKE) & ((vectors == 0) == (first == 0))
    # sums of floats vectorise; conjunctions over an axis do not, and took a sixth of the whole measurement at N = 16
    one = jnp.ones((), matrix.dtype)
    unlike = jnp.sum(jnp.where(is_like, 0 * one, one), axis=1)
    nonzero = jnp.sum(jnp.where(vectors == 0, 0 * one, one), axis=1)
    return jnp.sum(unlike * nonzero) == 0

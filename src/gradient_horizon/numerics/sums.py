"""Compensated sums of up to millions of logarithms: the total is held in two floats and does not drift.

A single float32 that holds a sum of 10⁵ rounds every term by up to 4e-3, and always in the same direction if the terms
are equal. Here s + e = a + b exactly (Knuth, The Art of Computer Programming 2, section 4.2.2, theorem B), and only the
second float is rounded, so the error of T additions is about T eps² of the total. A logarithm is added as a multiple of
log 2, which is exact, plus the log of a mantissa between √½ and √2: a term rounds by less than eps/4, however large the
number.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

_LOG_2_HIGH = 45426 / 65536  # 16 bits: its product with any exponent of a float is exact, even in float32
_LOG_2_LOW = 1.428606820309417e-06  # the rest of log 2


class Sum(NamedTuple):
    """`total` + `rest`, with `rest` at most half a unit in the last place of `total`."""

    total: Array
    rest: Array


def zero(like: Float[Array, "..."]) -> Sum:
    """The empty sum, with the shape and dtype of `like`."""
    return Sum(jnp.zeros_like(like), jnp.zeros_like(like))


def _two_sum(a: Float[Array, "..."], b: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """a + b rounded, and the exact rounding error (0 if the sum is not finite)."""
    total = a + b
    part = total - a
    error = (a - (total - part)) + (b - part)
    return total, jnp.where(jnp.isfinite(total), error, 0)


def add(so_far: Sum, term: Float[Array, "..."], rest: Float[Array, "..."] | float = 0.0) -> Sum:
    """`so_far` + `term` + `rest`, with `rest` smaller than `term`. Infinities and NaN behave as in a plain sum."""
    total, error = _two_sum(so_far.total, term)
    return Sum(*_two_sum(total, error + (so_far.rest + rest)))


def _power_of_two(exponent: Int[Array, "..."], dtype: DTypeLike) -> Float[Array, "..."]:
    """2^`exponent` of each entry, exact, for exponents of normal numbers."""
    bits = jnp.finfo(dtype)
    pattern = (exponent.astype(f"int{bits.bits}") + (bits.maxexp - 1)) << bits.nmant
    return lax.bitcast_convert_type(pattern, jnp.dtype(dtype))


def split(values: Float[Array, "..."]) -> tuple[Float[Array, "..."], Int[Array, "..."]]:
    """Split `values` into mantissa · 2^exponent, entry by entry, with |mantissa| in [√½, √2); 0 gives 0 and 0.

    A value that is not finite is its own mantissa.
    """
    bits = jnp.finfo(values.dtype)
    pattern = lax.bitcast_convert_type(jnp.abs(values), f"int{bits.bits}")
    # adding 2 - √2 to a mantissa carries into the exponent from √2 on
    carry = int((2 - 2**0.5) * 2**bits.nmant)
    exponent = ((pattern + carry) >> bits.nmant) - (bits.maxexp - 1)
    is_plain = (values != 0) & jnp.isfinite(values)
    exponent = jnp.where(is_plain, jnp.maximum(exponent, bits.minexp), 0).astype(jnp.int32)
    half = exponent // 2  # in two steps: 2 to the largest exponent has no normal inverse
    return values * _power_of_two(-half, values.dtype) * _power_of_two(half - exponent, values.dtype), exponent


def add_powers(so_far: Sum, exponent: Int[Array, "..."], rest: Float[Array, "..."] | float = 0.0) -> Sum:
    """`so_far` + log 2^`exponent` + `rest`, for an `exponent` of at most a few thousand (in float32: 2^8)."""
    powers = exponent.astype(so_far.total.dtype)
    rest = rest + powers * jnp.asarray(_LOG_2_LOW, powers.dtype)
    return add(so_far, powers * jnp.asarray(_LOG_2_HIGH, powers.dtype), rest)


def add_log(so_far: Sum, values: Float[Array, "..."], power: Int[Array, ""] | int = 0) -> Sum:
    """`so_far` + log|`values` 2^`power`|; -inf for a zero."""
    mantissa, exponent = split(values)
    return add_powers(so_far, exponent + power, jnp.log(jnp.abs(mantissa)))


def join(one: Sum, other: Sum) -> Sum:
    """The sum of two sums."""
    return add(one, other.total, other.rest)


def negative(one: Sum) -> Sum:
    """The sum with its sign changed."""
    return Sum(-one.total, -one.rest)


def value(one: Sum) -> Float[Array, "..."]:
    """The sum as one float."""
    return one.total + one.rest


def total(terms: Sum) -> Sum:
    """The sum of all `terms` along the first axis."""
    first = jax.tree.map(lambda part: jnp.zeros_like(part[0]), terms)
    return lax.scan(lambda so_far, term: (join(so_far, term), None), first, terms)[0]


def mean(values: Float[Array, "T ..."]) -> Float[Array, "..."]:
    """The mean along the first axis, accurate to a few eps however long the axis is."""
    return value(total(Sum(values, jnp.zeros_like(values)))) / values.shape[0]

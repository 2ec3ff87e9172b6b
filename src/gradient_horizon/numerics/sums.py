"""Sums of a million logs that do not drift: the total in two floats, each addition exact but for the second's rounding.

One float32 that holds a sum of 10⁵ rounds every term by up to 4e-3, and always the same way where the terms are equal.
Here s + e = a + b exactly (Knuth, The Art of Computer Programming 2, section 4.2.2, theorem B), so T additions are off
by some T eps² of the total. A logarithm is added as a multiple of log 2, exact, and the log of a mantissa between √½
and √2: a term rounds by less than eps/4 however large the number.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

_LOG_2_HIGH = 45426 / 65536  # 16 bits: times any exponent of a float it is exact, in float32 too
_LOG_2_LOW = 1.428606820309417e-06  # what is left of log 2


class Sum(NamedTuple):
    """`total` + `rest`, `rest` at most half a digit of `total`."""

    total: Array
    rest: Array


def zero(like: Float[Array, "..."]) -> Sum:
    """The sum of nothing, of the shape and dtype of `like`."""
    return Sum(jnp.zeros_like(like), jnp.zeros_like(like))


def _two_sum(a: Float[Array, "..."], b: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """a + b rounded, and exactly what the rounding took; 0 of a sum that is not finite."""
    total = a + b
    part = total - a
    lost = (a - (total - part)) + (b - part)
    return total, jnp.where(jnp.isfinite(total), lost, 0)


def add(so_far: Sum, term: Float[Array, "..."], rest: Float[Array, "..."] | float = 0.0) -> Sum:
    """`so_far` + `term` + `rest`, `rest` the smaller of the two. Infinities and NaN as in a plain sum."""
    total, lost = _two_sum(so_far.total, term)
    return Sum(*_two_sum(total, lost + (so_far.rest + rest)))


def _power_of_two(exponent: Int[Array, "..."], dtype: DTypeLike) -> Float[Array, "..."]:
    """2^`exponent` of each entry, exact, for exponents of normal numbers."""
    bits = jnp.finfo(dtype)
    pattern = (exponent.astype(f"int{bits.bits}") + (bits.maxexp - 1)) << bits.nmant
    return lax.bitcast_convert_type(pattern, jnp.dtype(dtype))


def split(values: Float[Array, "..."]) -> tuple[Float[Array, "..."], Int[Array, "..."]]:
    """`values` = mantissa · 2^exponent, each entry for itself, |mantissa| in [√½, √2); 0 and 0 of 0.

    What is not finite is its own mantissa.
    """
    bits = jnp.finfo(values.dtype)
    pattern = lax.bitcast_convert_type(jnp.abs(values), f"int{bits.bits}")
    # adding what lies between √2 and 2 carries into the exponent from √2 on
    carry = int((2 - 2**0.5) * 2**bits.nmant)
    exponent = ((pattern + carry) >> bits.nmant) - (bits.maxexp - 1)
    is_plain = (values != 0) & jnp.isfinite(values)
    exponent = jnp.where(is_plain, jnp.maximum(exponent, bits.minexp), 0).astype(jnp.int32)
    half = exponent // 2  # in two steps: 2 to the largest exponent has no normal inverse
    return values * _power_of_two(-half, values.dtype) * _power_of_two(half - exponent, values.dtype), exponent


def add_powers(so_far: Sum, exponent: Int[Array, "..."], rest: Float[Array, "..."] | float = 0.0) -> Sum:
    """`so_far` + log 2^`exponent` + `rest`, `exponent` of at most a few thousand (in float32: 2^8)."""
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
    """The sum of all, along the first axis."""
    first = jax.tree.map(lambda part: jnp.zeros_like(part[0]), terms)
    return lax.scan(lambda so_far, term: (join(so_far, term), None), first, terms)[0]


def mean(values: Float[Array, "T ..."]) -> Float[Array, "..."]:
    """The mean along the first axis, right to some eps however long that is."""
    return value(total(Sum(values, jnp.zeros_like(values)))) / values.shape[0]

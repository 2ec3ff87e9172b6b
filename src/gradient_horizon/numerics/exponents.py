"""Scaling by exact powers of two, with the exponent kept as an int32.

It represents the product of thousands of Jacobians as a matrix of moderate size and an exponent. `jnp.exp2` of an
integer is not exact in float32 and `jnp.ldexp` is slow on whole matrices, so the bits of the exponent are written
directly.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from gradient_horizon.numerics.arrays import Scalar

LOG_2 = 0.6931471805599453  # natural log: log(m 2^e) = log m + e LOG_2


class Bits(NamedTuple):
    """Layout of a float dtype: the integer types of its size, bits of the mantissa, bias of the exponent."""

    integer: type
    unsigned: type
    mantissa: int
    bias: int


def bits_of(dtype: DTypeLike) -> Bits:
    """Return the layout of float32 or float64; raise `ValueError` for any other dtype."""
    match jnp.dtype(dtype).name:
        case "float32":
            return Bits(jnp.int32, jnp.uint32, 23, 127)
        case "float64":
            return Bits(jnp.int64, jnp.uint64, 52, 1023)
        case other:
            raise ValueError(f"dtype: {other} is not supported; allowed: float32, float64")


def power_of_two(exponent: Int[Array, "*shape"], dtype: DTypeLike) -> Float[Array, "*shape"]:
    """2^`exponent`, exact, for exponents of normal numbers (|exponent| ≤ 126 in float32, 1022 in float64)."""
    bits = bits_of(dtype)
    pattern = (exponent.astype(bits.integer) + bits.bias) << bits.mantissa
    return lax.bitcast_convert_type(pattern, jnp.dtype(dtype))


def largest_exponent(matrix: Float[Array, "..."]) -> Int[Array, ""]:
    """The e with 2^e ≤ max|entry| < 2^(e+1), clipped to exponents of normal numbers; 0 if that is 0 or not finite."""
    bits = bits_of(matrix.dtype)
    largest = jnp.max(jnp.abs(matrix))
    pattern = lax.bitcast_convert_type(largest, bits.integer)
    exponent = (pattern >> bits.mantissa).astype(jnp.int32) - bits.bias
    exponent = jnp.clip(exponent, 1 - bits.bias, bits.bias - 1)
    return jnp.where((largest > 0) & jnp.isfinite(largest), exponent, 0)


def normalise(matrix: Float[Array, "..."]) -> tuple[Float[Array, "..."], Int[Array, ""]]:
    """Return (`scaled`, `exponent`): `matrix` = `scaled` · 2^`exponent`, the largest entry of `scaled` in [1, 2).

    Exact as long as all entries lie within 2^126 (float64: 2^1022) of each other; smaller ones are flushed to zero.
    """
    exponent = largest_exponent(matrix)
    return matrix * power_of_two(-exponent, matrix.dtype), exponent


def log_of(mantissa: Float[Array, "*shape"], exponent: Int[Array, "*shape"]) -> Float[Array, "*shape"]:
    """log(`mantissa` · 2^`exponent`), natural, entry by entry; -inf for a mantissa of 0."""
    return jnp.log(mantissa) + exponent.astype(mantissa.dtype) * jnp.asarray(LOG_2, mantissa.dtype)


def room_of(dtype: DTypeLike) -> int:
    """How many bits below the largest entry the others may lie and still be kept: 42, in float64 341.

    If the largest entry is scaled to 2^`room_of`, such entries are at least 1, and a term of the next product (an entry
    of a Jacobian times such an entry) does not underflow.
    """
    return bits_of(dtype).bias // 3


def is_kept(matrix: Float[Array, "..."], scaled: Float[Array, "..."], room: int) -> Bool[Array, ""]:
    """True if the sizes of all nonzero entries of `scaled`, `matrix` after `normalise`, lie in [2^-`room`, 4].

    False if an entry is not finite.
    """
    size = jnp.abs(scaled)
    return jnp.all((matrix == 0) | ((size >= 2.0**-room) & (size <= 4)))


@jax.custom_jvp
def frobenius_norm(matrix: Float[Array, "..."]) -> tuple[Scalar, Int[Array, ""]]:
    """Return a mantissa in [1, 2) and an exponent with ‖`matrix`‖_F = `mantissa` · 2^`exponent`.

    Neither over- nor underflows. One pass over the matrix yields both; only if squares under- or overflow, or all
    entries are zero, is the matrix first scaled by its largest entry. A matrix of zeros gives 0 and 0; for a matrix
    that is not finite the mantissa is infinite or NaN, as in float arithmetic.
    """
    bits = bits_of(matrix.dtype)
    square = jnp.sum(matrix * matrix)
    pattern = lax.bitcast_convert_type(square, bits.integer)
    exponent = ((pattern >> bits.mantissa).astype(jnp.int32) - bits.bias) >> 1
    # far enough from both ends of the float range that squares lost to underflow do not change the sum's last digit
    plain = (exponent > -bits.bias // 4) & (exponent < bits.bias // 2)
    exponent = jnp.where(plain, exponent, 0)
    mantissa = jnp.sqrt(square) * power_of_two(-exponent, matrix.dtype)

    def by_largest_entry(carry):
        # the barrier adds a dependence on the carry: otherwise XLA hoists this out of the loop and always computes it
        scaled, exponent = normalise(lax.optimization_barrier((matrix, carry))[0])
        mantissa, gained = normalise(jnp.sqrt(jnp.sum(scaled * scaled)))
        return jnp.zeros((), bool), exponent + gained, mantissa

    # At most one iteration: under `jax.vmap` none if no network needs it, whereas `lax.cond` would run both branches.
    needs_it = ~(plain | jnp.isnan(square))
    _, exponent, mantissa = lax.while_loop(lambda carry: carry[0], by_largest_entry, (needs_it, exponent, mantissa))
    return mantissa, exponent


@frobenius_norm.defjvp
def _(primals: Any, tangents: Any) -> Any:
    """d‖M‖ = ⟨M, dM⟩ / ‖M‖."""
    (matrix,), (change,) = primals, tangents
    mantissa, exponent = frobenius_norm(matrix)
    shrink = power_of_two(-exponent, matrix.dtype)
    by_matrix = jnp.sum((matrix * shrink) * (change * shrink)) / mantissa
    return (mantissa, exponent), (by_matrix, np.zeros((), jax.dtypes.float0))


def add(
    a: Float[Array, " n"], exponent: Int[Array, ""], b: Float[Array, " n"], other: Int[Array, ""]
) -> tuple[Float[Array, " n"], Int[Array, ""]]:
    """Return `a` 2^`exponent` + `b` 2^`other`, both normalised (or zero), as a normalised vector and its exponent.

    Rounded once, like the sum of two floats; anything below 2^-126 (float64: 2^-1022) of the larger vector is lost.
    """
    least = 1 - bits_of(a.dtype).bias
    is_zero = ~jnp.any(a != 0), ~jnp.any(b != 0)
    common = jnp.where(is_zero[0], other, jnp.where(is_zero[1], exponent, jnp.maximum(exponent, other)))

    def moved(vector, own):
        gap = jnp.minimum(own - common, 0)
        factor = power_of_two(jnp.maximum(gap, least), vector.dtype)
        return vector * jnp.where(gap < least, jnp.zeros_like(factor), factor)

    total, gained = normalise(moved(a, exponent) + moved(b, other))
    return total, common + gained

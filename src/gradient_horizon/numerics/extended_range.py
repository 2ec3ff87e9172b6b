"""Extended-range arithmetic: matrices in which every entry has its own exponent.

An entry is `mantissa` · 2^`exponent` with |mantissa| in [1, 2) and an int32 exponent, so that a product of thousands
of Jacobians never loses a nonzero entry, however far below the others it lies. Sums and products round as in float
arithmetic (each term to eps of the largest), and exact zeros remain exact.

A product costs about ten ordinary ones if the entries of a column lie within 2^40 of each other, and one more for each
further 2^40: a fallback for the few networks that need it (see `measures.jacobian_norms`).

**Source:** the representation is that of Smith, Olver and Lozier, ACM Trans. Math. Softw. 7, 93 (1981).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from gradient_horizon.numerics.arrays import Scalar
from gradient_horizon.numerics.exponents import bits_of, power_of_two

ZERO = -(2**29)  # the exponent of an entry that is exactly zero
BAND = 40  # bits: products of factors within a band neither over- nor underflow, even in float32


class Extended(NamedTuple):
    """`mantissa` · 2^`exponent`, entry by entry; (0, `ZERO`) is zero. Non-finite entries have exponent 0."""

    mantissa: Array
    exponent: Array


def extended(values: Float[Array, "..."]) -> Extended:
    """Convert floats to extended range, exactly."""
    bits = bits_of(values.dtype)
    pattern = lax.bitcast_convert_type(values, bits.integer)
    of_exponent = (2 * bits.bias + 1) << bits.mantissa
    exponent = ((pattern & of_exponent) >> bits.mantissa).astype(jnp.int32) - bits.bias
    mantissa = lax.bitcast_convert_type((pattern & ~of_exponent) | (bits.bias << bits.mantissa), values.dtype)
    is_zero, is_finite = exponent == -bits.bias, exponent <= bits.bias  # devices treat subnormal numbers as zero
    mantissa = jnp.where(is_zero, 0, jnp.where(is_finite, mantissa, values))
    return Extended(mantissa, jnp.where(is_zero, ZERO, jnp.where(is_finite, exponent, 0)))


def identity(n: int, dtype: DTypeLike) -> Extended:
    """The identity matrix."""
    eye = jnp.eye(n, dtype=dtype)
    return Extended(eye, jnp.where(eye == 0, ZERO, 0).astype(jnp.int32))


def transposed(values: Extended) -> Extended:
    """The transposed matrix."""
    return Extended(values.mantissa.T, values.exponent.T)


def shifted(values: Extended, exponent: Int[Array, "..."]) -> Extended:
    """`values` · 2^`exponent`."""
    return Extended(values.mantissa, jnp.where(values.mantissa == 0, ZERO, values.exponent + exponent))


def relative_to(values: Extended, exponent: Int[Array, "..."]) -> Float[Array, "..."]:
    """`values` / 2^`exponent` as floats, for an `exponent` at least as large as every entry's; underflow gives 0."""
    dtype = values.mantissa.dtype
    least = 1 - bits_of(dtype).bias
    gap = jnp.minimum(values.exponent - exponent, 0)
    underflows = (gap < least) & jnp.isfinite(values.mantissa)
    return jnp.where(underflows, 0, values.mantissa * power_of_two(jnp.maximum(gap, least), dtype))


def add(a: Extended, b: Extended) -> Extended:
    """The sum, entry by entry, rounded once."""
    largest = jnp.maximum(a.exponent, b.exponent)
    return shifted(extended(relative_to(a, largest) + relative_to(b, largest)), largest)


def _band(values: Extended, left: Bool[Array, "m n"], axis: int) -> tuple[Array, Array, Array]:
    """Take the next band of the entries marked by `left`: those within 2^`BAND` of the largest along `axis`.

    Returns the band as floats below 2, the exponent of the largest entry, and the mask of the entries still left.
    """
    largest = jnp.max(jnp.where(left, values.exponent, ZERO), axis=axis, keepdims=True)
    is_in_band = left & (values.exponent > largest - BAND)
    return jnp.where(is_in_band, relative_to(values, largest), 0), largest, left & ~is_in_band


def product(left: Float[Array, "m n"] | Extended, right: Extended) -> Extended:
    """`left` @ `right`, with `left` an array of floats or `Extended`.

    No term over- or underflows: rows of `left` and columns of `right` are multiplied band by band.
    """
    factor = left if isinstance(left, Extended) else extended(left)

    def by_rows(carry):
        rows, total = carry
        some, row_exponent, rows = _band(factor, rows, 1)

        def by_columns(carry):
            columns, total = carry
            others, column_exponent, columns = _band(right, columns, 0)
            terms = extended(jnp.matmul(some, others, precision="highest"))
            return columns, add(total, shifted(terms, row_exponent + column_exponent))

        _, total = lax.while_loop(lambda carry: jnp.any(carry[0]), by_columns, (right.mantissa != 0, total))
        return rows, total

    shape = (factor.mantissa.shape[0], right.mantissa.shape[1])
    nothing = Extended(jnp.zeros(shape, factor.mantissa.dtype), jnp.full(shape, ZERO, jnp.int32))
    return lax.while_loop(lambda carry: jnp.any(carry[0]), by_rows, (factor.mantissa != 0, nothing))[1]


def frobenius_norm(values: Extended) -> tuple[Scalar, Int[Array, ""]]:
    """Return a mantissa and an exponent with ‖`values`‖_F = `mantissa` · 2^`exponent`; 0 and 0 for a zero matrix."""
    largest = jnp.max(values.exponent)
    floats = relative_to(values, largest)
    return jnp.sqrt(jnp.sum(floats * floats)), jnp.where(largest == ZERO, 0, largest)

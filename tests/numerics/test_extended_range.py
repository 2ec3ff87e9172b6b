"""Matrices with an exponent for each entry, against exact rational arithmetic."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradient_horizon.numerics import extended_range
from gradient_horizon.numerics.extended_range import ZERO, Extended, extended


def exact(values):
    """The entries as fractions."""
    mantissa, exponent = (np.asarray(part) for part in values)
    return [
        [Fraction(float(m)) * Fraction(2) ** int(e) if m else Fraction(0) for m, e in zip(*row, strict=True)]
        for row in zip(mantissa, exponent, strict=True)
    ]


def random_extended(rng, shape, dtype, spread):
    mantissa = rng.choice([-1, 1], shape) * rng.uniform(1, 2, shape)
    zero = rng.random(shape) < 0.2
    exponent = rng.integers(-spread, spread, shape)
    return Extended(
        jnp.asarray(np.where(zero, 0, mantissa), dtype), jnp.asarray(np.where(zero, ZERO, exponent), jnp.int32)
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_floats_are_taken_apart_exactly(dtype):
    tiny, largest = float(np.finfo(dtype).tiny), float(np.finfo(dtype).max)
    values = np.array([[1.0, -1.5, 0.0, -0.0, tiny, -tiny, largest, 3e-30, 0.1]], dtype)
    found = extended(jnp.asarray(values))
    assert exact(found) == [[Fraction(float(value)) for value in values[0]]]
    sizes = np.abs(np.asarray(found.mantissa))
    assert np.all((sizes == 0) | ((sizes >= 1) & (sizes < 2)))
    np.testing.assert_array_equal(found.exponent[0, 2:4], ZERO)
    back = extended_range.relative_to(extended(jnp.asarray(values[:, :6])), jnp.int32(0))
    np.testing.assert_array_equal(back, values[:, :6])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_not_finite_stays_so(dtype):
    left = jnp.asarray([[np.inf, 0.0], [np.nan, 1.0]], dtype)
    found = extended_range.product(left, extended_range.identity(2, dtype))
    assert not np.any(np.isfinite(np.asarray(found.mantissa)[:, 0]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("spread", [3, 60, 2000])
@pytest.mark.parametrize("size", [1, 5])
def test_products_are_those_of_fractions(dtype, spread, size):
    rng = np.random.default_rng(spread + size)
    reach = 30 if dtype == "float32" else 300
    scales = 10.0 ** rng.uniform(-reach, reach, (size, size))  # entries of J from end to end of the floats
    left = np.asarray(rng.standard_normal((size, size)) * scales, dtype)
    left[rng.random((size, size)) < 0.2] = 0
    right = random_extended(rng, (size, size), dtype, spread)
    found = jax.jit(extended_range.product)(jnp.asarray(left), right)
    a, b, c = exact(extended(jnp.asarray(left))), exact(right), exact(found)
    for i in range(size):
        for k in range(size):
            terms = [a[i][j] * b[j][k] for j in range(size)]
            # each term rounds once, and each of the additions, beside the largest
            tolerance = Fraction(2 * size * float(np.finfo(dtype).eps)) * sum(map(abs, terms))
            assert abs(c[i][k] - sum(terms)) <= tolerance
            assert (c[i][k] == 0) == (not any(terms)) or sum(terms) == 0


def test_norms_do_not_underflow():
    values = Extended(jnp.asarray([[1.5, 0.0]], jnp.float32), jnp.asarray([[-(10**8), ZERO]], jnp.int32))
    mantissa, exponent = extended_range.frobenius_norm(values)
    assert (float(mantissa), int(exponent)) == (1.5, -(10**8))
    mantissa, exponent = extended_range.frobenius_norm(Extended(jnp.zeros((2, 2)), jnp.full((2, 2), ZERO)))
    assert (float(mantissa), int(exponent)) == (0.0, 0)

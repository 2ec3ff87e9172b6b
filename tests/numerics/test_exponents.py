import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradient_horizon.numerics.exponents import frobenius_norm, normalise, power_of_two


@pytest.mark.parametrize(("dtype", "largest"), [("float32", 126), ("float64", 1022)])
def test_powers_of_two_are_exact(dtype, largest):
    for exponent in (-largest, -77, -1, 0, 1, 53, largest):
        assert float(power_of_two(jnp.int32(exponent), dtype)) == 2.0**exponent


@settings(deadline=None)
@given(st.integers(-100, 100), st.lists(st.floats(-1, 1, width=32), min_size=4, max_size=4))
def test_normalising_changes_no_bit(exponent, entries):
    matrix = np.ldexp(np.array(entries, np.float32), exponent).reshape(2, 2)
    scaled, found = normalise(jnp.asarray(matrix))
    largest = np.abs(matrix).max()
    if largest < np.finfo(np.float32).tiny:  # XLA flushes subnormal numbers
        return
    assert 1 <= float(jnp.max(jnp.abs(scaled))) < 2
    kept = np.abs(matrix) > max(largest * 2.0**-120, np.finfo(np.float32).tiny)
    back = np.ldexp(np.asarray(scaled, np.float64), int(found))
    np.testing.assert_array_equal(back[kept], matrix.astype(np.float64)[kept])


@pytest.mark.parametrize("entry", [0.0, np.inf, np.nan])
def test_zero_and_non_finite_matrices_keep_exponent_zero(entry):
    scaled, exponent = normalise(jnp.full((2, 2), entry, jnp.float32))
    assert int(exponent) == 0
    np.testing.assert_array_equal(scaled, np.full((2, 2), entry, np.float32))


# whose squares are floats, and whose are not
ORDERS = {
    "float32": (0, 7, -29, 50, -31, 61, -33, 64, -120, 125),
    "float64": (0, 99, -249, 500, -260, 520, -1000, 1020),
}


@pytest.mark.parametrize("dtype", ORDERS)
def test_the_norm_of_a_matrix_of_any_size(dtype):
    entries = np.random.default_rng(0).normal(size=(5, 5)).astype(dtype)
    true = float(np.linalg.norm(entries.astype(np.longdouble)))
    matrices = jnp.stack([jnp.asarray(np.ldexp(entries, exponent)) for exponent in ORDERS[dtype]])
    together, exponent = jax.vmap(frobenius_norm)(matrices)
    brought_back = np.ldexp(np.asarray(together, np.float64), np.asarray(exponent) - np.array(ORDERS[dtype]))
    # 25 squares, their sum and the root, each rounded once
    np.testing.assert_allclose(brought_back, true, rtol=26 * np.finfo(dtype).eps, atol=0)
    for matrix, mantissa, found in zip(matrices, together, exponent, strict=True):
        assert frobenius_norm(matrix) == (mantissa, found), "the others of a block change no bit"
        assert 1 <= mantissa < 2


@pytest.mark.parametrize("exponent", [0, -40, -80, 70])
def test_the_norm_has_its_derivative_at_any_size(exponent):
    matrix = jnp.asarray(np.ldexp(np.random.default_rng(1).normal(size=(3, 4)), exponent), jnp.float32)

    def norm(m):
        return frobenius_norm(m)[0]

    expected = np.asarray(matrix, np.float64) / np.linalg.norm(np.asarray(matrix, np.float64))
    found = jax.grad(norm)(matrix)
    # of the mantissa, so 2^-e times that of the norm
    np.testing.assert_allclose(
        np.ldexp(np.asarray(found, np.float64), int(frobenius_norm(matrix)[1])), expected, rtol=1e-5
    )
    np.testing.assert_allclose(jax.jvp(norm, (matrix,), (matrix,))[1], norm(matrix), rtol=1e-5)


def test_the_norm_of_matrices_that_have_none_that_is_finite():
    matrices = jnp.stack([jnp.full((2, 2), entry, jnp.float32) for entry in (0.0, jnp.inf, jnp.nan, 1.0)])
    mantissa, exponent = jax.vmap(frobenius_norm)(matrices)
    np.testing.assert_array_equal(mantissa, [0.0, np.inf, np.nan, 1.0])
    np.testing.assert_array_equal(exponent, [0, 0, 0, 1])


def test_other_dtypes_are_refused():
    with pytest.raises(ValueError, match="float16 is not supported; allowed: float32, float64"):
        normalise(jnp.ones(2, jnp.float16))

"""Elimination against SciPy's, and against the matrix itself."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from gradient_horizon.numerics import lu

SHAPES = [(1, 1), (2, 2), (5, 3), (16, 16), (64, 64), (100, 7), (129, 129)]


def drawn(n, k, dtype, kind="gaussian"):
    rng = np.random.default_rng(n + 100 * k)
    matrix = rng.standard_normal((n, k))
    if kind == "graded rows":
        matrix *= 10.0 ** rng.uniform(-12, 12, (n, 1))
    if kind == "half the rank":
        matrix[:, k // 2 :] = matrix[:, : k - k // 2] @ rng.standard_normal((k - k // 2, k - k // 2))
    return matrix.astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["gaussian", "graded rows"])
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_elimination_is_that_of_scipy(n, k, kind, dtype):
    matrix = drawn(n, k, dtype, kind)
    lower, diagonal, places = jax.jit(lu.lu)(jnp.asarray(matrix.T))
    factors: Any = scipy.linalg.lu(matrix)
    permutation, expected, upper = factors
    np.testing.assert_array_equal(places, permutation.argmax(axis=0)[:k])
    allowed = 2 * np.finfo(dtype).eps * np.array([rounding_of_minor(i, expected, upper) for i in range(1, k + 1)])
    # the i-th pivot is the ratio of two leading minors, an entry of L that of a minor with one row exchanged
    assert np.all(np.abs(diagonal / np.diagonal(upper) - 1) <= 2 * allowed)
    assert np.all(np.abs(np.asarray(lower).T - permutation @ expected) <= 2 * np.maximum.accumulate(allowed))


def rounding_of_minor(i, lower, upper):
    """d log det B = tr(B⁻¹ dB) of the leading minor of i rows, where elimination makes |dB| ≤ i eps |L| |U|; in eps."""
    low, up = (np.asarray(factor, float)[:i, :i] for factor in (lower, upper))
    return i * np.trace(np.abs(np.linalg.inv(low @ up)) @ np.abs(low) @ np.abs(up))


@pytest.mark.parametrize("kind", ["gaussian", "graded rows", "half the rank"])
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_the_factors_have_the_shape_that_is_promised(n, k, kind):
    matrix = drawn(n, k, "float32", kind)
    lower, diagonal, places = lu.lu(jnp.asarray(matrix.T))
    rest = np.setdiff1d(np.arange(n), places)
    sorted_lower = np.asarray(lower).T[np.concatenate([places, rest]).astype(int)]
    assert len(set(np.asarray(places).tolist())) == k
    assert np.abs(sorted_lower).max() <= 1
    np.testing.assert_array_equal(np.triu(sorted_lower[:k]), np.eye(k))
    upper = np.linalg.lstsq(np.asarray(lower, float).T, matrix.astype(float), rcond=None)[0]
    scale = np.abs(matrix).max()
    np.testing.assert_allclose(np.tril(upper, -1), 0, atol=1e-5 * n * scale)
    np.testing.assert_allclose(np.diagonal(upper), diagonal, atol=1e-5 * n * scale)


ONE_BY_ONE_AND_HALVED = pytest.mark.parametrize("n", [6, 70])


@ONE_BY_ONE_AND_HALVED
def test_a_column_of_zeros_has_no_pivot_and_the_others_keep_theirs(n):
    matrix = drawn(n, n, "float64")
    matrix[:, 2] = 0
    lower, diagonal, places = lu.lu(jnp.asarray(matrix.T))
    assert diagonal[2] == 0
    assert sorted(np.asarray(places).tolist()) == list(range(n))
    column = np.zeros(n)
    column[places[2]] = 1
    np.testing.assert_array_equal(lower[2], column)


@ONE_BY_ONE_AND_HALVED
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_matrix_that_is_not_finite_spoils_no_other(n, wrong):
    good = drawn(n, n, "float32").T
    bad = good.copy()
    bad[3, 5] = wrong
    alone = jax.jit(jax.vmap(lu.lu))(jnp.stack([good, good, good]))
    beside = jax.jit(jax.vmap(lu.lu))(jnp.stack([good, bad, good]))
    for ours, theirs in zip(beside, alone, strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[2], theirs[2])
    assert not np.all(np.isfinite(beside.diagonal[1]))

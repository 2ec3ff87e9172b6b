import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradient_horizon import names
from gradient_horizon.cells.weights import SPARSE_ENTRIES, unit_weights

KEY = jax.random.key(5)


def drawn(name, n, dtype=jnp.float64):
    return np.asarray(unit_weights(name, KEY, n, dtype))


@pytest.mark.parametrize("name", names.WEIGHTS)
def test_one_key_is_one_matrix_in_either_precision(name):
    single, double = drawn(name, 24, jnp.float32), drawn(name, 24)
    assert (single.dtype, double.dtype) == (np.float32, np.float64)
    np.testing.assert_allclose(single, double, atol=1e-5)


@pytest.mark.parametrize(("name", "variance"), [("gaussian", 1 / 200), ("unit_normal", 1.0)])
def test_gaussian_entries(name, variance):
    entries = drawn(name, 200).ravel()
    # five standard errors of a mean and of a variance of 40,000 normal numbers
    assert abs(entries.mean()) < 5 * np.sqrt(variance / entries.size)
    assert abs(entries.var() / variance - 1) < 5 * np.sqrt(2 / entries.size)


def test_orthogonal_is_orthogonal():
    matrix = drawn("orthogonal", 40)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(40), atol=40 * np.finfo(float).eps)


def test_orthogonal_is_uniform_on_the_group():
    # Diaconis and Shahshahani 1994: the traces of Q, Q², Q³ of a Haar matrix have means 0, 1, 0, variances 1, 2, 3
    count = 2000
    keys = jax.random.split(KEY, count)
    matrices = np.asarray(jax.vmap(lambda key: unit_weights("orthogonal", key, 12, jnp.float64))(keys))
    power = matrices
    for k, mean in ((1, 0), (2, 1), (3, 0)):
        traces = np.trace(power, axis1=1, axis2=2)
        assert abs(traces.mean() - mean) < 5 * np.sqrt(k / count)
        assert abs(traces.var() / k - 1) < 5 * np.sqrt(2 / count)
        power = power @ matrices
    signs = np.sign(np.linalg.det(matrices))
    assert abs(signs.mean()) < 5 / np.sqrt(count)


def test_np_rnn_is_positive_with_largest_eigenvalue_one():
    matrix = drawn("np_rnn", 30)
    eigenvalues = np.linalg.eigvalsh(matrix)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-14)
    assert eigenvalues[-1] == pytest.approx(1.0, abs=1e-13)
    # (RᵀR/N + I)/λ: every eigenvalue is at least 1/λ, and λ is near (1 + 1)² + 1 = 5 for a square Gaussian R
    assert eigenvalues[0] > 1 / 8


@pytest.mark.parametrize("n", [7, 40])
@pytest.mark.parametrize(("name", "along"), [("sparse", 1), ("sparse_outgoing", 0)])
def test_sparse_has_few_entries_and_spectral_radius_one(name, along, n):
    matrix = drawn(name, n)
    assert np.all((matrix != 0).sum(axis=along) == min(n, SPARSE_ENTRIES))
    if n > SPARSE_ENTRIES:
        assert np.ptp((matrix != 0).sum(axis=1 - along)) > 0
    assert np.abs(np.linalg.eigvals(matrix)).max() == pytest.approx(1.0, abs=1e-12)


def test_identity_and_an_unknown_ensemble():
    np.testing.assert_array_equal(drawn("identity", 3), np.eye(3))
    with pytest.raises(ValueError, match="weights: 'cauchy' is unknown; allowed: gaussian"):
        unit_weights("cauchy", KEY, 3)

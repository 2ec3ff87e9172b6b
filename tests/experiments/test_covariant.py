"""The covariant experiment holds what the library measures on the same networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradient_horizon import experiments, make_cell
from gradient_horizon.experiments.covariant import BINS, density
from gradient_horizon.measures.covariant_vectors import covariant_lyapunov_vectors
from gradient_horizon.settings.validation import checked


@pytest.fixture(scope="module")
def measured():
    settings = {"hidden_size": 16, "steps": 40, "seeds": 3, "weight_scales": [0.5, 4.0], "precision": "float64"}
    return experiments.measure(checked({"experiment": "covariant", **settings}), lambda _: None)


def test_it_is_that_of_the_library(measured):
    cell, key = make_cell("tanh", 16), jax.random.key(2)
    params, h0 = cell.init(key, 4.0, dtype=jnp.float64), cell.initial_state(key, dtype=jnp.float64)
    found = covariant_lyapunov_vectors(cell.step, params, h0, steps=40)
    at = measured.sel(seed=2, weight_scale=4.0)
    # two programs of one trajectory, which 40 steps at λ < 0.4 do not part: eps e^16 = 2e-9
    np.testing.assert_allclose(at.lyapunov_exponent, found.exponents, atol=1e-6)
    angles = np.asarray(found.smallest_angle())
    np.testing.assert_allclose(at.smallest_angle, angles.min(), atol=1e-6)
    np.testing.assert_allclose(at.vector_error, np.maximum(found.forward_error, found.backward_error), atol=1e-6)


def test_below_the_edge_no_direction_grows(measured):
    at = measured.sel(weight_scale=0.5)
    assert (at.lyapunov_exponent < 0).all()
    assert at.smallest_angle.isnull().all()
    assert at.angle_density.isnull().all()
    assert (at.covariance_error < 1e-10).all()


def test_densities_integrate_to_one(measured):
    has_angle = measured.smallest_angle.notnull()
    assert has_angle.any()
    total = measured.angle_density.sum("angle", skipna=False) * (np.pi / 2 / BINS)
    np.testing.assert_allclose(total.values[has_angle.values], 1, atol=1e-12)


def test_the_density_is_numpy_s_histogram():
    angles = np.random.default_rng(0).uniform(0, np.pi / 2, 1000)
    expected, _ = np.histogram(angles, np.linspace(0, np.pi / 2, BINS + 1), density=True)
    np.testing.assert_allclose(density(jnp.asarray(angles)), expected, atol=1e-12)
    # an angle that rounds to just above π/2 counts
    assert float(density(jnp.full(3, 1.5707964, jnp.float32)).sum()) == pytest.approx(2 * BINS / np.pi, rel=1e-6)

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from gradient_horizon.cells.activations import ACTIVATIONS

POINTS = np.array([-30.0, -9.5, -8.0, -6.0, -2.3, -0.7, -1e-3, 0.0, 1e-4, 0.5, 1.7, 4.0, 7.9, 8.0, 9.0, 15.0, 25.0])

EXACT = {
    "tanh": (mpmath.tanh, lambda x: mpmath.sech(x) ** 2),
    "sigmoid": (
        lambda x: 1 / (1 + mpmath.exp(-x)),
        lambda x: mpmath.exp(-x) / (1 + mpmath.exp(-x)) ** 2,
    ),
    "erf": (mpmath.erf, lambda x: 2 / mpmath.sqrt(mpmath.pi) * mpmath.exp(-x * x)),
}


def exactly(function, dtype):
    with mpmath.workdps(60):
        return np.array([float(function(mpmath.mpf(float(x)))) for x in POINTS.astype(dtype)])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", EXACT)
def test_smooth_activations_agree_with_sixty_digits(name, dtype):
    value, derivative = EXACT[name]
    x = jnp.asarray(POINTS, dtype)
    eps, tiny = np.finfo(dtype).eps, np.finfo(dtype).tiny
    true = exactly(derivative, dtype)
    # erf′ = exp(-x²) squares its argument: half an ulp of x² is x² eps in relative terms; the rest is a few ulps
    relative = (8 + 2 * np.abs(POINTS) ** 2 * (name == "erf")) * eps
    for found in (ACTIVATIONS[name].derivative(x), jax.vmap(jax.grad(ACTIVATIONS[name].value))(x)):
        assert np.all(np.abs(np.asarray(found, np.float64) - true) <= relative * true + tiny)
    with mpmath.workdps(60):
        logs = np.array([float(mpmath.log(derivative(mpmath.mpf(float(v))))) for v in POINTS.astype(dtype)])
    found = np.asarray(ACTIVATIONS[name].log_derivative(x), np.float64)
    np.testing.assert_allclose(found, logs, rtol=4 * eps, atol=4 * eps)
    np.testing.assert_allclose(ACTIVATIONS[name].value(x), exactly(value, dtype), rtol=16 * eps, atol=tiny)


def test_a_saturated_tanh_has_a_small_derivative_where_jax_says_zero():
    eight = jnp.float32(8.0)
    assert jax.grad(jnp.tanh)(eight) == 0.0  # the trap
    assert jax.grad(ACTIVATIONS["tanh"].value)(eight) == pytest.approx(4.5014e-7, rel=1e-4)
    assert np.isfinite(ACTIVATIONS["tanh"].log_derivative(jnp.float32(500.0)))


@pytest.mark.parametrize(
    ("name", "x", "expected"),
    [
        ("relu", 0.0, 1.0),
        ("relu", -0.0, 1.0),
        ("relu", -1e-30, 0.0),
        ("hard_tanh", 1.0, 1.0),
        ("hard_tanh", -1.0, 1.0),
        ("hard_tanh", 1.0000001, 0.0),
        ("linear", 3.0, 1.0),
    ],
)
def test_a_unit_at_a_kink_passes_the_gradient(name, x, expected):
    activation = ACTIVATIONS[name]
    assert activation.derivative(jnp.float32(x)) == expected
    assert jax.grad(activation.value)(jnp.float32(x)) == expected
    assert jax.jvp(activation.value, (jnp.float32(x),), (jnp.float32(1.0),))[1] == expected
    assert activation.log_derivative(jnp.float32(x)) == (0.0 if expected else -np.inf)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_homogeneous_activation_scales_with_its_argument(name):
    activation, x = ACTIVATIONS[name], jnp.asarray(POINTS)
    assert np.array_equal(activation.value(4 * x), 4 * activation.value(x)) == activation.is_homogeneous


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_steepest_slope_is_the_largest_derivative(name):
    x = jnp.linspace(-5, 5, 10001, dtype=jnp.float64)
    assert jnp.max(ACTIVATIONS[name].derivative(x)) == pytest.approx(ACTIVATIONS[name].steepest, rel=1e-12)

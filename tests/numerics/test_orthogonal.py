"""Derivatives of what is searched, eliminated or left to LAPACK: of exponents, singular values and spectral norms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradient_horizon import log_jacobian_norms, log_singular_values, lyapunov_exponents
from gradient_horizon.numerics.derivatives import with_derivative_of
from gradient_horizon.numerics.keys import fixed_normal, fixed_orthogonal
from gradient_horizon.numerics.orthogonal import log_growth, orthonormalised

N, T = 4, 6
W = jnp.asarray(1.3 * fixed_normal(N, N) / N**0.5)
H0, XS = jnp.asarray(fixed_normal(N)), jnp.asarray(0.3 * fixed_normal(T, N))
WEIGHTS = jnp.arange(1.0, N + 1)


def tanh_step(w, h, x):
    return jnp.tanh(w @ h + x)


def linear_step(w, h, _):
    return w @ h


def of_spectral_norms(w, anchor="end", method="auto"):
    found = log_jacobian_norms(tanh_step, w, H0, XS, norms=("spectral",), anchor=anchor, method=method)
    return jnp.sum(found["spectral"])


def of_singular_values(w):
    return jnp.sum(WEIGHTS * log_singular_values(tanh_step, w, H0, XS))


def of_exponents(w):
    found = lyapunov_exponents(tanh_step, w, H0, XS, transient=1)
    return jnp.sum(WEIGHTS * found.exponents) + jnp.sum(found.standard_error)


def of_leading_exponents(w):
    return jnp.sum(WEIGHTS[:2] * lyapunov_exponents(tanh_step, w, H0, XS, count=2).exponents)


@pytest.mark.parametrize(
    "measure",
    [
        of_spectral_norms,
        pytest.param(lambda w: of_spectral_norms(w, anchor="start"), marks=pytest.mark.slow, id="from the start"),
        pytest.param(lambda w: of_spectral_norms(w, method="jacrev"), marks=pytest.mark.slow, id="by LAPACK"),
        of_singular_values,
        of_exponents,
        pytest.param(of_leading_exponents, marks=pytest.mark.slow),
    ],
)
def test_derivatives_in_both_directions_are_the_slopes(measure):
    """Against central differences, right to h² of the step h and eps / h."""
    towards, step = jnp.asarray(fixed_normal(2 * N, N)[N:]), 1e-5

    @jax.jit
    def both(w):
        return jax.jvp(measure, (w,), (towards,))[1], jnp.sum(jax.grad(measure)(w) * towards)

    value = jax.jit(measure)
    slope = (value(W + step * towards) - value(W - step * towards)) / (2 * step)
    np.testing.assert_allclose(both(W), slope, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_sum_of_all_exponents_has_the_derivative_of_the_determinant(dtype):
    """Σ λ_i = log|det W| of h ↦ W h, and the gradient of that is the inverse, transposed (Jacobi)."""
    w, h0 = W.astype(dtype), H0.astype(dtype)
    total = lambda w: jnp.sum(lyapunov_exponents(linear_step, w, h0, steps=T).exponents)  # noqa: E731
    found, inverse = jax.jit(jax.grad(total))(w), np.linalg.inv(np.asarray(w, float)).T
    limit = float(jnp.finfo(dtype).eps) * np.linalg.cond(W) * N * T * np.abs(inverse).max()
    np.testing.assert_allclose(found, inverse, atol=limit)


def test_the_largest_singular_value_has_the_derivative_of_its_vectors():
    """∂σ/∂W = u vᵀ; the first lag of a linear network is W itself."""
    first = lambda w: log_jacobian_norms(linear_step, w, H0, steps=1, norms=("spectral",))["spectral"][0]  # noqa: E731
    u, values, v = np.linalg.svd(W)
    np.testing.assert_allclose(jax.jit(jax.grad(first))(W), np.outer(u[:, 0], v[0]) / values[0], atol=1e-12)


def test_where_there_is_no_derivative_it_is_nan():
    """Singular values that are equal, a direction that dies."""
    turn = jnp.asarray(fixed_orthogonal(N))

    @jax.jit
    def slopes(w):
        return {
            "spectral": jax.grad(
                lambda w: log_jacobian_norms(linear_step, w, H0, steps=2, norms=("spectral",))["spectral"][-1]
            )(w),
            "singular": jax.grad(lambda w: log_singular_values(linear_step, w, H0, steps=2)[0])(w),
        }

    assert all(np.isnan(slope).any() for slope in slopes(turn).values())
    dead = W.at[0].set(0.0)
    exponents = jax.jit(jax.jacrev(lambda w: lyapunov_exponents(linear_step, w, H0, steps=T).exponents))(dead)
    assert np.isnan(exponents[-1]).any()


def test_a_route_that_finds_something_else_gives_no_derivative():
    right = lambda x: with_derivative_of(lambda x: (x**2, True), x**2, x)  # noqa: E731
    wrong = lambda x: with_derivative_of(lambda x: (1.01 * x**2, True), x**2, x)  # noqa: E731
    unsure = lambda x: with_derivative_of(lambda x: (x**2, False), x**2, x)  # noqa: E731
    assert jax.grad(right)(3.0) == 6.0
    assert np.isnan([jax.grad(wrong)(3.0), jax.grad(unsure)(3.0)]).all()
    assert right(3.0) == wrong(3.0) == 9.0


def test_a_direction_that_rounding_takes_is_not_sure():
    """Columns at an angle of 1e-10: what is left of the second has six digits, and its derivative none to rely on."""
    matrix = jnp.array([[1.0, 1.0], [0.0, 1e-10]])
    q, logs, share = orthonormalised(matrix)
    np.testing.assert_allclose(q.T @ q, np.eye(2), atol=1e-15)
    np.testing.assert_allclose(logs, [0.0, np.log(1e-10)], atol=1e-6)
    np.testing.assert_allclose(share, [1.0, 1e-10], rtol=1e-6)
    constant = lambda w, h, x: w @ h  # noqa: E731
    _, is_sure = log_growth(constant, matrix, (jnp.ones((3, 2)), None), jnp.eye(2))
    assert is_sure.tolist() == [True, False]

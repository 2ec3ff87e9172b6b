"""Finite-time exponents: their mean is the whole, a reference by QR in NumPy, and maps whose exponents are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradient_horizon as gh

N, STEPS, TRANSIENT, WINDOW = 6, 230, 30, 20
EPS = float(np.finfo(np.float64).eps)


def tanh_step(params, h, x):
    return jnp.tanh(params @ h if x is None else params @ h + x)


def network(seed=0, scale=1.6):
    rng = np.random.default_rng(seed)
    return jnp.asarray(scale * rng.standard_normal((N, N)) / np.sqrt(N)), jnp.asarray(rng.standard_normal(N))


def by_qr(matrix, h, transient, window, steps, basis):
    """Growth of log R_ii in each window by a QR at every step."""
    matrix, h, logs = np.asarray(matrix), np.asarray(h), []
    for _ in range(steps):
        h = np.tanh(matrix @ h)
        basis, r = np.linalg.qr((1 - h**2)[:, None] * (matrix @ basis))
        logs.append(np.log(np.abs(np.diag(r))))
    counted = np.array(logs)[transient:]
    windows = len(counted) // window
    return counted[: windows * window].reshape(windows, window, -1).mean(axis=1)


def test_windows_are_those_of_a_qr_at_every_step_from_the_same_frame():
    """They differ by n eps κ(J_t) a step, κ < 50; no exponent is positive, so states differ by rounding: 1e-11."""
    params, h = network()
    found = gh.finite_time_exponents(tanh_step, params, h, steps=STEPS, window=WINDOW, transient=TRANSIENT)
    frame = np.linalg.qr(np.random.default_rng(0).standard_normal((N, N)))[0]
    expected = by_qr(params, h, TRANSIENT, WINDOW, STEPS, frame)
    np.testing.assert_allclose(found.exponents, expected[:, np.argsort(-expected.mean(axis=0))], atol=1e-11)
    assert found.first.tolist() == list(range(TRANSIENT + 1, STEPS - WINDOW + 2, WINDOW))
    np.testing.assert_allclose(found.spread, expected.std(axis=0, ddof=1)[np.argsort(-expected.mean(axis=0))], 1e-7)


@pytest.mark.parametrize("window", [1, 20, 200])
def test_their_mean_is_the_whole_spectrum(window):
    params, h = network()
    found = gh.finite_time_exponents(tanh_step, params, h, window=window, steps=STEPS, transient=TRANSIENT)
    whole = gh.lyapunov_exponents(tanh_step, params, h, steps=STEPS, transient=TRANSIENT)
    # sums of T logs in two floats, rounded once to a float on either side, and a QR of the basis at every window's end
    np.testing.assert_allclose(found.mean, whole.exponents, atol=(N + 200 // window) * 4 * EPS * 10)
    np.testing.assert_allclose(found.mean, np.mean(found.exponents, axis=0), atol=1e-14)
    assert found.exponents.shape == (200 // window, N)
    assert np.isnan(found.spread).all() == (window == 200)


def test_a_remainder_is_left_off_at_the_end():
    params, h = network()
    shorter = gh.finite_time_exponents(tanh_step, params, h, steps=STEPS, window=60, transient=TRANSIENT)
    whole = gh.lyapunov_exponents(tanh_step, params, h, steps=TRANSIENT + 180, transient=TRANSIENT)
    assert shorter.exponents.shape == (3, N)
    np.testing.assert_allclose(shorter.mean, whole.exponents, atol=1e-12)


def test_the_chaotic_logistic_map_doubles_at_every_step():
    """x → 4x(1-x): log|4 - 8x| has mean log 2 and variance π²/12 under the arcsine law, and telescopes.

    With x = sin²θ, log|f′(x)| = log 2 + g(f(x)) - g(x), g(x) = ½ log x(1-x): sums over T steps differ from T log 2 only
    by the ends, of size log T. g is below -½ log(4 T²/ε²) in one of 1/ε trajectories.
    """
    steps, window = 20_000, 10
    found = gh.finite_time_exponents(
        lambda _, x, __: 4 * x * (1 - x), None, jnp.array([0.1234]), steps=steps, window=window, transient=0
    )
    assert float(found.mean[0]) == pytest.approx(np.log(2), abs=np.log(2e3 * steps) / steps)
    # a window is off by g at its end minus g at its start: 2 Var(g) = π²/6, if the two are independent
    expected = np.pi / 6**0.5 / window
    # its standard error is √((κ - 1)/4W) of it, with a kurtosis κ below 12 and W = 2000: 4 %
    assert float(found.spread[0]) == pytest.approx(expected, rel=0.15)


def test_independent_steps_spread_as_one_over_the_root_of_the_window():
    """Fresh Gaussian matrices: log R_11 per step is independent, of variance ψ₁(N/2)/4 (Newman 1986)."""
    n, steps = 4, 4096
    xs = jnp.asarray(np.random.default_rng(2).standard_normal((steps, n, n)) / np.sqrt(n))
    variance = 0.25 * (np.pi**2 / 6 - 1)  # ψ₁(2)/4
    for window in (1, 16):
        found = gh.finite_time_exponents(lambda _, h, x: x @ h, None, jnp.zeros(n), xs, window=window, count=1)
        windows = steps // window
        # a standard deviation over W windows is off by √(kurtosis + 2)/2√W of itself; the excess kurtosis is below 3
        allowed = 5 * 5**0.5 / (2 * windows**0.5)
        assert float(found.spread[0]) == pytest.approx((variance / window) ** 0.5, rel=allowed)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rate", [0.3, 3.0])
def test_ten_thousand_steps_neither_overflow_nor_drift(rate, dtype):
    matrix = jnp.asarray(np.diag([rate, 0.9 * rate, 0.01 * rate]), dtype)
    found = gh.finite_time_exponents(
        lambda w, h, x: w @ h, matrix, jnp.zeros(3, dtype), steps=10_000, window=500, transient=500
    )
    exact = np.log(np.diag(np.asarray(matrix, np.float64)))
    eps = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(found.mean, exact, atol=4 * eps * (1 + np.abs(exact).max()))
    np.testing.assert_allclose(found.spread, 0, atol=4 * eps * (1 + np.abs(exact).max()))
    assert found.exponents.dtype == dtype


def test_seeds_side_by_side_an_overflow_and_a_dead_direction():
    many = jnp.stack([network(seed)[0] for seed in range(3)])

    def measure(params):
        return gh.finite_time_exponents(tanh_step, params, jnp.ones(N), steps=60, window=20, count=2)

    together = jax.jit(jax.vmap(measure))(many)
    assert together.exponents.shape == (3, 3, 2)
    for place, params in enumerate(many):
        np.testing.assert_allclose(together.exponents[place], measure(params).exponents, atol=1e-10)
    bad = gh.finite_time_exponents(lambda _, h, x: h**3, None, jnp.full(1, 10.0), steps=40, window=5)
    assert np.isnan(bad.exponents).all()
    singular = jnp.asarray(np.diag([0.5, 0.0]))
    dead = gh.finite_time_exponents(lambda w, h, x: w @ h, singular, jnp.zeros(2), steps=40, window=5, transient=10)
    np.testing.assert_allclose(dead.mean, [np.log(0.5), -np.inf])
    assert np.isneginf(dead.exponents[:, 1]).all()
    assert np.isnan(dead.spread[1])


def test_a_direction_that_underflows_is_measured_again_with_care():
    """Two units that do not interact, with rates e^±50 for a hundred steps each: the second falls e^10000 behind."""
    halves = np.concatenate([np.full(100, 50.0), np.full(100, -50.0)])
    xs = jnp.asarray(np.stack([np.exp(halves), np.exp(-halves)], axis=1))
    found = gh.finite_time_exponents(lambda _, h, x: x * h, None, jnp.zeros(2), xs, window=100, count=2)
    np.testing.assert_allclose(np.sort(found.exponents, axis=1), [[-50, 50], [-50, 50]], atol=0.5)
    np.testing.assert_allclose(found.mean, [0, 0], atol=0.5)


def test_the_derivative_is_that_of_the_whole():
    params, h = network()

    def first(scale):
        return gh.finite_time_exponents(tanh_step, scale * params, h, steps=30, window=10, count=1).exponents[1, 0]

    assert float(jax.grad(first)(1.0)) == pytest.approx(float(first(1 + 1e-6) - first(1 - 1e-6)) / 2e-6, rel=1e-5)


def test_a_holomorphic_state_has_one_exponent_for_each_complex_entry():
    matrix = jnp.asarray(np.diag([0.9j, 0.4 + 0.0j]))
    found = gh.finite_time_exponents(lambda w, h, x: w @ h, matrix, jnp.zeros(2, complex), steps=40, window=10)
    np.testing.assert_allclose(found.exponents, np.broadcast_to(np.log([0.9, 0.4]), (4, 2)), atol=0.3)
    np.testing.assert_allclose(found.mean, np.log([0.9, 0.4]), atol=0.1)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"window": 0}, "window: 0; allowed: from 1 to 9, the steps after the transient"),
        ({"window": 6, "transient": 4}, "window: 6; allowed: from 1 to 5"),
        ({"window": 3, "transient": 9}, "transient: 9; allowed: from 0 to 8"),
        ({"window": 3, "count": 3}, "count: 3; allowed: from 1 to 2, the size of the state"),
    ],
)
def test_wrong_settings_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        gh.finite_time_exponents(lambda w, h, x: w @ h, jnp.eye(2), jnp.zeros(2), steps=9, **settings)

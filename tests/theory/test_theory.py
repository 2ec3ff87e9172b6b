"""Theory against mpmath, exact cases, random matrices drawn with NumPy, and networks measured with the library."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from cell_families import any_of

from gradient_horizon import theory
from gradient_horizon.cells import make_cell
from gradient_horizon.cells.activations import ACTIVATIONS
from gradient_horizon.measures.jacobian_norms import log_jacobian_norms
from gradient_horizon.theory.moments import BOUNDED, HOMOGENEOUS

mp: Any = mpmath.MPContext()
mp.dps = 20
MEAN_FIELD = (*BOUNDED, *HOMOGENEOUS)
EXACT = {
    "tanh": (mp.tanh, lambda a: mp.sech(a) ** 2),
    "erf": (mp.erf, lambda a: 2 / mp.sqrt(mp.pi) * mp.exp(-a * a)),
    "hard_tanh": (lambda a: max(min(a, mp.mpf(1)), mp.mpf(-1)), lambda a: mp.mpf(abs(a) <= 1)),
    "sigmoid": (lambda a: 1 / (1 + mp.exp(-a)), lambda a: 1 / (4 * mp.cosh(a / 2) ** 2)),
}


def exact_average(function, q):
    """⟨f(√q z)⟩ by quadrature in 20 digits, cut at the kinks and where tanh turns over."""
    if q == 0:
        return function(mp.mpf(0))
    spread = mp.sqrt(mp.mpf(q))
    reach = 12 * spread
    cuts = sorted({c for c in (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64) if c < reach} | {spread, 3 * spread, reach})
    nodes = [-c for c in reversed(cuts)] + [0, *cuts]
    total = mp.quad(lambda a: function(a) * mp.exp(-a * a / (2 * q)), nodes)
    return total / (spread * mp.sqrt(2 * mp.pi))


def exact_moments(activation, q):
    value, slope = EXACT[activation]
    return exact_average(lambda a: value(a) ** 2, q), exact_average(lambda a: slope(a) ** 2, q)


@pytest.mark.parametrize("q", [0.0, 1e-9, 1e-3, 0.17, 1.0, 4.5, 60.0, 1e4])
@pytest.mark.parametrize("activation", BOUNDED)
def test_averages_against_quadrature(activation, q):
    square, slope_square = exact_moments(activation, q)
    moments = BOUNDED[activation]
    assert moments.square(q) == pytest.approx(float(square), rel=1e-12, abs=0)
    assert moments.slope_square(q) == pytest.approx(float(slope_square), rel=1e-12, abs=0)
    assert moments.square(q) <= moments.ceiling


@pytest.mark.parametrize("activation", BOUNDED)
def test_mean_square_is_concave(activation):
    # so there is one positive fixed point at most; and ⟨φ²⟩/⟨φ′²⟩ - q has one zero, so there is one critical scale
    moments = BOUNDED[activation]
    q = np.geomspace(1e-3, 1e4, 300)
    slopes = np.diff([moments.square(each) for each in q]) / np.diff(q)
    assert np.all(np.diff(slopes) < 1e-12)
    excess = np.array([moments.square(each) / moments.slope_square(each) - each for each in q])
    # flat (to rounding) while nothing of hard_tanh is saturated, then falling; sigmoid starts above zero
    assert np.all(np.diff(excess[excess < -1e-12]) < 0)
    assert np.count_nonzero(np.diff(excess < -1e-12)) == 1 or np.all(excess < -1e-12)


@pytest.mark.parametrize(
    ("weight_scale", "bias_scale", "input_variance"),
    [(1.0001, 0.0, 0.0), (1.5, 0.0, 0.0), (3.0, 0.0, 0.3), (10.0, 0.0, 0.0), (0.6, 0.4, 0.0), (1.0, 1e-3, 0.0)],
)
@pytest.mark.parametrize("activation", BOUNDED)
def test_mean_field_solves_its_equations(activation, weight_scale, bias_scale, input_variance):
    field = theory.mean_field(activation, weight_scale, bias_scale, input_variance)
    g, offset = mp.mpf(weight_scale), mp.mpf(bias_scale) ** 2 + mp.mpf(input_variance)

    def image(q):
        return g * g * exact_moments(activation, q)[0] + offset

    q = mp.mpf(field.q)
    assert q > 0
    step = q / 1000
    slope = (image(q + step) - image(q - step)) / (2 * step)
    assert slope < 1, "an unstable fixed point"
    # one Newton step on the exact equation is the error of q; χ and its log follow at the corrected q
    corrected = q + (image(q) - q) / (1 - slope)
    chi = g * g * exact_moments(activation, corrected)[1]
    assert abs(corrected - q) < 1e-12 * max(q, 1)
    assert abs(field.chi - chi) < 1e-12 * max(chi, 1)
    assert abs(field.log_growth - mp.log(chi) / 2) < 1e-12


def test_tanh_close_above_its_edge():
    # ⟨tanh²⟩ = q - 2q² + 17q³/3 - ... and ⟨tanh′²⟩ = 1 - 2q + 7q² - ..., so 1 - 1/g² ≈ 2q - 17q²/3, log χ ≈ 4q²/3
    for excess in (1e-3, 1e-4, 1e-5):
        field = theory.mean_field("tanh", 1 + excess)
        deficit = 1 - 1 / (1 + excess) ** 2
        q = deficit / 2 + 17 / 24 * deficit**2
        assert field.q == pytest.approx(q, rel=20 * q * q + 1e-16 / q)
        assert field.log_growth == pytest.approx(2 / 3 * q * q, rel=20 * q, abs=1e-15)


@pytest.mark.parametrize(
    ("activation", "integral"), [("tanh", 4 / 3), ("sigmoid", 1 / 6), ("hard_tanh", 2), ("erf", math.sqrt(8 / math.pi))]
)
def test_mean_field_at_high_gain(activation, integral):
    # units are saturated: ⟨φ′²⟩ → ∫φ′²da / √(2πq), q → g² (sigmoid g²/2); corrections are of relative order 1/√q
    g = 1e4
    field = theory.mean_field(activation, g)
    q = g * g * BOUNDED[activation].ceiling
    assert field.q == pytest.approx(q, rel=5 / math.sqrt(q))
    assert field.chi == pytest.approx(g * g * integral / math.sqrt(2 * math.pi * q), rel=5 / math.sqrt(q))


def test_gauss_hermite_has_the_wrong_sign_at_high_gain_and_this_has_not():
    nodes, weights = np.polynomial.hermite_e.hermegauss(64)
    weights = weights / weights.sum()

    def by_nodes(g):
        q = g * g
        for _ in range(200):
            q = g * g * weights @ np.tanh(np.sqrt(q) * nodes) ** 2
        return 0.5 * np.log(g * g * weights @ np.cosh(np.clip(np.sqrt(q) * nodes, -300, 300)) ** -4.0)

    assert by_nodes(10.0) < 0
    assert theory.mean_field("tanh", 10.0).log_growth > 0
    assert abs(by_nodes(3.0) - theory.mean_field("tanh", 3.0).log_growth) > 0.01


@pytest.mark.parametrize("activation", ["tanh", "erf", "hard_tanh"])
def test_below_the_edge_odd_networks_fall_to_zero(activation):
    edge = theory.critical_line(activation)
    slope = ACTIVATIONS[activation].steepest
    field = theory.mean_field(activation, 0.9 * edge)
    assert field.q == 0
    assert field.chi == pytest.approx((0.9 * edge * slope) ** 2, rel=1e-15)
    assert theory.mean_field(activation, 1.0001 * edge).q > 0


@pytest.mark.parametrize(("activation", "gain"), [("linear", 1.0), ("relu", 0.5)])
def test_homogeneous_networks(activation, gain):
    edge = math.sqrt(1 / gain)
    assert theory.mean_field(activation, 0.5 * edge) == pytest.approx((0.0, 0.25, math.log(0.5)))
    assert theory.mean_field(activation, 2 * edge) == pytest.approx((math.inf, 4.0, math.log(2)))
    assert math.isnan(theory.mean_field(activation, edge).q)
    assert theory.mean_field(activation, edge, 0.1).q == math.inf
    assert theory.mean_field(activation, edge).chi == pytest.approx(1.0, abs=1e-15)
    # q = q c g² + σ_b² + v
    assert theory.mean_field(activation, 0.5 * edge, 0.3, 0.06).q == pytest.approx(0.15 / 0.75)


def test_published_edges():
    expected = {"tanh": 1, "hard_tanh": 1, "linear": 1, "relu": math.sqrt(2), "erf": math.sqrt(math.pi) / 2}
    for activation, edge in expected.items():
        assert theory.critical_line(activation) == pytest.approx(edge, rel=1e-15)


@pytest.mark.parametrize("bias_scale", [0.0, 1e-3, 0.05, 0.7, 3.0])
@pytest.mark.parametrize("activation", MEAN_FIELD)
def test_on_the_critical_line_chi_is_one(activation, bias_scale):
    edge = theory.critical_line(activation, bias_scale)
    assert theory.mean_field(activation, edge, bias_scale).chi == pytest.approx(1.0, abs=1e-10)
    assert theory.mean_field(activation, 0.99 * edge, bias_scale).chi < 1
    assert theory.mean_field(activation, 1.01 * edge, bias_scale).chi > 1
    split = theory.critical_line(activation, 0.6 * bias_scale, (0.8 * bias_scale) ** 2)
    assert split == pytest.approx(edge, abs=1e-11)


def test_a_weak_bias_moves_the_tanh_edge_by_its_cube_root():
    # χ = 1 where q³ (17/3 - 7) + σ_b² = 0, to leading order, and there g = ⟨φ′²⟩^(-½) = 1 + q
    for bias_scale in (1e-3, 1e-5):
        q = (0.75 * bias_scale**2) ** (1 / 3)
        assert theory.critical_line("tanh", bias_scale) - 1 == pytest.approx(q, rel=10 * q)


def assert_mean(values, expected, allowance):
    """The mean is within five standard errors of `expected`, and an `allowance` for what N → ∞ leaves out."""
    tolerance = 5 * float(np.std(values, ddof=1)) / math.sqrt(len(values)) + allowance
    assert float(np.mean(values)) == pytest.approx(expected, abs=tolerance)
    return tolerance


@pytest.mark.parametrize(
    ("activation", "weight_scale", "bias_scale"),
    [
        ("tanh", 3.0, 0.0),
        ("tanh", 10.0, 0.3),
        ("erf", 1.5, 0.2),
        ("hard_tanh", 2.0, 0.0),
        ("sigmoid", 5.0, 0.5),
        ("relu", 1.2, 0.4),
        ("linear", 0.8, 0.3),
    ],
)
def test_mean_field_growth_is_what_networks_do(activation, weight_scale, bias_scale):
    n, steps, seeds = 400, 3, 32
    field = theory.mean_field(activation, weight_scale, bias_scale)
    cell = make_cell(activation, n)

    def growth(key):
        params = cell.init(key, weight_scale, bias_scale=bias_scale)
        # h = φ(a) with a of variance q, so that the first step's pre-activations have the fixed point's variance
        h0 = ACTIVATIONS[activation].value(cell.initial_state(key, math.sqrt(field.q)))
        log_norms = log_jacobian_norms(cell.step, params, h0, steps=steps, anchor="start")["frobenius"]
        return (log_norms[-1] - 0.5 * math.log(n)) / steps

    keys = jax.random.split(jax.random.key(1), seeds)
    measured = np.asarray(jax.jit(lambda keys: jax.lax.map(growth, keys))(keys))
    # a mean of n numbers within a log is off by half their relative variance, over n: at most a few
    assert assert_mean(measured, field.log_growth, 5 / n) < 0.06


@pytest.mark.parametrize("weight_scale", [3.0, 10.0])
def test_mean_field_with_fresh_weights(weight_scale):
    # fresh weights leave no memory: the state settles from anywhere
    n, settle, steps, seeds = 256, 10, 10, 32

    def step(params, h, key):
        w = jax.random.normal(key, (n, n), jnp.float32) * (weight_scale / math.sqrt(n))
        return ACTIVATIONS["tanh"].value(w @ h)

    def measure(key):
        keys = jax.random.split(key, settle + steps)
        h, _ = jax.lax.scan(lambda h, x: (step(None, h, x), None), jnp.ones(n, jnp.float32), keys[:settle])
        log_norms = log_jacobian_norms(step, None, h, keys[settle:], anchor="start")["frobenius"]
        return (log_norms[-1] - 0.5 * math.log(n)) / steps, weight_scale**2 * jnp.mean(h * h)

    keys = jax.random.split(jax.random.key(2), seeds)
    growth, variance = jax.jit(lambda keys: jax.lax.map(measure, keys))(keys)
    field = theory.mean_field("tanh", weight_scale)
    assert assert_mean(np.asarray(growth), field.log_growth, 5 / n) < 0.06
    assert assert_mean(np.asarray(variance) / field.q, 1.0, 5 / n) < 0.05


def test_horizon_is_the_first_lag_beyond_the_threshold():
    assert theory.mean_field_horizon("linear", 0.5) == 10  # 0.5^9 = 1/512, 0.5^10 = 1/1024
    assert theory.mean_field_horizon("linear", 2.0) == 10
    assert theory.mean_field_horizon("linear", 0.5, threshold=2.0) == 7  # 1/64, 1/128
    assert theory.mean_field_horizon("tanh", 0.5) == 10
    assert theory.mean_field_horizon("relu", 0.0) == 1
    for activation in MEAN_FIELD:
        assert theory.mean_field_horizon(activation, theory.critical_line(activation)) == math.inf
        near = theory.critical_line(activation, 0.3) * 1.2
        rate = abs(math.log10(theory.mean_field(activation, near, 0.3).chi)) / 2
        lag = theory.mean_field_horizon(activation, near, 0.3)
        assert lag * rate > 3 >= (lag - 1) * rate


@pytest.mark.parametrize(("n", "weight_scale"), [(1, 1.0), (2, 0.7), (5, 1.0), (12, 3.0)])
def test_gaussian_exponents_against_products(n, weight_scale):
    steps = 20_000
    rng = np.random.default_rng(n)
    basis, logs = np.eye(n), np.empty((steps, n))
    for t in range(steps):
        basis, upper = np.linalg.qr(rng.normal(0, weight_scale / math.sqrt(n), (n, n)) @ basis)
        logs[t] = np.log(np.abs(np.diagonal(upper)))
    # steps are independent for Gaussian matrices, so the standard error is that of independent numbers
    errors = logs.std(axis=0, ddof=1) / math.sqrt(steps)
    exponents = theory.gaussian_lyapunov_exponents(n, weight_scale)
    assert np.all(np.diff(exponents) < 0)
    assert np.all(np.abs(logs.mean(axis=0) - exponents) < 5 * errors)
    # the first column is a fixed vector; kurtosis of a log chi-square is below 9 (its largest, at n = 1, is 7)
    assert logs[:, 0].var(ddof=1) == pytest.approx(theory.gaussian_log_growth_variance(n), rel=5 * math.sqrt(8 / steps))


def test_gaussian_exponents_in_closed_form():
    # n = 1: E log|z| = -(γ + log 2)/2, Var log|z| = π²/8; n = 2: E log‖z‖ = (log 2 - γ)/2, Var = π²/24
    first = theory.gaussian_lyapunov_exponents(2, math.sqrt(2.0))
    np.testing.assert_allclose(
        first, [(math.log(2) - np.euler_gamma) / 2, -(math.log(2) + np.euler_gamma) / 2], rtol=1e-14
    )
    assert theory.gaussian_log_growth_variance(1) == pytest.approx(math.pi**2 / 8, rel=1e-14)
    assert theory.gaussian_log_growth_variance(2) == pytest.approx(math.pi**2 / 24, rel=1e-14)
    assert theory.gaussian_log_growth_variance(10_000) == pytest.approx(1 / 20_000, rel=2e-4)
    assert np.all(theory.gaussian_lyapunov_exponents(3, 0.0) == -math.inf)
    # large n: λ_i = log g + ½ log(1 - i/n) (Newman's triangle law, of the exponentials of twice the exponents)
    n = 4000
    law = math.log(1.3) + 0.5 * np.log(1 - np.arange(n // 2) / n)
    np.testing.assert_allclose(theory.gaussian_lyapunov_exponents(n, 1.3)[: n // 2], law, atol=1 / n)


@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_relu_growth_against_fresh_layers(n):
    rng = np.random.default_rng(n)
    draws, g = 40_000 if n < 64 else 4_000, 1.4
    state, vector = rng.normal(size=(2, n))
    weights = rng.normal(0, g / math.sqrt(n), (draws, n, n))
    responses = np.where(weights @ state > 0, weights @ vector, 0.0)
    squares = (responses**2).sum(axis=1)
    alive = squares[squares > 0]
    logs = 0.5 * np.log(alive / (vector @ vector))
    mean, variance = theory.relu_log_growth(n, g)
    assert logs.mean() == pytest.approx(mean, abs=5 * math.sqrt(variance / alive.size))
    assert logs.var() == pytest.approx(variance, rel=5 * math.sqrt(8 / alive.size))


def test_relu_growth_in_closed_form():
    # n = 1: the one unit is open; n = 2: one open with 2/3, two with 1/3
    assert theory.relu_log_growth(1, 2.0).mean == pytest.approx(math.log(2) - (np.euler_gamma + math.log(2)) / 2)
    one, two = -(np.euler_gamma + math.log(2)) / 2, (math.log(2) - np.euler_gamma) / 2
    pair = theory.relu_log_growth(2, math.sqrt(2.0))
    mean = (2 * one + two) / 3
    assert pair.mean == pytest.approx(mean, rel=1e-14)
    within = (2 * math.pi**2 / 8 + math.pi**2 / 24) / 3
    assert pair.variance == pytest.approx(within + (2 * one**2 + two**2) / 3 - mean**2, rel=1e-14)
    # large n, from the moments of χ²_B: mean ½ log(g²/2) - 5/(4n), variance 5/(4n), to the next order
    n = 20_000
    wide = theory.relu_log_growth(n, math.sqrt(2.0))
    assert wide.mean == pytest.approx(-5 / (4 * n), rel=20 / n)
    assert wide.variance == pytest.approx(5 / (4 * n), rel=20 / n)
    assert theory.relu_log_growth(5, 0.0).mean == -math.inf


def test_norms_of_powers_are_the_fuss_catalan_laws():
    lags = np.arange(6)
    frobenius, spectral = theory.gaussian_power_norms(lags)
    np.testing.assert_array_equal(frobenius, np.ones(6))
    np.testing.assert_allclose(spectral**2, [1, 4, 27 / 4, 256 / 27, 3125 / 256, 46656 / 3125], rtol=1e-14)
    # the upper edge is where the moments binom((t+1)k, k)/(tk + 1) grow to
    for t in (1, 3):
        k = 4000
        log_ratio = [
            math.lgamma((t + 1) * j + 1) - math.lgamma(j + 1) - math.lgamma(t * j + 1) - math.log(t * j + 1)
            for j in (k, k + 1)
        ]
        assert math.exp(log_ratio[1] - log_ratio[0]) == pytest.approx(spectral[t] ** 2, rel=3 / k)
    assert theory.gaussian_power_norms(1e6).spectral ** 2 == pytest.approx(math.e * (1e6 + 0.5), rel=1e-12)


def test_norms_of_powers_of_one_matrix():
    n, seeds = 300, 8
    rng = np.random.default_rng(3)
    measured = np.empty((seeds, 2, 4))
    for seed in range(seeds):
        w = rng.normal(0, 1 / math.sqrt(n), (n, n))
        power = np.eye(n)
        for t in range(4):
            power = w @ power
            measured[seed, :, t] = np.linalg.norm(power) / math.sqrt(n), np.linalg.norm(power, 2)
    frobenius, spectral = theory.gaussian_power_norms(np.arange(1, 5))
    errors = measured.std(axis=0, ddof=1) / math.sqrt(seeds)
    # ‖W^t‖_F²/n has corrections of order t²/n, an edge of order n^(-2/3)
    assert np.all(np.abs(measured.mean(axis=0)[0] - frobenius) < 5 * errors[0] + 16 / n)
    assert np.all(np.abs(measured.mean(axis=0)[1] / spectral - 1) < 5 * errors[1] / spectral + 2 * n ** (-2 / 3))


@pytest.mark.parametrize("lag", [1, 2, 5, 20])
def test_the_spectrum_of_powers_has_the_moments_of_its_law(lag):
    share, logs = theory.gaussian_power_spectrum(lag)
    assert np.all(np.diff(share) > 0)
    assert np.all(np.diff(logs) < 0)
    assert logs[0] == pytest.approx(float(np.log(theory.gaussian_power_norms(lag).spectral)), rel=1e-12)
    share, squares = np.append(share, 1.0), np.append(np.exp(2 * logs), 0.0)
    for k in (1, 2, 3):  # binom((t+1)k, k) / (tk+1); the trapezoid rule adds some (t/2000)² of k⁴
        moment = np.trapezoid(squares**k, share)
        assert moment == pytest.approx(math.comb((lag + 1) * k, k) / (lag * k + 1), rel=3e-5 * k**2)


def test_the_spectrum_of_one_matrix_is_the_quarter_circle():
    share, logs = theory.gaussian_power_spectrum(1)
    s = np.minimum(np.exp(logs), 2.0)
    larger = 1 - (s * np.sqrt(4 - s * s) + 4 * np.arcsin(s / 2)) / (2 * np.pi)
    np.testing.assert_allclose(share, larger, atol=1e-7)  # √(4 - s²) has a rounding of √eps at the edge


def test_the_spectrum_of_powers_is_what_powers_have():
    n, seeds = 200, 4
    rng = np.random.default_rng(5)
    for lag in (1, 3):
        share, logs = theory.gaussian_power_spectrum(lag)
        expected = np.interp((np.arange(n) + 0.5) / n, share, logs)
        found = []
        for _ in range(seeds):
            w = rng.normal(0, 1 / math.sqrt(n), (n, n))
            found.append(np.log(np.linalg.svd(np.linalg.matrix_power(w, lag), compute_uv=False)))
        # singular values are rigid: each lies within some of its neighbours' distances of its place
        inside = slice(5, -20)
        assert np.abs(np.mean(found, axis=0) - expected)[inside].max() < 0.1 * lag


@pytest.mark.parametrize("weight", [1e-3, 0.5, 1 + 1e-6, 1.001, 1.5, 2.0, 8.0, 30.0, 400.0])
def test_one_unit_growth_in_twenty_digits(weight):
    w = mp.mpf(weight)
    if weight < 1:
        expected = mp.log(w)
    else:
        start = mp.sqrt(3 * (w - 1)) if w < 1.2 else w
        a = mp.findroot(lambda a: w * mp.tanh(a) - a, start)
        assert a > 0
        expected = mp.log(w) - 2 * mp.log(mp.cosh(a))
    assert theory.one_unit_log_growth(weight) == pytest.approx(float(expected), rel=4e-16, abs=2e-15)
    assert theory.one_unit_log_growth(-weight) == theory.one_unit_log_growth(weight)


def test_one_unit_growth_is_what_the_cell_does():
    cell = make_cell("tanh", 1)
    params = cell.init(jax.random.key(0), 0.0, dtype=jnp.float64)
    h0, weights = jnp.full(1, 0.3), [0.7, 1.5, -2.0]

    def growth(weight):
        unit = type(params)(weight.reshape(1, 1), params.input, params.bias)
        logs = log_jacobian_norms(cell.step, unit, h0, steps=200, anchor="start")["frobenius"]
        return (logs[-1] - logs[-101]) / 100

    measured = jax.jit(jax.vmap(growth))(jnp.asarray(weights))
    np.testing.assert_allclose(measured, [theory.one_unit_log_growth(weight) for weight in weights], atol=1e-12)
    assert theory.one_unit_log_growth(1.0) == 0
    assert theory.one_unit_log_growth(0.0) == -math.inf


@pytest.mark.parametrize("initial_state", [0.05, -0.4, 0.8, 1.0])
def test_the_critical_unit_decays_as_a_power(initial_state):
    steps = np.arange(20_001)
    h, product = initial_state, np.zeros(steps.size)
    for t in steps[1:]:
        h = math.tanh(h)
        product[t] = product[t - 1] + math.log1p(-h * h)
    law = theory.one_unit_critical_log_norm(steps, initial_state)
    assert np.max(np.abs(law - product)) < 0.003 * initial_state**6 + 1e-10
    assert theory.one_unit_critical_log_norm(0, initial_state) == 0
    size = abs(initial_state)
    constant = 1.5**1.5 / (size**3 * (1 + size**2 / 10 + 11 * size**4 / 630))
    late = 10**12
    assert theory.one_unit_critical_log_norm(late, initial_state) == pytest.approx(
        math.log(constant) - 1.5 * math.log(late), abs=1e-8
    )


def test_a_critical_unit_at_rest_keeps_its_gradient():
    np.testing.assert_array_equal(theory.one_unit_critical_log_norm([0, 5, 10**6], 0.0), np.zeros(3))


@pytest.mark.parametrize("bias", [-800.0, -3.0, 0.0, 2.0, 40.0])
def test_lstm_forget_line(bias):
    steps = np.array([0, 1, 7, 1000])
    per_step = -mp.log1p(mp.exp(-mp.mpf(bias)))
    expected = [float(per_step * int(t)) for t in steps]
    np.testing.assert_allclose(theory.lstm_forget_log_norm(bias, steps), expected, rtol=1e-15)


def test_pascanu_bound_holds_at_every_lag():
    n, steps = 24, 15
    cells, step = any_of("vanilla", n)
    places = list(cells)

    @jax.jit
    def measure(chosen, h0):
        return log_jacobian_norms(step, chosen, h0, steps=steps, norms=("spectral",))["spectral"]

    for activation, weight_scale in itertools.product(ACTIVATIONS, (0.3, 3.0)):
        cell = cells[activation]
        params, h0 = cell.init(jax.random.key(4), weight_scale, bias_scale=0.1), cell.initial_state(jax.random.key(5))
        bounds = theory.pascanu_bounds(float(np.linalg.norm(np.asarray(params.recurrent), 2)), activation)
        found = np.asarray(measure((places.index(activation), params), h0))
        # the first lag's J is diag(φ′) W itself: float32 rounding, nothing else, may lift it above the bound
        assert np.all(found <= bounds.log_bound * np.arange(1, steps + 1) + 1e-4), activation
        assert bounds.must_vanish == (bounds.log_bound < 0)
        assert bounds.may_explode == (bounds.log_bound > 0)


def test_pascanu_thresholds():
    # γ is 1 for tanh and ¼ for sigmoid (Pascanu, Mikolov, Bengio 2013, section 2.1)
    assert theory.pascanu_bounds(0.99, "tanh") == (pytest.approx(math.log(0.99)), True, False)
    assert theory.pascanu_bounds(3.99, "sigmoid").must_vanish
    assert theory.pascanu_bounds(4.01, "sigmoid").may_explode
    assert theory.pascanu_bounds(1.0, "relu") == (0.0, False, False)
    assert theory.pascanu_bounds(0.0, "tanh").log_bound == -math.inf
    for activation in ACTIVATIONS:
        slopes = ACTIVATIONS[activation].derivative(jnp.linspace(-3.0, 3.0, 601))
        assert float(jnp.max(slopes)) == pytest.approx(ACTIVATIONS[activation].steepest, abs=1e-6)


@pytest.mark.parametrize(
    ("call", "setting"),
    [
        (lambda: theory.mean_field("leaky_tanh", 1.0), "activation: 'leaky_tanh'.*allowed: linear, relu, tanh"),
        (lambda: theory.mean_field("tanh", -1.0), "weight_scale: -1.0; allowed: .* at least 0"),
        (lambda: theory.mean_field("tanh", math.nan), "weight_scale: nan"),
        (lambda: theory.mean_field("relu", 1.0, -0.1), "bias_scale: -0.1"),
        (lambda: theory.mean_field("relu", 1.0, 0.0, math.inf), "input_variance: inf"),
        (lambda: theory.critical_line("gru"), "activation: 'gru'"),
        (lambda: theory.critical_line("tanh", -1.0), "bias_scale: -1.0"),
        (lambda: theory.mean_field_horizon("tanh", 1.0, threshold=-3.0), "threshold: -3.0"),
        (lambda: theory.gaussian_lyapunov_exponents(0, 1.0), "n: 0; allowed: a whole number of at least 1"),
        (lambda: theory.gaussian_lyapunov_exponents(3, -1.0), "weight_scale: -1.0"),
        (lambda: theory.gaussian_log_growth_variance(2.5), "n: 2.5"),  # pyright: ignore[reportArgumentType]
        (lambda: theory.relu_log_growth(0, 1.0), "n: 0"),
        (lambda: theory.gaussian_power_norms([1, -1]), "lags: .*allowed: whole numbers of at least 0"),
        (lambda: theory.gaussian_power_spectrum(0), "lag: 0"),
        (lambda: theory.gaussian_power_spectrum(1, 2), "points: 2; allowed: a whole number of at least 3"),
        (lambda: theory.one_unit_log_growth(math.inf), "weight: inf; allowed: any finite number"),
        (lambda: theory.one_unit_critical_log_norm(0.5), "steps: 0.5"),
        (lambda: theory.one_unit_critical_log_norm(5, 1.5), "initial_state: 1.5; allowed: -1 to 1"),
        (lambda: theory.lstm_forget_log_norm(math.nan, 3), "forget_bias: nan"),
        (lambda: theory.pascanu_bounds(1.0, "gelu"), "activation: 'gelu' is unknown; allowed: linear, tanh"),
        (lambda: theory.pascanu_bounds(-1.0, "tanh"), "largest_singular_value: -1.0"),
    ],
)
def test_impossible_settings_are_named(call, setting):
    with pytest.raises(ValueError, match=setting):
        call()

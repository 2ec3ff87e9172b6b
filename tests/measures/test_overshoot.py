"""Transient growth against NumPy's powers and LAPACK's norms, the spectral projector, and its verdicts."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick_programs import compiled

import gradient_horizon as gh
from gradient_horizon import Parallelisable
from gradient_horizon.measures.overshoot import is_parallelisable

N, STEPS, TRANSIENT = 5, 120, 30
EPS = float(np.finfo(np.float64).eps)


def linear(matrix, h, x):
    return (matrix if x is None else x) @ h


@partial(compiled, static_argnames=("steps", "transient", "samples"))
def growth(matrix, h0, xs=None, **settings):
    return gh.transient_growth(linear, matrix, h0, xs, **settings)


def of(matrix, steps=STEPS, transient=TRANSIENT, dtype=np.float64):
    return growth(jnp.asarray(matrix, dtype), jnp.zeros(len(matrix), dtype), steps=steps, transient=transient)


def gaussian(seed=0, n=N):
    return np.random.default_rng(seed).standard_normal((n, n)) / np.sqrt(n)


def orthogonal(n=N):
    return np.linalg.qr(gaussian(1, n))[0]


def log_power_norms(matrix, steps=STEPS):
    """log ‖W^k‖₂ for k = 0 .. T by LAPACK, each power scaled to avoid under- and overflow."""
    power, shift, logs = np.eye(len(matrix)), 0.0, [0.0]
    for _ in range(steps):
        power = matrix @ power
        size = np.linalg.norm(power, 2)
        power, shift = power / size, shift + np.log(size)
        logs.append(shift)
    return np.array(logs)


def real_and_simple(gap=0.9):
    """A matrix with eigenvalues 0.95, `gap` · 0.95, ..., far from normal; and ‖P‖₂ of its leading projector."""
    vectors = np.eye(N) + 3 * np.triu(np.abs(gaussian(4)), 1)
    values = 0.95 * gap ** np.arange(N)
    matrix = vectors @ np.diag(values) @ np.linalg.inv(vectors)
    projector = np.outer(vectors[:, 0], np.linalg.inv(vectors)[0])
    return matrix, np.linalg.norm(projector, 2)


def test_norms_lags_and_peaks_are_those_of_numpys_powers():
    """λ₁ is the log of the leading eigenvalue to (λ₂/λ₁)^transient · κ(V) / T, at most 1e-3 here."""
    matrix, _ = real_and_simple()
    logs, found = log_power_norms(matrix), of(matrix)
    np.testing.assert_allclose(found.log_norm, logs[1:], atol=N * STEPS * EPS * np.linalg.cond(matrix))
    rate = float(found.exponent)
    assert rate == pytest.approx(np.log(0.95), abs=1e-3)
    excess = logs - rate * np.arange(STEPS + 1)
    assert float(found.log_overshoot) == pytest.approx(excess.max(), abs=1e-9)
    assert excess[int(found.overshoot_lag)] == pytest.approx(excess.max(), abs=1e-9)
    assert float(found.log_peak) == pytest.approx(logs.max(), abs=1e-10)
    assert int(found.peak_lag) == logs.argmax() > 1
    assert Parallelisable(int(found.parallelisable)) is Parallelisable.YES


def test_the_overshoot_of_a_simple_leading_eigenvalue_is_the_norm_of_its_projector():
    """‖W^k‖ / λ₁^k → ‖P‖, P the projector of λ₁, with relative corrections (λ₂/λ₁)^k κ(V), here 0.5^60."""
    matrix = np.array([[0.9, 2.0], [0.0, 0.45]])
    found = growth(jnp.asarray(matrix), jnp.zeros(2), steps=200, transient=100)
    projector = np.array([[1.0, 2.0 / 0.45], [0.0, 0.0]])
    expected = np.log(np.linalg.norm(projector, 2))
    assert float(found.log_overshoot) == pytest.approx(expected, abs=1e-11)
    # the first lag within rounding: 0.5^k of the projector's norm is below 4 eps (1 + 2 T |λ₁|) at k ≈ 45
    assert 35 < int(found.overshoot_lag) < 55
    assert float(found.henrici_mean) == pytest.approx(2 / np.linalg.norm(matrix), rel=1e-14)
    assert float(found.henrici_max) == float(found.henrici_mean)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [0.4, 1.0, 2.5])
@pytest.mark.parametrize("kind", ["orthogonal", "symmetric"])
def test_a_normal_matrix_never_overshoots(kind, scale, dtype):
    """At any length: 10⁴ steps reach e^±9163, far outside both ranges of floats.

    λ₁ rounds to eps |λ₁| (a relative error of its one float), so λ₁ T to eps |λ₁| T; the logs of the norms likewise.
    """
    turn = orthogonal()
    spectrum = np.ones(N) if kind == "orthogonal" else np.array([1.0, -0.7, 0.5, 0.2, -0.1])
    matrix = scale * (turn if kind == "orthogonal" else turn @ np.diag(spectrum) @ turn.T)
    found = of(matrix, steps=10_000, transient=2500, dtype=dtype)
    eps = float(np.finfo(dtype).eps)
    # the rounded matrix has eigenvalues that differ by N eps, a growth that accumulates to N eps T
    allowed = eps * 10_000 * (N + 2 * abs(np.log(scale)))
    assert 0 <= float(found.log_overshoot) <= allowed
    assert float(found.exponent) == pytest.approx(np.log(scale), abs=2 * N * eps)
    assert float(found.henrici_max) <= N**2 * eps
    expected = {0.4: Parallelisable.YES, 1.0: Parallelisable.UNDECIDED, 2.5: Parallelisable.NO}[scale]
    assert Parallelisable(int(found.parallelisable)) is expected
    assert float(found.log_peak) == pytest.approx(max(np.log(scale), 0) * 10_000, abs=allowed)


def test_a_shift_register_keeps_its_norm_and_then_is_zero():
    found = of(np.eye(N, k=1), steps=12, transient=3)
    # the search for a norm ends within 16 eps
    np.testing.assert_allclose(found.log_norm[: N - 1], 0, atol=16 * EPS)
    assert np.isneginf(found.log_norm[N - 1 :]).all()
    assert float(found.exponent) == -np.inf
    assert float(found.log_overshoot) == np.inf
    assert int(found.overshoot_lag) == 1
    assert float(found.log_peak) == int(found.peak_lag) == 0
    assert 0 < float(found.log_peak_bound) <= 0.5 * np.log(N)
    assert Parallelisable(int(found.parallelisable)) is Parallelisable.YES
    assert float(found.henrici_max) == 1


class TestBounds:
    def test_the_norm_lies_between_them(self):
        for seed in range(3):
            found = of(gaussian(seed))
            logs = log_power_norms(gaussian(seed))
            excess = logs - float(found.exponent) * np.arange(STEPS + 1)
            assert float(found.log_overshoot) <= excess.max() + 1e-10
            assert excess.max() <= float(found.log_overshoot_bound) + 1e-10
            assert float(found.log_overshoot_bound) <= float(found.log_overshoot) + 0.5 * np.log(N) + 1e-10
            assert float(found.log_peak) <= logs.max() + 1e-10 <= float(found.log_peak_bound) + 2e-10

    @pytest.mark.slow
    def test_lapack_closes_the_gap(self):
        quick = of(gaussian(2))
        both = gh.transient_growth(
            linear, jnp.asarray(gaussian(2)), jnp.zeros(N), steps=STEPS, transient=TRANSIENT, samples=0, method="jacrev"
        )
        assert float(both.log_overshoot_bound - both.log_overshoot) == pytest.approx(N * EPS, abs=1e-14)
        assert float(quick.log_overshoot) == pytest.approx(float(both.log_overshoot), abs=1e-12)
        assert float(quick.log_overshoot_bound) > float(both.log_overshoot_bound)
        assert np.isnan(both.henrici_mean)


def tanh_step(params, h, x):
    return {"a": jnp.tanh(params @ h["a"] + (0 if x is None else x))}


class TestNetworks:
    @pytest.mark.parametrize("driven", [False, True])
    def test_a_network_of_a_pytree_is_measured_along_its_trajectory(self, driven):
        """Against jax.jacrev of each step, in NumPy."""
        params, h = jnp.asarray(1.3 * gaussian(7)), {"a": jnp.ones(N)}
        xs = jnp.asarray(np.random.default_rng(3).standard_normal((STEPS, N))) if driven else None
        found = gh.transient_growth(
            tanh_step, params, h, xs, steps=STEPS, transient=TRANSIENT, samples=STEPS, standard_errors=2.0
        )
        matrix, state, product, logs, departures = np.asarray(params), np.ones(N), np.eye(N), [0.0], []
        for time in range(STEPS):
            state = np.tanh(matrix @ state + (np.asarray(xs)[time] if driven else 0))
            jacobian = (1 - state**2)[:, None] * matrix
            product = jacobian @ product
            logs.append(np.log(np.linalg.norm(product, 2)))
            square = np.linalg.norm(jacobian) ** 2 - np.sum(np.abs(np.linalg.eigvals(jacobian)) ** 2)
            departures.append(np.sqrt(square) / np.linalg.norm(jacobian))
        excess = np.array(logs) - float(found.exponent) * np.arange(STEPS + 1)
        assert float(found.log_overshoot) == pytest.approx(excess.max(), abs=1e-9)
        assert int(found.overshoot_lag) == excess.argmax()
        assert float(found.henrici_mean) == pytest.approx(np.mean(departures), abs=1e-9)
        assert float(found.henrici_max) == pytest.approx(np.max(departures), abs=1e-9)
        assert isinstance(found.parallelisable, Parallelisable)
        whole = gh.lyapunov_exponents(tanh_step, params, h, xs, steps=STEPS, transient=TRANSIENT, count=1)
        assert float(found.exponent) == float(whole.exponents[0])
        assert float(found.log_overshoot_error) == float(whole.standard_error[0]) * int(found.overshoot_lag)

    def test_networks_side_by_side_and_the_derivative(self):
        many = jnp.asarray(np.stack([gaussian(seed) for seed in range(3)]))

        def measure(matrix):
            return gh.transient_growth(linear, matrix, jnp.zeros(N), steps=20, samples=2)

        together = jax.jit(jax.vmap(measure))(many)
        for place, matrix in enumerate(many):
            alone = measure(matrix)
            assert float(together.log_overshoot[place]) == pytest.approx(float(alone.log_overshoot), abs=1e-12)
            assert int(together.parallelisable[place]) == int(alone.parallelisable)

        def overshoot(scale):
            return measure(many[0] + scale * many[1]).log_peak

        slope = jax.grad(overshoot)(0.0)
        assert float(slope) == pytest.approx(float(overshoot(1e-5) - overshoot(-1e-5)) / 2e-5, rel=1e-6)

    def test_a_state_that_overflows_is_flagged(self):
        found = gh.transient_growth(lambda _, h, x: h**3, None, jnp.full(2, 10.0), steps=40)
        for name in ("log_overshoot", "log_peak", "exponent", "henrici_mean", "log_overshoot_bound"):
            assert np.isnan(getattr(found, name)), name
        assert int(found.overshoot_lag) == int(found.peak_lag) == -1
        assert found.parallelisable is Parallelisable.UNDECIDED


class TestVerdict:
    def test_it_needs_three_standard_errors(self):
        rates = np.array([-0.5, -0.29, 0.0, 0.29, 0.31, -np.inf, np.nan, -0.5])
        errors = np.array([0.1, 0.1, 0.1, 0.1, 0.1, np.nan, 0.1, np.nan])
        yes, no, open_ = (int(verdict) for verdict in (Parallelisable.YES, Parallelisable.NO, Parallelisable.UNDECIDED))
        expected = [yes, open_, open_, open_, no, yes, open_, open_]
        assert is_parallelisable(rates, errors).tolist() == expected
        assert jax.jit(is_parallelisable)(rates, errors).tolist() == expected
        assert is_parallelisable(-0.29, 0.1, standard_errors=2) is Parallelisable.YES
        assert is_parallelisable(-1e-7, 0.0, rounding=1e-6) is Parallelisable.UNDECIDED

    def test_a_chaotic_network_cannot_be_run_in_parallel(self):
        params = jnp.asarray(4 * gaussian(3, 20))
        found = gh.transient_growth(lambda w, h, x: jnp.tanh(w @ h), params, jnp.ones(20), steps=600, samples=0)
        assert found.parallelisable is Parallelisable.NO


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"samples": -1}, "samples: -1; allowed: a whole number of at least 0"),
        ({"transient": 9}, "transient: 9; allowed: from 0 to 8"),
        ({"method": "pullback"}, "method: 'pullback' does not fit anchor 'start'"),
        ({"standard_errors": 0.0}, "standard_errors: 0.0; allowed: a number above 0"),
        ({"steps": 0}, "steps: 0; allowed: a whole number of at least 1"),
    ],
)
def test_wrong_settings_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        gh.transient_growth(linear, jnp.eye(2), jnp.zeros(2), **{"steps": 9, **settings})

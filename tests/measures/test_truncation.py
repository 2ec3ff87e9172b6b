"""Truncation lengths of norms that are known, and the bias of truncated gradients that are computed in full."""

import inspect
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import gradient_horizon as gh
from gradient_horizon.measures.truncation import Truncation, TruncationKind, truncation_length
from gradient_horizon.names.rules import SettingError

LAGS = np.arange(1, 61)
WITHIN, EXACT, BEYOND, NEVER, NONFINITE = TruncationKind


def geometric_length(rate: float, bias: float) -> int:
    """The smallest K with rate^K ≤ bias, by counting."""
    length, left = 1, rate
    while left > bias * (1 + 1e-9):
        length, left = length + 1, left * rate
    return length


@pytest.mark.parametrize("bias", [0.3, 0.01, 1e-6])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9, 0.97])
def test_a_geometric_gradient_is_cut_where_its_rate_says(rate, bias):
    found = truncation_length(LAGS * math.log(rate), bias, state_size=1)
    expected = geometric_length(rate, bias)
    assert found.length == expected
    assert found.kind == (WITHIN if expected <= LAGS[-1] + 1 else BEYOND)
    assert found.log_decay == pytest.approx(math.log(rate), abs=1e-12)
    np.testing.assert_allclose(found.log_bounds, np.arange(1, 62) * math.log(rate), atol=1e-9)
    # the same gradients, measured from lag 0 on, and of any size
    from_zero = truncation_length(np.r_[0, LAGS] * math.log(rate) - 700.0, bias, first_lag=0)
    assert (from_zero.length, from_zero.kind) == (found.length, found.kind)


@pytest.mark.parametrize("number", [np.float32, np.float64, np.array])
def test_a_bias_may_be_a_number_of_numpy(number):
    found = truncation_length(LAGS * math.log(0.9), number(0.01), state_size=1)
    assert found.length == geometric_length(0.9, 0.01)


def test_a_jacobian_knows_the_norm_of_lag_zero():
    """J = s I: B(K) = s^K by either norm, whatever n is; an array without n leaves lag 0 out, and may need a step."""
    n, rate = 7, 0.8
    measured = gh.log_jacobian_norms(
        lambda s, h, x: s * h, jnp.float32(rate), jnp.ones(n, jnp.float32), steps=60, norms=("spectral", "frobenius")
    )
    expected = geometric_length(rate, 0.01)
    for norm in (None, "frobenius", "spectral"):
        assert truncation_length(measured, norm=norm).length == expected
    assert truncation_length(measured["frobenius"], state_size=n).length == expected
    assert truncation_length(measured["frobenius"]).length == expected + 1


@settings(deadline=None, max_examples=60)
@given(st.floats(0.05, 0.8), st.floats(0.82, 0.95), st.floats(1e-3, 1e3), st.sampled_from([0.2, 0.05, 0.01]))
def test_a_mixture_of_two_rates_is_cut_by_its_sum(fast, slow, ratio, bias):
    """The sum of the infinite series is known; the extrapolation adds at most what lies beyond the measured lags."""
    lags = np.arange(201)
    norms = fast**lags + ratio * slow**lags
    ends = np.arange(1, 202)
    dropped = fast**ends / (1 - fast) + ratio * slow**ends / (1 - slow)
    exact = dropped / (1 / (1 - fast) + ratio / (1 - slow))
    found = truncation_length(np.log(norms), bias, first_lag=0)
    # beyond lag 100 the faster part is below 2·10^-8 of the slower one at worst, (0.8/0.82)^100 · 10^3 < 10^2 apart:
    # what matters is the rest beyond lag 200, below 0.95^201 / 0.05 / (its own total) < 10^-3 of the whole
    np.testing.assert_allclose(np.exp(found.log_bounds), exact, atol=2e-4)
    first = int(np.argmax(exact <= bias)) + 1
    assert first - 1 <= found.length <= first + 1


class TestBiasOfATruncatedGradient:
    """h_t = W h_{t-1} + x_t, L = ½ ‖h_T - y‖²: the gradient with respect to W, and what truncation leaves of it."""

    T, n = 120, 4

    def gradients(self, W, xs, y):
        """The terms g_k = (Wᵀ)^k e h_{T-k-1}ᵀ of dL/dW for k = 0 .. T - 1, and log ‖∂L/∂h_{T-k}‖; in NumPy."""
        states = [np.zeros(self.n)]
        for x in xs:
            states.append(W @ states[-1] + x)
        error, terms, logs = states[-1] - y, [], []
        for k in range(self.T):
            terms.append(np.outer(error, states[self.T - k - 1]))
            logs.append(math.log(np.linalg.norm(error)))
            error = W.T @ error
        return np.array(terms), np.array(logs)

    @staticmethod
    def biases(terms):
        """‖g - g_K‖ / ‖g‖ for K = 1, 2, ..."""
        sums = np.cumsum(terms, axis=0)
        return np.linalg.norm(sums[-1] - sums, axis=(1, 2)) / np.linalg.norm(sums[-1])

    def test_the_terms_are_those_of_the_gradient(self):
        rng = np.random.default_rng(0)
        W, xs, y = 0.9 * np.eye(self.n), rng.normal(size=(self.T, self.n)), rng.normal(size=self.n)

        def loss(W):
            h, _ = jax.lax.scan(lambda h, x: (W @ h + x, None), jnp.zeros(self.n, W.dtype), jnp.asarray(xs))
            return 0.5 * jnp.sum((h - y) ** 2)

        np.testing.assert_allclose(self.gradients(W, xs, y)[0].sum(0), jax.grad(loss)(jnp.asarray(W)), rtol=1e-9)

    @pytest.mark.parametrize("bias", [0.1, 0.01])
    def test_where_all_terms_point_one_way_the_bound_is_the_bias(self, bias):
        """W = s I and a constant input at its fixed point: at K the bias is at most `bias`, at K - 1 it is larger."""
        s = 0.85
        h = np.full(self.n, 2.0)
        terms, logs = self.gradients(s * np.eye(self.n), np.tile((1 - s) * h, (self.T, 1)), np.zeros(self.n))
        # the state starts at 0 and has not settled at early times: each term as if it had
        steady = np.array([term / np.linalg.norm(term) for term in terms[:-1]]) * np.exp(logs[:-1, None, None])
        found = truncation_length(logs[:-1], bias, first_lag=0)
        biases, length = self.biases(steady), int(found.length)
        assert biases[length - 1] <= bias * (1 + 1e-4)  # SLACK, and s^119 beyond the last lag
        assert biases[length - 2] > bias
        np.testing.assert_allclose(np.exp(found.log_bounds[:60]), biases[:60], atol=1e-7)

    @pytest.mark.parametrize("seed", range(6))
    def test_in_a_normal_network_the_bias_stays_below_the_bound_times_the_cancellation(self, seed):
        """Random inputs: M is the largest ‖h‖, and the bound holds after multiplication by M Σφ / ‖g‖."""
        rng = np.random.default_rng(seed)
        Q = np.linalg.qr(rng.normal(size=(self.n, self.n)))[0]
        W = (Q * rng.uniform(0.3, 0.9, self.n)) @ Q.T
        xs = rng.normal(size=(self.T, self.n)) + 1.0
        terms, logs = self.gradients(W, xs, rng.normal(size=self.n))
        of_state = np.linalg.norm(terms, axis=(1, 2)) / np.exp(logs)
        whole = np.linalg.norm(terms.sum(0))
        factor = of_state.max() * np.exp(logs).sum() / whole
        found = truncation_length(logs, 0.05 / factor, first_lag=0)
        biases = self.biases(terms)
        assert found.kind == WITHIN
        assert np.all(biases[:100] <= factor * np.exp(found.log_bounds[:100]) * (1 + 1e-9))
        assert biases[int(found.length) - 1] <= 0.05 * (1 + 1e-4)
        assert np.any(biases[: int(found.length) - 1] > 0.05)  # a bound that is not met at once


def test_what_does_not_decay_explodes_is_zero_or_lost_says_so():
    logs = np.stack(
        [
            np.full(8, -3.0),  # constant
            0.1 * np.arange(8),  # growing
            np.r_[-np.arange(5.0), 0.0, 1.0, 2.0],  # decays first
            -1e-8 * np.arange(8),  # no more than rounding
            np.r_[0.0, -1.0, -2.0, np.full(5, -np.inf)],
            np.full(8, -np.inf),
            np.r_[0.0, np.nan, np.arange(6.0)],
            np.r_[0.0, np.inf, np.arange(6.0)],
        ]
    )
    found = truncation_length(logs, first_lag=0)
    np.testing.assert_array_equal(found.kind, [NEVER] * 4 + [EXACT] * 2 + [NONFINITE] * 2)
    np.testing.assert_array_equal(found.length, [math.inf] * 4 + [3, 1] + [math.nan] * 2)
    np.testing.assert_array_equal(found.log_bounds[:4], 0.0)
    assert found.log_bounds[4, 2] == -math.inf
    # what is dropped at K = 2 is the last of three terms that are not zero
    assert found.log_bounds[4, 1] == pytest.approx(-2 - math.log(1 + math.exp(-1) + math.exp(-2)))


def test_inside_a_program_it_is_what_it_is_outside():
    rng = np.random.default_rng(1)
    logs = -0.2 * LAGS + rng.normal(size=(5, 60)).cumsum(1) * 0.02
    logs[3, 30:], logs[4] = -np.inf, 0.1 * LAGS
    logs[2, 7] = np.nan
    outside = truncation_length(logs, state_size=4)
    assert {*outside.kind.tolist()} == {WITHIN, NONFINITE, EXACT, NEVER}

    def measure(values):
        return truncation_length(values, state_size=4)

    for inside in (jax.jit(measure)(jnp.asarray(logs)), jax.vmap(measure)(jnp.asarray(logs))):
        np.testing.assert_array_equal(inside.length, outside.length)
        np.testing.assert_array_equal(inside.kind, outside.kind)
        np.testing.assert_allclose(inside.log_bounds, outside.log_bounds, atol=1e-9)
    narrow = jax.jit(measure)(jnp.asarray(logs[:2], jnp.float32))
    assert narrow.length.dtype == jnp.float32
    np.testing.assert_array_equal(narrow.length, outside.length[:2])
    np.testing.assert_array_equal(jax.grad(lambda v: measure(v).length)(jnp.asarray(logs[0])), 0.0)


def test_norms_of_a_program_are_cut_within_it():
    @jax.jit
    def lengths(scales):
        def one(scale):
            return truncation_length(
                gh.log_jacobian_norms(lambda s, h, x: s * h, scale, jnp.ones(3, jnp.float32), steps=40)
            )

        return jax.vmap(one)(scales)

    found = lengths(jnp.array([0.5, 0.8], jnp.float32))
    assert isinstance(found, Truncation)
    np.testing.assert_array_equal(found.length, [geometric_length(s, 0.01) for s in (0.5, 0.8)])


class TestSeeds:
    def logs(self, seeds, spread=0.4, rng=0):
        """Geometric decay; of a seed its own amplitude and rate."""
        draw = np.random.default_rng(rng)
        rates = -0.1 - 0.01 * draw.uniform(size=(seeds, 1))
        return rates * LAGS + spread * draw.normal(size=(seeds, 1))

    def test_norms_are_averaged_before_they_are_cut(self):
        logs = self.logs(8)
        found = truncation_length(logs, seeds_axis=0)
        mean = truncation_length(np.log(np.mean(np.exp(logs), axis=0)))
        assert (found.length, found.kind) == (mean.length, mean.kind)
        assert found.lower <= found.length <= found.upper
        np.testing.assert_array_equal(
            truncation_length(np.moveaxis(logs, 0, 0)[None], seeds_axis=1).length, mean.length
        )

    def test_seeds_that_agree_leave_no_interval_and_one_seed_leaves_all_open(self):
        same = np.repeat(self.logs(1), 6, axis=0)
        found = truncation_length(same, seeds_axis=0)
        assert found.lower == found.length == found.upper
        alone = truncation_length(same[:1], seeds_axis=0)
        assert (alone.lower, alone.upper) == (1, math.inf)

    def test_norms_that_no_float_holds_are_averaged_all_the_same(self):
        logs = self.logs(5)
        logs[1:] -= 2000.0 + LAGS  # without the first seed, every norm would be 0 in floats
        found = truncation_length(logs, seeds_axis=0)
        assert found.length == truncation_length(logs[0]).length
        assert math.isfinite(found.lower)

    def test_a_seed_that_explodes_or_is_lost_opens_the_interval(self):
        logs = self.logs(8)
        logs[0] = 0.2 * LAGS
        assert truncation_length(logs, seeds_axis=0).upper == math.inf
        logs[0] = np.nan
        found = truncation_length(logs, seeds_axis=0)
        assert math.isnan(found.length)
        assert found.upper == math.inf

    @pytest.mark.slow
    def test_the_interval_covers_the_length_of_the_mean(self):
        """Lognormal amplitudes at two rates: 176 of 200 intervals or more contain the length of the true mean.

        A coverage of 0.95 gives fewer with probability 5e-5, one of 0.8 with 0.998.
        """
        draw = np.random.default_rng(5)
        fast, slow = np.exp(-0.3 * LAGS), np.exp(-0.05 * LAGS)
        truth = truncation_length(np.log(fast + 0.2 * slow)).length
        hits = 0
        for _ in range(200):
            sizes = np.exp(0.5 * draw.normal(size=(20, 2, 1)) - 0.125)
            found = truncation_length(np.log(sizes[:, 0] * fast + 0.2 * sizes[:, 1] * slow), seeds_axis=0)
            hits += found.lower <= truth <= found.upper
        assert hits >= 176

    def test_not_inside_a_program(self):
        with pytest.raises(ValueError, match=r"seeds_axis: 0 inside jax.jit or jax.vmap; allowed: None there"):
            jax.jit(lambda v: truncation_length(v, seeds_axis=0))(jnp.asarray(self.logs(3)))


def test_a_labelled_array_knows_its_lags():
    values = np.stack([0.5 ** np.arange(41), 0.7 ** np.arange(41)], axis=1)
    labelled = xr.DataArray(np.log(values), dims=("lag", "seed"), coords={"lag": np.arange(41), "seed": [3, 4]})
    np.testing.assert_array_equal(truncation_length(labelled).length, [7, 13])
    from_one = truncation_length(labelled.isel(lag=slice(1, None)), state_size=1)
    np.testing.assert_array_equal(from_one.length, [7, 13])
    np.testing.assert_array_equal(truncation_length(labelled.drop_vars("lag"), first_lag=0).length, [7, 13])
    for wrong, why in (
        (labelled.isel(lag=slice(None, None, 2)), "lags 0 to 40; allowed: every lag from 0 or 1 on"),
        (labelled.isel(lag=slice(3, None)), "lags 3 to 40; allowed: every lag"),
        (labelled.rename(lag="time"), r"dimensions \('time', 'seed'\); allowed: lag among them"),
        (labelled.to_dataset(name="log_norm"), "a mapping; allowed: a JacobianNorms, an array"),
    ):
        with pytest.raises(ValueError, match=why):
            truncation_length(wrong)
    with pytest.raises(ValueError, match="first_lag: 1; allowed: 0, as in the coordinate lag"):
        truncation_length(labelled, first_lag=1)


@pytest.mark.parametrize(
    ("norms", "arguments", "why"),
    [
        (np.zeros(9), {"bias": 0.0}, "bias: 0.0; allowed: a number above 0 and below 1"),
        (np.zeros(9), {"bias": np.float32(1.5)}, "bias: 1.5; allowed: a number above 0 and below 1"),
        (np.zeros(9), {"bias": "a"}, "bias: 'a'; allowed: a number above 0 and below 1"),
        (np.zeros((2, 9)), {"seeds_axis": 0.5}, "seeds_axis: 0.5; allowed: a whole number, or None"),
        (np.zeros((2, 9)), {"seeds_axis": False}, "seeds_axis: False; allowed: a whole number, or None"),
        (np.zeros(9), {"first_lag": 1.0}, "first_lag: 1.0; allowed: 0 or 1"),
        (np.zeros(9), {"state_size": 3.0}, "state_size: 3.0; allowed: a whole number of at least 1, or None"),
        (np.zeros(9), {"bias": 1}, "bias: 1; allowed: a number above 0 and below 1"),
        (np.zeros(3), {}, r"norms: float64 of shape \(3,\); allowed: log norms of at least 4 lags"),
        (1.5, {}, r"norms: float64 of shape \(\); allowed: log norms of at least 4 lags"),
        (np.zeros(9, int), {}, r"norms: int64 of shape \(9,\); allowed: log norms"),
        (np.zeros(9), {"first_lag": 2}, "first_lag: 2; allowed: 0 or 1"),
        (np.zeros(9), {"state_size": 0}, "state_size: 0; allowed: a whole number of at least 1, or None"),
        (np.zeros(9), {"state_size": 4, "first_lag": 0}, "state_size: 4; allowed: None where lag 0 was measured"),
        (np.zeros(9), {"norm": "spectral"}, "norm: 'spectral'; allowed: None for an array"),
        (np.zeros(9), {"seeds_axis": 0}, r"seeds_axis: 0; allowed: an axis of \(9,\) except the last"),
        (np.zeros((2, 9)), {"seeds_axis": 1}, r"seeds_axis: 1; allowed: an axis of \(2, 9\) except the last"),
        (np.zeros((2, 9)), {"seeds_axis": -1}, r"seeds_axis: -1; allowed: an axis of \(2, 9\) except the last"),
        (np.zeros((0, 9)), {"seeds_axis": 0}, "norms: no seeds; allowed: at least one"),
        ({"frobenius": np.zeros(9)}, {}, "norms: a mapping; allowed: a JacobianNorms"),
        (gh.JacobianNorms({"spectral": np.zeros(9)}, 3), {"norm": "frobenius"}, "norm: 'frobenius'; allowed: spectral"),
        (gh.JacobianNorms({"spectral": np.zeros(9)}, 3), {"state_size": 3}, "state_size, first_lag: given; allowed"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(norms, arguments, why):
    with pytest.raises(ValueError, match=f"^{why}") as caught:
        inspect.unwrap(truncation_length)(norms, **arguments)  # as users call it, without the tests' check of types
    assert not isinstance(caught.value, SettingError)
    assert "\n" not in str(caught.value)


def test_it_needs_no_jax():
    program = (
        "import sys, numpy as np, gradient_horizon as gh;"
        "assert gh.truncation_length(np.arange(9) * -1.0, first_lag=0).length == 5; assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)

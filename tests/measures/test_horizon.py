import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradient_horizon.measures.horizon import Reach, gradient_horizon, horizon_of, horizon_quantile, neutral_scale
from gradient_horizon.names import HORIZON_KINDS, HorizonKind


@pytest.mark.parametrize(
    ("decades", "expected", "kind"),
    [
        ([-1.0, -2.9, -3.1, -5.0], 3, "vanished"),
        ([1.0, 3.01, 0.0, 0.0], 2, "exploded"),
        ([-3.0, 3.0, 0.0, 1.0], 5, "beyond"),  # exactly at the threshold is still within it
        ([-np.inf, 0.0, 0.0, 0.0], 1, "vanished"),
        ([0.0, np.inf, 0.0, 0.0], 2, "exploded"),
        ([0.0, np.nan, 9.0, 9.0], np.nan, "nonfinite"),
        ([4.0, np.nan, 9.0, 9.0], 1, "exploded"),
    ],
)
def test_the_first_lag_beyond_the_threshold(decades, expected, kind):
    log_norm = np.log(10.0) * np.array(decades) + 0.5 * np.log(16)
    value, found = horizon_of(log_norm + 1e-13 * np.sign(-np.array(decades)), 16)
    np.testing.assert_equal(float(value), expected)
    assert HORIZON_KINDS[int(found)] == kind


def test_a_geometric_gradient_has_the_horizon_of_its_rate():
    rates = np.array([0.5, 0.9, 1.2])
    log_norm = np.log(rates)[:, None] * np.arange(1, 200)
    horizon, _ = horizon_of(log_norm, 1, threshold=2.0)
    np.testing.assert_array_equal(horizon, np.floor(2 * np.log(10) / np.abs(np.log(rates))) + 1)


BEYOND, LOST = (101.0, "beyond"), (np.nan, "nonfinite")


@pytest.mark.parametrize(
    ("networks", "lower", "upper"),
    [
        ([(10.0, "vanished"), (20.0, "vanished"), BEYOND, BEYOND], (20.0, "vanished"), BEYOND),
        ([(6.0, "vanished"), BEYOND, (50.0, "exploded"), BEYOND, (5.0, "vanished")], *[(50.0, "exploded")] * 2),
        (
            [(4.0, "vanished"), (30.0, "exploded"), (9.0, "exploded"), (5.0, "vanished")],
            (5.0, "vanished"),
            (9.0, "exploded"),
        ),
        # an overflow may lie anywhere: between the second and the third of the others
        (
            [(3.0, "exploded"), LOST, (5.0, "exploded"), (9.0, "exploded"), (7.0, "exploded")],
            (5.0, "exploded"),
            (7.0, "exploded"),
        ),
        ([(3.0, "exploded"), LOST, (np.nan, ""), (3.0, "exploded")], *[(3.0, "exploded")] * 2),
        ([(np.nan, ""), (3.0, "vanished"), (np.nan, "")], *[(3.0, "vanished")] * 2),
    ],
)
def test_the_median_is_that_of_a_network_with_its_own_kind(networks, lower, upper):
    lags, kinds = map(np.array, zip(*networks, strict=True))
    assert horizon_quantile(lags, kinds) == (Reach(*lower), Reach(*upper))


@pytest.mark.parametrize(("networks", "kind"), [([LOST, (3.0, "vanished"), LOST], "nonfinite"), ([(np.nan, "")], "")])
def test_a_median_that_is_hidden_has_no_lag(networks, kind):
    lags, kinds = map(np.array, zip(*networks, strict=True))
    for reach in horizon_quantile(lags, kinds):
        assert np.isnan(reach.lag)
        assert reach.kind == kind


@given(
    st.lists(st.floats(0.05, 3.0).filter(lambda rate: abs(np.log(rate)) > 1e-3), min_size=1, max_size=12),
    st.sampled_from([0.1, 0.5, 0.9]),
    st.randoms(),
)
def test_whatever_an_overflow_hides_the_quantile_lies_between(rates, level, random):
    log_norm = np.log(rates)[:, None] * np.arange(1, 41)
    horizon, kind = horizon_of(log_norm, 1)
    words = np.array(HORIZON_KINDS)[kind]
    hidden = (words == "exploded") & np.array([random.random() < 0.5 for _ in rates])
    seen = np.where(hidden, np.nan, horizon), np.where(hidden, HORIZON_KINDS.index("nonfinite"), kind)
    lower, upper = horizon_quantile(*seen, level)
    truth = np.quantile(horizon, level, method="lower"), np.quantile(horizon, level, method="higher")
    assert not lower.lag > truth[0]
    assert not upper.lag < truth[1]
    if not hidden.any():
        assert (lower.lag, upper.lag) == truth
        for reach in (lower, upper):
            assert reach.kind in words[horizon == reach.lag]


def test_the_neutral_scale_is_interpolated():
    scales = np.array([0.5, 1.0, 1.5, 2.0])
    assert neutral_scale(scales, np.array([-4.0, -1.0, 3.0, 5.0])) == pytest.approx(1.125)
    assert neutral_scale(scales, np.array([-np.inf, -np.inf, 3.0, 5.0])) == 1.5
    assert np.isnan(neutral_scale(scales, np.array([-4.0, -3.0, -2.0, -1.0])))


def test_inside_a_program_a_horizon_is_what_it_is_outside():
    """Under `jax.jit`, `jax.vmap` and `jax.grad`; kinds are members of an enumeration."""
    log_norm = np.log(10.0) * np.array([[-1.0, -2.0, -3.5], [1.0, 3.5, 0.0], [0.0, 0.5, 1.0], [0.0, np.nan, 0.0]])
    outside = horizon_of(log_norm, 1)
    assert outside.kind.tolist() == list(HorizonKind)
    assert [kind.name.lower() for kind in HorizonKind] == list(HORIZON_KINDS)
    inside = jax.jit(lambda values: horizon_of(values, 1))(log_norm)
    one_by_one = jax.vmap(lambda values: horizon_of(values, 1))(jnp.asarray(log_norm))
    for found in (inside, one_by_one):
        np.testing.assert_array_equal(found.lag, outside.lag)
        np.testing.assert_array_equal(found.kind, outside.kind)
    assert horizon_of(log_norm[0], 1) == (3.0, HorizonKind.VANISHED)
    slope = jax.grad(lambda values: horizon_of(values, 1).lag)(jnp.asarray(log_norm[0]))
    np.testing.assert_array_equal(slope, np.zeros(3))


def test_the_name_of_version_0_1_still_works_and_says_what_it_is_called_now():
    with pytest.warns(DeprecationWarning, match="gradient_horizon.horizon_of"):
        assert gradient_horizon(np.array([0.0, -9.0]), 1) == horizon_of(np.array([0.0, -9.0]), 1)

"""Intervals against published numbers, their own equations, and a count of all pairs."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gradient_horizon.statistics import LEVEL, area_under_curve, area_variance, least_difference, share, widest_half

Z = stats.norm.ppf((1 + LEVEL) / 2)


@pytest.mark.parametrize(
    ("successes", "trials", "limits"),
    [
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilsons_interval_is_the_published_one(successes, trials, limits):
    """Newcombe 1998, Statistics in Medicine 17:857, table I, method 3."""
    found = share(successes, trials)
    assert found.estimate == successes / trials
    np.testing.assert_allclose(found[1:], limits, atol=5.1e-5)  # four decimals were printed


@given(st.integers(1, 200).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials))))
def test_wilsons_limits_lie_a_quantile_from_the_estimate(counts):
    estimate, *limits = share(*counts)
    for p in limits:
        assert (estimate - p) ** 2 == pytest.approx(Z**2 * p * (1 - p) / counts[1], abs=1e-12)


def test_nothing_tried_tells_nothing():
    found = share(0, 0)
    assert math.isnan(found.estimate)
    assert found[1:] == (0.0, 1.0)


@pytest.mark.parametrize("trials", range(1, 31))
def test_no_interval_is_wider_than_the_widest(trials):
    halves = [(found.upper - found.lower) / 2 for found in (share(k, trials) for k in range(trials + 1))]
    assert widest_half(trials) == pytest.approx(max(halves), abs=1e-12)


def test_no_interval_of_nothing():
    assert math.isnan(widest_half(0))
    assert least_difference(0) is None


def chance(first: int, second: int, trials: int) -> Fraction:
    """Fisher's two-sided p, counted: the share of all ways to hand the successes out that are at most as likely."""
    both = first + second
    ways = [
        math.comb(trials, k) * math.comb(trials, both - k) for k in range(max(0, both - trials), min(both, trials) + 1)
    ]
    here = math.comb(trials, first) * math.comb(trials, second)
    return Fraction(sum(way for way in ways if way <= here), math.comb(2 * trials, both))


@pytest.mark.parametrize("trials", [1, 2, 3, 4, 5, 8, 10, 15, 20])
def test_the_least_difference_is_that_of_fishers_test_over_all_pairs(trials):
    differ = [
        second - first
        for first in range(trials + 1)
        for second in range(first, trials + 1)
        if chance(first, second, trials) <= Fraction(1, 20)
    ]
    assert least_difference(trials) == min(differ, default=None)


# Hanley and McNeil 1982, Radiology 143:29, table I: ratings from definitely normal to definitely abnormal.
NORMAL, ABNORMAL = (33, 6, 6, 11, 2), (3, 2, 2, 11, 33)


def test_the_area_is_the_published_one():
    ratings = np.repeat(np.tile(np.arange(5.0), 2), (*NORMAL, *ABNORMAL))
    found = area_under_curve(ratings, np.repeat([False, True], (58, 51)))
    assert found is not None
    assert round(found.estimate, 3) == 0.893
    assert round(math.sqrt(area_variance(found.estimate, 51, 58)), 3) == 0.032


SCORED = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30).filter(
    lambda pairs: len({succeeds for _, succeeds in pairs}) == 2
)


@given(SCORED)
def test_the_area_counts_pairs_and_its_limits_solve_their_equation(pairs):
    scores, succeeds = np.array([score for score, _ in pairs], float), np.array([flag for _, flag in pairs])
    found = area_under_curve(scores, succeeds)
    assert found is not None
    high, low = scores[succeeds][:, None], scores[~succeeds]
    assert found.estimate == pytest.approx(np.mean((high > low) + 0.5 * (high == low)), abs=1e-12)
    assert 0 <= found.lower <= found.estimate <= found.upper <= 1
    m, n = high.size, low.size
    for theta in found[1:]:
        assert (found.estimate - theta) ** 2 == pytest.approx(Z**2 * area_variance(theta, m, n), abs=1e-9)
    mirrored = area_under_curve(-scores, succeeds)
    assert mirrored is not None
    np.testing.assert_allclose(mirrored[1:], (1 - found.upper, 1 - found.lower), atol=1e-9)


def test_the_variance_is_hanley_and_mcneils_where_the_groups_are_equal():
    m = n = 12
    for theta in (0.5, 0.8, 0.95):
        q1, q2 = theta / (2 - theta), 2 * theta**2 / (1 + theta)
        published = theta * (1 - theta) + (m - 1) * (q1 - theta**2) + (n - 1) * (q2 - theta**2)
        assert area_variance(theta, m, n) == pytest.approx(published / (m * n), rel=1e-12)


def test_one_pair_is_one_trial_of_a_coin():
    found = area_under_curve(np.array([0.0, 1.0]), np.array([False, True]))
    assert found is not None
    np.testing.assert_allclose(found, share(1, 1), atol=1e-9)


def test_groups_that_lie_apart_have_an_interval_that_narrows_with_their_size():
    widths = []
    for size in (2, 8, 32):
        found = area_under_curve(np.arange(2.0 * size), np.arange(2 * size) >= size)
        assert found is not None
        assert (found.estimate, found.upper) == (1.0, 1.0)
        widths.append(1 - found.lower)
    assert widths[0] > widths[1] > widths[2] > 0


@pytest.mark.parametrize("alike", [True, False])
def test_no_area_where_all_are_alike(alike):
    assert area_under_curve(np.arange(4.0), np.full(4, alike)) is None

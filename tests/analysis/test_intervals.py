"""Intervals against published numbers, their own equations, and a count of all pairs."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gradient_horizon.analysis.intervals import (
    LEVEL,
    area_under_curve,
    area_variance,
    least_difference,
    newcombe_limits,
    share,
    widest_half,
)

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
    found = area_under_curve(ratings, np.repeat([False, True], (58, 51)), np.arange(109))
    assert found is not None
    assert round(found.estimate, 3) == 0.893
    assert round(math.sqrt(area_variance(found.estimate, 51, 58)), 3) == 0.032


SCORED = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30).filter(
    lambda pairs: len({succeeds for _, succeeds in pairs}) == 2
)


@settings(deadline=None)
@given(SCORED)
def test_the_area_counts_pairs_and_its_limits_solve_their_equation(pairs):
    scores, succeeds = np.array([score for score, _ in pairs], float), np.array([flag for _, flag in pairs])
    found = area_under_curve(scores, succeeds, np.arange(len(scores)))
    assert found is not None
    high, low = scores[succeeds][:, None], scores[~succeeds]
    assert found.estimate == pytest.approx(np.mean((high > low) + 0.5 * (high == low)), abs=1e-12)
    assert 0 <= found.lower <= found.estimate <= found.upper <= 1
    m, n = high.size, low.size
    limits = newcombe_limits(found.estimate, m, n)
    for theta in limits:
        assert (found.estimate - theta) ** 2 == pytest.approx(Z**2 * area_variance(theta, m, n), abs=1e-9)
    np.testing.assert_allclose(newcombe_limits(1 - found.estimate, m, n), (1 - limits[1], 1 - limits[0]), atol=1e-9)
    mirrored = area_under_curve(-scores, succeeds, np.arange(len(scores)))
    assert mirrored is not None
    np.testing.assert_allclose(mirrored, (1 - found.estimate, 1 - found.upper, 1 - found.lower), atol=1e-9)


def clustered(rng, seeds: int, scales: int, own: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, successes and seeds: a seed's networks share all of score and fate but the variance `own`²."""
    shared = np.sqrt(1 - own**2) * rng.normal(size=(2, seeds, 1)) + own * rng.normal(size=(2, seeds, scales))
    score, fate = shared
    return score.ravel(), (score + fate > 0).ravel(), np.repeat(np.arange(seeds), scales)


def test_copies_of_a_network_within_its_seed_say_nothing_more():
    scores, succeeds, seeds = clustered(np.random.default_rng(1), 12, 1, 1.0)
    once = area_under_curve(scores, succeeds, seeds)
    nine = area_under_curve(np.repeat(scores, 9), np.repeat(succeeds, 9), np.repeat(seeds, 9))
    assert once is not None
    assert nine is not None
    np.testing.assert_allclose(nine, once, atol=1e-12)
    apart = [
        area_under_curve(*(np.repeat(v, r) for v in (np.arange(8.0), np.arange(8) >= 4, np.arange(8)))) for r in (1, 9)
    ]
    assert apart[0] == apart[1]


def test_a_sample_of_seeds_has_the_area_of_its_networks():
    """The limits are quantiles of areas counted pair by pair over seeds drawn with replacement."""
    scores, succeeds, seeds = clustered(np.random.default_rng(2), 9, 4, 0.5)
    scores = scores.round(1)  # ties
    found = area_under_curve(scores, succeeds, seeds)
    assert found is not None
    areas = []
    for counts in np.random.default_rng(0).multinomial(9, np.full(9, 1 / 9), 4000):
        chosen = np.repeat(np.arange(scores.size), counts[seeds])
        high, low = scores[chosen][succeeds[chosen]][:, None], scores[chosen][~succeeds[chosen]]
        if high.size and low.size:
            areas.append(np.mean((high > low) + 0.5 * (high == low)))
    beyond = stats.norm.cdf(-math.sqrt(9 / 8) * stats.t.ppf(0.975, 8))  # Hesterberg 2015
    np.testing.assert_allclose(found[1:], np.quantile(areas, (beyond, 1 - beyond)), atol=1e-9)


def test_intervals_cover_the_area_though_a_seed_is_at_all_scales():
    """Of 200 populations of 20 seeds at 8 scales. True area: P(s > s') given s + f > 0 > s' + f', standard normal."""
    rng = np.random.default_rng(3)
    score, fate = rng.normal(size=(2, 500_000))
    ranks = stats.rankdata(score)
    m = int(np.sum(score + fate > 0))
    true = (ranks[score + fate > 0].sum() - m * (m + 1) / 2) / (m * (score.size - m))
    covered, independent = [], []
    for _ in range(200):
        scores, succeeds, seeds = clustered(rng, 20, 8, 0.3)
        found = area_under_curve(scores, succeeds, seeds)
        assert found is not None
        covered.append(found.lower <= true <= found.upper)
        lower, upper = newcombe_limits(found.estimate, int(succeeds.sum()), int((~succeeds).sum()))
        independent.append(lower <= true <= upper)
    # 95 % of 200 within four standard errors; of independent networks the interval is far too short
    assert np.mean(covered) > 0.95 - 4 * math.sqrt(0.95 * 0.05 / 200)
    assert np.mean(independent) < 0.75


def test_one_seed_tells_nothing_of_others():
    found = area_under_curve(np.arange(6.0), np.arange(6) >= 2, np.zeros(6, int))
    assert found == (1.0, 0.0, 1.0)


def test_the_variance_is_hanley_and_mcneils_where_the_groups_are_equal():
    m = n = 12
    for theta in (0.5, 0.8, 0.95):
        q1, q2 = theta / (2 - theta), 2 * theta**2 / (1 + theta)
        published = theta * (1 - theta) + (m - 1) * (q1 - theta**2) + (n - 1) * (q2 - theta**2)
        assert area_variance(theta, m, n) == pytest.approx(published / (m * n), rel=1e-12)


def test_one_pair_is_one_trial_of_a_coin():
    found = area_under_curve(np.array([0.0, 1.0]), np.array([False, True]), np.arange(2))
    assert found is not None
    np.testing.assert_allclose(found, share(1, 1), atol=1e-9)


def test_groups_that_lie_apart_have_an_interval_that_narrows_with_their_size():
    widths = []
    for size in (2, 8, 32):
        found = area_under_curve(np.arange(2.0 * size), np.arange(2 * size) >= size, np.arange(2 * size))
        assert found is not None
        assert (found.estimate, found.upper) == (1.0, 1.0)
        widths.append(1 - found.lower)
    assert widths[0] > widths[1] > widths[2] > 0


@pytest.mark.parametrize("alike", [True, False])
def test_no_area_where_all_are_alike(alike):
    assert area_under_curve(np.arange(4.0), np.full(4, alike), np.arange(4)) is None

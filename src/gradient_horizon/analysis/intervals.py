"""Confidence intervals: for a share of networks, and for the AUC of a predictor of success.

Also the least difference between two shares that chance alone would not explain.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy import optimize, stats

from gradient_horizon.numerics.bootstrap import LEVEL, expanded_tail, resampled_counts


class Interval(NamedTuple):
    """An estimate between its limits."""

    estimate: float
    lower: float
    upper: float


def share(successes: int, trials: int) -> Interval:
    """Return `successes` / `trials` with Wilson's score interval (1927); without trials, NaN between 0 and 1."""
    if not trials:
        return Interval(math.nan, 0.0, 1.0)
    limits = stats.binomtest(successes, trials).proportion_ci(LEVEL, method="wilson")
    return Interval(successes / trials, float(limits.low), float(limits.high))


def widest_half(trials: int) -> float:
    """Return half the width of `share`'s interval where it is widest, at half the `trials`; NaN without trials."""
    if not trials:
        return math.nan
    interval = share(trials // 2, trials)
    return (interval.upper - interval.lower) / 2


def least_difference(trials: int) -> int | None:
    """Return the least difference between two success counts, each out of `trials`, that chance would not explain.

    Chance is no explanation if the two-sided p of Fisher's exact test (1935) is at most 1 - `LEVEL`; None if no
    difference is large enough. The test is most sensitive when one count is 0 and the other is k:
    p = 2 C(n, k) / C(2n, k) for n `trials`. Counts further from the ends may need a larger difference.
    """
    for count in range(1, trials + 1):
        if 2 * math.comb(trials, count) / math.comb(2 * trials, count) <= 1 - LEVEL:
            return count
    return None


def area_under_curve(
    scores: Float[np.ndarray, " S"], succeeds: Bool[np.ndarray, " S"], clusters: Shaped[np.ndarray, " S"]
) -> Interval | None:
    """Return the probability θ that a network that succeeds scores higher than one that fails; a tie counts half.

    This is the area under the receiver operating characteristic, U/(mn) of Mann and Whitney. None if all m + n networks
    succeed or all fail. Networks in the same one of `clusters` (those of a seed: one W⁰ at every scale) need not be
    independent, so the limits are quantiles of a bootstrap that draws whole clusters (`numerics.bootstrap`). If every
    sample has the same area, as when the two groups do not overlap, the limits are those of `newcombe_limits`, with a
    cluster counted once if some of its networks succeed and once if some fail. With a single cluster, which says
    nothing about others, they are 0 and 1.
    """
    if succeeds.all() or not succeeds.any():
        return None
    _, members = np.unique(clusters, return_inverse=True)
    k = int(members.max()) + 1
    belongs = (members == np.arange(k)[:, None]).astype(float)
    high = scores[succeeds]
    lower_than = [
        (np.searchsorted(low, high) + np.searchsorted(low, high, "right")) / 2
        for low in (np.sort(scores[~succeeds & (members == cluster)]) for cluster in range(k))
    ]
    wins = belongs[:, succeeds] @ np.stack(lower_than, axis=1)  # pairs won, by cluster of success and of failure
    successes, failures = belongs[:, succeeds].sum(axis=1), belongs[:, ~succeeds].sum(axis=1)
    area = float(wins.sum() / (successes.sum() * failures.sum()))
    if k == 1:
        return Interval(area, 0.0, 1.0)
    resamples = resampled_counts(k).astype(float)
    every = (resamples @ successes) * (resamples @ failures)
    has_both = every > 0
    areas = np.sum((resamples @ wins) * resamples, axis=1)[has_both] / every[has_both]
    if np.ptp(areas) < 1e-12:
        return Interval(area, *newcombe_limits(area, int(np.sum(successes > 0)), int(np.sum(failures > 0))))
    beyond = expanded_tail(k)
    lower, upper = np.quantile(areas, (beyond, 1 - beyond))
    return Interval(area, min(float(lower), area), max(float(upper), area))


def newcombe_limits(area: float, m: int, n: int) -> tuple[float, float]:
    """Return the limits of an area under the curve of m independent successes and n independent failures.

    Newcombe's method 5 (2006, Statistics in Medicine 25:559): the limits are the values of θ whose distance from the
    estimate is the score interval's quantile times the square root of `area_variance`. Like Wilson's, they stay within
    0 and 1 and do not shrink to nothing when the two groups do not overlap.
    """
    quantile = float(stats.norm.ppf((1 + LEVEL) / 2))

    def excess(theta: float) -> float:
        return (area - theta) ** 2 - quantile**2 * area_variance(theta, m, n)

    def limit(first: float, last: float) -> float:
        return float(optimize.root_scalar(excess, bracket=(first, last)).root)

    nearly = 1e-12  # for an estimate at an end of the range, the excess is 0 there as well
    lower = limit(0.0, min(area, 1 - nearly)) if area > 0 else 0.0
    upper = limit(max(area, nearly), 1.0) if area < 1 else 1.0
    return lower, upper


def area_variance(theta: float, m: int, n: int) -> float:
    """Return the variance of U/(mn) around θ for exponential scores (Hanley and McNeil 1982).

    θ(1-θ) [1 + N (1-θ)/(2-θ) + N θ/(1+θ)] / (mn), where N = (m + n)/2 - 1 replaces both m - 1 and n - 1.
    """
    more = (m + n) / 2 - 1
    return theta * (1 - theta) * (1 + more * (1 - theta) / (2 - theta) + more * theta / (1 + theta)) / (m * n)

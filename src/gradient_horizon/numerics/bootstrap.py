"""Percentile intervals from resampled clusters, such as the seeds of an ensemble. Loads no JAX."""

import math

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy import stats

LEVEL = 0.95  # confidence level of every interval
RESAMPLES = 4000  # about twenty lie beyond each limit with eight clusters, a hundred with many


def resampled_counts(clusters: int) -> Int[np.ndarray, "R k"]:
    """How often each of k `clusters` is drawn in each of `RESAMPLES` samples of k; the same at every call."""
    return np.random.default_rng(0).multinomial(clusters, np.full(clusters, 1 / clusters), RESAMPLES)


def expanded_tail(clusters: int) -> float:
    """The share of resamples beyond each limit of a percentile interval from k > 1 `clusters`.

    That of √(k/(k-1)) t under the normal distribution, where t is the quantile of Student's distribution with k - 1
    degrees of freedom: the expanded percentile interval of Hesterberg 2015, The American Statistician 69:371. Without
    it, a few clusters give too short an interval.
    """
    quantile = stats.t.ppf((1 + LEVEL) / 2, clusters - 1)
    return float(stats.norm.cdf(-math.sqrt(clusters / (clusters - 1)) * quantile))


def ordered_limits(values: ArrayLike, clusters: int) -> Float[np.ndarray, "2 ..."]:
    """The limits of the values (R, ...) of a statistic that has no midpoints: infinities, whole numbers, order.

    Each limit is one of the values, the outer one of the two between which the quantile lies.
    """
    tail = expanded_tail(clusters)
    ordered = np.sort(np.asarray(values, np.float64), axis=0)
    last = len(ordered) - 1
    return np.stack([ordered[math.floor(tail * last)], ordered[math.ceil((1 - tail) * last)]])

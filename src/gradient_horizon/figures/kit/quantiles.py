"""Medians and bands over seeds, and curves thinned to what a page can show."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

LEVELS = (0.1, 0.5, 0.9)  # the lower edge of a band, the median, the upper edge
MOST_POINTS = 500  # per curve: more would be closer together than the width of a printed line


def quantiles(
    values: Float[np.ndarray, "..."], levels: Sequence[float] = LEVELS, axis: int = -1
) -> Float[np.ndarray, "..."]:
    """Compute `np.nanquantile` for values that may be -inf, levels along a leading axis; NaN if there is no value.

    Between -inf and a number the result is -inf, not NaN. A value of +inf counts as not measured.
    """
    values = np.moveaxis(np.where(values == np.inf, np.nan, values), axis, -1)
    ordered = np.sort(values, axis=-1)  # NaN last
    last = np.maximum(np.sum(~np.isnan(ordered), axis=-1, keepdims=True) - 1, 0)
    by_level = []
    for level in levels:
        place = level * last
        below = np.floor(place).astype(int)
        fraction = place - below
        low = np.take_along_axis(ordered, below, axis=-1)
        high = np.take_along_axis(ordered, np.minimum(below + 1, last), axis=-1)
        with np.errstate(invalid="ignore"):
            between = low + fraction * (high - low)
        by_level.append(np.where((fraction == 0) | np.isneginf(low), low, between)[..., 0])
    return np.stack(by_level)


def is_majority(
    lost: Bool[np.ndarray, "..."], measured: Bool[np.ndarray, "..."], axis: int = -1
) -> Bool[np.ndarray, "..."]:
    """True where more than half of the measured networks are lost, so that the rest say little about all of them."""
    return 2 * np.sum(lost & measured, axis=axis) > np.sum(measured, axis=axis)


def over_seeds(values: Float[np.ndarray, "G S ..."], finite: Float[np.ndarray, "G S"]) -> Float[np.ndarray, "3 G ..."]:
    """Return the 10, 50 and 90 % quantiles over seeds; NaN if most networks overflow.

    `finite` is NaN where there is no network.
    """
    finite = np.asarray(finite, float)
    lost = is_majority(finite == 0, ~np.isnan(finite))
    return quantiles(np.where(lost.reshape(-1, *[1] * (values.ndim - 1)), np.nan, values), axis=1)


def _starts(length: int, buckets: int) -> Int[np.ndarray, " B"]:
    return np.linspace(0, length, buckets, endpoint=False).astype(int)


def thin_curve(
    x: Float[np.ndarray, " T"] | Int[np.ndarray, " T"], y: Float[np.ndarray, " T"], most: int = MOST_POINTS
) -> tuple[np.ndarray, np.ndarray]:
    """Return at most `most` points of a curve, including its ends and the lowest and highest point of every stretch."""
    if len(x) <= most:
        return x, y
    kept = {0, len(x) - 1}
    starts = _starts(len(x), (most - 2) // 2)
    lowest, highest = np.where(np.isnan(y), np.inf, y), np.where(np.isnan(y), -np.inf, y)
    for start, stop in zip(starts, [*starts[1:], len(x)], strict=True):
        kept.update((start + lowest[start:stop].argmin(), start + highest[start:stop].argmax()))
    places = np.array(sorted(kept))
    return x[places], y[places]


def thin_band(
    x: Float[np.ndarray, " T"] | Int[np.ndarray, " T"],
    lower: Float[np.ndarray, " T"],
    upper: Float[np.ndarray, " T"],
    most: int = MOST_POINTS,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a band of at most `most` points that contains the whole of the one given."""
    if len(x) <= most:
        return x, lower, upper
    starts = _starts(len(x), most)
    return x[starts], np.fmin.reduceat(lower, starts), np.fmax.reduceat(upper, starts)

"""Lazily joined arrays, assembled as they are read, for results larger than memory."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

LARGE = 2**24  # bytes; larger variables are written in portions, and in large results joined as they are read


class Placed(NamedTuple):
    """A variable, and the indices that it fills along each dimension of the joined array.

    Its own dimensions come last; along each dimension before those it has a single index.
    """

    places: list[np.ndarray[Any, Any]]
    variable: xr.Variable


class JoinedArray(BackendArray):
    """An array assembled from the `placed` variables, equal to `fill` elsewhere; only the requested values are read."""

    def __init__(self, shape: Sequence[int], dtype: np.dtype[Any], fill: Any, placed: Sequence[Placed]):
        self.shape, self.dtype, self.fill, self.placed = tuple(shape), dtype, fill, placed

    def __getitem__(self, key: indexing.ExplicitIndexer) -> np.ndarray[Any, Any]:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self.read)

    def whole(self) -> np.ndarray[Any, Any]:
        """Return all values; each variable is placed in time proportional to its size, however large the array is."""
        values = np.full(self.shape, self.fill, self.dtype)
        for one in self.placed:
            values[_grid(one.places)] = one.variable.values
        return values

    def read(self, key: Sequence[Any]) -> np.ndarray[Any, Any]:
        """Return the values at `key`, which holds an index, a slice or an array of indices for each dimension."""
        wanted = [np.arange(length)[at] for length, at in zip(self.shape, key, strict=True)]
        values = np.full([at.size for at in wanted], self.fill, self.dtype)
        for one in self.placed:
            here, there = [], []
            for length, at, places in zip(self.shape, wanted, one.places, strict=True):
                index = np.full(length, -1)
                index[places] = np.arange(len(places))
                sources = index[np.atleast_1d(at)]
                here.append(np.flatnonzero(sources >= 0))
                there.append(sources[sources >= 0])
            if all(places.size for places in here):
                own = there[len(there) - one.variable.ndim :]
                values[_grid(here)] = one.variable[tuple(map(_as_slice, own))].values
        return values.reshape([at.size for at in wanted if at.ndim])


def _as_slice(places: np.ndarray[Any, Any]) -> Any:
    """Return a slice if the indices are consecutive, since files are read faster by slices."""
    if not len(places):
        return slice(0, 0)
    first, last = int(places[0]), int(places[-1])
    follow = last - first == len(places) - 1 and (len(places) == 1 or bool((np.diff(places) == 1).all()))
    return slice(first, last + 1) if follow else places


def _grid(places: Sequence[np.ndarray[Any, Any]]) -> Any:
    slices = [_as_slice(along) for along in places]
    return tuple(slices) if all(isinstance(along, slice) for along in slices) else np.ix_(*places)


def is_covered(shape: Sequence[int], placed: Sequence[Placed]) -> bool:
    """True if the placed variables leave no element of an array of this shape empty."""
    covered = np.zeros(shape, bool)
    for one in placed:
        covered[_grid(one.places)] = True
    return bool(covered.all())


def boxes(shape: Sequence[int], most: int) -> Iterator[tuple[slice, ...]]:
    """Yield consecutive boxes of at most `most` elements that together fill an array of this shape, in C order."""
    if not shape:
        yield ()
        return
    inner = int(np.prod(shape[1:]))
    step = max(1, most // max(inner, 1))
    for start in range(0, shape[0], step):
        along = slice(start, min(start + step, shape[0]))
        for within in boxes(shape[1:], most):
            yield (along, *within)

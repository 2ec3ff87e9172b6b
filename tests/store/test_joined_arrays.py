"""What is put together as it is read is what NumPy puts together at once."""

import math

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from xarray.core.indexing import LazilyIndexedArray

from gradient_horizon.store.joined_arrays import JoinedArray, Placed, boxes

SHAPES = st.lists(st.integers(0, 6), max_size=4).map(tuple)


@given(SHAPES, st.integers(1, 50))
@settings(deadline=None)
def test_boxes_fill_an_array_once_and_in_order(shape, most):
    whole = np.arange(math.prod(shape)).reshape(shape)
    pieces = [whole[box] for box in boxes(shape, most)]
    assert [number for piece in pieces for number in np.ravel(piece).tolist()] == whole.ravel().tolist()
    assert all(piece.size <= most for piece in pieces)


@st.composite
def joined_and_whole(draw):
    """A joined array over (a swept setting, "x", "y"), and the same built by NumPy."""
    shape = tuple(draw(st.integers(1, 5)) for _ in range(3))
    whole, pieces = np.full(shape, np.nan), []
    for number in range(draw(st.integers(0, 3))):
        places = [np.array([draw(st.integers(0, shape[0] - 1))])]
        for length in shape[1:]:
            places.append(np.array(draw(st.lists(st.integers(0, length - 1), min_size=1, unique=True))))
        values = 100.0 * number + np.arange(len(places[1]) * len(places[2])).reshape(len(places[1]), len(places[2]))
        whole[np.ix_(*places)] = values
        pieces.append(Placed(places, xr.Variable(("x", "y"), values)))
    return JoinedArray(shape, np.dtype(float), np.nan, pieces), whole


def keys(length):
    return st.one_of(
        st.integers(-length, length - 1),
        st.slices(length).filter(lambda at: (at.step or 1) > 0),
        st.lists(st.integers(0, length - 1), min_size=1, max_size=4).map(np.array),
    )


@given(st.data())
@settings(deadline=None)
def test_any_part_is_that_of_the_whole(data):
    joined, whole = data.draw(joined_and_whole())
    variable = xr.Variable(("setting", "x", "y"), LazilyIndexedArray(joined))
    np.testing.assert_array_equal(variable.values, whole)
    key = tuple(data.draw(keys(length)) for length in whole.shape)
    np.testing.assert_array_equal(variable[key].values, xr.Variable(variable.dims, whole)[key].values)


def test_nothing_is_read_but_what_is_asked_for():
    class Unread(xr.Variable):
        def __getitem__(self, key):
            raise AssertionError("read")

    pieces = [
        Placed([np.array([0]), np.arange(2)], xr.Variable("x", [1.0, 2.0])),
        Placed([np.array([1]), np.arange(2)], Unread("x", [0.0, 0.0])),
    ]
    joined = JoinedArray((2, 2), np.dtype(float), np.nan, pieces)
    np.testing.assert_array_equal(joined.read((0, slice(None))), [1.0, 2.0])
    with pytest.raises(AssertionError, match="read"):
        joined.read((1, slice(None)))

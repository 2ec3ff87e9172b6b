"""Counts are whole numbers, of whatever library."""

import numpy as np
import pytest

from gradient_horizon import is_parallelisable
from gradient_horizon.names.rules import whole_number


@pytest.mark.parametrize("value", [3, np.int64(3), np.array(3)])
def test_integers_are_taken(value):
    assert whole_number("count", value) == 3


@pytest.mark.parametrize("value", [1.5, 2.0, True, "3", None, 0, np.float64(2)])
def test_anything_else_is_one_line(value):
    with pytest.raises(ValueError, match=r"^count: .*; allowed: a whole number of at least 1$"):
        whole_number("count", value)


def test_a_negative_error_does_not_turn_the_verdict():
    with pytest.raises(ValueError, match=r"standard_error: -1.0; allowed: numbers of at least 0"):
        is_parallelisable(0.1, -1.0)
    assert is_parallelisable([-1.0, 1.0, 0.1], [0.1, 0.1, 1.0]).tolist() == [
        int(is_parallelisable(-1.0, 0.1)),
        int(is_parallelisable(1.0, 0.1)),
        int(is_parallelisable(0.0, 1.0)),
    ]

import numpy as np
import pytest

from gradient_horizon.horizon import gradient_horizon, neutral_scale
from gradient_horizon.names import HORIZON_KINDS


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
    value, found = gradient_horizon(log_norm + 1e-13 * np.sign(-np.array(decades)), 16)
    np.testing.assert_equal(float(value), expected)
    assert HORIZON_KINDS[int(found)] == kind


def test_a_geometric_gradient_has_the_horizon_of_its_rate():
    rates = np.array([0.5, 0.9, 1.2])
    log_norm = np.log(rates)[:, None] * np.arange(1, 200)
    horizon, _ = gradient_horizon(log_norm, 1, threshold=2.0)
    np.testing.assert_array_equal(horizon, np.floor(2 * np.log(10) / np.abs(np.log(rates))) + 1)


def test_the_neutral_scale_is_interpolated():
    scales = np.array([0.5, 1.0, 1.5, 2.0])
    assert neutral_scale(scales, np.array([-4.0, -1.0, 3.0, 5.0])) == pytest.approx(1.125)
    assert neutral_scale(scales, np.array([-np.inf, -np.inf, 3.0, 5.0])) == 1.5
    assert np.isnan(neutral_scale(scales, np.array([-4.0, -3.0, -2.0, -1.0])))

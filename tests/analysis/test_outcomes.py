"""What became of networks whose fate is given, and what their known gradients promised."""

import math

import numpy as np
import pytest
from training_results import SPREAD, trained

from gradient_horizon.analysis import outcomes
from gradient_horizon.analysis.intervals import area_under_curve, share
from gradient_horizon.store.datasets import join

SOLVED = [[-1, 10, 20, -1], [10, 10, 40, -1]]
DIVERGED = [[30, -1, -1, -1], [-1, -1, -1, 10]]


def test_shares_count_the_networks_that_there_are():
    jobs = [
        trained({"cell": "tanh", "clip": "book"}, solved=SOLVED),
        trained({"cell": "relu", "clip": "none"}, solved=20, seeds=2),
    ]
    dataset = join(jobs)
    assert outcomes.share_solved(dataset.sel(cell="tanh").isel(clip=list(dataset["clip"].values).index("book"))) == (
        share(5, 8)
    )
    assert outcomes.share_solved(dataset) == share(5 + 4, 8 + 4)
    assert int(outcomes.exists(dataset).sum()) == 12


def test_what_is_held_is_the_last_number():
    values = np.array([[1.0, np.nan, 3.0, np.nan, np.nan], [np.nan, np.nan, 2.0, 5.0, np.nan], [np.nan] * 5])
    expected = [[1, 1, 3, 3, 3], [np.nan, np.nan, 2, 5, 5], [np.nan] * 5]
    np.testing.assert_array_equal(outcomes.held(values), expected)


def test_the_final_error_is_the_last_recorded_and_none_of_a_network_that_diverged():
    data = trained(solved=SOLVED, diverged=DIVERGED)
    data["error"][0, 0, 0, 1, 2:] = np.nan  # followed until solved
    found = outcomes.final_error(data).values[0, 0]
    np.testing.assert_array_equal(found, [[np.nan, 0.0, 0.0, 0.75], [0.0, 0.0, 0.0, np.nan]])


def test_the_best_is_where_most_solve_the_task():
    solved = np.full((3, 2, 2, 4), -1)
    solved[1, 1, :, :3] = 10
    solved[2, 0, 0, :2] = 10
    data = trained(solved=solved, learning_rates=(0.01, 0.1, 1.0), clip_thresholds=(1.0, 10.0))
    chosen, values = outcomes.best_over(data, ("learning_rate", "clip_threshold"))
    assert values == {"learning_rate": 0.1, "clip_threshold": 10.0}
    assert outcomes.share_solved(chosen) == share(6, 8)
    one, values = outcomes.best_over(data.isel(weight_scale=0), ("learning_rate",))
    assert values == {"learning_rate": 0.1}
    assert one.sizes["clip_threshold"] == 2


def test_of_equal_numbers_the_lowest_error_is_best_and_a_diverged_network_is_all_wrong():
    diverged = np.full((3, 1, 1, 4), -1)
    diverged[0, ..., :1] = 20
    data = trained(diverged=diverged, learning_rates=(0.01, 0.1, 1.0), weight_scales=(1.0,))
    data["error"][2, ..., -1] = 0.6
    assert outcomes.best_over(data, ("learning_rate",))[1] == {"learning_rate": 1.0}
    data["error"][2, ..., -1] = 0.8  # above the 0.75 of the second, below the mean with a diverged network
    assert outcomes.best_over(data, ("learning_rate",))[1] == {"learning_rate": 0.1}


def test_an_axis_that_makes_no_difference_is_not_named():
    data = trained(clip_thresholds=(1.0, 10.0))
    chosen, values = outcomes.best_over(data, ("learning_rate", "clip_threshold"))
    assert values == {}
    assert chosen["clip_threshold"] == 1.0


@pytest.mark.parametrize("padded", [False, True])
def test_growth_and_horizon_are_those_of_the_first_record(padded):
    data = trained(weight_scales=(0.1, 0.9, 3.0), steps=20, seeds=3)
    data["log_norm"][..., 1:, :] = 0.0
    if padded:
        longer = trained({"steps": 30}, weight_scales=(0.1, 0.9, 3.0), steps=30, seeds=3)
        data.attrs["swept"] = '{"steps": 20}'
        data = join([data, longer]).sel(steps=20)
    growth = np.log((0.1, 0.9, 3.0))[:, None] + SPREAD * np.arange(3)
    np.testing.assert_allclose(outcomes.initial_growth(data)[0, 0], growth, rtol=1e-9)
    expected = np.minimum(np.floor(3 * math.log(10) / np.abs(growth)) + 1, 21)
    np.testing.assert_array_equal(outcomes.initial_horizon(data)[0, 0], expected)


def test_what_the_horizon_foretells_is_its_area():
    data = trained(weight_scales=(0.1, 0.9), steps=20, solved=[[-1, -1, 10, -1], [10, -1, 10, 10]])
    horizon, solved = outcomes.initial_horizon(data).ravel(), outcomes.has_solved(data).values.ravel()
    seeds = np.tile(np.arange(4), 2)  # each at both scales
    assert outcomes.horizon_auc(data) == area_under_curve(horizon, solved, seeds)
    assert outcomes.horizon_auc(data.transpose("seed", ...)) == outcomes.horizon_auc(data)
    data["log_norm"][0, 0, 0, 0, 0] = np.nan  # without a horizon
    assert outcomes.horizon_auc(data) == area_under_curve(horizon[1:], solved[1:], seeds[1:])
    assert outcomes.horizon_auc(trained(solved=10)) is None

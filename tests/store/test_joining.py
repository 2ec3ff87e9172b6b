"""Joins of results: every number finds its place, and what does not belong together is refused."""

import json

import numpy as np
import pytest
import xarray as xr
from stored_results import made, of_version, write

from gradient_horizon import names
from gradient_horizon.store import records, sweep_folders
from gradient_horizon.store.datasets import load, open_job, save
from gradient_horizon.store.joining import join, settings_of
from gradient_horizon.store.records import ResultError


def test_every_number_finds_its_place():
    jobs = [
        made({"cell": "tanh", "steps": 10}, seeds=(0, 1), scales=(0.5, 1.0), lags=10),
        made({"cell": "relu", "steps": 4}, seeds=(1, 7), scales=(1.0, 0.25), lags=4),
    ]
    joined = join(jobs)
    assert joined.log_norm.dims == ("cell", "steps", "norm", "weight_scale", "seed", "lag")
    assert joined.horizon.dims == ("cell", "steps", "weight_scale", "seed")
    assert joined.state_size.dims == ("cell", "steps")
    assert joined.weight_scale.values.tolist() == [0.25, 0.5, 1.0]
    assert joined.seed.values.tolist() == [0, 1, 7]
    assert joined.steps.values.tolist() == [4, 10]
    assert joined.lag.values.tolist() == list(range(1, 11))
    found = 0
    for job in jobs:
        swept = json.loads(job.attrs["swept"])
        for name in ("log_norm", "horizon", "horizon_kind", "first_bad_step", "finite", "state_size"):
            at = joined[name].sel({**swept, **{dim: job[dim] for dim in job[name].dims}})
            np.testing.assert_array_equal(at.values, job[name].values)
        found += job.log_norm.size
    assert int(joined.log_norm.notnull().sum()) == found
    assert int((joined.horizon_kind != "").sum()) == 8
    assert int(joined.state_size.notnull().sum()) == 2


def test_whole_numbers_stay_whole_where_nothing_is_missing():
    whole = join([made({"cell": "tanh"}), made({"cell": "relu"})])
    assert (whole.first_bad_step.dtype, whole.finite.dtype, whole.state_size.dtype.kind) == (np.int32, bool, "i")
    holes = join([made({"cell": "tanh"}), made({"cell": "relu"}, seeds=(5,))])
    assert (holes.first_bad_step.dtype, holes.finite.dtype, holes.state_size.dtype.kind) == (
        np.float64,
        np.float64,
        "i",
    )
    assert np.isnan(holes.first_bad_step.sel(cell="relu", seed=0)).all()
    assert np.isnan(holes.finite.sel(cell="relu", seed=0)).all()


def test_names_come_in_their_own_order_and_numbers_ascend():
    joined = join([made({"cell": cell, "bias_scale": bias}) for cell in reversed(names.CELLS) for bias in (0.5, 0.1)])
    assert joined.cell.values.tolist() == list(names.CELLS)
    assert joined.bias_scale.values.tolist() == [0.1, 0.5]


def test_the_order_of_the_jobs_does_not_matter():
    jobs = [made({"cell": c, "weights": w}) for c in ("relu", "tanh") for w in ("orthogonal", "gaussian")][:3]
    xr.testing.assert_equal(join(jobs), join(jobs[::-1]))


def test_jobs_that_split_seeds_and_scales_join_along_them():
    whole = made({"cell": "tanh"}, seeds=range(4), scales=(0.5, 1.0))
    parts = [made({"cell": "tanh"}, seeds=s, scales=g) for s in ((0, 3), (1, 2)) for g in ((0.5,), (1.0,))]
    kinds = "horizon_kind"  # made by position, so of no use here
    xr.testing.assert_equal(join(parts).drop_vars(kinds), join([whole]).drop_vars(kinds))


def test_a_job_that_did_not_sweep_a_setting_stands_at_its_own_value_of_it():
    joined = join([made({"cell": "tanh"}, config={"steps": 5}), made({"cell": "tanh", "steps": 9})])
    assert joined.steps.values.tolist() == [5, 9]
    assert joined.log_norm.notnull().all()


def test_null_among_numbers_is_nan_and_they_stay_numbers(tmp_path):
    joined = join([made({"input_size": size}) for size in (None, 3, 12)])
    np.testing.assert_array_equal(joined.input_size, [3.0, 12.0, np.nan])
    assert joined.log_norm.notnull().all()
    assert json.loads(joined.attrs["swept"]) == {"input_size": [3, 12, None]}
    save(joined, tmp_path / "collected.nc")
    for dataset in (joined, load(tmp_path / "collected.nc")):
        for label, size in ((3, 3), (12.0, 12), (np.nan, None)):
            settings = settings_of(dataset.sel(input_size=label))
            assert settings == {"input_size": size}
            assert type(settings["input_size"]) is type(size)


def test_null_alone_is_nan_too():
    joined = join([made({"input_size": None})])
    np.testing.assert_array_equal(joined.input_size, [np.nan])
    assert settings_of(joined.isel(input_size=0)) == {"input_size": None}


def test_null_among_words_is_a_word():
    joined = join([made({"initialisation": name}) for name in (None, "irnn")])
    assert joined.initialisation.values.tolist() == ["irnn", "null"]
    assert settings_of(joined.sel(initialisation="null")) == {"initialisation": None}
    assert settings_of(joined.sel(initialisation="irnn")) == {"initialisation": "irnn"}


def test_words_that_an_earlier_version_made_of_numbers_mean_the_numbers():
    joined = join([made({"input_size": size}) for size in (None, 3)]).assign_coords(input_size=["3", "null"])
    assert settings_of(joined.sel(input_size="3")) == {"input_size": 3}
    assert settings_of(joined.sel(input_size="null")) == {"input_size": None}


def test_a_swept_setting_keeps_its_name_beside_a_variable_of_that_name():
    """A result names what it used: where null is swept, the task's own."""
    jobs = [
        made({"solved_below": value}).assign(solved_below=((), used, {"long_name": "error", "units": "1"}))
        for value, used in ((0.2, 0.2), (None, 0.01))
    ]
    joined = join(jobs)
    np.testing.assert_array_equal(joined.solved_below, [0.2, np.nan])
    np.testing.assert_array_equal(joined.solved_below_used, [0.2, 0.01])
    assert joined.solved_below_used.attrs["units"] == "1"
    assert join([job.assign_attrs(swept="{}") for job in jobs[:1]]).solved_below == 0.2


def test_a_swept_setting_with_the_name_of_a_dimension_is_refused():
    with pytest.raises(ResultError, match=r"^lag: a swept setting, and a dimension of the result"):
        join([made({"lag": 3})])


SETTINGS = {"experiment": "jacobian", "cell": "tanh", "hidden_size": 8, "steps": 5, "bias_scale": 0.0}


@pytest.mark.parametrize(
    ("swept", "changed", "named"),
    [
        ({"cell": "relu"}, {"hidden_size": 16}, r"hidden_size \(8 in cell=tanh, 16 in cell=relu\)"),
        ({"weights": "orthogonal"}, {"steps": 9}, r"steps \(5 in cell=tanh, 9 in weights=orthogonal\)"),
        ({}, {"bias_scale": 0.5}, r"bias_scale \(0.0 in cell=tanh, 0.5 in single\)"),
        ({"cell": "relu"}, {"experiment": "lyapunov"}, r"experiment .'jacobian' in cell=tanh, 'lyapunov' in cell=relu"),
        ({"cell": "relu"}, {"unknown_here": 3}, "unknown_here .None in cell=tanh, 3 in cell=relu"),
        ({"cell": "relu"}, {"noise_scale": 3.0}, "noise_scale .1.0 in cell=tanh, 3.0 in cell=relu"),  # its default
    ],
)
def test_jobs_that_differ_in_what_is_no_axis_are_refused_by_name(tmp_path, swept, changed, named):
    """By `join`, and by `load` of what an earlier version or somebody's hand left in one folder."""
    jobs = [made({"cell": "tanh"}, config=SETTINGS), made(swept, config={**SETTINGS, **swept, **changed})]
    with pytest.raises(
        ResultError, match=rf"^its jobs differ in settings .*: {named}.?; allowed: jobs that"
    ) as refused:
        join(jobs)
    assert "\n" not in str(refused.value)
    folders = [write(tmp_path / records.job_name(json.loads(job.attrs["swept"])), job) for job in jobs]
    sweep_folders.write_plan(tmp_path, {folder.name: 4 for folder in folders})
    with pytest.raises(ResultError, match=rf"^{tmp_path}: its jobs differ in settings .*: {named}"):
        load(tmp_path)


def test_what_does_not_decide_the_numbers_and_lists_may_differ():
    same = {**SETTINGS, "noise_scale": 1.0}  # its default, which the others leave out
    jobs = [
        made({"cell": "tanh"}, config={**SETTINGS, "seeds": 2, "batch_size": 3}),
        made({"cell": "relu"}, seeds=(2, 3), config={**same, "cell": "relu", "seeds": [2, 3], "batch_size": 4}),
    ]
    assert join(jobs).sizes["seed"] == 4


def test_what_the_axes_decide_may_differ_with_them():
    """The usual steps of a task, the usual transient of so many steps, the cell of a published initialisation."""
    tasks = [
        made({"task": task}, config={"experiment": "training", "task": task, "distance": None, "steps": steps})
        for task, steps in (("digits", 64), ("adding", 20))
    ]
    assert join(tasks).sizes["task"] == 2
    odd = made({"task": "adding"}, config={"experiment": "training", "task": "adding", "distance": None, "steps": 21})
    with pytest.raises(ResultError, match=r"steps \(64 in task=digits, 21 in task=adding\)"):
        join([tasks[0], odd])
    lengths = [
        made({"steps": steps}, config={"experiment": "lyapunov", "steps": steps, "transient": transient})
        for steps, transient in ((50, 12), (1300, 300))
    ]
    assert join(lengths).sizes["steps"] == 2
    starts = [
        made({"initialisation": start}, config={"experiment": "training", "initialisation": start, "cell": cell})
        for start, cell in (("irnn", "relu"), ("sigmoid", "sigmoid"), (None, "tanh"))
    ]
    assert join(starts).sizes["initialisation"] == 3


def test_the_settings_are_those_of_the_jobs_at_that_place():
    tasks = [
        made({"task": task}, config={"experiment": "training", "task": task, "distance": None, "steps": steps})
        for task, steps in (("digits", 64), ("adding", 20))
    ]
    joined = join(tasks)
    assert "steps" not in settings_of(joined)
    assert settings_of(joined.sel(task="adding"))["steps"] == 20


def test_networks_of_two_versions_do_not_join(tmp_path):
    write(tmp_path / "a", of_version(None, {"cell": "tanh"}))
    write(tmp_path / "b", of_version(2, {"cell": "relu"}))
    match = r"^draws: version 1 \(cell=tanh\); version 2 \(cell=relu\); allowed: results of one version \(.*\)$"
    with pytest.raises(ResultError, match=match):
        load(tmp_path)
    with pytest.raises(ResultError, match=match):
        join([open_job(tmp_path / name) for name in "ba"])

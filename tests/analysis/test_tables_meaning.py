"""The last words of a run: what its numbers mean, and the picture to look at first."""

import json
from pathlib import Path

import pytest
import xarray as xr

from gradient_horizon import names
from gradient_horizon.analysis.tables import meaning
from gradient_horizon.analysis.tables.meaning import meaning_lines
from gradient_horizon.figures import sweep_figures
from gradient_horizon.names import declare
from gradient_horizon.settings.identity import as_dict
from gradient_horizon.settings.validation import checked


def dataset(*configs, **variables):
    made = [as_dict(checked(config)) for config in configs]
    joined = {"jobs": json.dumps([{"config": config} for config in made])} if len(made) > 1 else {}
    single = {"config": json.dumps(made[0])} if len(made) == 1 else {}
    return xr.Dataset(variables, attrs={"experiment": made[0]["experiment"], **joined, **single})


@pytest.mark.parametrize("experiment", names.EXPERIMENTS)
def test_every_experiment_has_a_meaning(experiment):
    own = declare.declared(declare.Experiment)[experiment].defaults
    lines = meaning_lines(dataset({"experiment": experiment, **own}), Path("results/one"))
    assert len(lines) == 3
    assert not any("{" in line for line in lines)
    assert lines[1].startswith("Look at results/one/")
    assert "gradient_horizon.load('results/one')" in lines[2]


def test_the_values_of_all_jobs_are_named():
    of_two = dataset(
        {"experiment": "jacobian", "horizon_threshold": 2, "steps": 10},
        {"experiment": "jacobian", "horizon_threshold": 3, "steps": 10},
    )
    assert "2 or 3 decades; beyond: it had done neither after T = 10 steps" in meaning_lines(of_two, Path("a"))[0]


def test_a_limit_of_the_task_is_the_one_that_was_used():
    of_task = dataset({"experiment": "training"}, solved_below=("task", [0.01, 0.04]))
    assert "lies below 0.01 or 0.04;" in meaning_lines(of_task, Path("a"))[0]


def test_every_picture_that_is_named_is_drawn(tmp_path):
    source = Path(sweep_figures.__code__.co_filename).parent
    drawn = "".join(path.read_text() for path in source.glob("*.py"))
    for _, picture in meaning._MEANING.values():
        assert f'"{picture}"' in drawn, picture

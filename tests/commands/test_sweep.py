"""From a command line to jobs."""

import json
import re
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gradient_horizon import names
from gradient_horizon.commands import jobs, parser, sweep
from gradient_horizon.commands.sweep import plan
from gradient_horizon.names.rules import SettingError
from gradient_horizon.settings import identity, presets, validation
from gradient_horizon.store import records, sweep_folders
from gradient_horizon.store.records import LONGEST_JOB_NAME, job_name
from gradient_horizon.tasks import limits


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert sorted(path.name for path in tmp_path.iterdir()) in ([], ["results"])


def job_names(*overrides: str) -> list[str]:
    return [job.name for job in plan(overrides, multirun=True).jobs]


def test_the_product_of_all_axes_whatever_their_order():
    one = plan(["cell=tanh,relu", "weights=gaussian,orthogonal", "steps=7", "name=first"], multirun=True)
    other = plan(["name=first", "steps=7", "weights=gaussian,orthogonal", "cell=tanh,relu"], multirun=True)
    assert one == other
    assert {job.name for job in one.jobs} == {
        f"cell={cell},weights={weights}" for cell in ("tanh", "relu") for weights in ("gaussian", "orthogonal")
    }
    assert one.folder == Path("results/first")
    for job in one.jobs:
        assert job.folder == one.folder / job.name
        assert job.swept == {"cell": job.config.cell, "weights": job.config.weights}
        assert job.config.steps == 7


def test_each_job_has_as_many_steps_as_are_usual_for_its_task():
    found = plan(["experiment=training", "task=digits,adding,story"], multirun=True)
    assert {job.swept["task"]: job.config.steps for job in found.jobs} == {"digits": 64, "adding": 20, "story": 33}
    asked = plan(["experiment=training", "task=digits,adding", "steps=32"], multirun=True)
    assert [job.config.steps for job in asked.jobs] == [32, 32]
    assert plan([]).jobs[0].config.steps == 100
    story = plan(["experiment=training", "task=story", "distance=9,15"], multirun=True)
    assert [job.config.steps for job in story.jobs] == [33, 39]
    with pytest.raises(SettingError, match="steps: 'a sweep with null' is not allowed"):
        plan(["steps=null,30"], multirun=True)


def test_lengths_that_tasks_decide_make_another_sweep_than_one_length_for_all():
    usual, asked = (
        plan(["experiment=training", "task=adding,temporal_order", *more], multirun=True) for more in ([], ["steps=30"])
    )
    assert usual.folder != asked.folder
    alone, spelt_out = (plan(["experiment=training", "task=temporal_order", *more]) for more in ([], ["steps=30"]))
    assert alone == spelt_out


def test_one_job_without_a_sweep():
    found = plan(["cell=relu", "steps=5", "output=results"])
    assert [job.name for job in found.jobs] == ["single"]
    assert found.jobs[0].swept == {}
    assert found.jobs[0].config == validation.checked({"cell": "relu", "steps": 5, "name": found.folder.name})


@pytest.mark.parametrize(
    ("override", "values"),
    [
        ("steps=3,5", [3, 5]),
        ("steps=range(1,4)", [1, 2, 3]),
        ("steps=range(2,9,3)", [2, 5, 8]),
        ("steps=choice(4,6)", [4, 6]),
        ("bias_scale=0,0.5", [0.0, 0.5]),
        ("recheck=true,false", [True, False]),
        ("input_size=null", [None]),
    ],
)
def test_sweeps_in_the_grammar_of_hydra(override, values):
    key = override.partition("=")[0]
    assert [getattr(job.config, key) for job in plan([override], multirun=True).jobs] == values


def test_a_setting_that_is_repeated_has_its_last_value():
    assert plan(["steps=3", "steps=4"]).jobs[0].config.steps == 4


def test_of_sweeps_and_values_that_are_repeated_the_last_one_wins():
    one = plan(["cell=tanh,relu", "steps=3,4", "cell=gru"], multirun=True)
    assert [(job.name, job.config.cell, job.config.steps) for job in one.jobs] == [
        ("steps=3", "gru", 3),
        ("steps=4", "gru", 4),
    ]
    assert [job.config.cell for job in plan(["cell=gru", "cell=tanh,relu"], multirun=True).jobs] == ["tanh", "relu"]
    assert plan(["cell=tanh,relu", "cell=gru"]) == plan(["cell=gru"])


def test_the_usual_transient_fits_the_steps():
    def transients(*overrides):
        found = plan(["experiment=lyapunov", *overrides], multirun=True).jobs
        return [(job.config.steps, job.config.transient) for job in found]

    assert transients() == [(1300, 300)]
    assert transients("steps=50") == [(50, 12)]
    assert transients("steps=1") == [(1, 0)]
    assert transients("steps=1,50,5000") == [(1, 0), (50, 12), (5000, 300)]
    assert transients("steps=50", "transient=0") == [(50, 0)]
    with pytest.raises(SettingError, match="transient: 50 is not allowed; allowed: less than steps=50"):
        transients("steps=50", "transient=50")
    with pytest.raises(SettingError, match="transient: 'a sweep with null' is not allowed"):
        transients("transient=null,3")


def test_settings_tells_what_an_experiment_takes_for_what_is_not_set(capsys):
    """As the command uses it: `conf/experiment/` has no default of its own that is not told."""
    assert parser.main(["settings"]) == 0
    told = capsys.readouterr().out
    for name in names.EXPERIMENTS:
        used = identity.as_dict(plan([f"experiment={name}"]).jobs[0].config)
        line = next((line for line in told.splitlines() if line.startswith(f"  experiment={name}: ")), "")
        own = json.loads("{" + re.sub(r"(\w+)=", r'"\1": ', line.partition(": ")[2]) + "}")
        assert used == identity.as_dict(validation.checked({**own, "experiment": name, "name": used["name"]}))


@pytest.mark.parametrize("words", [["precision=float64"], ["precision=float32,float64", "-m"]])
def test_float64_is_refused_where_the_environment_turns_it_off(words, monkeypatch):
    overrides = [word for word in words if word != "-m"]
    for off in ("0", "false", "No"):
        monkeypatch.setenv("JAX_ENABLE_X64", off)
        with pytest.raises(
            SettingError, match=r"^precision: 'float64' .* float32 while JAX_ENABLE_X64=0 is set in the environment$"
        ):
            plan(overrides, multirun="-m" in words)
    plan(["experiment=notes"])
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    plan(overrides, multirun="-m" in words)


def test_lists_and_ranges_replace_the_default():
    job = plan(["seeds=[3,1]", "weight_scales={start: 0.5, stop: 1.5, num: 3}", "norms=[spectral]"]).jobs[0]
    assert (job.config.seeds, job.config.weight_scales) == ([3, 1], [0.5, 1.0, 1.5])
    assert job.config.norms == ["spectral"]


def test_a_sweep_over_lists_joins_along_them():
    found = plan(["seeds=[0],[1]", "weight_scales=[0.5,1.0],2.0"], multirun=True)
    assert [(job.config.seeds, job.config.weight_scales) for job in found.jobs] == [
        ([0], [0.5, 1.0]),
        ([0], [2.0]),
        ([1], [0.5, 1.0]),
        ([1], [2.0]),
    ]
    assert all(job.swept == {} for job in found.jobs)
    assert len({job.name for job in found.jobs}) == 4


def test_one_setting_spelt_in_two_ways_is_one_job():
    assert job_names("bias_scale=1,2") == job_names("bias_scale=1.0,2.0") == job_names("bias_scale=range(1,3)")
    assert len(job_names("bias_scale=1,1.0")) == 1


def test_the_preset_of_the_main_job():
    found = plan(["+sweeps=main"])
    assert {job.name for job in found.jobs} == {"cell=tanh", "cell=relu", "cell=hard_tanh"}
    assert [job.networks for job in found.jobs] == [33 * 64] * 3
    for job in found.jobs:
        assert (job.config.inputs, job.config.hidden_size, job.config.steps) == ("digits", 64, 200)
        assert job.config.weight_scales == [float(f"{0.5 + 0.05 * k:.2f}") for k in range(33)]


def test_the_command_line_overrides_a_preset():
    found = plan(["+sweeps=main", "cell=erf", "seeds=2", "steps=10", "weight_scales=[1.0]", "name=short"])
    assert [(job.config.cell, job.networks, job.config.steps) for job in found.jobs] == [("erf", 2, 10)]
    swept = plan(["+sweeps=main", "cell=erf,linear"], multirun=True)
    assert [job.config.cell for job in swept.jobs] == ["erf", "linear"]


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_is_a_sweep(name):
    assert plan([f"+sweeps={name}"]).jobs


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["cell=tanh,relu"], r"cell: 'tanh,relu' is not allowed; allowed: one value; add -m"),
        (["cell=tanh,foo", "-m"], "cell: 'foo' is not allowed; allowed: linear, tanh"),
        (["steps=3,-1", "-m"], "steps: -1 is not allowed; allowed: a whole number of at least 1"),
        (["weight_scales=[1.0],[]", "-m"], r"weight_scales: \[\] is not allowed"),
        (["name=a,b", "-m"], "name: .*one value per command"),
        (["experiment=jacobian,notes", "-m"], "experiment: .*one value per command"),
        (["+sweeps=main,main", "-m"], "sweeps: .*one value per command"),
        (["force=true,false", "-m"], "force: .*one value per command"),
        (["stepz=3"], r"stepz: 3 is not allowed; .*did you mean steps\?"),
        (["+stepz=3"], r"stepz: 3 is not allowed; .*did you mean steps\?"),
        (["++stepz=3"], r"stepz: 3 is not allowed"),
        (["weight_scales=[0.5,", "1]"], r"override: 'weight_scales=\[0.5,' .* quotes: 'weight_scales=\[0.5, 1\]'$"),
        (["weight_scales={start: 1, stop: 2}"], r"weight_scales: .*\(num missing\)$"),
        (["weight_scales={start: 1, stop: 2, num: 3, sep: 1}"], r"weight_scales: .*\(sep unknown\)$"),
        (["cell=thanh"], r"cell: 'thanh' is not allowed; .*\(did you mean tanh\?\)$"),
        (["norms=[frobenious]"], r"norms: .*\(did you mean frobenius\?\)$"),
        (["+sweeps=mian"], r"sweeps: 'mian' is not allowed; .*\(did you mean main\?\)$"),
        (["learning_rates=0.1"], r"learning_rates: .* does not read it \(add experiment=training\)"),
        (["exponents=2"], r"exponents: .* does not read it \(add experiment=lyapunov\)"),
        ([f"name={'a' * 201}"], "name: 'a*' is not allowed; allowed: a folder's name of at most 200 bytes"),
        (["forget_bias=0,1", "-m"], "forget_bias: .* allowed: one value where cell=tanh, which does not read it"),
        (["noise_scale=1,2", "-m"], "noise_scale: .* allowed: one value where inputs=none, which does not read it"),
        (
            ["experiment=training", "clip=none", "clip_thresholds=[1.0,2.0]"],
            "clip_thresholds: .* allowed: one value where clip=none, which does not read it",
        ),
        (["cell.depth=3"], r"cell.depth: 3 is not allowed"),
        (["~cell"], "~cell: .* is not allowed: a setting can be changed but not deleted$"),
        (["steps"], "override: 'steps' is not allowed; allowed: NAME=VALUE"),
        (["steps=[1"], "override: 'steps=\\[1' is not allowed; allowed: NAME=VALUE"),
        (["steps="], "steps: '' is not allowed; allowed: a whole number"),
        (["cell="], "cell: '' is not allowed; allowed: linear, tanh"),
        (["weight_scales=nan"], "weight_scales: nan is not allowed; allowed: a finite number"),
        (
            ["experiment=main"],
            "experiment: 'main' is not allowed; allowed: jacobian, singular_values, lyapunov",
        ),
        (["+sweeps=nothing"], "sweeps: 'nothing' is not allowed; allowed: the presets .*main"),
        (
            ["experiment=notes", "cell=relu"],
            "cell: 'relu' is not allowed: experiment=notes does not read it .add experiment=jacobian or .*; it reads",
        ),
        (["method=pullback", "anchors=end,start", "-m"], "method: 'pullback' is not allowed"),
        (
            ["+hydra.launcher.x=1"],
            "hydra.launcher.x: 1 is not allowed; allowed: the options timeout_min, nodes, .*n_jobs",
        ),
        (
            ["hydra/launcher=slurm", "hydra.launcher.comment=${nothing}"],
            "hydra.launcher: 'hydra.launcher.comment' is not allowed: Interpolation key 'nothing' not found$",
        ),
        (["+hydra.launcher._target_=os.system"], "hydra.launcher._target_: 'os.system' is not allowed"),
        (["hydra.sweeper={_target_:os.system}"], "hydra.sweeper: .* is not allowed; allowed: hydra/launcher and"),
        (
            ["+hydra.launcher.x={_target_:os.system}"],
            "hydra.launcher.x: .* is not allowed; allowed: hydra/launcher and",
        ),
        (["hydra.callbacks={a:{_target_:os.system}}"], "hydra.callbacks: .* is not allowed; allowed: hydra/launcher"),
        (["hydra/job_logging=default"], "hydra/job_logging: 'default' is not allowed; allowed: hydra/launcher and"),
        (
            ["hydra/launcher=cloud"],
            "hydra/launcher: 'cloud' is not allowed; allowed: basic .this process., joblib, slurm",
        ),
        (["hydra/launcher=ray"], "hydra/launcher: 'ray' is not allowed; .*pip install gradient-horizon.ray."),
        (["pack=0"], "pack: 0 is not allowed; allowed: a whole number of at least 1"),
        (["cell._target_=os.system"], "cell._target_: 'os.system' is not allowed"),
        (["cell={_target_:os.system}"], "cell: .* is not allowed; allowed: linear"),
        (["seeds={_target_:os.system}"], "seeds: .* is not allowed"),
        (["cell=${oc.env:HOME}"], "cell: .* is not allowed; allowed: linear"),
        (["cell=${nothing}"], "cell: .* is not allowed; allowed: linear"),
    ],
)
def test_a_wrong_command_is_refused_in_one_line(overrides, message):
    multirun = "-m" in overrides
    with pytest.raises(SettingError, match=f"^{message}") as refused:
        plan([text for text in overrides if text != "-m"], multirun=multirun)
    assert "\n" not in str(refused.value)


def folder_name(*overrides: str) -> str:
    return plan(overrides, multirun=True).folder.name


def test_the_settings_that_solve_tasks_by_the_documentation_are_jobs():
    text = (Path(__file__).parents[2] / "docs/tasks.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"`gradient-horizon run (experiment=training [^`]*)`", text)
    rows = re.findall(r"^\| `(\w+)` \| `(task=[^`]*)` \|", text, re.MULTILINE)
    assert len(rows) >= 7
    for task, rest in rows:
        if limits.refusal(task, limits.declaration(task).pixels or 100, {}) is None:
            (job,) = plan([*command.split(), *rest.split()]).jobs
            assert (job.config.task, job.networks) == (task, 4)


def test_the_default_name_stands_for_the_command():
    base = folder_name("cell=tanh,relu", "steps=5")
    assert base.startswith("jacobian-")
    for equal in (
        ["steps=5", "cell=tanh,relu"],
        ["cell=tanh,relu", "steps=5", "seeds=8"],  # its default
        ["cell=tanh,relu", "steps=5", "force=true", "quick_look=false"],
    ):
        assert folder_name(*equal) == base
    different = [["cell=tanh,erf", "steps=5"], ["cell=tanh,relu", "steps=6"], ["cell=tanh", "steps=5"]]
    assert len({base, *(folder_name(*overrides) for overrides in different)}) == 4


VALUES = {
    "cell": st.sampled_from(names.CELLS),
    "weights": st.sampled_from(names.WEIGHTS),
    "hidden_size": st.integers(1, 10**6),
    "steps": st.integers(1, 10**9),
    "bias_scale": st.floats(0, 1e300),
    "input_size": st.none() | st.integers(1, 9),
    "recheck": st.booleans(),
    "seeds": st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40, unique=True),
    "weight_scales": st.lists(st.floats(0, 1e3), min_size=1, max_size=30, unique=True),
    "norms": st.lists(st.sampled_from(names.NORMS), min_size=1, unique=True),
}
POINTS = st.fixed_dictionaries({}, optional=VALUES)


@given(POINTS, POINTS)
@example({"bias_scale": 1e-7}, {"bias_scale": 1e-8})
@example({"seeds": list(range(100))}, {"seeds": list(range(101))})
@settings(deadline=None, max_examples=200)
def test_different_settings_have_different_folders(one, other):
    first, second = job_name(one), job_name(other)
    assert (first == second) == (one == other)
    assert first == job_name(dict(reversed(one.items())))
    for name in (first, second):
        assert 0 < len(name) <= LONGEST_JOB_NAME <= 255
        assert Path(name).name == name
        assert name not in (".", "..")
        assert name.isascii()
        assert name.isprintable()
        assert not name.startswith(("-", "."))
        assert " " not in name


def finish(job) -> None:
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / records.RESULT).write_bytes(b"a result")
    checksum = records.file_checksum(job.folder / records.RESULT)
    settings = identity.spelt_short(identity.deciding(job.config))
    record = records.JobRecord(records.FINISHED, job.hash, settings, job.swept, checksum, job=job.name)
    records.write_record(job.folder, record)


def test_finished_jobs_are_not_computed_again():
    found = plan(["cell=tanh,relu", "name=a"], multirun=True)
    finish(found.jobs[0])
    assert sweep.unfinished(found) == [found.jobs[1]]
    assert sweep.conflicts(found) == []
    forced = plan(["cell=tanh,relu", "name=a", "force=true"], multirun=True)
    assert sweep.unfinished(forced) == forced.jobs
    (found.jobs[0].folder / records.RESULT).write_bytes(b"altered")
    assert sweep.unfinished(found) == found.jobs


def test_a_result_of_other_settings_is_a_conflict_that_names_them():
    found = plan(["cell=tanh,relu", "name=a", "steps=5"], multirun=True)
    finish(found.jobs[1])
    other = plan(["cell=tanh,relu", "name=a", "steps=6", "bias_scale=0.5"], multirun=True)
    (line,) = sweep.conflicts(other)
    assert line.startswith("results/a/cell=relu: finished with other settings (")
    assert "steps: 5 there, 6 here" in line
    assert "bias_scale: 0.0 there, 0.5 here" in line
    assert "seeds" not in line
    assert line.endswith("allowed: another name, or force=true")
    assert sweep.conflicts(plan(["cell=tanh,relu", "name=a", "steps=6", "force=true"], multirun=True)) == []


def test_a_result_of_version_1_of_the_draws_is_a_conflict_that_says_so():
    found = plan(["cell=tanh,relu", "name=a"], multirun=True)
    job = found.jobs[0]
    finish(job)
    settings = identity.deciding(job.config)
    version = settings.pop("draws")
    record = records.read_record(job.folder)
    assert record is not None
    # as package 0.1.0 wrote it: the hash of the settings alone
    old = replace(record, hash=identity.content_hash(settings), settings=identity.spelt_short(settings))
    records.write_record(job.folder, old)
    (line,) = sweep.conflicts(found)
    assert f"finished with other settings (version of the draws: 1 there, {version} here); allowed: another" in line
    assert sweep.unfinished(found) == found.jobs


def test_the_notes_do_not_draw_by_key_and_keep_their_hash():
    assert "draws" not in identity.deciding(plan(["experiment=notes"]).jobs[0].config)


BASE = ["cell=tanh,relu", "hidden_size=8", "name=a"]


def planned(*overrides: str) -> sweep.Sweep:
    """A sweep whose plan stands."""
    found = plan(overrides, multirun=True)
    sweep.prepare_folder(found)
    return found


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["cell=erf", "hidden_size=16"], "hidden_size: 8 there, 16 here"),
        (["weights=gaussian,orthogonal", "hidden_size=8", "steps=50"], "steps: 100 there, 50 here"),
        (["cell=tanh,erf", "hidden_size=8", "bias_scale=0.5"], "bias_scale: 0.0 there, 0.5 here"),
        (["cell=erf", "hidden_size=8", "precision=float64"], "precision: 'float32' there, 'float64' here"),
        (["hidden_size=8", "experiment=lyapunov"], "experiment: 'jacobian' there, 'lyapunov' here"),
        (["cell=erf", "hidden_size=16", "force=true"], "hidden_size: 8 there, 16 here"),
    ],
)
def test_other_settings_that_are_no_axis_are_refused_before_anything_is_computed(overrides, said, finished):
    first = planned(*BASE)
    if finished:
        for job in first.jobs:
            finish(job)
    plan_before = (first.folder / sweep_folders.PLAN).read_bytes()
    other = plan([*overrides, "name=a"], multirun=True)
    (line,) = sweep.conflicts(other)
    assert line.startswith("results/a: its jobs have other settings (")
    assert said in line
    assert "; allowed: another name, or a sweep over these settings" in line
    assert ("force=true does not compute its other jobs again" in line) == ("force=true" in overrides)
    with pytest.raises(SettingError, match="its jobs have other settings"):  # as another command had just planned them
        sweep.prepare_folder(other)
    assert (first.folder / sweep_folders.PLAN).read_bytes() == plan_before


@pytest.mark.parametrize(
    "overrides",
    [
        BASE,
        ["cell=erf,gru", "hidden_size=8"],
        ["cell=tanh,relu", "hidden_size=8", "seeds=[8,9],[10]"],
        ["cell=tanh,relu", "hidden_size=8", "weight_scales=[3.0],[4.0]"],
        ["cell=tanh,relu", "hidden_size=8,16"],
        ["cell=tanh", "hidden_size=8", "steps=50,60"],
        [*BASE, "memory_budget=1", "quick_look=false", "pack=3"],
        [*BASE, "hidden_size=16", "force=true"],  # all of its jobs, again
    ],
)
def test_a_sweep_can_be_extended_repeated_and_replaced(overrides):
    for job in planned(*BASE).jobs:
        finish(job)
    assert sweep.conflicts(plan([*overrides, "name=a"], multirun=True)) == []
    planned(*overrides, "name=a")


def test_what_was_an_axis_once_stays_one():
    planned(*BASE)
    planned("cell=tanh", "hidden_size=8,16", "name=a")
    assert sweep.conflicts(plan(["cell=erf", "hidden_size=32", "name=a"], multirun=True)) == []
    assert sweep.conflicts(plan(["cell=erf", "steps=3", "name=a"], multirun=True)) != []


def test_usual_lengths_of_tasks_are_no_conflict():
    planned("experiment=training", "task=adding", "name=a", "cell=tanh,relu")
    planned("experiment=training", "task=digits,story", "name=a")
    (line,) = sweep.conflicts(plan(["experiment=training", "task=copy_memory", "steps=99", "name=a"], multirun=True))
    assert "steps: None there, 99 here" in line


def test_of_a_sweep_of_version_0_1_the_records_say_what_its_jobs_share():
    first = plan(BASE, multirun=True)
    for job in first.jobs:
        finish(job)
    sweep_folders.write_plan(first.folder, {job.name: job.networks for job in first.jobs})
    assert sweep_folders.shared_settings(first.folder) is None
    (line,) = sweep.conflicts(plan(["cell=erf", "hidden_size=16", "name=a"], multirun=True))
    assert "hidden_size: 8 there, 16 here" in line
    assert sweep.conflicts(plan(["cell=erf", "hidden_size=8", "name=a"], multirun=True)) == []
    planned("cell=erf", "hidden_size=8", "name=a")
    assert (sweep_folders.shared_settings(first.folder) or {})["hidden_size"] == 8
    assert "cell" not in (sweep_folders.shared_settings(first.folder) or {})


def test_many_commands_plan_one_sweep_at_once_and_none_is_forgotten():
    cells = [cell for cell in names.CELLS if cell != "gru"]
    sweeps = [plan([f"cell={cell},gru", "name=a"], multirun=True) for cell in cells]
    with ThreadPoolExecutor(len(sweeps)) as pool:
        list(pool.map(sweep.prepare_folder, sweeps))
    assert set(sweep_folders.read_plan(sweeps[0].folder)) == {f"cell={cell}" for cell in (*cells, "gru")}


def test_a_job_that_runs_with_other_settings_is_a_conflict():
    job = planned("name=a", "steps=5").jobs[0]
    job.folder.mkdir()
    records.write_record(job.folder, records.JobRecord(records.RUNNING, job.hash, {"steps": 5}, {}, job=job.name))
    (line,) = sweep.conflicts(plan(["name=a", "steps=6"]))
    assert line.startswith("results/a/single: running with other settings (")
    assert sweep.conflicts(plan(["name=a", "steps=5"])) == []


def test_a_folder_that_others_took_meanwhile_is_not_computed_over(monkeypatch):
    ran = []
    monkeypatch.setattr(sweep.jobs, "execute", lambda job, report: ran.append(job))
    ours, theirs = planned("name=a", "steps=5"), planned("name=a", "steps=6")
    finish(theirs.jobs[0])
    outcome = sweep.run(ours.jobs, lambda _: lambda _: None)
    assert not ran
    assert "steps: 6 there, 5 here" in outcome.failed[0][1]
    many, others = planned("name=b", "cell=tanh,relu", "steps=5"), planned("name=b", "cell=tanh,relu", "steps=6")
    outcome = sweep.run(many.jobs, lambda _: lambda _: None)
    assert not ran
    assert [why.partition("(")[2] for _, why in outcome.failed] == ["steps: 6 there, 5 here)"] * 2
    sweep.run(others.jobs, lambda _: lambda _: None)
    assert ran == others.jobs


def test_the_copy_of_another_job_is_not_taken_for_finished():
    """Even of a job of the same settings, which another command gave another name."""
    single, named = (plan([seeds, "name=a"], multirun=True).jobs[0] for seeds in ("seeds=[0]", "seeds=[0],[1]"))
    assert single.hash == named.hash
    finish(single)
    assert single.is_finished()
    shutil.copytree(single.folder, named.folder)
    assert not named.is_finished()
    assert sweep_folders.contents(single.folder.parent) == ([single.folder], {named.name: "single"})


def test_the_plan_is_written_before_anything_is_computed():
    found = plan(["cell=tanh,relu", "name=a"], multirun=True)
    sweep.prepare_folder(found)
    assert sweep_folders.read_plan(found.folder) == {job.name: job.networks for job in found.jobs}
    assert all(records.state_of(job.folder) == records.MISSING for job in found.jobs)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    found = plan(["name=a"])
    (tmp_path / "results").touch()
    with pytest.raises(SettingError, match=r"output: 'results/a' .* a writable folder"):
        sweep.prepare_folder(found)
    (tmp_path / "results").unlink()


def test_one_failing_job_stops_no_other(monkeypatch):
    found = plan(["cell=tanh,relu,erf", "name=a"], multirun=True)
    ran = []

    def execute(job, report):
        ran.append(job.name)
        if job.config.cell == "relu":
            raise RuntimeError("two\nlines")

    monkeypatch.setattr(sweep.jobs, "execute", execute)
    outcome = sweep.run(found.jobs, lambda _: lambda _: None)
    assert ran == [job.name for job in found.jobs]
    assert [(job.config.cell, why) for job, why in outcome.failed] == [("relu", "RuntimeError: two")]
    assert not outcome.elsewhere


def test_a_job_is_computed_by_one_process_at_a_time(monkeypatch):
    found = plan(["cell=tanh,relu", "name=a"], multirun=True)
    ran, told = [], []
    monkeypatch.setattr(sweep.jobs, "execute", lambda job, report: ran.append(job.config.cell))

    def watch(job):
        return lambda networks: told.append((job.config.cell, networks))

    with sweep.jobs.claimed(found.jobs[0]) as mine:
        assert mine
        outcome = sweep.run(found.jobs, watch)
        assert outcome == sweep.Outcome([], [found.jobs[0]])
        assert ran == ["relu"]
        with sweep.jobs.claimed(found.jobs[0]) as again:
            assert not again
    finish(found.jobs[0])  # as the other process did meanwhile
    assert sweep.run(found.jobs[:1], watch) == sweep.Outcome([], [])
    assert ran == ["relu"]
    assert told == [("tanh", found.jobs[0].networks)]


@pytest.mark.parametrize("ends", ["finished", "failed", "interrupted", "silent"])
def test_what_another_process_computes_is_waited_for(ends, monkeypatch):
    """It finishes or fails there; where it is stopped or dies, it is computed here."""
    (job,) = plan(["name=a"]).jobs
    ran, claimed, looked, told = [], threading.Event(), threading.Event(), []
    # it ends there after the first look from here
    monkeypatch.setattr(
        sweep, "time", SimpleNamespace(time=time.time, sleep=lambda _: (looked.set(), time.sleep(0.01)))
    )
    monkeypatch.setattr(sweep.jobs, "execute", lambda job, report: (ran.append(job), finish(job)))

    def other():
        with jobs.claimed(job) as mine:
            assert mine
            claimed.set()
            looked.wait()
            if ends == "finished":
                finish(job)
            elif ends != "silent":
                error = "ValueError: why" if ends == "failed" else jobs.INTERRUPTED
                record = records.JobRecord(records.FAILED, job.hash, {}, {}, error=error, job=job.name)
                records.write_record(job.folder, record)

    thread = threading.Thread(target=other)
    thread.start()
    claimed.wait()
    outcome = sweep.run([job], lambda _: told.append)
    assert outcome == sweep.Outcome([], [job])
    outcome = sweep.wait(outcome, lambda _: told.append)
    thread.join()
    assert outcome == sweep.Outcome([(job, "ValueError: why")] if ends == "failed" else [], [])
    assert ran == ([job] if ends in ("interrupted", "silent") else [])
    assert told == ([job.networks] if ends == "finished" else [])


@pytest.mark.parametrize("ends", ["before it is waited for", "meanwhile"])
def test_with_force_what_another_process_has_just_computed_is_not_computed_again(ends, monkeypatch):
    monkeypatch.setattr(sweep, "LOOK_AGAIN", 0.01)
    (job,) = plan(["name=a", "force=true"]).jobs
    finish(job)
    monkeypatch.setattr(sweep.jobs, "execute", lambda job, report: pytest.fail("computed twice"))
    claimed, met = threading.Event(), threading.Event()

    def other():
        with jobs.claimed(job):
            records.write_record(job.folder, records.JobRecord(records.RUNNING, job.hash, {}, {}, job=job.name))
            claimed.set()
            met.wait()
            finish(job)

    thread = threading.Thread(target=other)
    thread.start()
    claimed.wait()
    outcome = sweep.run([job], lambda _: lambda _: None)
    assert outcome == sweep.Outcome([], [job])
    met.set()
    if ends == "before it is waited for":
        thread.join()
    assert sweep.wait(outcome, lambda _: lambda _: None) == sweep.Outcome([], [])
    thread.join()


def test_the_hash_of_a_job_is_that_of_its_deciding_settings():
    job = plan(["steps=5"]).jobs[0]
    assert job.hash == identity.content_hash(identity.deciding(job.config))
    assert replace(job, folder=Path("elsewhere")).hash == job.hash
    assert json.loads(json.dumps(identity.deciding(job.config))) == identity.deciding(job.config)


def test_values_that_change_nothing_in_some_jobs_are_told():
    planned = plan(["cell=tanh,relu,lstm", "forget_bias=0,1"], multirun=True)
    assert planned.notices == [
        "forget_bias changes nothing where cell=tanh or cell=relu: the same networks are computed for each of its"
        " 2 values"
    ]
    assert plan(["cell=tanh,relu", "forget_bias=1"], multirun=True).notices == []

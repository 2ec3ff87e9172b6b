"""Presets are small plain files: whatever else lies under sweeps/ is refused at once, in one line that names it."""

import os
import time
from pathlib import Path

import pytest

from gradient_horizon.commands import sweep
from gradient_horizon.names.rules import SettingError
from gradient_horizon.settings import presets

HEADER = "# @package _global_\n"
PLACE = Path("sweeps/p.yaml")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    PLACE.parent.mkdir()


def refusal() -> str:
    """Why the preset is refused, which takes no time."""
    begun = time.monotonic()
    with pytest.raises(SettingError) as refused:
        sweep.plan(["+sweeps=p"], multirun=True)
    assert time.monotonic() - begun < 2
    message = str(refused.value)
    assert message.startswith("sweeps/p.yaml: ")
    assert message.isprintable()
    return message


def test_a_pipe_without_a_writer_is_not_waited_for():
    os.mkfifo(PLACE)
    assert "'not a regular file' is not allowed" in refusal()


def test_a_folder_a_device_and_links_that_lead_nowhere():
    PLACE.mkdir()
    assert "is not allowed; allowed: a text file of settings" in refusal()
    PLACE.rmdir()
    for target, said in {
        "/dev/zero": "not a regular file",
        "nothing": "No such file",
        "p.yaml": "symbolic links",
    }.items():
        PLACE.symlink_to(target)
        assert said in refusal()
        PLACE.unlink()


def test_a_large_file_is_not_read():
    with PLACE.open("wb") as file:
        file.truncate(10**12)  # takes no place on the disk
    assert "'more than 65536 bytes'" in refusal()


def test_bytes_that_are_no_text():
    PLACE.write_bytes(HEADER.encode() + b"steps: \xff\n")
    assert "'byte 27' is not allowed; allowed: text in UTF-8" in refusal()


BOMB = "a: &a [1]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "line 3: b: '*a' is not allowed; allowed: values spelt out, without aliases"),
        ("seeds: &x [*x]\n", "line 2: seeds: '*x' is not allowed"),
        ("steps: &x 3\nhidden_size: *x\n", "line 3: hidden_size: '*x' is not allowed"),
        ("x: &x {steps: 3}\n<<: *x\n", "line 3: <<: '*x' is not allowed"),
        (f"seeds: {'[' * 3000}{']' * 3000}\n", "line 2: 'one more level' is not allowed"),
        (f"seeds: {'[' * 30_000}\n", "line 2: 'one more level' is not allowed"),
        (f"seeds:\n  {'- ' * 3000}1\n", "line 3: seeds: 'one more level' is not allowed"),
        (f"seeds: {'{a: ' * 3000}\n", "line 2: 'one more level' is not allowed"),
        (f"seeds: [{'1,' * 20_000}1]\n", "seeds: 'one more value' is not allowed; allowed: at most 3000 in a file"),
        ("seeds: !!python/object/apply:os.system ['touch marker']\n", "seeds: 'tag:yaml.org,2002:python/object/apply:"),
        ("steps: !!int 3\n", "line 2: steps: 'tag:yaml.org,2002:int' is not allowed; allowed: values without tags"),
        ("steps: 3\n---\nsteps: 4\n", "'another document' is not allowed; allowed: one"),
        ("cell: ${oc.env:HOME}\n", "line 2: cell: '${oc.env:HOME}' is not allowed; allowed: values spelt out, without"),
        ("name: x${oc.env:HOME}\n", "line 2: name: 'x${oc.env:HOME}' is not allowed"),
        ("name: ???\n", "line 2: name: '???' is not allowed"),
        ("? [a]\n: 1\n", "line 2: 'a list or mapping' is not allowed; allowed: NAME: VALUE"),
        ("- steps\n", "line 2: 'no settings' is not allowed; allowed: NAME: VALUE"),
        ("", "'no settings' is not allowed; allowed: NAME: VALUE"),
        ("steps: 3\nsteps: 4\n", "'line 3' is not allowed: found duplicate key steps"),
        ("steps: [\n", "'line 3' is not allowed: "),
        ("steps: 3\n\x00", "the file"),
        ("steps: " + "9" * 5000, "the file"),
        ("steps: 0\n", "steps: 0 is not allowed; allowed: a whole number of at least 1"),
        ("recheck: 1\n", "recheck: 1 is not allowed; allowed: true or false"),
        ("steps: '7'\n", "steps: '7' is not allowed; allowed: a whole number"),
        (
            "weight_scales: {start: 0.5, stop: 1, num: true}\n",
            "weight_scales: {'start': 0.5, 'stop': 1, 'num': True} is",
        ),
        (
            "memory_budget: 1e300\n",
            "memory_budget: 1e+300 is not allowed; allowed: a number above 0 and at most 1000000",
        ),
        ("stepz: 3\n", "(did you mean steps?)"),
        ("sweeps: main\n", "sweeps: 'main' is not allowed"),
        ("hydra: null\n", "hydra: None is not allowed; allowed: mode, sweeper, launcher, each as NAME: VALUE"),
        ("hydra: 3\n", "hydra: 3 is not allowed; allowed: mode, sweeper, launcher, each as NAME: VALUE"),
        ("hydra: {mode: 7}\n", "hydra.mode: 7 is not allowed; allowed: RUN, MULTIRUN or null"),
        ("hydra: {sweeper: null}\n", "hydra.sweeper: None is not allowed; allowed: params, each as NAME: VALUE"),
        ("hydra: {launcher: null}\n", "hydra.launcher: None is not allowed; allowed: NAME: VALUE for timeout_min"),
        ("hydra: {sweeper: {params: [cell]}}\n", "hydra.sweeper.params: ['cell'] is not allowed; allowed: NAME: VALUE"),
        ("hydra: {sweeper: {params: {cell: null}}}\n", "hydra.sweeper.params.cell: None is not allowed"),
        ("hydra: {sweeper: {params: {hydra.mode: '1'}}}\n", "hydra.mode: '1' is not allowed; allowed: the settings"),
        (
            "hydra: {callbacks: {a: {_target_: os.system}}}\n",
            "hydra: 'callbacks' is not allowed; allowed: mode, sweeper",
        ),
        ("hydra: {run: {dir: /tmp}}\n", "hydra: 'run' is not allowed; allowed: mode, sweeper"),
        ("defaults: 3\n", "defaults: 3 is not allowed; allowed: a list of override /experiment: NAME"),
        ("defaults: [{override /experiment: [a]}]\n", "experiment: ['a'] is not allowed"),
        ("defaults: [{override /hydra/launcher: [a]}]\n", "hydra/launcher: ['a'] is not allowed"),
    ],
)
def test_what_a_preset_must_not_hold(text, said):
    PLACE.write_text(HEADER + text)
    assert said in refusal()


@pytest.mark.parametrize(
    ("swept", "said"),
    [
        ("glob(*)", r"cell: 'glob\(\*\)' is not allowed; allowed: VALUE,VALUE or choice"),
        ("'interval(0,1)'", r"cell: 'interval\(0,1\)' is not allowed; allowed: VALUE,VALUE or choice"),
        ("'shuffle(tanh,relu)'", r"cell: 'shuffle\(tanh,relu\)' is not allowed; allowed: VALUE,VALUE or choice"),
        ("'range(1,3)'", "cell: 1 is not allowed; allowed: linear"),
    ],
)
def test_sweeps_that_name_no_values(swept, said):
    PLACE.write_text(f"{HEADER}hydra: {{sweeper: {{params: {{cell: {swept}}}}}}}\n")
    with pytest.raises(SettingError, match=f"^{said}"):
        sweep.plan(["+sweeps=p"], multirun=True)
    with pytest.raises(SettingError, match=f"^{said}"):
        sweep.plan([f"cell={swept.strip(chr(39))}"], multirun=True)


@pytest.mark.parametrize("text", ["x" * 20_000, f"[{'1,' * 10_000}1]", "a," * 50_000, "[" * 10_000, "'" + "a b" * 9000])
def test_a_long_override_is_refused_before_hydra_reads_it(text):
    begun = time.monotonic()
    with pytest.raises(
        SettingError, match=r"^override: .* allowed: at most 20000 characters, with brackets at most 20 deep$"
    ):
        sweep.plan([f"seeds={text}"])
    assert time.monotonic() - begun < 2


def test_a_preset_is_what_it_says_and_the_command_line_counts_more():
    PLACE.write_text(f"""{HEADER}
defaults:
  - override /experiment: lyapunov
  - _self_
name: own
hidden_size: 1_0
weight_scales: {{start: 0.5, stop: 1.5, num: 3}}
seeds: &unused [4, 2]
bias_scale: 1e-2
recheck: no
hydra:
  mode: MULTIRUN
  sweeper:
    params:
      cell: tanh,relu
      steps: range(5,8)
""")
    found = sweep.plan(["+sweeps=p"])
    assert (len(found.jobs), found.folder.name, found.launcher) == (6, "own", None)
    job = found.jobs[0].config
    assert (job.experiment, job.hidden_size, job.bias_scale, job.seeds) == ("lyapunov", 10, 0.01, [4, 2])
    assert job.weight_scales == [0.5, 1.0, 1.5]
    less = sweep.plan(["steps=6", "bias_scale=0", "+sweeps=p", "cell=erf"])
    assert [(job.config.cell, job.config.steps, job.config.bias_scale) for job in less.jobs] == [("erf", 6, 0.0)]


def test_a_preset_that_has_changed_is_read_again():
    for steps in (3, 4):
        PLACE.write_text(f"{HEADER}steps: {steps}\n")
        assert sweep.plan(["+sweeps=p"]).jobs[0].config.steps == steps


def test_one_that_ships_is_not_replaced_by_the_working_folders():
    assert "main" in presets.names()
    Path("sweeps/main.yaml").write_text(f"{HEADER}steps: 3\n")
    assert presets.read("main")["inputs"] == "digits"

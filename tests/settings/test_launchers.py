"""Nothing that a launcher is asked for becomes a command: it is refused, or stands in one line of the script."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from gradient_horizon.commands import launch, sweep
from gradient_horizon.names.rules import SettingError
from gradient_horizon.settings import launchers

MARKER = "touch marker"
BREAKS = ("\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029")
HEADER = "# @package _global_\n"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def preset(settings: dict, name: str = "p") -> str:
    """Write a preset; the override that takes it."""
    Path("sweeps").mkdir(exist_ok=True)
    Path("sweeps", f"{name}.yaml").write_text(HEADER + yaml.safe_dump(settings, allow_unicode=False))
    return f"+sweeps={name}"


def script(monkeypatch, *overrides: str) -> list[str]:
    """The lines that would be submitted: what the plugin and submitit give to a program named sbatch."""
    programs = Path("programs").resolve()
    programs.mkdir(exist_ok=True)
    written = programs / "script.sh"
    for name, text in {"sbatch": f'cp "$1" {written}; exit 1', "srun": "exit 0"}.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(launch, "SECONDS", 0.01)
    planned = sweep.plan(["hydra/launcher=slurm", *overrides], multirun=True)
    sweep.prepare_folder(planned)
    launch.run(planned, planned.jobs, 1, lambda told: None)
    # what a shell makes of it, where srun starts nothing
    subprocess.run(["bash", written], check=True, capture_output=True)
    return written.read_text().split("\n")


def assert_plain(lines: list[str], *own: str) -> None:
    """Every line is a comment to the shell, or one of those that submitit writes, or one of a person's `own`."""
    commands = [line for line in lines if line and not line.startswith("#")]
    assert commands[: len(own)] == [*own]
    export, srun = commands[len(own) :]
    assert export == "export SUBMITIT_EXECUTOR=slurm"
    assert re.fullmatch(r"srun --unbuffered --output \S+ --error \S+ \S+ -u -m submitit\.core\._submit \S+", srun)


@pytest.mark.parametrize("name", launchers.OPTIONS)
def test_no_option_takes_a_line_of_its_own(name):
    """Whoever asks for it; of a person's own setup each entry is one line."""
    rule = launchers.OPTIONS[name].rule
    for between in BREAKS:
        for text in (f"a{between}{MARKER}", f"1{between}", between):
            assert not rule.accepts(text)
            assert not rule.accepts([text])
            assert not rule.accepts({"comment": text})
            assert not rule.accepts({text: "comment"})


@pytest.mark.parametrize("name", sorted({*launchers.OF_SLURM} - {"setup", "additional_parameters", "stderr_to_stdout"}))
def test_no_option_but_those_of_a_person_takes_what_a_shell_reads(name):
    for text in ("$(touch marker)", "`touch marker`", "a'b", 'a"b', "a\\b", "${HOME}", "a" * 300):
        assert not launchers.OPTIONS[name].rule.accepts(text)


@pytest.mark.parametrize("text", ["x" + between + MARKER for between in ("\n", "\r", "\u2028")])
@pytest.mark.parametrize("name", ["comment", "partition", "name", "account", "qos", "constraint", "gres", "exclude"])
def test_a_command_line_with_such_a_line_is_refused(name, text):
    with pytest.raises(SettingError, match=f"^hydra.launcher.{name}: ") as refused:
        sweep.plan(["hydra/launcher=slurm", f"hydra.launcher.{name}='{text}'"])
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "option",
    [
        *("stderr_to_stdout=7", "timeout_min=true", "nodes=nan", "mem_gb=1e300", "setup=[1]", "setup='touch marker'"),
        *(
            "setup=[[a]]",
            "+additional_parameters.a.b=1",
            "+additional_parameters.a={b:1}",
            "+additional_parameters={A:1}",
        ),
        *(
            "gpus_per_node=1000000000000",
            "partition=[a]",
            "partition=-x",
            "comment={a:1}",
            "+python=python",
            "+teardown=[a]",
        ),
    ],
)
def test_a_command_line_with_another_value_is_refused(option):
    plus, name = option[: option.startswith("+")], option.lstrip("+")
    named = name.partition("=")[0].partition(".")[0]
    with pytest.raises(SettingError, match=f"^hydra.launcher.{named}: "):
        sweep.plan(["hydra/launcher=slurm", f"{plus}hydra.launcher.{name}"])


@pytest.mark.parametrize(
    ("launcher", "settings", "named"),
    [
        ("slurm", {"setup": [MARKER]}, "setup"),
        ("slurm", {"setup": []}, "setup"),
        ("slurm", {"srun_args": ["--bcast"]}, "srun_args"),
        ("slurm", {"python": f"{MARKER};python"}, "python"),
        ("slurm", {"additional_parameters": {"mail-user": "a@b.c"}}, "additional_parameters"),
        ("slurm", {"additional_parameters": {"x\ntouch marker #": "1"}}, "additional_parameters"),
        ("slurm", {"stderr_to_stdout": True}, "stderr_to_stdout"),
        ("slurm", {"account": "somebody"}, "account"),
        ("slurm", {"submitit_folder": "/tmp/%j"}, "submitit_folder"),
        ("slurm", {"comment": f"x\n{MARKER}"}, "comment"),
        ("slurm", {"partition": f"x\r{MARKER}"}, "partition"),
        ("slurm", {"timeout_min": f"1\n{MARKER}"}, "timeout_min"),
        ("slurm", {"timeout_min": True}, "timeout_min"),
        ("slurm", {"nodes": 0}, "nodes"),
        ("slurm", {"cpus_per_task": 10**9}, "cpus_per_task"),
        ("slurm", {"mem_gb": float("inf")}, "mem_gb"),
        ("slurm", {"name": ["a"]}, "name"),
        ("joblib", {"backend": "threading"}, "backend"),
        ("joblib", {"temp_folder": "/tmp"}, "temp_folder"),
        ("joblib", {"mmap_mode": "w+"}, "mmap_mode"),
        ("joblib", {"pre_dispatch": "__import__('os').system('touch marker')"}, "pre_dispatch"),
        ("joblib", {"n_jobs": 0}, "n_jobs"),
        ("joblib", {"_target_": "os.system"}, "_target_"),
        ("basic", {"_target_": "os.system"}, "_target_"),
        ("basic", {"ray": {"init": {"runtime_env": {"pip": ["x"]}}}}, "ray.init.runtime_env"),
        ("basic", {"ray": {"init": {"address": "ray://elsewhere:1"}}}, "ray.init.address"),
        ("basic", {"ray": {"remote": {"runtime_env": {"env_vars": {"A": "b"}}}}}, "ray.remote.runtime_env"),
        ("basic", {"ray": {"env": 1}}, "ray.env"),
        ("basic", {"ray": 3}, "ray"),
    ],
)
def test_a_preset_asks_a_launcher_for_resources_alone(launcher, settings, named):
    taken = preset({"defaults": [{"override /hydra/launcher": launcher}], "hydra": {"launcher": settings}})
    with pytest.raises(SettingError, match=f"^sweeps/p.yaml: hydra.launcher.{re.escape(named)}: "):
        sweep.plan([taken], multirun=True)


@pytest.mark.parametrize(
    "settings",
    [
        {"hydra": {"sweeper": {"params": {"hydra.launcher.setup": "['touch marker'],[]"}}}},
        {"hydra": {"launcher": "${oc.env:LAUNCHER}"}},
        {"hydra": {"launcher": {"partition": "${oc.env:HOME}"}}},
        {"hydra": {"launcher": {"partition": "${hydra.runtime.cwd}"}}},
        {"hydra": {"searchpath": ["file:///tmp"]}},
        {"hydra.launcher.setup": [MARKER]},
        {"hydra/launcher": "slurm"},
        {"launcher": {"setup": [MARKER]}},
        {"defaults": [{"override /hydra/launcher": "../../own"}]},
        {"defaults": [{"/hydra/launcher": "slurm"}]},
        {"defaults": [{"/own@hydra.launcher": "own"}]},
        {"defaults": [{"/own@_global_": "own"}]},
        {"defaults": ["own", "_self_"]},
        {"defaults": [{"override /hydra/callbacks": "own"}]},
        {"output": f"x\n{MARKER}"},
        {"name": f"x\n{MARKER}"},
    ],
)
def test_a_preset_has_no_other_way_to_a_launcher(settings):
    for folder in ("sweeps", "own", "hydra/launcher", "hydra/callbacks"):
        Path(folder).mkdir(parents=True)
        Path(folder, "own.yaml").write_text(f"{HEADER}hydra:\n  launcher:\n    setup: [{MARKER}]\n")
    with pytest.raises(SettingError, match=r"^sweeps/p\.yaml: ") as refused:
        sweep.plan([preset(settings), "hydra/launcher=slurm"], multirun=True)
    assert str(refused.value).isprintable()


def test_a_file_of_another_package_is_no_preset():
    Path("sweeps").mkdir()
    for header in ("# @package hydra.launcher\n", "", HEADER + "# @package hydra.launcher\n", "# @package _group_\n"):
        Path("sweeps/p.yaml").write_text(f"{header}setup: [{MARKER}]\n")
        with pytest.raises(SettingError, match=r"^sweeps/p\.yaml: "):
            sweep.plan(["+sweeps=p", "hydra/launcher=slurm"])


@pytest.mark.parametrize("launcher", ["slurm", "submitit_slurm", "joblib"])
def test_files_that_lie_about_do_not_stand_for_those_of_a_launcher(here, launcher, monkeypatch):
    def launched(*overrides: str) -> dict[str, Any]:
        settings = sweep.plan([f"hydra/launcher={launcher}", *overrides]).launcher
        return {key: value for key, value in (settings or {}).items() if key != "submitit_folder"}  # holds the time

    known = launched()
    evil = f"setup: [{MARKER}]\ntemp_folder: /evil\ncomment: evil\n"
    for folder in (
        "hydra/launcher",
        "conf/hydra/launcher",
        "sweeps/hydra/launcher",
        "gradient_horizon/conf/hydra/launcher",
    ):
        Path(folder).mkdir(parents=True)
        for name in ("slurm", "submitit_slurm", "joblib", "basic"):
            Path(folder, f"{name}.yaml").write_text(evil)
    Path("experiment").mkdir()
    for name in ("config.yaml", "settings.yaml", "experiment/jacobian.yaml"):
        Path(name).write_text(f"{HEADER}hydra:\n  launcher:\n    comment: evil\n")
    for name in ("HYDRA_LAUNCHER", "LAUNCHER", "HYDRA_CONFIG_PATH", "HYDRA_SEARCHPATH"):
        monkeypatch.setenv(name, str(here))
    assert launched() == launched(preset({"steps": 3})) == known


RESOURCES = {
    "timeout_min": 30, "nodes": 1, "cpus_per_task": 2, "mem_gb": 3, "partition": "gpu-long,gpu", "qos": "normal",
    "constraint": "[rack1|rack2]&gpu*2", "gres": "gpu:a100:1", "exclude": "node[01-03],node7",
    "comment": "a; touch marker # (b) & c | d > marker", "name": "rnn.1",
}  # fmt: skip


def test_the_resources_that_a_preset_asks_for_are_comments_to_a_shell(here, monkeypatch):
    taken = preset({"defaults": [{"override /hydra/launcher": "slurm"}], "hydra": {"launcher": RESOURCES}})
    planned = sweep.plan([taken], multirun=True).launcher
    assert planned is not None
    assert {key: planned[key] for key in RESOURCES} == RESOURCES
    lines = script(monkeypatch, taken, "steps=3,4", "name=a", "hydra.launcher.timeout_min=7")
    assert_plain(lines)
    assert {"#SBATCH --time=7", "#SBATCH --mem=3GB", "#SBATCH --gres=gpu:a100:1"} <= {*lines}
    assert f"#SBATCH --comment='{RESOURCES['comment']}'" in lines
    assert not [*here.rglob("marker")]


def test_lines_of_a_sites_own_come_from_the_command_line(here, monkeypatch):
    own = ["module load python/3.11", "touch marker"]
    listed = f"hydra.launcher.setup=['{own[0]}','{own[1]}']"
    flags = ["+hydra.launcher.additional_parameters={mail-user:'a@b.c'}"]
    flags += ["+hydra.launcher.additional_parameters.reservation=ours"]
    lines = script(monkeypatch, preset({"steps": 3}), listed, *flags, "hydra.launcher.account=physics-1", "name=a")
    assert_plain(lines, *own)
    assert {"#SBATCH --account=physics-1", "#SBATCH --mail-user=a@b.c", "#SBATCH --reservation=ours"} <= {*lines}
    assert [*here.rglob("marker")]


def test_a_working_folder_that_would_break_a_line_takes_no_launcher(here, monkeypatch):
    odd = here / f"a\n{MARKER}\n"
    odd.mkdir()
    monkeypatch.chdir(odd)
    sweep.plan([])
    with pytest.raises(SettingError, match=r"^output: .* as it is written into a launcher's script$"):
        sweep.plan(["hydra/launcher=slurm"])
    monkeypatch.chdir(here)


def test_an_option_that_is_in_no_list_has_the_plugins_own_value():
    settings = OmegaConf.create({**launchers._stored("submitit_slurm"), "submitit_folder": "/x", "name": "a"})
    with pytest.raises(SettingError, match=r"^hydra.launcher.submitit_folder: '/x' is not allowed"):
        launchers.checked(settings)

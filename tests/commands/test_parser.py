"""The command line from outside: what it computes, says, writes and leaves alone."""

import dataclasses
import json
import os
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import run_here, without_handlers

import gradient_horizon as gh
from gradient_horizon import experiments, figures, names
from gradient_horizon.commands import parser, sweep
from gradient_horizon.names.rules import SettingError
from gradient_horizon.store import records, sweep_folders

FIRST = shlex.split(
    "-m experiment=jacobian cell=tanh,relu weights=gaussian,orthogonal name=first weight_scales=[0.5,1.0,2.0]"
    " seeds=8 hidden_size=32 steps=100"
)
SMALL = ["hidden_size=3", "steps=5", "seeds=2", "weight_scales=[1.0]", "quick_look=false"]


def command(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gradient_horizon", *arguments], cwd=folder, capture_output=True, text=True
    )


@pytest.fixture
def here(monkeypatch, capfd):
    """`command` without a process of its own."""

    def call(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(folder)
        capfd.readouterr()
        status = parser.main(list(arguments))
        return subprocess.CompletedProcess(arguments, status, *capfd.readouterr())

    return call


@pytest.fixture
def undrawn(monkeypatch):
    """Sweeps without figures, for tests of something else: drawing takes longer than computing."""
    monkeypatch.setattr(figures, "sweep_figures", lambda dataset: {})


def seconds_of_children() -> float:
    """Processor time of the processes that have ended: what a busy machine does not change."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def files(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> tuple[Path, str]:
    """The folder of a finished sweep, and what was said meanwhile."""
    folder = tmp_path_factory.mktemp("first")
    ran = command("run", *FIRST, folder=folder)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    return folder, ran.stdout


def test_a_sweep_writes_what_it_says(first):
    folder, said = first
    assert said.startswith("results/first: 4 jobs; computing 4 (96 networks)\n")
    written = {line for line in said.splitlines() if line.startswith("results/first/")}
    assert written <= set(files(folder))
    for cell in ("tanh", "relu"):
        for weights in ("gaussian", "orthogonal"):
            job = f"results/first/cell={cell},weights={weights}"
            assert {path.name for path in (folder / job).iterdir()} == {
                "result.nc",
                "status.json",
                "config.yaml",
                "run.log",
                "lock",
                "quick_look.png",
            }
            assert f"{job}/result.nc" in written


def test_status_lists_the_jobs(here, first):
    folder, _ = first
    ran = here("status", "results/first", folder=folder)
    assert ran.returncode == 0
    for cell in ("tanh", "relu"):
        for weights in ("gaussian", "orthogonal"):
            assert f"cell={cell},weights={weights}" in ran.stdout
    assert ran.stdout.splitlines()[-1] == "4 finished"


def test_load_joins_the_jobs(first):
    folder, _ = first
    dataset = gh.load(folder / "results" / "first")
    assert dataset.log_norm.dims == ("cell", "weights", "norm", "weight_scale", "seed", "lag")
    assert dataset.log_norm.shape == (2, 2, 1, 3, 8, 100)
    assert dataset.log_norm.notnull().all()
    for name, variable in dataset.variables.items():
        assert variable.attrs.get("long_name"), name
    for name in dataset.data_vars:
        assert "units" in dataset[name].attrs, name
    for key in ("package_version", "jax_version", "git_commit", "precision", "device"):
        assert key in dataset.attrs
    assert set(dataset.horizon_kind.values.flat) <= set(names.HORIZON_KINDS)
    # tanh shrinks below g = 1 and grows above g = 2; orthogonal tanh at g = 0.5 falls by log 0.5 a step at the most
    last = dataset.log_norm.isel(norm=0, lag=-1).median("seed")
    assert (last.sel(weight_scale=0.5) < 100 * np.log(0.5) + np.log(32)).sel(weights="orthogonal").all()
    assert (last.diff("weight_scale") > 0).all()


def test_the_same_command_computes_nothing_again(first):
    folder, _ = first
    before = files(folder)
    shuffled = ["-m", *reversed(FIRST[1:])]
    code = (
        "import sys; from gradient_horizon.commands.parser import main; print(main(sys.argv[1:]), 'jax' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code, "run", *shuffled], cwd=folder, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("results/first: all 4 jobs are already finished; nothing to compute")
    assert ran.stdout.splitlines()[-1] == "0 False", "JAX was loaded"
    assert files(folder) == before


def test_collect_writes_what_load_gives(here, first, tmp_path):
    folder, _ = first
    ran = here("collect", "results/first", "-o", str(tmp_path / "all.nc"), folder=folder)
    assert ran.stdout == f"wrote {tmp_path / 'all.nc'}: 4 jobs, 0 missing\n"
    assert gh.load(tmp_path / "all.nc").identical(gh.load(folder / "results" / "first"))


def test_a_finished_job_of_other_settings_is_never_overwritten(here, first):
    folder, _ = first
    before = files(folder)
    ran = here("run", *FIRST, "steps=50", folder=folder)
    assert (ran.returncode, ran.stdout) == (2, "")
    lines = ran.stderr.splitlines()
    assert len(lines) == 4
    assert all("steps: 100 there, 50 here" in line and "force=true" in line for line in lines)
    assert files(folder) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "cell=perceptron"], "cell: 'perceptron' is not allowed; allowed: linear, tanh"),
        (["run", "steps=-1"], "steps: -1 is not allowed; allowed: a whole number of at least 1"),
        (["run", "weight_scales=[]"], "weight_scales: [] is not allowed; allowed: a finite number"),
        (["run", "seeds=0"], "seeds: 0 is not allowed; allowed: a whole number of at least 1"),
        (["run", "bias_scale=nan"], "bias_scale: nan is not allowed; allowed: a finite number"),
        (["run", "weight_scales=large"], "weight_scales: 'large' is not allowed; allowed: a finite number"),
        (["run", "+typo=1"], "typo: 1 is not allowed; allowed: the settings experiment"),
        (["run", "output=/dev/null/results"], "output: '/dev/null/results' is not allowed; allowed: a writable folder"),
        (["run", "cell=tanh,relu"], "cell: 'tanh,relu' is not allowed; allowed: one value; add -m"),
        (["status", "results/none"], "DIR: 'results/none' holds no sweep"),
        (["collect", "results/none"], "DIR: 'results/none' holds no sweep"),
    ],
)
def test_wrong_input_gets_one_line_and_nothing_is_written(tmp_path, arguments, message):
    begun = seconds_of_children()
    ran = command(*arguments, folder=tmp_path)
    assert seconds_of_children() - begun < 2
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith(f"gradient-horizon: {message}")
    assert ran.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_failing_job_stops_no_other_and_is_tried_again(here, undrawn, tmp_path, monkeypatch):
    words = ["run", "-m", "cell=tanh,relu,linear", "name=mixed", *SMALL]
    measure = experiments.measure

    def failing(config, report, parts):
        if config.cell == "relu":
            raise FloatingPointError("the second\nof three")
        return measure(config, report, parts)

    monkeypatch.setattr(experiments, "measure", failing)
    ran = here(*words, folder=tmp_path)
    assert ran.returncode == 1, ran.stderr
    assert "failed: results/mixed/cell=relu: FloatingPointError: the second (see results/mixed/cell=relu/run.log)" in (
        ran.stdout.splitlines()
    )
    assert "Left out of the table and the figures: 1 of 3 jobs (1 failed)." in ran.stdout.splitlines()
    log = (tmp_path / "results/mixed/cell=relu/run.log").read_text(encoding="utf-8")
    assert "Traceback" in log
    assert "of three" in log
    status = here("status", "results/mixed", folder=tmp_path)
    assert status.returncode == 0
    assert status.stdout.splitlines()[-1] == "2 finished, 1 failed"
    assert "FloatingPointError: the second" in status.stdout
    collected = here("collect", "results/mixed", folder=tmp_path)
    assert collected.stdout.splitlines() == [
        "missing: cell=relu (failed: FloatingPointError: the second)",
        "wrote results/mixed/collected.nc: 2 jobs, 1 missing",
    ]
    assert gh.load(tmp_path / "results/mixed/collected.nc").cell.values.tolist() == ["linear", "tanh"]

    monkeypatch.setattr(experiments, "measure", measure)
    again = here(*words, folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("results/mixed: 3 jobs, 2 already finished; computing 1 (2 networks)")
    assert json.loads((tmp_path / "results/mixed/cell=relu/status.json").read_text())["state"] == records.FINISHED


def test_a_job_that_another_process_computes_is_waited_for(here, tmp_path, monkeypatch):
    """And the command ends well only once everything is there."""
    waits = "import sys; from gradient_horizon import experiments; m = experiments.measure\n"
    waits += "experiments.measure = lambda *a: (print('begun', flush=True), sys.stdin.readline(), m(*a))[-1]\n"
    words = ["run", "cell=tanh", "name=shared", *SMALL]
    program = f"{waits}from gradient_horizon.commands import parser as cli; sys.exit(cli.main({words}))"
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        wait = sweep.wait

        def wait_for_what_goes_on(*arguments):
            assert other.poll() is None
            assert not list(tmp_path.rglob(records.RESULT))
            print("go", file=other.stdin, flush=True)
            return wait(*arguments)

        monkeypatch.setattr(sweep, "wait", wait_for_what_goes_on)
        try:
            assert other.stdout is not None
            assert any(line == "begun\n" for line in other.stdout)
            with without_handlers():
                ran = here(*words, folder=tmp_path)
            assert not (tmp_path / "results/shared/single/parts").exists()
            other.communicate()
        finally:
            other.kill()
    assert (ran.returncode, ran.stderr, other.returncode) == (0, "", 0)
    assert "waiting for results/shared/single: another process is computing it" in ran.stdout.splitlines()
    assert "results/shared/single/result.nc" in ran.stdout.splitlines()
    record = records.read_record(tmp_path / "results/shared/single")
    assert record is not None
    assert record.process == other.pid


def test_what_another_process_is_computing_is_left_out_of_the_table_and_named(here, undrawn, tmp_path):
    """Two commands with one name, of which the second is done before the first."""
    waits = "from gradient_horizon import experiments; m = experiments.measure\n"
    waits += "held = lambda *a: (print('begun', flush=True), sys.stdin.readline(), m(*a))[-1]\n"
    waits += "experiments.measure = lambda config, *a: (held if config.cell == 'relu' else m)(config, *a)\n"
    words = ["run", "-m", "name=shared", *SMALL]
    waits += "from gradient_horizon.commands.parser import main\n"
    program = f"import sys; {waits}sys.exit(main({[*words, 'cell=tanh,relu']}))"
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        try:
            assert other.stdout is not None
            assert any(line == "begun\n" for line in other.stdout)
            ran = here(*words, "cell=tanh,linear", folder=tmp_path)
            said, _ = other.communicate("go\n")
        finally:
            other.kill()
    assert (ran.returncode, other.returncode) == (0, 0), ran.stderr
    lines = ran.stdout.splitlines()
    (start,) = [number for number, line in enumerate(lines) if line.startswith("Left out")]
    assert lines[start - 1].strip() == "decay"  # the last line of the last table
    assert lines[start : start + 3] == [
        "Left out of the table and the figures: 1 of 3 jobs (1 running).",
        f"cell=relu: process {other.pid} on {socket.gethostname()} is computing it; 0 of 2 networks are done.",
        "gradient-horizon status results/shared lists them. Once they have finished, this command shows them too.",
    ]
    assert "Left out" not in said
    again = here(*words, "cell=tanh,linear", folder=tmp_path)
    assert again.stdout.splitlines()[0].startswith("results/shared: all 2 jobs are already finished")
    assert "Left out" not in again.stdout
    assert "│ relu " in again.stdout


def test_a_picture_that_cannot_be_drawn_is_reported_and_fails_no_job(here, tmp_path, monkeypatch):
    def broken(dataset):
        raise ValueError("no such colour")

    words = ["run", "name=undrawn", *SMALL[:-1], "force=true"]
    monkeypatch.setattr(figures, "quick_look", broken)
    with without_handlers():
        ran = here(*words, folder=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    said = "no quick look: results/undrawn/single: ValueError: no such colour (see results/undrawn/single/run.log)"
    assert said in ran.stdout.splitlines()
    assert "results/undrawn/norm_against_lag.pdf" in ran.stdout.splitlines()
    status = here("status", "results/undrawn", folder=tmp_path)
    assert status.stdout.splitlines()[-1] == "1 finished"
    assert "no quick look: ValueError: no such colour" in status.stdout
    monkeypatch.setattr(figures, "sweep_figures", broken)
    with without_handlers():
        ran = here(*words, folder=tmp_path)
    assert (ran.returncode, ran.stderr) == (1, "")
    said = "no figures: results/undrawn: ValueError: no such colour (the same command draws them again)"
    assert said in ran.stdout.splitlines()
    assert "results/undrawn/single/result.nc" in ran.stdout.splitlines()


def test_copies_are_ignored_and_named_and_other_settings_and_versions_refused(here, first, tmp_path):
    """In a sweep's folder as somebody may leave it."""
    shutil.copytree(first[0] / "results", tmp_path / "results")
    sweep = tmp_path / "results/first"
    job = sweep / "cell=tanh,weights=gaussian"
    shutil.copytree(job, sweep / "cell=tanh,weights=gaussian.bak")
    expected = gh.load(first[0] / "results/first")
    said = (
        "ignored: cell=tanh,weights=gaussian.bak: holds the job cell=tanh,weights=gaussian, whose folder has that name"
    )
    collected = here("collect", "results/first", folder=tmp_path)
    assert collected.stdout.splitlines() == [said, "wrote results/first/collected.nc: 4 jobs, 0 missing"]
    assert gh.load(sweep / "collected.nc").identical(expected)
    status = here("status", "results/first", folder=tmp_path)
    assert status.stdout.splitlines()[-2:] == [said, "4 finished"]
    told = json.loads(here("status", "results/first", "--json", folder=tmp_path).stdout)
    assert told["ignored"] == {"cell=tanh,weights=gaussian.bak": "cell=tanh,weights=gaussian"}
    before = files(tmp_path)
    ran = here("run", *FIRST, "cell=erf", "hidden_size=16", folder=tmp_path)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("gradient-horizon: results/first: its jobs have other settings (hidden_size: 32 there")
    assert ran.stderr.count("\n") == 1
    record = json.loads((job / records.RECORD).read_text())
    del record["seal"]
    records.write_sealed(job / records.RECORD, {**record, "version": "7.3", "mood": "good"})
    before = files(tmp_path)
    for words in (["run", *FIRST], ["status", "results/first"], ["collect", "results/first"]):
        ran = here(*words, folder=tmp_path)
        assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (2, "", 1)
        assert "written by gradient-horizon 7.3, which this one" in ran.stderr
    assert files(tmp_path) == before


STOPPED = ["run", "-m", "cell=tanh,relu", "name=stopped", *SMALL]
STOPPING = f"""
import sys, time
from gradient_horizon import experiments
from gradient_horizon.commands import parser as cli
measure = experiments.measure
def slow(config, report, parts):
    if config.cell == "relu":
        print("waiting", flush=True)
        time.sleep(100)
    return measure(config, report, parts)
experiments.measure = slow
sys.exit(cli.main({STOPPED}))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_keeps_what_is_finished_and_goes_on(here, undrawn, tmp_path, number):
    # in the background of a script SIGINT is ignored from the start
    ignored = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
    background = ignored if number == signal.SIGTERM else ""
    with subprocess.Popen(
        [sys.executable, "-c", f"{background}{STOPPING}"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line == "waiting\n":
                    break
            told = json.loads(here("status", "results/stopped", "--json", folder=tmp_path).stdout)
            os.kill(process.pid, number)
            said, wrong = process.communicate()
        finally:
            process.kill()
    assert told["counts"] == {"finished": 1, "running": 1}
    assert [(job["job"], job["networks"], job["done"]) for job in told["jobs"]] == [
        ("cell=tanh", 2, 2),
        ("cell=relu", 2, 0),
    ]
    assert told["jobs"][1]["process"] == process.pid
    assert told["seconds_left"] > 0
    assert process.returncode == 130, wrong
    assert wrong == ""
    assert said.splitlines() == ["interrupted: 1 of 2 jobs are finished and kept; the same command resumes the others"]
    finished = tmp_path / "results/stopped/cell=tanh/result.nc"
    before = finished.stat().st_mtime_ns
    assert "1 finished, 1 failed" in here("status", "results/stopped", folder=tmp_path).stdout

    again = here(*STOPPED, folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("results/stopped: 2 jobs, 1 already finished; computing 1 (2 networks)")
    assert finished.stat().st_mtime_ns == before


SWALLOWING = """
import gc, signal, sys
from gradient_horizon import experiments, figures
from gradient_horizon.commands import parser as cli, terminal
def pressed(phase, info):
    if phase == "start":
        signal.raise_signal(signal.SIGINT)
def collecting(function):
    def collects_and_goes_on(*arguments, **named):
        gc.callbacks.append(pressed)
        gc.collect()  # drops the exception, and goes on
        gc.callbacks.remove(pressed)
        print("went on")
        return function(*arguments, **named)
    return collects_and_goes_on
module, name, *words = sys.argv[1:]
place = {"experiments": experiments, "figures": figures, "terminal": terminal}[module]
setattr(place, name, collecting(getattr(place, name)))
sys.exit(cli.main(words))
"""


@pytest.mark.parametrize(
    ("place", "words", "said"),
    [
        (
            "experiments.measure",
            ["run", "-m", "cell=tanh,relu", "name=a", *SMALL],
            "interrupted: 0 of 2 jobs are finished",
        ),
        ("figures.sweep_figures", ["run", "-m", "cell=tanh,relu", "name=a", *SMALL], "gradient-horizon: interrupted"),
        ("terminal.counting", ["verify"], "gradient-horizon: interrupted"),
    ],
)
def test_ctrl_c_while_rubbish_is_collected_is_honoured_at_the_next_step(tmp_path, place, words, said):
    """Python drops what a callback of its garbage collector raises, and JAX registers one."""
    ran = subprocess.run(
        [sys.executable, "-c", SWALLOWING, *place.split("."), *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert "Traceback" not in ran.stderr
    assert "went on" in ran.stdout.splitlines()
    assert ran.returncode == 130, ran.stderr
    assert any(line.startswith(said) for line in (ran.stdout + ran.stderr).splitlines())
    assert not list(tmp_path.rglob("*.pdf"))
    assert not list(tmp_path.rglob("*.html"))


def test_the_reference_method_agrees_to_the_last_digits(here, undrawn, tmp_path):
    same = shlex.split(
        "run -m experiment=jacobian cell=tanh weights=np_rnn,unit_normal precision=float64 seeds=[3]"
        " weight_scales=[1.0] hidden_size=3 steps=20 quick_look=false"
    )
    for method in ("auto", "jacrev"):
        ran = here(*same, f"method={method}", f"name={method}", folder=tmp_path)
        assert ran.returncode == 0, ran.stderr
    found, reference = (gh.load(tmp_path / "results" / method).log_norm for method in ("auto", "jacrev"))
    np.testing.assert_allclose(found, reference, atol=1e-13, rtol=1e-13)
    assert found.notnull().all()


def test_run_from_python_gives_the_joined_result(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = gh.run(["cell=tanh,erf", *SMALL, "name=python"])
    assert dataset.log_norm.dims == ("cell", "norm", "weight_scale", "seed", "lag")
    assert dataset.identical(gh.load("results/python"))
    with pytest.raises(ValueError, match="cell: 'foo' is not allowed"):
        gh.run(["cell=tanh,foo"])


def test_a_result_says_how_it_was_made(first):
    folder, _ = first
    dataset = gh.load(folder / "results/first/cell=tanh,weights=gaussian")
    made = json.loads(dataset.attrs["config"])
    assert (made["cell"], made["hidden_size"], made["seeds"]) == ("tanh", 32, 8)
    assert len(dataset.attrs["config_hash"]) == 64
    assert dataset.attrs["package_version"] == gh.__version__
    assert dataset.attrs["wall_time_seconds"] > 0
    assert dataset.attrs["peak_memory_bytes"] > 2**20
    assert dataset.attrs["block_size"] >= 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_code(shell, tmp_path):
    ran = command("completion", shell, folder=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "gradient-horizon" in ran.stdout


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("run exp", {"experiment="}),
        ("run cell=re", {"cell=relu"}),
        ("run +sweeps=", {"+sweeps=main"}),
        ("sta", {"status"}),
        ("tu", {"tune"}),
        ("tune cell=ls", {"cell=lstm"}),
    ],
)
def test_completion_knows_commands_settings_and_their_values(typed, offered, tmp_path):
    line = f"gradient-horizon {typed}"
    answer = tmp_path / "answer"
    environment = {
        **os.environ,
        "_ARGCOMPLETE": "1",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "_ARGCOMPLETE_COMP_WORDBREAKS": " \n",
        "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
    }
    script = Path(sys.executable).with_name("gradient-horizon")
    subprocess.run([str(script)], env=environment, cwd=tmp_path, check=False)
    assert offered <= {text.strip() for text in answer.read_text().splitlines()}


@pytest.mark.parametrize("asked", [[], ["run"], ["settings"], ["status"], ["collect"], ["tune"], ["completion"]])
def test_every_command_has_help(asked, tmp_path):
    ran = command(*asked, "--help", folder=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("usage: gradient-horizon")


def test_the_version(tmp_path):
    ran = command("--version", folder=tmp_path)
    assert (ran.returncode, ran.stdout) == (0, f"gradient-horizon {gh.__version__}\n")


def test_a_dry_run_writes_nothing(here, tmp_path):
    ran = here("run", "-m", "cell=tanh,relu", "name=dry", "--dry-run", folder=tmp_path)
    assert ran.returncode == 0
    assert "would compute results/dry/cell=relu" in ran.stdout.splitlines()
    assert not list(tmp_path.iterdir())


LINE = "gradient-horizon: standard output: "
COMMANDS = {
    "run": ["run", *SMALL, "name=small"],
    "run again": ["run", *FIRST],
    "run --dry-run": ["run", "--dry-run", *SMALL],
    "status": ["status", "results/first"],
    "status --json": ["status", "results/first", "--json"],
    "collect": ["collect", "results/first", "-o", "all.nc"],
    "figures": ["figures", "--quick", "--draw-only", "notes"],
    "verify": ["verify", "-o", "page.html"],
    "settings": ["settings"],
    "settings of one": ["settings", "experiment=training"],
    "completion": ["completion", "bash"],
    "--help": ["--help"],
    "--version": ["--version"],
    "nothing": [],
}


@pytest.fixture(scope="module")
def copied(first, tmp_path_factory) -> Path:
    """A copy of the finished sweep, for tests that write there."""
    folder = tmp_path_factory.mktemp("copied")
    shutil.copytree(first[0], folder, dirs_exist_ok=True)
    return folder


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(("output", "why"), [(">/dev/full", "No space left on device"), (">&-", "closed; allowed: ")])
def test_an_output_that_takes_nothing_is_told_in_one_line(name, output, why, copied):
    words = shlex.join([sys.executable, "-m", "gradient_horizon", *COMMANDS[name]])
    ran = subprocess.run(["sh", "-c", f"{words} {output}"], cwd=copied, capture_output=True, text=True)
    assert ran.returncode != 0
    assert len(ran.stderr.splitlines()) == 1, ran.stderr
    if name != "figures":  # it has nothing to say but what is missing
        assert ran.stderr.startswith(LINE + why)


def test_an_error_that_nobody_can_read_is_no_traceback(copied):
    for output in (">/dev/full 2>/dev/full", ">&- 2>&-", "2>&-", "2>/dev/full"):
        ran = subprocess.run(
            ["sh", "-c", f"{sys.executable} -m gradient_horizon status nowhere {output}"],
            cwd=copied, capture_output=True, text=True,
        )  # fmt: skip
        assert ran.returncode in (1, 2, 120), output
        assert ran.stdout + ran.stderr == ""


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tests", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted: {mounted.stderr.decode().strip()}")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> Path:
    """The folder of a small finished sweep."""
    folder = tmp_path_factory.mktemp("old")
    ran = run_here("run", "-m", *SMALL, "name=old", "cell=tanh,relu", folder=folder)
    assert ran.returncode == 0, ran.stdout
    return folder


def fill(folder: Path) -> None:
    """Leave no room."""
    with (folder / "filling").open("wb", buffering=0) as stream:
        size = 2**16
        while size:
            try:
                while stream.write(bytes(size)) == size:
                    pass
                size //= 2
            except OSError:
                size //= 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["run", *SMALL, "name=new"],
            "gradient-horizon: output: 'results/new' is not allowed; allowed: a writable folder",
        ),
        (["run", "-m", *SMALL, "name=old", "cell=tanh,relu", "force=true"], "failed: results/old/cell="),
        (["run", "-m", *SMALL, "name=old", "cell=tanh,erf"], ""),
        (["collect", "results/old"], "gradient-horizon: "),
    ],
    ids=["new sweep", "computed again", "figures", "collect"],
)
def test_a_full_disk_is_told_in_one_line_and_takes_nothing(arguments, said, old, small_disk, here):
    shutil.copytree(old, small_disk, dirs_exist_ok=True)
    before = {name: (small_disk / name).read_bytes() for name in files(small_disk) if name.endswith((".nc", ".json"))}
    fill(small_disk)
    ran = here(*arguments, folder=small_disk)
    everything = ran.stdout + ran.stderr
    assert ran.returncode in (1, 2), everything
    assert "Traceback" not in everything
    assert "No space left on device" in everything
    assert said in everything
    assert len(ran.stderr.splitlines()) <= 1 + ran.stderr.count("could not record the failure")
    kept = {name: (small_disk / name).read_bytes() for name in before}
    assert {name for name in before if name.endswith(".nc") and kept[name] != before[name]} == set()
    assert {path.name for path in small_disk.rglob(".*")} <= {sweep_folders.PLAN_LOCK}


def test_a_folder_that_others_have_filled_harms_no_job_of_its_own(copied, tmp_path, here):
    """Every command shows, joins and computes the rest, and says of each what is wrong in one line."""
    folder = tmp_path / "results/first"
    shutil.copytree(copied / "results/first", folder)
    for name in ("pipe", "stray\x1b[2J", "wrong", "huge"):
        (folder / name).mkdir()
    os.mkfifo(folder / "pipe" / records.RECORD)
    (folder / "stray\x1b[2J" / records.RECORD).write_text("{}")
    wrong = dataclasses.asdict(records.JobRecord("failed", "", {}, {}, job="wrong"))
    records.write_sealed(folder / "wrong" / records.RECORD, {**wrong, "networks": "many\x1b[2J"})
    with (folder / "huge" / records.RECORD).open("wb") as stream:
        stream.truncate(2**40)
    one = folder / "cell=tanh,weights=gaussian"
    (one / records.RESULT).unlink()
    (one / records.RESULT).mkdir()
    two = folder / "cell=relu,weights=gaussian"
    values = json.loads((two / records.RECORD).read_text())
    del values["seal"]
    records.write_sealed(two / records.RECORD, {**values, "wall_time": float("nan"), "left": float("inf")})
    (folder / sweep_folders.PLAN).unlink()
    os.mkfifo(folder / sweep_folders.PLAN)

    ran = here("status", "results/first", "--json", folder=tmp_path)
    told = json.loads(ran.stdout, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
    states = {job["job"]: job["state"] for job in told["jobs"]}
    assert states == {
        "cell=relu,weights=gaussian": "damaged",
        "cell=relu,weights=orthogonal": "finished",
        "cell=tanh,weights=gaussian": "missing",
        "cell=tanh,weights=orthogonal": "finished",
        "huge": "damaged",
        "wrong": "damaged",
    }
    assert set(told["ignored"]) == {"sweep.json", "pipe", "stray\x1b[2J"}
    ran = here("status", "results/first", folder=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "\x1b" not in ran.stdout
    assert r"ignored: stray\x1b[2J: holds no job's record" in ran.stdout.splitlines()
    assert "2 finished, 3 damaged, 1 missing" in ran.stdout.splitlines()

    data = gh.load(folder)
    assert json.loads(data.attrs["missing_jobs"]) == [
        "cell=relu,weights=gaussian", "cell=tanh,weights=gaussian", "huge", "wrong"
    ]  # fmt: skip
    ran = command("collect", "results/first", folder=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines()[-1] == "wrote results/first/collected.nc: 2 jobs, 4 missing"
    assert "\x1b" not in ran.stdout

    # a plan that is none is not replaced, and nothing waits for it
    ran = here("run", *FIRST, folder=tmp_path)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == "gradient-horizon: results/first/sweep.json is a named pipe; allowed: a file\n"
    (folder / sweep_folders.PLAN).unlink()
    ran = command("run", *FIRST, folder=tmp_path)
    assert ran.returncode == 1
    assert [line.partition(": ")[2].partition(":")[0] for line in ran.stderr.splitlines()] == [
        "ignored", "ignored", "4 of 6 jobs missing"
    ]  # fmt: skip
    failed = [line for line in ran.stdout.splitlines() if line.startswith("failed: ")]
    assert [line.partition(": ")[2].partition(": ")[0] for line in failed] == [
        "results/first/cell=tanh,weights=gaussian", "results/first/cell=relu,weights=gaussian"
    ]  # fmt: skip
    assert "result.nc is a folder; allowed: a regular file, or nothing" in failed[0]
    assert "wall_time is nan; allowed: what gradient-horizon wrote" in failed[1]
    (one / records.RESULT).rmdir()
    (two / records.RECORD).unlink()
    ran = command("run", *FIRST, folder=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert gh.load(folder).log_norm.identical(gh.load(copied / "results/first").log_norm)


@pytest.mark.parametrize("what", ["results", "results/first", "figure"])
def test_what_output_names_may_be_a_link_and_nothing_below_it(what, copied, tmp_path, here):
    folder, scratch = tmp_path / "here", tmp_path / "scratch"
    folder.mkdir()
    shutil.copytree(copied / "results", scratch)
    if what == "results":
        (folder / "results").symlink_to(scratch)
    elif what == "results/first":
        (folder / "results").mkdir()
        (folder / "results/first").symlink_to(scratch / "first")
    else:
        (folder / "results").symlink_to(scratch)
        (tmp_path / "kept").write_bytes(b"kept")
        for path in [*(scratch / "first").glob("*.p*")]:
            path.unlink()
        for name in ("growth", "horizon", "norms"):
            for ending in ("pdf", "png"):
                (scratch / "first" / f"{name}.{ending}").symlink_to(tmp_path / "nothing")
    before = files(tmp_path)
    ran = here("run", *FIRST, folder=folder)
    if what == "results":
        assert (ran.returncode, ran.stderr) == (0, "")
        assert "results/first: all 4 jobs are already finished" in ran.stdout
    elif what == "results/first":
        assert (ran.returncode, ran.stdout) == (2, "")
        assert ran.stderr == "gradient-horizon: results/first is a link; allowed: a real folder, or nothing\n"
        assert files(tmp_path) == before
        assert here("status", "results/first", folder=folder).stdout.splitlines()[-1] == "4 finished"  # to read is fine
    assert not (tmp_path / "nothing").exists()


def test_a_fault_of_the_package_is_no_wrong_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def faulty(*_, **__):
        raise ValueError("operands could not be broadcast")

    monkeypatch.setattr(parser.run, "_run_sweep", faulty)
    with pytest.raises(ValueError, match="operands could not be broadcast"):
        parser.main(["run"])


@pytest.mark.parametrize("way", ["option", "environment"])
def test_any_error_has_a_traceback_when_it_is_asked_for(way, monkeypatch, capsys):
    assert parser.main(["run", "cell=perceptron"]) == 2
    assert capsys.readouterr().err.startswith("gradient-horizon: cell: 'perceptron'")
    if way == "environment":
        monkeypatch.setenv("GRADIENT_HORIZON_DEBUG", "1")
    with pytest.raises(SettingError, match="cell: 'perceptron'"):
        parser.main([*(["--debug"] if way == "option" else []), "run", "cell=perceptron"])

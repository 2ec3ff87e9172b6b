"""A sweep has the same bytes whoever computes it: this process, workers of joblib, a cluster, any number of devices."""

import hashlib
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import slurm
from filelock import FileLock
from omegaconf import OmegaConf

import gradient_horizon as gh
from gradient_horizon.commands import jobs, launch, sweep
from gradient_horizon.ensembles.devices import cpu_count
from gradient_horizon.settings import launchers
from gradient_horizon.store import files, records, sweep_folders, sweep_status

ROOT = Path(__file__).parents[2]
SWEEP = shlex.split(
    "run -m recheck=true,false hidden_size=12 steps=100 seeds=2000 weight_scales=[0.8,1.2,1.5] quick_look=false"
)


def digests(folder: Path) -> dict[str, str]:
    dataset = gh.load(folder)
    return {
        name: hashlib.sha256(dataset[name].values.tobytes()).hexdigest() for name in sorted(map(str, dataset.data_vars))
    }


def command(*arguments: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gradient_horizon", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """That of a person's shell, with a cache of compiled programs for these tests."""
    kept = {key: value for key, value in os.environ.items() if key not in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS")}
    return {**kept, "XDG_CACHE_HOME": str(tmp_path_factory.getbasetemp().parent / "cache")}


@pytest.fixture(scope="module")
def made(tmp_path_factory, environment) -> Path:
    """A folder with the sweep as it is made on 1, 2 and 4 devices; once for all processes that run tests."""
    folder = tmp_path_factory.getbasetemp().parent / "devices"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            for devices in (1, 2, 4):
                several = {**environment, "JAX_NUM_CPU_DEVICES": str(devices)}
                ran = command(*SWEEP, f"name=on-{devices}", folder=folder, environment=several)
                assert ran.returncode == 0, ran.stderr
    return folder / "results"


def test_the_number_of_devices_changes_no_bit_of_a_sweep(made):
    for devices in (1, 2, 4):
        assert gh.load(made / f"on-{devices}").attrs["device"].startswith(f"{devices} x ")
    assert digests(made / "on-1") == digests(made / "on-2") == digests(made / "on-4")


def test_workers_change_no_bit_of_a_sweep_and_share_cores_and_programs(tmp_path, environment, made):
    compiled = sorted(Path(environment["XDG_CACHE_HOME"]).rglob("*-cache"))
    workers = [*SWEEP, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "name=joblib"]
    ran = command(*workers, folder=tmp_path, environment=environment)
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr
    assert ran.stdout.splitlines()[0] == "results/joblib: 2 jobs; computing 2 (12000 networks)"
    assert {"[2/2] recheck=true: finished", "[2/2] recheck=false: finished"} & {*ran.stdout.splitlines()}
    folder = tmp_path / "results/joblib"
    assert digests(folder) == digests(made / "on-1")
    cores = max(1, cpu_count() // 2)
    assert gh.load(folder).attrs["device"].startswith(f"{cores} x ")
    if cores in (1, 2, 4):  # what one process compiled for so many devices, others find
        assert sorted(Path(environment["XDG_CACHE_HOME"]).rglob("*-cache")) == compiled
    assert not (folder / "launcher").exists()
    again = command(*workers, folder=tmp_path, environment=environment)
    assert again.stdout.startswith("results/joblib: all 2 jobs are already finished; nothing to compute")


def wait_until(holds, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it does not come to pass"
        time.sleep(0.2)


def preempt(task: int, environment: dict[str, str]) -> None:
    """Ask the task to leave, as a scheduler does before it takes its node, and spare us the two minutes of its rest."""

    def asked(*words: str) -> str:
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout

    queue = dict(line.split()[::-1] for line in asked("squeue", "--noheader", "--format=%A %K").splitlines())
    asked("scancel", "--signal=USR2", queue[str(task)])
    wait_until(lambda: "PENDING" in asked("squeue", "--noheader", "--format=%T", f"--jobs={queue[str(task)]}"))
    time.sleep(2)  # the node refuses a task that starts again in the second in which it was ended
    asked("scontrol", "update", f"JobId={queue[str(task)]}", "StartTime=now")


@pytest.fixture
def cluster(tmp_path, environment):
    with slurm.one_node(tmp_path, environment) as within:
        yield within


def test_on_a_cluster_a_preempted_job_goes_on_and_a_killed_one_when_asked_again(tmp_path, cluster, made):
    program = "import sys; from gradient_horizon.commands import launch, parser; launch.PATIENCE = 45; "
    program += "sys.exit(parser.main())"
    launcher = ["hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "name=cut"]
    folder = tmp_path / "results/cut"
    with subprocess.Popen(
        # SIGINT is ignored, as in the background of a script: giving up must not depend on it
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-c", program, *SWEEP, *launcher],
        cwd=tmp_path,
        env=cluster,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            wait_until(lambda: sweep_status.counts(sweep_status.statuses(folder)) == {"running": 2})
            preempted, killed = sweep_status.statuses(folder)
            assert (preempted.job, killed.job) == ("recheck=true", "recheck=false")
            assert killed.process is not None
            os.kill(killed.process, signal.SIGKILL)
            preempt(0, cluster)
            said, wrong = process.communicate()
        finally:
            process.kill()
    assert process.returncode == 1, said + wrong
    assert "failed: results/cut/recheck=false: lost: no sign of process" in said
    assert "[1/2] recheck=true: finished" in said
    made_by = records.read_record(folder / "recheck=true")
    assert made_by is not None
    assert made_by.process != preempted.process
    again = command(*SWEEP, *launcher, folder=tmp_path, environment=cluster)
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.startswith("results/cut: 2 jobs, 1 already finished; computing 1 ")
    assert digests(folder) == digests(made / "on-2")
    assert gh.load(folder).attrs["device"].startswith("1 x ")


def test_on_a_cluster_no_preset_runs_a_command_and_a_sites_own_lines_are_run(tmp_path, cluster):
    """A task of the scheduler runs what its script holds, so what is looked for is a file that a command would make."""
    small = shlex.split("run experiment=notes hidden_size=4 steps=5 seeds=2 quick_look=false hydra/launcher=slurm")
    small += ["hydra.launcher.cpus_per_task=1", "name=small"]
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "hydra/launcher").mkdir(parents=True)
    marker = tmp_path / "marker"
    for name in ("slurm", "submitit_slurm"):  # which nobody asks for
        (tmp_path / f"hydra/launcher/{name}.yaml").write_text(
            f"defaults: [submitit_slurm]\nsetup: ['touch {marker}']\n"
        )
    for settings in (
        f"hydra: {{launcher: {{setup: ['touch {marker}']}}}}",
        f'hydra: {{launcher: {{comment: "x\\ntouch {marker} #"}}}}',
        f'hydra: {{launcher: {{partition: "tests\\ntouch {marker} #"}}}}',
        f'hydra: {{launcher: {{python: "touch {marker}; python"}}}}',
        f'hydra: {{launcher: {{additional_parameters: {{"x\\ntouch {marker} #": 1}}}}}}',
        f"hydra: {{sweeper: {{params: {{hydra.launcher.setup: \"['touch {marker}'],[]\"}}}}}}",
        f'output: "x\\ntouch {marker} #"',
    ):
        (tmp_path / "sweeps/own.yaml").write_text(f"# @package _global_\n{settings}\n")
        ran = command(*small, "+sweeps=own", folder=tmp_path, environment=cluster)
        assert (ran.returncode, ran.stdout) == (2, ""), ran.stdout
        assert ran.stderr.startswith("gradient-horizon: sweeps/own.yaml: ")
        assert ran.stderr.count("\n") == 1
    assert not (tmp_path / "results").exists()
    (tmp_path / "sweeps/own.yaml").write_text(
        f"# @package _global_\nhydra: {{launcher: {{comment: 'x; touch {marker} #', timeout_min: 5}}}}\n"
    )
    ran = command(*small, "+sweeps=own", folder=tmp_path, environment=cluster)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert not marker.exists()
    setup = [f"hydra.launcher.setup=['touch {marker}']", "force=true"]
    ran = command(*small, *setup, folder=tmp_path, environment=cluster)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert marker.exists()


@pytest.mark.slow
def test_ray_changes_no_bit_of_a_sweep(tmp_path, environment, made):
    """In an environment of its own, as its plugin asks for an older cloudpickle: some 400 MB."""
    python = tmp_path / "venv/bin/python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    installed = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", f"{ROOT}[ray]"], capture_output=True, text=True
    )
    if installed.returncode:
        pytest.skip(f"Ray cannot be installed: {installed.stderr.strip().splitlines()[-1:]}")
    own = {key: value for key, value in environment.items() if key != "PYTHONPATH"}
    launcher = ["hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2", "name=ray"]
    ran = subprocess.run(
        [python, "-m", "gradient_horizon", *SWEEP, *launcher],
        cwd=tmp_path, env=own, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert digests(tmp_path / "results/ray") == digests(made / "on-1")


def test_the_commands_of_the_readme_are_sweeps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## On a cluster")[2]
    commands = [shlex.split(line) for line in section.splitlines() if line.startswith("gradient-horizon run -m")]
    assert len(commands) == 3
    assert [len(sweep.plan(words[3:], multirun=True).jobs) for words in commands] == [4, 4, 20]


def test_a_task_computes_as_many_jobs_as_a_pack_has(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    planned = sweep.plan(
        ["hydra/launcher=joblib", "steps=3,4,5,6,7", "name=packs", "pack=2", "force=true"], multirun=True
    )
    sweep.prepare_folder(planned)
    launched = []

    class Engine:
        def launch(self, overrides, first):
            launched.extend(overrides)

    def engine(settings, folder, task):
        assert settings["_target_"] == launchers.JOBLIB.target
        return Engine()

    monkeypatch.setattr(launch, "_launcher", engine)
    outcome = launch.run(planned, planned.jobs, 2, lambda told: None)
    assert launched == [
        ['+jobs=["steps=3", "steps=4"]'],
        ['+jobs=["steps=5", "steps=6"]'],
        ['+jobs=["steps=7"]'],
    ]
    assert [why for _, why in outcome.failed] == ["missing: it was not started"] * 5
    told = jobs.read_job(planned.jobs[0].folder, ["steps"])
    assert told.config.memory_budget is not None  # its share of the machine's
    assert told == replace(
        planned.jobs[0], config=replace(planned.jobs[0].config, force=False, memory_budget=told.config.memory_budget)
    )


def test_what_an_engine_complains_of_is_told_of_the_jobs_that_it_did_not_compute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    planned = sweep.plan(["hydra/launcher=joblib", "steps=3,4", "name=broken"], multirun=True)
    sweep.prepare_folder(planned)

    def broken(*_):
        raise RuntimeError("no such partition\nand more")

    monkeypatch.setattr(launch, "_launcher", broken)
    outcome = launch.run(planned, planned.jobs, 1, lambda told: None)
    assert [why for _, why in outcome.failed] == ["missing: RuntimeError: no such partition"] * 2


@pytest.fixture
def launched(tmp_path, monkeypatch):
    """A sweep of three jobs, and the jobs that an engine was asked to compute, in which folder."""
    monkeypatch.chdir(tmp_path)
    planned = sweep.plan(["hydra/launcher=joblib", "steps=3,4,5", "name=a"], multirun=True)
    sweep.prepare_folder(planned)
    asked = []

    class Engine:
        def __init__(self, folder):
            self.folder = folder

        def launch(self, overrides, first):
            asked.append((self.folder, [names for (names,) in overrides]))

    monkeypatch.setattr(launch, "_launcher", lambda settings, folder, task: Engine(folder))
    return planned, asked


def test_a_job_that_cannot_be_left_to_others_keeps_none_of_them_from_it(launched, tmp_path):
    planned, asked = launched
    (tmp_path / "outside").mkdir()
    planned.jobs[0].folder.symlink_to(tmp_path / "outside")
    other = sweep.plan(["steps=3,4,5", "name=a", "force=true"], multirun=True).jobs[1]  # it has finished meanwhile
    other.folder.mkdir()
    records.write_record(
        other.folder, replace(other.record(), state=records.FINISHED, hash="0" * 64, settings={"steps": 9})
    )
    before = (other.folder / records.RECORD).read_bytes()
    outcome = launch.run(planned, planned.jobs, 1, lambda told: None)
    assert [names for _, names in asked] == [['+jobs=["steps=5"]']]
    whys = {job.name: why for job, why in outcome.failed}
    assert whys["steps=3"] == "PlaceError: results/a/steps=3 is a link; allowed: a real folder, or nothing"
    assert "steps: 9 there, 4 here" in whys["steps=4"]
    assert whys["steps=5"] == "missing: it was not started"
    assert not list((tmp_path / "outside").iterdir())
    assert (other.folder / records.RECORD).read_bytes() == before


def test_each_command_has_a_launchers_folder_of_its_own_and_a_link_is_refused(launched, tmp_path):
    planned, asked = launched
    for _ in range(2):
        launch.run(planned, planned.jobs, 3, lambda told: None)
    first, second = (folder for folder, _ in asked)
    assert first != second
    assert first.parent == second.parent == tmp_path / "results/a/launcher"
    (tmp_path / "outside").mkdir()
    files.remove_tree(planned.folder / "launcher")
    (planned.folder / "launcher").symlink_to(tmp_path / "outside")
    with pytest.raises(OSError, match="launcher is a link; allowed: a real folder, or nothing"):
        launch.run(planned, planned.jobs, 3, lambda told: None)
    assert not list((tmp_path / "outside").iterdir())


def test_what_launchers_of_dead_commands_keep_goes_when_all_jobs_are_finished(launched, tmp_path):
    planned, _ = launched
    kept = planned.folder / sweep_folders.LAUNCHER
    for name in ("dead", "alive"):
        (kept / name).mkdir(parents=True)
        (kept / name / "task.sh").touch()
    (kept / "link").symlink_to(tmp_path)
    for job in planned.jobs:
        sweep_folders.clear_launcher(planned.folder)
        assert (kept / "dead/task.sh").exists()
        job.folder.mkdir()
        (job.folder / records.RESULT).touch()
        records.write_record(job.folder, replace(job.record(), state=records.FINISHED))
    with files.locked(kept / "alive" / sweep_folders.ALIVE, wait=False):
        sweep_folders.clear_launcher(planned.folder)
        assert sorted(path.name for path in kept.iterdir()) == ["alive", "link"]
        assert not (tmp_path / sweep_folders.ALIVE).exists()
    (kept / "link").unlink()
    sweep_folders.clear_launcher(planned.folder)
    assert not kept.exists()


def test_a_task_computes_what_it_can_read_the_settings_of(launched, monkeypatch):
    planned, _ = launched
    for job in planned.jobs:
        jobs.leave_to_others(job, None)
    (planned.jobs[1].folder / jobs.SETTINGS).unlink()
    os.mkfifo(planned.jobs[1].folder / jobs.SETTINGS)
    ran = []
    monkeypatch.setattr(sweep, "run", lambda todo, watch: ran.extend(job.name for job in todo))
    launch.work(str(planned.folder), ["steps"], None, OmegaConf.create({"jobs": [job.name for job in planned.jobs]}))
    assert ran == ["steps=3", "steps=5"]

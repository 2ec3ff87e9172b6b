"""One job: measured at once or in slabs, with the same result; refused where memory is too small."""

import errno
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from jax import monitoring

from gradient_horizon import experiments, figures
from gradient_horizon.commands import sweep
from gradient_horizon.commands.jobs import (
    PARTS,
    Job,
    TakenError,
    claimed,
    execute,
    leave_to_others,
    read_job,
    write_settings,
)
from gradient_horizon.experiments import grid
from gradient_horizon.names.rules import SettingError
from gradient_horizon.settings.identity import cut, networks_of
from gradient_horizon.settings.validation import checked
from gradient_horizon.store import datasets, files, joined_arrays, records, sweep_folders, sweep_status

# 16 networks fill a chunk, 8 on each of two devices.
SETTINGS = {"hidden_size": 64, "steps": 10, "seeds": [4, 0, 3, 7, 1], "weight_scales": [1.5, 0.8, 30.0, 1.0, 0.2]}


def run(folder, report=lambda _: None, **settings):
    job = Job(folder, checked({**SETTINGS, "quick_look": False, **settings}), {})
    execute(job, report)
    return datasets.open_job(folder)


@pytest.fixture
def small_slabs(monkeypatch):
    monkeypatch.setattr(grid, "SLAB", 1)
    monkeypatch.setattr(grid, "SLAB_CHUNKS", 1)


def assert_same(found: xr.Dataset, expected: xr.Dataset) -> None:
    changing = ("wall_time_seconds", "peak_memory_bytes", "recheck_networks", "recheck_difference")
    for dataset in (found, expected):
        for name in changing:
            dataset.attrs.pop(name, None)
    xr.testing.assert_identical(found, expected)
    for name in expected.variables:
        assert found[name].values.tobytes() == expected[name].values.tobytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole"), recheck=True)


def test_a_job_measured_in_slabs_has_the_same_result(tmp_path, whole, small_slabs, monkeypatch):
    for left in (".status.json.11033", ".result.nc.7"):  # by processes that were killed while they wrote
        (tmp_path / left).touch()
    monkeypatch.setattr(joined_arrays, "LARGE", 2**10)
    heard = []
    found = run(tmp_path, heard.append, recheck=True)
    assert sum(heard) == 25
    assert found.attrs["recheck_networks"] == 8 + 8  # a block of each slab
    assert 0 <= found.attrs["recheck_difference"] < 1e-3
    assert_same(found, whole)
    assert {path.name for path in tmp_path.iterdir()} == {"result.nc", "status.json", "config.yaml", "run.log"}


def test_finished_slabs_are_not_measured_again(tmp_path, whole, small_slabs, monkeypatch):
    measured = []
    measure = experiments.measure

    def counted(config, report, parts):
        dataset = measure(config, report, parts)
        if len(measured) == 1 and fails:
            raise FloatingPointError
        measured.append(networks_of(config))
        return dataset

    monkeypatch.setattr(experiments, "measure", counted)
    settings = {"recheck": True}
    fails = True
    with pytest.raises(FloatingPointError):
        run(tmp_path, **settings)
    assert (measured, records.state_of(tmp_path)) == ([15], records.FAILED)
    assert len(list((tmp_path / PARTS).glob("slab-*/result.nc"))) == 1
    fails = False
    heard = []
    assert_same(run(tmp_path, heard.append, **settings), whole)
    assert (measured, sum(heard)) == ([15, 10], 25)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a few pages, which takes no result."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24k", "tests", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted: {mounted.stderr.decode().strip()}")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_a_full_disk_fails_the_job_in_one_line_and_it_goes_on_when_there_is_room(small_disk, whole):
    settings = {"recheck": True}
    with pytest.raises(OSError, match="No space left on device"):
        run(small_disk / "job", **settings)
    record = records.read_record(small_disk / "job")
    assert record is None or record.state == records.RUNNING or record.error.startswith("OSError: [Errno 28] No space")
    assert not list((small_disk / "job").glob("*result*"))
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    assert_same(run(small_disk / "job", **settings), whole)


def test_a_quick_look_that_cannot_be_drawn_is_reported_and_the_job_is_finished(tmp_path, monkeypatch):
    def broken(dataset):
        raise ValueError("no such colour\nand more")

    monkeypatch.setattr(figures, "quick_look", broken)
    folder = tmp_path / "single"
    folder.mkdir()
    (folder / "quick_look.png").write_bytes(b"of an earlier result")
    run(folder, quick_look=True, seeds=1, weight_scales=[1.0])
    record = records.read_record(folder)
    assert record is not None
    assert (record.state, record.error, record.picture) == (records.FINISHED, "", "ValueError: no such colour")
    assert sweep_status.status_of(folder, 1).why == "no quick look: ValueError: no such colour"
    assert "Traceback" in (folder / "run.log").read_text()
    assert not (folder / "quick_look.png").exists()
    monkeypatch.undo()
    run(folder, quick_look=True, seeds=1, weight_scales=[1.0])
    record = records.read_record(folder)
    assert record is not None
    assert record.picture == ""
    assert (folder / "quick_look.png").exists()


def test_jobs_of_equal_shapes_share_their_compiled_programs(tmp_path, whole, small_slabs):
    compiled = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(duration_secs)

    monitoring.register_event_duration_secs_listener(listen)
    try:
        same = {"recheck": True}
        run(tmp_path / "other seeds", **same, seeds=[9, 8], weight_scales=[0.4])
        run(tmp_path / "other names", **same, seeds=40, weight_scales=[0.7], memory_budget=1.0)
        assert not compiled
        run(tmp_path / "other shapes", **same, steps=11)
        assert compiled
    finally:
        monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize(("most", "sizes"), [(25, [25]), (15, [15, 10]), (14, [10, 10, 5]), (4, [4, 1] * 5), (1, 25)])
def test_settings_are_cut_into_slabs_that_hold_every_network_once(most, sizes):
    config = checked(SETTINGS)
    slabs = cut(config, most)
    assert [networks_of(slab) for slab in slabs] == ([1] * sizes if isinstance(sizes, int) else sizes)
    networks = [(seed, scale) for slab in slabs for seed in slab.seeds for scale in slab.weight_scales]
    assert networks == [(seed, scale) for seed in config.seeds for scale in config.weight_scales]
    assert {slab.hidden_size for slab in slabs} == {64}


def test_what_memory_cannot_hold_is_refused_with_what_it_takes(tmp_path):
    with pytest.raises(
        SettingError, match=r"^memory_budget: '1e-05 GiB' .*; allowed: at least 0.* GiB, which "
    ) as refused:
        run(tmp_path, memory_budget=1e-5)
    assert "hidden_size" in str(refused.value)
    assert records.state_of(tmp_path) == records.FAILED
    record = records.read_record(tmp_path)
    assert record is not None
    assert str(refused.value) in record.error


def test_less_memory_makes_smaller_slabs_and_changes_no_number(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(grid, "HELD", 2**16)  # as if a result took this much more than the programs do
    sizes = []
    measure = experiments.measure

    def heard(config, report, parts):
        sizes.append(networks_of(config))
        return measure(config, report, parts)

    monkeypatch.setattr(experiments, "measure", heard)
    found = run(tmp_path, recheck=True, memory_budget=0.1)
    assert sizes == [15, 10]
    np.testing.assert_array_equal(found.log_norm, whole.log_norm)


@pytest.fixture
def measured(monkeypatch):
    """Measuring takes no time: what was measured, and what to do meanwhile."""
    meanwhile = []

    def measure(config, report, parts):
        for act in meanwhile:
            act()
        report(networks_of(config))
        return xr.Dataset({"seed_sum": ((), sum(config.seeds))})

    monkeypatch.setattr(experiments, "slabs", lambda config, budget: [config])
    monkeypatch.setattr(experiments, "measure", measure)
    return meanwhile


def small(folder, **settings) -> Job:
    return Job(folder, checked({"seeds": 2, "weight_scales": [1.0], "quick_look": False, **settings}), {})


def outside_of(tmp_path):
    path = tmp_path / "outside"
    path.mkdir()
    (path / "kept").write_bytes(b"kept")
    return path


def as_it_was(outside) -> bool:
    return [path.name for path in outside.iterdir()] == ["kept"] and (outside / "kept").read_bytes() == b"kept"


NAMES = ["result.nc", "status.json", "config.yaml", "run.log", "lock", "quick_look.png", "parts"]


def computed(*todo: Job) -> list[str]:
    """Why each of the jobs has failed; empty where it has not."""
    outcome = sweep.run(todo, lambda _: lambda _: None)
    assert not outcome.elsewhere
    failed = {job.name: why for job, why in outcome.failed}
    return [failed.get(job.name, "") for job in todo]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("kind", ["link", "link to nothing", "folder", "pipe"])
@pytest.mark.parametrize("name", NAMES)
def test_what_stands_where_a_file_belongs_fails_its_job_in_one_line_and_no_other(name, kind, force, tmp_path, measured):
    outside = outside_of(tmp_path)
    bad, good = small(tmp_path / "bad", force=force, quick_look=name.startswith("quick")), small(tmp_path / "good")
    path = bad.folder / name
    bad.folder.mkdir()
    if kind == "folder" and name == "parts":
        pytest.skip("it is a folder")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(outside if name == "parts" else outside / ("kept" if kind == "link" else "made"))
    why, fine = computed(bad, good)
    assert fine == ""
    assert good.is_finished()
    said = {"link": "link", "link to nothing": "link", "pipe": "named pipe", "folder": "folder"}[kind]
    if name == "parts" and kind == "link to nothing":
        said = "link"
    assert why.startswith(("PlaceError: ", "DamagedError: "))
    assert f"{path} is a {said}; allowed: a " in why
    assert as_it_was(outside)
    assert os.path.lexists(path)
    if name not in ("status.json", "lock"):
        told = sweep_status.status_of(bad.folder, 2)
        assert (told.state, told.why) == (records.FAILED, why)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "parts"])
def test_a_file_with_another_name_elsewhere_keeps_its_content(name, tmp_path, measured):
    outside = outside_of(tmp_path)
    job = small(tmp_path / "job", quick_look=True)
    job.folder.mkdir()
    os.link(outside / "kept", job.folder / name)
    assert computed(job) == [""]
    assert job.is_finished()
    assert as_it_was(outside)


def test_a_jobs_folder_that_is_a_link_is_refused_and_nothing_is_written_there(tmp_path, measured):
    outside = outside_of(tmp_path)
    (tmp_path / "job").symlink_to(outside)
    assert computed(small(tmp_path / "job")) == [
        f"PlaceError: {tmp_path / 'job'} is a link; allowed: a real folder, or nothing"
    ]
    assert as_it_was(outside)


def test_links_inside_parts_lead_nowhere(tmp_path, whole, small_slabs):
    outside = outside_of(tmp_path)
    job = tmp_path / "job"
    (job / PARTS).mkdir(parents=True)
    (job / PARTS / "slab-00001").symlink_to(outside)
    with pytest.raises(files.PlaceError, match="slab-00001 is a link; allowed: a real folder, or nothing"):
        run(job, recheck=True)
    assert as_it_was(outside)
    (job / PARTS / "slab-00001").unlink()
    (job / PARTS / "unfinished").symlink_to(outside / "kept")
    assert_same(run(job, recheck=True), whole)
    assert as_it_was(outside)


@pytest.fixture
def no_locks(monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", none)


class Machine:
    """What a process on another machine sees and says: its name, its clock, which is wrong."""

    def __init__(self, monkeypatch):
        self._set = monkeypatch.setattr
        self._time, self._record = time.time, Job.record

    def be(self, host: str, skew: float) -> None:
        def now() -> float:
            return self._time() + skew

        self._set(socket, "gethostname", lambda: host)
        self._set(time, "time", now)
        self._set(Job, "record", lambda job: replace(self._record(job), host=host, began=now(), changed=now()))


@pytest.fixture
def machine(monkeypatch):
    return Machine(monkeypatch)


@pytest.mark.parametrize("skew", [-1000.0, -100.0, 100.0, 1000.0])
@pytest.mark.usefixtures("no_locks")
def test_machines_whose_clocks_disagree_do_not_take_each_other_for_dead(skew, tmp_path, machine, measured, monkeypatch):
    """No locks between them; the other one looks at the job while it runs."""
    monkeypatch.setattr(records, "HEARTBEAT", 0.2)
    seen = []
    job = small(tmp_path / "single")

    def other():
        machine.be("second", skew)
        told = sweep_status.status_of(job.folder, 2)
        with claimed(job) as mine:
            seen.append((mine, told.state))
        machine.be("first", 0.0)

    machine.be("first", 0.0)
    measured.append(other)
    assert computed(job) == [""]
    assert seen == [(False, records.RUNNING)]
    machine.be("second", skew)
    assert job.is_finished()
    told = sweep_status.status_of(job.folder, 2)
    assert (told.state, told.host) == (records.FINISHED, "first")


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_process_of_this_machine_is_left_its_job(tmp_path, measured):
    job = small(tmp_path / "single")
    beaten = []

    def other():
        with claimed(job) as mine:
            beaten.append(mine)
        assert {path.name for path in job.folder.iterdir()} == {"status.json", "lock", "config.yaml", "run.log"}

    measured.append(other)
    assert computed(job) == [""]
    assert beaten == [False]


@pytest.mark.usefixtures("no_locks")
@pytest.mark.parametrize("state", [None, records.FAILED, records.FINISHED])
def test_without_locks_a_claim_that_comes_to_nothing_leaves_what_was_there(state, tmp_path):
    job = small(tmp_path / "single", force=True)
    job.folder.mkdir()
    before = None if state is None else replace(job.record(), state=state)
    if before is not None:
        records.write_record(job.folder, before)
    with claimed(job) as mine:
        assert mine
        record = records.read_record(job.folder)
        assert record is not None
        assert (record.state, record.host) == (records.RUNNING, socket.gethostname())
    assert records.read_record(job.folder) == before
    assert not list(job.folder.glob(".*"))


@pytest.mark.parametrize("noticed", ["before the result", "by the heartbeat"])
def test_a_process_that_was_taken_for_dead_stops_and_leaves_what_the_other_wrote(
    noticed, tmp_path, machine, measured, monkeypatch
):
    """It was asleep for so long that another machine has begun, or ended, the same job."""
    job = small(tmp_path / "single")
    machine.be("first", 0.0)
    before = {}
    monkeypatch.setattr(records, "HEARTBEAT", 0.05 if noticed == "by the heartbeat" else 1000)

    def overtaken():
        measured.clear()
        machine.be("second", 200.0)
        execute(job, lambda _: None)  # it ends there
        machine.be("first", 0.0)
        if noticed == "by the heartbeat":
            time.sleep(0.5)
        before.update({path: (path.read_bytes(), path.stat().st_mtime_ns) for path in job.folder.iterdir()})

    measured.append(overtaken)
    with pytest.raises(
        TakenError, match=r"single: process \d+ on second has taken over the job; this process leaves it alone$"
    ):
        execute(job, lambda _: None)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in job.folder.iterdir()} == before
    assert job.is_finished()
    outcome = sweep.run([job], lambda _: lambda _: None)
    assert outcome == sweep.Outcome([], [])


def test_a_job_that_was_taken_over_is_no_failure_but_left_to_the_other(tmp_path, machine, measured, caplog):
    job = small(tmp_path / "single")
    machine.be("first", 0.0)

    def overtaken():
        records.write_record(job.folder, replace(job.record(), host="second"))

    measured.append(overtaken)
    outcome = sweep.run([job], lambda _: lambda _: None)
    assert outcome == sweep.Outcome([], [job])
    assert "on second has taken over the job" in caplog.text
    record = records.read_record(job.folder)
    assert record is not None
    assert (record.state, record.host) == (records.RUNNING, "second")
    assert not (job.folder / records.RESULT).exists()


def test_what_another_command_has_finished_or_computes_is_left_as_it_is(tmp_path, measured):
    job = small(tmp_path / "single")
    assert computed(job) == [""]

    def all_of_it():
        return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in job.folder.iterdir()}

    before = all_of_it()
    leave_to_others(job, 1.0)  # it was planned before the other one finished
    assert all_of_it() == before
    records.write_record(job.folder, replace(job.record(), host="another machine"))
    before = all_of_it()
    for asked in (job, replace(job, config=replace(job.config, force=True))):
        leave_to_others(asked, 1.0)
        assert all_of_it() == before
    for state in (records.FAILED, records.FINISHED):
        records.write_record(job.folder, replace(job.record(), state=state))
        leave_to_others(replace(job, config=replace(job.config, force=True)), 1.0)
        assert records.read_record(job.folder) is None
    assert read_job(job.folder, []).config.memory_budget == 1.0


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"steps: [1", b"steps: 5\nsteps", b"a: !!python/object/apply:os.system ['x']", b"&a [*a]",
     b"steps: " + b"[" * 10**5, b"steps: -1", b"a: 1", "folder", "pipe", "link to a pipe", "huge"],
    ids=lambda content: str(content)[:20],
)  # fmt: skip
def test_settings_that_are_none_are_refused_in_one_line(content, tmp_path, monkeypatch):
    path = tmp_path / "config.yaml"
    if content == "folder":
        path.mkdir()
    elif content == "pipe":
        os.mkfifo(path)
    elif content == "link to a pipe":
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to("pipe")
    elif content == "huge":
        path.write_bytes(b"1" * 100)
        monkeypatch.setattr(files.read_regular, "__defaults__", (99,))
    else:
        path.write_bytes(content)
    if content == b"":
        assert read_job(tmp_path, []).config == checked({})
        return
    with pytest.raises((records.ResultError, SettingError)) as refused:
        read_job(tmp_path, [])
    assert len(str(refused.value).splitlines()) == 1
    assert "allowed" in str(refused.value)


def test_settings_are_read_as_they_were_written(tmp_path):
    config = checked(
        {"weight_scales": [0.1, 1e-7, 3.0], "seeds": [5, 2**32 - 1], "bias_scale": 1e-300, "name": "φ: 'x' #"}
    )
    write_settings(Job(tmp_path, config, {}))
    assert read_job(tmp_path, ["bias_scale"]) == Job(tmp_path, config, {"bias_scale": 1e-300})


STRESS = """
import errno, fcntl, os, sys, time
from gradient_horizon import experiments
from gradient_horizon.commands import jobs, sweep
from gradient_horizon.store import records, sweep_folders
import xarray as xr
kind, number, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if kind == "without locks":
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")
    fcntl.flock = flock
    skew, now = 100.0 * number, time.time
    time.time = lambda: now() + skew
records.HEARTBEAT = 0.1
def measure(config, report, parts):
    with open(f"{folder}/measured", "a") as log:
        print(config.steps, os.getpid(), file=log)
    time.sleep(0.05)
    report(2)
    return xr.Dataset({"sum": ((), float(config.steps))})
experiments.slabs = lambda config, budget: [config]
experiments.measure = measure
steps = range(10 * number + 2, 10 * number + 22)
planned = sweep.plan(
    [f"steps={','.join(map(str, steps))}", f"output={folder}", "name=both", "seeds=2", "weight_scales=[1.0]",
     "quick_look=false"], multirun=True)
while not os.path.exists(f"{folder}/go"):
    time.sleep(0.01)
sweep.prepare_folder(planned)
outcome = sweep.wait(sweep.run(planned.jobs, lambda _: lambda _: None), lambda _: lambda _: None)
assert not outcome.failed, outcome.failed
"""


@pytest.mark.parametrize("kind", ["with locks", "without locks"])
def test_commands_at_once_keep_all_jobs_and_compute_none_twice(kind, tmp_path):
    """Four commands that each ask for twenty jobs, half of which the next one asks for too."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", STRESS, kind, str(number), str(tmp_path)], stderr=subprocess.PIPE, text=True
        )
        for number in range(4)
    ]
    time.sleep(6.0)
    (tmp_path / "go").touch()
    said = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [0] * 4, said
    folder = tmp_path / "both"
    names = {f"steps={steps}" for steps in range(2, 52)}
    assert set(sweep_folders.read_plan(folder)) == names
    assert {job.job for job in sweep_status.statuses(folder) if job.state == records.FINISHED} == names
    measured = [line.split()[0] for line in (tmp_path / "measured").read_text().splitlines()]
    assert sorted(map(int, measured)) == list(range(2, 52))
    assert not [path for path in folder.rglob(".*") if path.name != sweep_folders.PLAN_LOCK]
    warned = "no locks on this file system (No locks available)"
    assert [text.count(warned) for text in said] == [1 if kind == "without locks" else 0] * 4

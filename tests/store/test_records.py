"""A job's fate is read from its folder alone; a file is the old one or the new one, never a part."""

import dataclasses
import errno
import os
import re
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from gradient_horizon.store import files, records, sweep_folders
from gradient_horizon.store.records import DAMAGED, FAILED, FINISHED, LOST, MISSING, RUNNING, JobRecord, ResultError


def record(state: str) -> JobRecord:
    return JobRecord(state, "0" * 64, {"steps": 3, "seeds": [0, 1]}, {"cell": "tanh"})


def ended_process() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    return child.pid


def unheard(folder, seconds: float) -> None:
    """As if the job's record had been written so long ago."""
    then = time.time() - seconds
    os.utime(folder / records.RECORD, (then, then))


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "file"
    for content in (b"first", b"", b"the third one is longer"):
        records.write_atomically(path, content)
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, broken):
    path = tmp_path / "file"
    records.write_atomically(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    if broken == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    else:
        monkeypatch.setattr(type(path), "replace", full)
    with pytest.raises(OSError, match="No space left"):
        records.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_record_is_read_as_it_was_written(tmp_path):
    written = replace(record(FINISHED), checksum="1" * 64, wall_time=1.5)
    records.write_record(tmp_path, written)
    assert records.read_record(tmp_path) == written


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"state": "finished"}', b'{"unknown": 1}', b"\xff"])
def test_a_record_that_cannot_be_read_is_none(tmp_path, content):
    assert records.read_record(tmp_path) is None
    (tmp_path / records.RECORD).write_bytes(content)
    assert records.read_record(tmp_path) is None
    assert records.state_of(tmp_path) == MISSING


def test_the_states_of_a_job(tmp_path):
    folder = tmp_path / "cell=tanh"
    folder.mkdir()
    assert records.state_of(folder / "nowhere") == MISSING
    records.write_record(folder, record(FAILED))
    assert records.state_of(folder) == FAILED
    records.write_record(folder, record(RUNNING))
    assert records.state_of(folder) == RUNNING
    gone = replace(record(RUNNING), process=ended_process())
    records.write_record(folder, gone)
    assert records.state_of(folder) == LOST
    away = replace(gone, host="another machine")  # all that is known of it is when it was heard of
    records.write_record(folder, away)
    assert records.state_of(folder) == RUNNING
    for silent in (away, record(RUNNING)):
        records.write_record(folder, silent)
        assert records.state_of(folder) == RUNNING
        unheard(folder, records.LOST_AFTER + 1)
        assert records.state_of(folder) == LOST
    records.write_record(folder, record(FINISHED))
    assert records.state_of(folder) == MISSING  # its result is gone
    (folder / records.RESULT).write_bytes(b"result")
    assert records.state_of(folder) == FINISHED


def test_a_job_is_left_to_a_process_on_another_machine_while_that_is_heard_of(tmp_path, monkeypatch):
    slept = []

    def beating(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            records.write_record(tmp_path, replace(away, changed=time.time()))

    monkeypatch.setattr(records.time, "sleep", beating)
    away = replace(record(RUNNING), host="another machine")
    assert not records.is_computed_elsewhere(tmp_path)
    for other in (record(RUNNING), replace(away, state=FINISHED), away):
        records.write_record(tmp_path, other)
        if other is away:
            unheard(tmp_path, 1000)
        assert not records.is_computed_elsewhere(tmp_path)
    assert not slept
    records.write_record(tmp_path, record(RUNNING))
    assert records.is_computed_elsewhere(tmp_path, here=True)  # where no lock tells of a process on this machine
    records.write_record(tmp_path, away)
    assert records.is_computed_elsewhere(tmp_path)
    assert len(slept) == 3

    monkeypatch.setattr(records.time, "sleep", lambda _: None)
    records.write_record(tmp_path, away)
    monkeypatch.setattr(records, "LOST_AFTER", 0.2)
    assert not records.is_computed_elsewhere(tmp_path)  # it is silent for so long that it must be dead


def test_a_plan_only_grows(tmp_path):
    assert sweep_folders.read_plan(tmp_path) == {}
    sweep_folders.write_plan(tmp_path, {"b": 1, "a": 2})
    sweep_folders.write_plan(tmp_path, {"a": 3, "c": 4})
    assert sweep_folders.read_plan(tmp_path) == {"b": 1, "a": 3, "c": 4}
    (tmp_path / "cell=tanh").mkdir()
    records.write_record(tmp_path / "cell=tanh", record(FINISHED))
    (tmp_path / "no job").mkdir()
    assert [folder.name for folder in sweep_folders.job_folders(tmp_path)] == ["b", "a", "c", "cell=tanh"]
    for broken in (b"{", b"[]", b'{"jobs": {"a": 1}}', b"\xff"):
        (tmp_path / sweep_folders.PLAN).write_bytes(broken)
        assert sweep_folders.read_plan(tmp_path) == {}


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", "..", ".", "a/b", ""])
def test_a_plan_does_not_lead_out_of_its_folder(tmp_path, name):
    sweep_folders.write_plan(tmp_path, {name: 1, "a": 1})
    assert sweep_folders.job_folders(tmp_path) == [tmp_path / "a"]


def sealed(path, **values) -> None:
    """A file as the package writes it, whatever its fields."""
    records.write_sealed(path, values)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"mood": "good", "version": "0.9"}, "gradient-horizon 0.9, .* (mood)"),
        ({"mood": "good"}, "another version of gradient-horizon, .* (mood)"),
        ({"hash": None}, "another version of gradient-horizon, .* (no hash)"),
    ],
)
def test_a_record_of_another_version_is_refused_by_its_version_and_stays(tmp_path, changed, said):
    values = {**dataclasses.asdict(record(FINISHED)), **changed}
    sealed(tmp_path / records.RECORD, **{key: value for key, value in values.items() if value is not None})
    before = (tmp_path / records.RECORD).read_bytes()
    for read in (records.read_record, records.state_of, lambda folder: records.is_finished(folder, "0" * 64)):
        with pytest.raises(
            ResultError, match=rf"^{tmp_path / records.RECORD}: written by {re.escape(said)}".replace(r"\.\*", ".*")
        ):
            read(tmp_path)
    assert (tmp_path / records.RECORD).read_bytes() == before


def test_a_plan_of_another_version_is_refused_by_its_version(tmp_path):
    sealed(tmp_path / sweep_folders.PLAN, jobs={"a": 1}, colours=["red"], version="0.9")
    for read in (
        sweep_folders.read_plan,
        sweep_folders.shared_settings,
        lambda sweep: sweep_folders.write_plan(sweep, {"b": 1}),
    ):
        with pytest.raises(ResultError, match=r"sweep.json: written by gradient-horizon 0\.9, .* \(colours\)"):
            read(tmp_path)


def placed(path, kind: str) -> None:
    """Something at `path` that is no file to read."""
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to a pipe":
        os.mkfifo(path.with_name("pipe"))
        path.symlink_to("pipe")
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "huge":
        with path.open("wb") as stream:
            stream.truncate(files.MOST + 1)


NO_FILES = {
    "folder": "is a folder; allowed: a file",
    "pipe": "is a named pipe; allowed: a file",
    "link to a pipe": "is a named pipe; allowed: a file",
    "device": "is a device; allowed: a file",
    "huge": f"holds more than {files.MOST} bytes; allowed: what gradient-horizon wrote",
}


@pytest.mark.parametrize("kind", NO_FILES)
def test_a_record_that_is_no_file_is_damaged_and_neither_waited_for_nor_read_whole(tmp_path, kind):
    placed(tmp_path / records.RECORD, kind)
    with pytest.raises(ResultError) as refused:
        records.read_record(tmp_path)
    assert str(refused.value) == f"{tmp_path / records.RECORD} {NO_FILES[kind]}"
    assert records.state_of(tmp_path) == DAMAGED
    assert not records.is_finished(tmp_path, "0" * 64)


WRONG = {
    "state": ["lost", "", 1, None, ["running"]],
    "hash": [3, None, {}],
    "settings": [3, "many", [], None],
    "swept": [3, "many", [], None],
    "checksum": [1, None],
    "error": [["a"], None],
    "host": [1, {}],
    "process": [0, -1, 2**31, 1.5, True, "1"],
    "began": [float("nan"), float("inf"), 1e300, "now", None, True],
    "changed": [float("nan"), 10**400, [0.0]],
    "wall_time": [float("-inf"), "long"],
    "networks": ["many", -1, 1.5, None, {"a": {}}],
    "done": [float("nan"), "all"],
    "left": [float("nan"), "little"],
    "job": [1],
    "picture": [[]],
    "version": [0.1],
    "token": [1],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_sealed_record_with_a_value_of_another_kind_is_refused_by_its_name(tmp_path, name, value):
    assert set(WRONG) == {entry.name for entry in dataclasses.fields(JobRecord)}
    folder = tmp_path / "single"
    folder.mkdir()
    sealed(folder / records.RECORD, **{**dataclasses.asdict(record(FINISHED)), name: value})
    with pytest.raises(ResultError) as refused:
        records.read_record(folder)
    said = str(refused.value)
    assert said.startswith(f"{folder / records.RECORD}: {name} is {value!r:.40}")
    assert said.endswith("; allowed: what gradient-horizon wrote")
    assert len(said.splitlines()) == 1
    assert records.state_of(folder) == DAMAGED


@pytest.mark.parametrize("content", [b"[" * 10**5, b'{"seal": ' * 10**4, b'{"seal": NaN, "a": 1}', b"1" * 10**5])
def test_text_that_is_no_record_is_none(tmp_path, content):
    (tmp_path / records.RECORD).write_bytes(content)
    assert records.read_record(tmp_path) is None


def test_texts_of_a_record_command_no_terminal(tmp_path):
    written = replace(record(FAILED), error="\x1b[2J\x9b31m\nwrote all.nc", host="\x1b]0;", job="\ud800", picture="\r")
    records.write_record(tmp_path, written)
    found = records.read_record(tmp_path)
    assert found is not None
    assert found.error == r"\x1b[2J\x9b31m\nwrote all.nc"
    assert (found.host, found.job, found.picture) == (r"\x1b]0;", r"\ud800", r"\r")


@pytest.mark.parametrize("kind", NO_FILES)
def test_a_plan_that_is_no_file_is_refused_and_the_jobs_are_found_by_their_records(tmp_path, kind):
    placed(tmp_path / sweep_folders.PLAN, kind)
    (tmp_path / "cell=tanh").mkdir()
    records.write_record(tmp_path / "cell=tanh", record(FAILED))
    said = f"{tmp_path / sweep_folders.PLAN} {NO_FILES[kind]}"
    for read in (sweep_folders.read_plan, lambda sweep: sweep_folders.write_plan(sweep, {"b": 1})):
        with pytest.raises(ResultError) as refused:
            read(tmp_path)
        assert str(refused.value) == said
    assert sweep_folders.contents(tmp_path) == ([tmp_path / "cell=tanh"], {sweep_folders.PLAN: said})
    assert sweep_folders.ignored_lines({sweep_folders.PLAN: said}) == [f"ignored: {said}"]


@pytest.mark.parametrize(
    "values",
    [
        {"jobs": 3},
        {"jobs": ["a"]},
        {"jobs": {"a": "many"}},
        {"jobs": {"a": -1}},
        {"jobs": {"a": 1.5}},
        {"jobs": {"a": True}},
        {"jobs": {"a": float("nan")}},
        {"jobs": {"a": {"b": 1}}},
        {"jobs": {}, "settings": 3},
        {"jobs": {}, "settings": ["steps"]},
        {"jobs": {}, "version": 1},
    ],
)
def test_a_sealed_plan_with_a_value_of_another_kind_is_refused_by_its_name(tmp_path, values):
    sealed(tmp_path / sweep_folders.PLAN, **values)
    (tmp_path / "cell=tanh").mkdir()
    records.write_record(tmp_path / "cell=tanh", record(FAILED))
    with pytest.raises(
        ResultError, match=rf"sweep.json: {list(values)[-1]} is .*; allowed: what gradient-horizon wrote"
    ):
        sweep_folders.read_plan(tmp_path)
    assert sweep_folders.job_folders(tmp_path) == [tmp_path / "cell=tanh"]


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "a\x00", "\ud800", "\u202ea"])
def test_a_name_that_commands_a_terminal_is_no_jobs(tmp_path, name):
    sweep_folders.write_plan(tmp_path, {name: 1, "a": 1})
    assert sweep_folders.read_plan(tmp_path) == {"a": 1}
    if "\x00" in name or "\ud800" in name:
        return
    (tmp_path / name).mkdir()
    records.write_record(tmp_path / name, replace(record(FAILED), job=name))
    folders, others = sweep_folders.contents(tmp_path)
    assert folders == [tmp_path / "a"]
    assert sweep_folders.ignored_lines(others) == [f"ignored: {files.harmless(name)}: holds no job's record"]


@pytest.mark.parametrize("content", [b"{}", b"notes", None])
def test_a_stray_file_of_that_name_makes_no_job(tmp_path, content):
    stray = tmp_path / "notes"
    stray.mkdir()
    if content is None:
        (stray / records.RECORD).mkdir()
    else:
        (stray / records.RECORD).write_bytes(content)
    assert sweep_folders.contents(tmp_path) == ([], {"notes": ""})
    sweep_folders.write_plan(tmp_path, {"notes": 3})  # unless it was planned
    assert sweep_folders.contents(tmp_path) == ([stray], {})


@pytest.mark.parametrize("kind", ["folder", "pipe", "missing"])
def test_a_result_that_is_no_file_is_missing(tmp_path, kind):
    folder = tmp_path / "cell=tanh"
    folder.mkdir()
    records.write_record(folder, replace(record(FINISHED), checksum="1" * 64))
    placed(folder / records.RESULT, kind)
    assert records.state_of(folder) == MISSING
    assert not records.is_finished(folder, "0" * 64)


@pytest.mark.parametrize("skew", [-1e6, -100.0, 100.0, 1e6])
def test_the_wrong_time_on_a_machine_makes_no_job_of_others_lost(tmp_path, monkeypatch, skew):
    away = replace(record(RUNNING), host="another machine", changed=time.time() + skew, began=time.time() + skew)
    records.write_record(tmp_path, away)
    assert records.is_running(tmp_path, away)
    monkeypatch.setattr(records.time, "time", lambda: 1e9)
    assert records.is_running(tmp_path, away)
    monkeypatch.undo()
    for seconds in (records.LOST_AFTER + 5, -records.LOST_AFTER - 5):  # in the future: it was copied from elsewhere
        unheard(tmp_path, seconds)
        assert not records.is_running(tmp_path, away)


def test_a_record_is_its_writers_until_another_writes_one(tmp_path):
    ours = replace(record(RUNNING), token="1" * 16)
    assert records.is_held(tmp_path, ours)  # somebody has removed it
    records.write_record(tmp_path, replace(ours, changed=ours.changed + 10, done=1))
    assert records.is_held(tmp_path, ours)
    for other in ({"token": "2" * 16}, {"host": "b"}, {"process": ours.process + 1}, {"began": ours.began + 1}):
        records.write_record(tmp_path, replace(ours, **other))
        assert not records.is_held(tmp_path, ours)
    sealed(tmp_path / records.RECORD, mood="good")
    assert not records.is_held(tmp_path, ours)


def test_only_the_record_that_was_read_is_forgotten(tmp_path):
    failed, finished = record(FAILED), record(FINISHED)
    records.forget(tmp_path, None)
    records.write_record(tmp_path, finished)  # meanwhile, by another process
    records.forget(tmp_path, failed)
    assert records.read_record(tmp_path) == finished
    records.forget(tmp_path, finished)
    assert not list(tmp_path.iterdir())
    (tmp_path / records.RECORD).write_bytes(b"damaged")
    records.forget(tmp_path, None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [sweep_folders.PLAN_LOCK, sweep_folders.PLANNER])
def test_the_plans_lock_leads_nowhere(tmp_path, name, monkeypatch):
    (tmp_path / "kept").write_bytes(b"kept")
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    if name == sweep_folders.PLANNER:
        monkeypatch.setattr(files.fcntl, "flock", _no_locks)
    (sweep / name).symlink_to(tmp_path / "kept")
    with pytest.raises(files.PlaceError, match=f"{name} is a link"), sweep_folders.planning(sweep):
        pass
    assert (tmp_path / "kept").read_bytes() == b"kept"
    (tmp_path / "away").symlink_to(sweep)
    with pytest.raises(files.PlaceError, match="away is a link"), sweep_folders.planning(tmp_path / "away"):
        pass


def _no_locks(*_):
    raise OSError(errno.ENOLCK, "No locks available")


PLANNER = """
import errno, fcntl, os, sys, time
from pathlib import Path
from gradient_horizon.store import files, records, sweep_folders
def flock(*_):
    raise OSError(errno.EOPNOTSUPP, "Operation not supported")
if sys.argv[2] == "without":
    fcntl.flock = flock
sweep, number = Path(sys.argv[1]), int(sys.argv[3])
while not (sweep / "go").exists():
    time.sleep(0.001)
for job in range(30):
    with sweep_folders.planning(sweep):
        sweep_folders.write_plan(sweep, {f"{number}-{job}": job})
"""


@pytest.mark.parametrize("locks", ["with", "without"])
def test_plans_of_processes_at_once_keep_all_jobs(tmp_path, locks):
    running = [
        subprocess.Popen([sys.executable, "-c", PLANNER, str(tmp_path), locks, str(number)], stderr=subprocess.PIPE)
        for number in range(4)
    ]
    time.sleep(1.0)
    (tmp_path / "go").touch()
    said = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [0] * 4, said
    assert len(sweep_folders.read_plan(tmp_path)) == 120
    assert {path.name for path in tmp_path.iterdir()} == {sweep_folders.PLAN, sweep_folders.PLAN_LOCK, "go"}


def test_records_and_plans_of_version_0_1_are_read(tmp_path):
    values = dataclasses.asdict(record(FINISHED))
    for added in ("job", "picture", "version", "token"):
        del values[added]
    sealed(tmp_path / records.RECORD, **values)
    found = records.read_record(tmp_path)
    assert found is not None
    assert (found.state, found.job, found.version) == (FINISHED, "", "")
    sealed(tmp_path / sweep_folders.PLAN, jobs={"a": 1})
    assert sweep_folders.read_plan(tmp_path) == {"a": 1}
    assert sweep_folders.shared_settings(tmp_path) is None
    sweep_folders.write_plan(tmp_path, {"b": 2}, {"steps": 3})
    assert (sweep_folders.read_plan(tmp_path), sweep_folders.shared_settings(tmp_path)) == (
        {"a": 1, "b": 2},
        {"steps": 3},
    )


@pytest.mark.parametrize(
    ("swept", "name", "own"),
    [
        ({}, "single", True),
        ({}, "single-copy", False),
        ({}, "copy", False),
        ({}, "seeds=[0,1],weight_scales=[0.5,1.0]", True),
        ({}, "seeds=[0,1],steps=3", False),
        ({"cell": "tanh"}, "cell=tanh", True),
        ({"cell": "tanh"}, "cell=tanh-old", False),
        ({"cell": "tanh"}, "cell=tanh (copy)", False),
        ({"cell": "tanh"}, "cell=relu", False),
        ({"cell": "tanh"}, "single", False),
        ({"cell": "tanh"}, "cell=tanh,seeds=[0,1]", True),
        ({"cell": "tanh"}, "cell=tanh,steps=3", False),
        ({"cell": "tanh", "steps": 3}, "cell=tanh,steps=3", True),
        ({"cell": "tanh", "steps": 3}, "cell=tanh", False),
    ],
)
def test_a_folder_is_a_job_where_its_settings_name_it(tmp_path, swept, name, own):
    """As version 0.1.0 recorded it, without the name."""
    settings = {"cell": "tanh", "steps": 3, "seeds": 2, "weight_scales": [0.5, 1.0], **swept}
    old = JobRecord(FINISHED, "0" * 64, settings, swept)
    assert records.is_own(tmp_path / name, old) == own
    assert records.is_own(tmp_path / name, replace(old, job=name))
    assert not records.is_own(tmp_path / name, replace(old, job=f"{name},steps=4"))


def test_what_is_remembered_is_what_stands(tmp_path, monkeypatch):
    """A record that was replaced is read again; one that was not is read once, and outside each time."""
    read = []
    fresh = records._fresh_record_of

    def counted(path):
        read.append(path)
        return fresh(path)

    monkeypatch.setattr(records, "_fresh_record_of", counted)
    first, second = (records.JobRecord(state, "", {}, {}) for state in (records.RUNNING, records.FAILED))
    records.write_record(tmp_path, first)
    with records.remembering():
        assert records.read_record(tmp_path) == records.read_record(tmp_path) == first
        with records.remembering():
            assert records.read_record(tmp_path) == first
        assert len(read) == 1
        records.write_record(tmp_path, second)
        assert records.read_record(tmp_path) == second
        (tmp_path / records.RECORD).unlink()
        assert records.read_record(tmp_path) is None
    records.write_record(tmp_path, first)
    count = len(read)
    assert records.read_record(tmp_path) == records.read_record(tmp_path) == first
    assert len(read) == count + 2

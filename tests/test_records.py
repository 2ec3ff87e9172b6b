"""A job's fate is read from its folder alone; a file is the old one or the new one, never a part."""

import dataclasses
import os
import re
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from gradient_horizon import records
from gradient_horizon.records import DAMAGED, FAILED, FINISHED, LOST, MISSING, RUNNING, Record, ResultError


def record(state: str) -> Record:
    return Record(state, "0" * 64, {"steps": 3, "seeds": [0, 1]}, {"cell": "tanh"})


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
    assert records.read_plan(tmp_path) == {}
    records.write_plan(tmp_path, {"b": 1, "a": 2})
    records.write_plan(tmp_path, {"a": 3, "c": 4})
    assert records.read_plan(tmp_path) == {"b": 1, "a": 3, "c": 4}
    (tmp_path / "cell=tanh").mkdir()
    records.write_record(tmp_path / "cell=tanh", record(FINISHED))
    (tmp_path / "no job").mkdir()
    assert [folder.name for folder in records.job_folders(tmp_path)] == ["b", "a", "c", "cell=tanh"]
    for broken in (b"{", b"[]", b'{"jobs": {"a": 1}}', b"\xff"):
        (tmp_path / records.PLAN).write_bytes(broken)
        assert records.read_plan(tmp_path) == {}


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", "..", ".", "a/b", ""])
def test_a_plan_does_not_lead_out_of_its_folder(tmp_path, name):
    records.write_plan(tmp_path, {name: 1, "a": 1})
    assert records.job_folders(tmp_path) == [tmp_path / "a"]


def sealed(path, **values) -> None:
    """A file as the package writes it, whatever its fields."""
    records._write_sealed(path, values)


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
    with pytest.raises(
        ResultError, match=rf"^{tmp_path / records.RECORD}: written by {re.escape(said)}".replace(r"\.\*", ".*")
    ):
        records.read_record(tmp_path)
    assert records.state_of(tmp_path) == DAMAGED
    assert not records.is_finished(tmp_path, "0" * 64)
    assert (tmp_path / records.RECORD).read_bytes() == before


def test_a_plan_of_another_version_is_refused_by_its_version(tmp_path):
    sealed(tmp_path / records.PLAN, jobs={"a": 1}, colours=["red"], version="0.9")
    for read in (records.read_plan, records.shared_settings, lambda sweep: records.write_plan(sweep, {"b": 1})):
        with pytest.raises(ResultError, match=r"sweep.json: written by gradient-horizon 0\.9, .* \(colours\)"):
            read(tmp_path)


def test_records_and_plans_of_version_0_1_are_read(tmp_path):
    values = dataclasses.asdict(record(FINISHED))
    for added in ("job", "picture", "version", "token"):
        del values[added]
    sealed(tmp_path / records.RECORD, **values)
    found = records.read_record(tmp_path)
    assert found is not None
    assert (found.state, found.job, found.version) == (FINISHED, "", "")
    sealed(tmp_path / records.PLAN, jobs={"a": 1})
    assert records.read_plan(tmp_path) == {"a": 1}
    assert records.shared_settings(tmp_path) is None
    records.write_plan(tmp_path, {"b": 2}, {"steps": 3})
    assert (records.read_plan(tmp_path), records.shared_settings(tmp_path)) == ({"a": 1, "b": 2}, {"steps": 3})


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
    old = Record(FINISHED, "0" * 64, settings, swept)
    assert records.is_own(tmp_path / name, old) == own
    assert records.is_own(tmp_path / name, replace(old, job=name))
    assert not records.is_own(tmp_path / name, replace(old, job=f"{name},steps=4"))

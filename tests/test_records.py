"""A job's fate is read from its folder alone; a file is the old one or the new one, never a part."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from gradient_horizon import records
from gradient_horizon.records import FAILED, FINISHED, LOST, MISSING, RUNNING, Record


def record(state: str) -> Record:
    return Record(state, "0" * 64, {"steps": 3, "seeds": [0, 1]}, {"cell": "tanh"})


def ended_process() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    return child.pid


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
    assert records.state_of(tmp_path / "nowhere") == MISSING
    records.write_record(tmp_path, record(FAILED))
    assert records.state_of(tmp_path) == FAILED
    records.write_record(tmp_path, record(RUNNING))
    assert records.state_of(tmp_path) == RUNNING
    gone = replace(record(RUNNING), process=ended_process())
    records.write_record(tmp_path, gone)
    assert records.state_of(tmp_path) == LOST
    records.write_record(tmp_path, replace(gone, host="another machine"))  # nothing can be known of it
    assert records.state_of(tmp_path) == RUNNING
    records.write_record(tmp_path, record(FINISHED))
    assert records.state_of(tmp_path) == MISSING  # its result is gone
    (tmp_path / records.RESULT).write_bytes(b"result")
    assert records.state_of(tmp_path) == FINISHED


def test_a_plan_only_grows(tmp_path):
    assert records.read_plan(tmp_path) == []
    records.write_plan(tmp_path, ["b", "a"])
    records.write_plan(tmp_path, ["a", "c"])
    assert records.read_plan(tmp_path) == ["b", "a", "c"]
    (tmp_path / "unplanned").mkdir()
    records.write_record(tmp_path / "unplanned", record(FINISHED))
    (tmp_path / "no job").mkdir()
    assert [folder.name for folder in records.job_folders(tmp_path)] == ["b", "a", "c", "unplanned"]
    (tmp_path / records.PLAN).write_bytes(b"{")
    assert records.read_plan(tmp_path) == []

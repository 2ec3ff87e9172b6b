"""What is told of a sweep, from records alone."""

import dataclasses
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from gradient_horizon.commands import progress, terminal
from gradient_horizon.store import records, sweep_folders, sweep_status
from gradient_horizon.store.records import FAILED, FINISHED, LOST, MISSING, RUNNING, JobRecord
from gradient_horizon.store.sweep_status import JobStatus

FULL = JobRecord(FINISHED, "", {}, {})


@pytest.fixture
def sweep(tmp_path) -> Path:
    """One job of each state: of 100 networks, 2 s each; the running one has 40."""
    now = time.time()
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    made = {
        FINISHED: JobRecord(FINISHED, "", {}, {}, wall_time=200.0, networks=100, done=100),
        RUNNING: JobRecord(RUNNING, "", {}, {}, began=now - 80, changed=now - 1, networks=100, done=40, left=100.0),
        FAILED: JobRecord(
            FAILED, "", {}, {}, error="ValueError: [bold]why[/bold]", began=now - 9, networks=100, done=3
        ),
        LOST: JobRecord(RUNNING, "", {}, {}, process=child.pid, began=now - 9, networks=100, done=50),
    }
    sweep_folders.write_plan(tmp_path, dict.fromkeys((*made, MISSING), 100))
    for state, record in made.items():
        (tmp_path / state).mkdir()
        records.write_record(tmp_path / state, record)
    (tmp_path / FINISHED / records.RESULT).touch()
    return tmp_path


def test_every_state_is_told(sweep):
    jobs = {job.job: job for job in sweep_status.statuses(sweep)}
    assert [(name, job.state) for name, job in jobs.items()] == [
        (state, state) for state in (FINISHED, RUNNING, FAILED, LOST, MISSING)
    ]
    assert [job.done for job in jobs.values()] == [100, 40, 3, 50, 0]
    assert {job.networks for job in jobs.values()} == {100}
    assert jobs[FINISHED].seconds == 200.0
    assert jobs[RUNNING].left == 100.0
    assert jobs[FAILED].why == "ValueError: [bold]why[/bold]"
    assert jobs[LOST].why.startswith("no sign of process ")
    assert sweep_status.counts(list(jobs.values())) == dict.fromkeys((FINISHED, RUNNING, FAILED, LOST, MISSING), 1)


def test_a_record_that_cannot_be_read_takes_nothing_from_the_others(sweep):
    expected = {job.job: job for job in sweep_status.statuses(sweep, look=True)}
    kinds = {
        "pipe": os.mkfifo,
        "folder": Path.mkdir,
        "wrong": lambda path: records.write_sealed(path, {**dataclasses.asdict(FULL), "networks": "many"}),
    }
    kinds["cut"] = lambda path: path.write_bytes(b"{")
    for name, put in kinds.items():
        (sweep / name).mkdir()
        put(sweep / name / records.RECORD)
    sweep_folders.write_plan(sweep, dict.fromkeys(kinds, 7))
    found = {job.job: job for job in sweep_status.statuses(sweep, look=True)}
    for name in expected:
        assert replace(found[name], seconds=None, why="") == replace(expected[name], seconds=None, why="")
    assert {name: (found[name].state, found[name].networks) for name in kinds} == {
        "pipe": (records.DAMAGED, 7),
        "folder": (records.DAMAGED, 7),
        "wrong": (records.DAMAGED, 7),
        "cut": (MISSING, 7),
    }
    assert found["pipe"].why == f"{sweep / 'pipe' / records.RECORD} is a named pipe; allowed: a file"
    assert found["wrong"].why.endswith("status.json: networks is 'many'; allowed: what gradient-horizon wrote")
    assert found["cut"].why == "status.json is cut short or altered; run computes the job again"


def test_the_seconds_of_a_running_job_are_by_its_own_clock(sweep):
    then = time.time() - 30
    records.write_record(sweep / RUNNING, JobRecord(RUNNING, "", {}, {}, began=5000.0, changed=5040.0, networks=100))
    os.utime(sweep / RUNNING / records.RECORD, (then, then))
    found = sweep_status.status_of(sweep / RUNNING, 100)
    assert found.state == RUNNING
    assert found.seconds == pytest.approx(40 + 30, abs=3)


def test_what_is_left_is_what_runs_and_what_waits_for_it(sweep):
    jobs = sweep_status.statuses(sweep)
    # at 2 s a network: 100 s of the running job, and three jobs that have to be done after it
    assert sweep_status.seconds_left(jobs) == pytest.approx(100 + 3 * 200, rel=0.02)
    assert sweep_status.seconds_left([job for job in jobs if job.state != RUNNING]) is None
    assert sweep_status.seconds_left([JobStatus("a", RUNNING, 10, 0)]) is None
    two = [
        JobStatus("a", RUNNING, 10, 5, 10.0, 10.0),
        JobStatus("b", RUNNING, 10, 1, 2.0),
        JobStatus("c", MISSING, 10, 0),
    ]
    assert sweep_status.seconds_left(two) == pytest.approx((10 + 9 * 2 + 20) / 2)


def test_the_table_shows_what_records_hold_as_it_is(sweep):
    screen = terminal.console()
    with screen.capture() as said:
        screen.print(terminal.status_table("title", sweep_status.statuses(sweep)))
    lines = said.get().splitlines()
    assert any("failed" in line and "[bold]why[/bold]" in line and "3 of 100" in line for line in lines)
    assert any("running" in line and "100 s" not in line and "2 min" in line for line in lines)


def test_a_narrow_terminal_shows_all_of_it(sweep):
    screen = terminal.console()
    with screen.capture() as said:
        screen.print(terminal.status_table("title", sweep_status.statuses(sweep), 40))
    lines = said.get().splitlines()
    assert max(map(len, lines)) <= 40
    text = "".join(line[1:].partition("│")[0].replace(" ", "") for line in lines)
    assert "ValueError:[bold]why[/bold]" in text
    assert "nosignofprocess" in text
    assert any("40 of 100" in line for line in lines)


def test_a_result_that_was_altered_is_damaged(sweep):
    result = sweep / FINISHED / records.RESULT
    result.write_bytes(b"as it was")
    record = records.read_record(sweep / FINISHED)
    assert record is not None
    records.write_record(sweep / FINISHED, replace(record, checksum=records.file_checksum(result)))
    assert records.DAMAGED not in [job.state for job in sweep_status.statuses(sweep, look=True)]
    result.write_bytes(b"as it is")
    jobs = sweep_status.statuses(sweep, look=True)
    assert sweep_status.counts(jobs)[records.DAMAGED] == 1
    assert [job.why for job in jobs if job.state == records.DAMAGED] == [
        "result.nc is not what was written; run computes it again"
    ]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (5999, "100 min"), (7200, "2.0 h"), (1e6, "11.6 d")],
)
def test_durations(seconds, said):
    assert terminal.duration(seconds) == said


def test_the_pace_is_that_of_the_last_seconds(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    tally = progress.ProgressMeter(1000)
    clock[0] = 30.0  # of compiling
    assert not tally.add(500)  # an interrupted job's parts
    assert tally.left is None
    clock[0] = 35.0
    assert not tally.add(50)
    clock[0] = 40.0
    assert tally.add(50)  # 10 networks a second
    assert tally.left == pytest.approx(40.0)
    clock[0] = 60.0
    assert tally.add(100)
    assert tally.left == pytest.approx(60.0)
    assert replace(JobRecord(RUNNING, "", {}, {}), done=tally.done, left=tally.left).left == tally.left

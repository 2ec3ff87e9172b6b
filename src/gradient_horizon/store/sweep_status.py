"""The progress of a sweep during and after its run, wherever it runs, read from its records alone."""

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from gradient_horizon.store import files, records, sweep_folders
from gradient_horizon.store.records import DAMAGED, FAILED, FINISHED, LOST, MISSING, RUNNING


@dataclass(frozen=True)
class JobStatus:
    """One job: its state, its networks and how many are done, the seconds taken and left, and what went wrong."""

    job: str
    state: str
    networks: int
    done: int
    seconds: float | None = None
    left: float | None = None
    why: str = ""
    host: str = ""
    process: int | None = None


def status_of(folder: Path, networks: int) -> JobStatus:
    """Return the status of the job in `folder`, which was planned to have this many networks."""
    try:
        record, state = records.read_record(folder), records.state_of(folder)
    except records.DamagedError as error:
        return JobStatus(folder.name, DAMAGED, networks, 0, why=str(error))
    if record is None or state == MISSING:
        damaged = record is None and files.is_regular(folder / records.RECORD)
        why = f"{records.RECORD} is cut short or altered; run computes the job again" if damaged else ""
        return JobStatus(folder.name, MISSING, networks, 0, why=why)
    networks = record.networks or networks
    if state == FINISHED:
        why = f"no quick look: {record.picture}" if record.picture else ""
        return JobStatus(folder.name, state, networks, networks, record.wall_time, why=why, host=record.host)
    # by the clock that all machines share, whereas `began` and `changed` are by the writer's clock
    silence = 0.0 if state == FAILED else records.silence(folder)
    since = silence if state == RUNNING and math.isfinite(silence) else 0.0
    seconds = max(0.0, record.changed - record.began + since)
    silent = f"no sign of process {record.process} on {record.host} for {silence:.0f} s"
    return JobStatus(
        folder.name,
        state,
        networks,
        int(record.done),
        seconds,
        record.left if state == RUNNING else None,
        {FAILED: record.error, LOST: silent}.get(state, ""),
        record.host,
        record.process,
    )


def statuses(sweep: Path, *, look: bool = False) -> list[JobStatus]:
    """Return the status of every job in a sweep's folder; with `look`, altered results are found, too: `damaged`."""
    plan, _ = sweep_folders.known_plan(sweep)
    jobs = [status_of(folder, plan.get(folder.name, 0)) for folder in sweep_folders.job_folders(sweep)]
    return [_checked(sweep / job.job, job) for job in jobs] if look else jobs


def left_out(sweep: Path, missing: Collection[str]) -> list[JobStatus]:
    """Return the status of the jobs that a joined result is `missing`; those whose result was altered are `damaged`."""
    if not missing:
        return []
    return [_checked(sweep / job.job, job) for job in statuses(sweep) if job.job in missing]


def _checked(folder: Path, job: JobStatus) -> JobStatus:
    record = records.readable_record(folder) if job.state == FINISHED else None
    if record is None or not record.checksum or records.is_intact(folder, record):
        return job
    return replace(job, state=DAMAGED, why=f"{records.RESULT} is not what was written; run computes it again")


def counts(jobs: list[JobStatus]) -> dict[str, int]:
    """Return the number of jobs in each state that occurs."""
    states = [job.state for job in jobs]
    return {
        state: states.count(state) for state in (FINISHED, RUNNING, FAILED, LOST, DAMAGED, MISSING) if state in states
    }


def seconds_left(jobs: list[JobStatus]) -> float | None:
    """Estimate the time left for the whole sweep, at the pace so far and with as many jobs in parallel as run now.

    None if no pace is known, or if nothing is running.
    """
    running = [job for job in jobs if job.state == RUNNING]
    known = [job for job in jobs if job.state in (FINISHED, RUNNING) and job.seconds and job.done]
    if not running or not known:
        return None
    pace = sum(job.seconds or 0.0 for job in known) / sum(job.done for job in known)
    of_each = [job.left if job.left is not None else pace * (job.networks - job.done) for job in running]
    waiting = pace * sum(job.networks for job in jobs if job.state in (FAILED, LOST, MISSING))
    return max(*of_each, (sum(of_each) + waiting) / len(running))

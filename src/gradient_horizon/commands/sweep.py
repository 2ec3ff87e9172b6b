"""Sweeps: the jobs of a command, planned from its settings and then computed one by one."""

import itertools
import logging
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gradient_horizon.commands import interrupts, jobs
from gradient_horizon.ensembles import devices
from gradient_horizon.names.rules import SettingError
from gradient_horizon.settings import compose, identity, schema, validation
from gradient_horizon.store import files, records, sweep_folders

_log = logging.getLogger(__name__)
LOOK_AGAIN = 1.0  # seconds between two looks at a job that another process computes


@dataclass(frozen=True)
class Sweep:
    """The jobs of one command, with all settings checked."""

    folder: Path
    jobs: list[jobs.Job]
    axes: dict[str, list[Any]]
    shared: dict[str, Any]  # settings that decide the numbers and are the same in every job
    launcher: dict[str, Any] | None = None  # settings of one of Hydra's launchers; None: this process
    notices: list[str] = field(default_factory=list)  # about settings that have no effect


def plan(overrides: Sequence[str], *, multirun: bool = False) -> Sweep:
    """Return every job of `overrides`, or raise `SettingError` for the first wrong setting. Writes nothing."""
    base, values, axes, launcher = compose.composed(overrides, multirun=multirun)
    deciding = identity.deciding(base)
    for key in schema.FROM_OTHERS:
        if key in deciding and values[key] is None and set(schema.SETTINGS[key].usual_from) & set(axes):
            deciding[key] = None  # each job has its own
    name = base.name or f"{base.experiment}-{identity.content_hash({**deciding, 'axes': axes})[:8]}"
    folder = Path(base.output) / name
    if launcher is not None and not (whole := str(folder.resolve())).isprintable():
        raise SettingError("output", whole, "a path of printable characters, as it is written into a launcher's script")
    keys = sorted(axes)
    if (count := math.prod(len(values) for values in axes.values())) > compose.MOST_JOBS:
        raise SettingError(", ".join(keys), f"{count} jobs", f"at most {compose.MOST_JOBS}")
    every = replace(base, name=name, **{key: values[key] for key in schema.FROM_OTHERS})
    planned: dict[str, jobs.Job] = {}
    idle: dict[str, list[tuple[str, Any]]] = {}
    for point in itertools.product(*(axes[key] for key in keys)):
        at = dict(zip(keys, point, strict=True))
        config = validation.changed(every, at)
        for key, reason in validation.unread(config).items():
            several = axes.get(key) or (getattr(config, key) if key in schema.AXES else [])
            if len(several) > 1:
                idle.setdefault(key, []).append((reason, several))
        swept = {key: getattr(config, key) for key in keys if key not in schema.JOINED}
        job = jobs.Job(folder / records.job_name(at), config, swept)
        planned.setdefault(job.name, job)
    in_float64 = "precision" in deciding and any(job.config.precision == "float64" for job in planned.values())
    if in_float64 and devices.is_without_float64():
        raise SettingError("precision", "float64", "float32 while JAX_ENABLE_X64=0 is set in the environment")
    for key, cases in idle.items():
        if len(cases) == count:  # the same networks would be computed for each value
            reasons = ", ".join(dict.fromkeys(reason for reason, _ in cases))
            raise SettingError(key, cases[0][1], f"one value where {reasons}, which does not read it")
    shared = {key: value for key, value in deciding.items() if key not in (*axes, *schema.JOINED)}
    notices = [
        f"{key} changes nothing where {' or '.join(dict.fromkeys(reason for reason, _ in cases))}:"
        f" the same networks are computed for each of its {len(cases[0][1])} values"
        for key, cases in idle.items()
    ]
    return Sweep(folder, list(planned.values()), axes, shared, launcher, notices)


def conflicts(sweep: Sweep) -> list[str]:
    """Return why the command must not run, one line for each reason; writes nothing.

    Jobs of one sweep differ only along its axes, so other values for settings that all its jobs share are refused. If
    every job in the folder is also a job of this command, the jobs are replaced instead, and finished ones only with
    `force`.
    """
    try:
        files.check_folder(sweep.folder)  # the folder that `output` names may be a link, but nothing below it
    except files.PlaceError as error:
        return [str(error)]
    if line := _shared_conflict(sweep):
        return [line]
    return [
        f"{job.folder}: {job.occupied()} with other settings ({'; '.join(differences)}); allowed: another name, or"
        " force=true"
        for job in sweep.jobs
        if not job.config.force and (differences := job.conflict())
    ]


def _shared_conflict(sweep: Sweep) -> str:
    others = {folder.name for folder in sweep_folders.job_folders(sweep.folder)} - {job.name for job in sweep.jobs}
    if not others:
        return ""
    there = _known(sweep.folder, others)
    differing: dict[str, list[Any]] = {}
    for known in there:
        # a setting that one side does not share is, or was, swept there
        differing |= validation.disagreements([known, sweep.shared], known.keys() ^ sweep.shared.keys())
    if not differing:
        return ""
    differences = "; ".join(f"{key}: {a!r} there, {b!r} here" for key, (a, b) in differing.items())
    more = ", as force=true does not compute its other jobs again" if sweep.jobs[0].config.force else ""
    return (
        f"{sweep.folder}: its jobs have other settings ({differences}); allowed: another name, or a sweep over these"
        f" settings{more}"
    )


def _known(folder: Path, jobs: Collection[str]) -> list[dict[str, Any]]:
    """Return the settings that the jobs of a sweep's folder share, from its plan or else from each job's record."""
    shared = sweep_folders.shared_settings(folder)
    if shared is not None:
        return [shared]
    from_jobs = [record for name in sorted(jobs) if (record := records.readable_record(folder / name))]
    swept = {key for record in from_jobs for key in record.swept}
    return [
        {key: value for key, value in record.settings.items() if key not in swept and key not in schema.JOINED}
        for record in from_jobs
    ]


def unfinished(sweep: Sweep) -> list[jobs.Job]:
    """Return the jobs that have yet to be computed; all of them with `force`."""
    return [job for job in sweep.jobs if job.config.force or not job.is_finished()]


def prepare_folder(sweep: Sweep) -> None:
    """Create the sweep's folder and write its plan.

    Raises `SettingError` if this fails, or if another command has just planned jobs with other settings there.
    """
    try:
        sweep.folder.mkdir(parents=True, exist_ok=True)
        with sweep_folders.planning(sweep.folder):
            if line := _shared_conflict(sweep):
                raise SettingError("name", sweep.folder.name, line)
            names = [job.name for job in sweep.jobs]
            shared = _merged(sweep, {folder.name for folder in sweep_folders.job_folders(sweep.folder)} - {*names})
            sweep_folders.write_plan(sweep.folder, {job.name: job.networks for job in sweep.jobs}, shared)
    except OSError as error:
        raise SettingError("output", str(sweep.folder), f"a writable folder ({error.strerror})") from None


def _merged(sweep: Sweep, others: Collection[str]) -> dict[str, Any]:
    """Return what all jobs share, including earlier ones: a setting that either command sweeps is an axis."""
    shared = dict(sweep.shared)
    for known in _known(sweep.folder, others) if others else ():
        # if two usual values differ, null stands for each job's own
        shared = {
            key: value if value == known[key] else None if key in schema.FROM_OTHERS else value
            for key, value in shared.items()
            if key in known
        }
    return shared


@dataclass(frozen=True)
class Outcome:
    """The jobs that failed, each with the reason, and those that another process is computing."""

    failed: list[tuple[jobs.Job, str]]
    elsewhere: list[jobs.Job]


Watch = Callable[[jobs.Job], Callable[[float], None]]


def run(todo: Sequence[jobs.Job], watch: Watch, waited: bool = False) -> Outcome:
    """Compute `todo` one after the other in this process. A failed job does not stop the others.

    A job that another process has claimed is left to it, and one that has just finished there is not computed again:
    with `force` only if its end was `waited` for.
    """
    outcome = Outcome([], [])
    for job in todo:
        interrupts.check()
        try:
            with jobs.claimed(job) as mine:
                if not mine:
                    outcome.elsewhere.append(job)
                    continue
                report = watch(job)
                if job.is_finished() and (waited or not job.config.force):
                    report(job.networks)
                else:
                    check_still_wanted(job)
                    jobs.execute(job, report)
        except jobs.TakenError as error:
            _log.warning("%s", error)
            outcome.elsewhere.append(job)
        except Exception as error:
            outcome.failed.append((job, f"{type(error).__name__}: {error}".splitlines()[0]))
    return Outcome(outcome.failed, [job for job in outcome.elsewhere if not job.is_finished()])


def check_still_wanted(job: jobs.Job) -> None:
    """Raise `SettingError` if another command has meanwhile taken the job's folder or sweep for other settings."""
    if not job.config.force and (differences := job.conflict()):
        raise SettingError("name", job.config.name, f"another one: {job.occupied()} ({'; '.join(differences)})")
    shared = sweep_folders.shared_settings(job.folder.parent)
    if shared is not None:
        settings = identity.deciding(job.config)
        differing = validation.disagreements([shared, settings], settings.keys() - shared.keys())
        if differing:
            differences = "; ".join(f"{key}: {a!r} there, {b!r} here" for key, (a, b) in differing.items())
            raise SettingError("name", job.config.name, f"another one: other settings were planned ({differences})")


def wait(outcome: Outcome, watch: Watch) -> Outcome:
    """Wait until no job of `outcome` is left to another process, and compute here whatever that leaves unfinished.

    A job that finishes elsewhere in the meantime is not computed again, even with `force`; one that fails there counts
    as failed.
    """
    failed, left = list(outcome.failed), list(outcome.elsewhere)
    before = {job.folder: records.readable_record(job.folder) for job in left}
    while left:
        open_still = []
        for job in left:
            record = records.readable_record(job.folder)
            if job.is_finished():  # when its claim was met it was not, even with `force`
                watch(job)(job.networks)
            elif record is None or record.hash != job.hash or record == before[job.folder]:
                open_still.append(job)
            elif record.state == records.FAILED and record.error != jobs.INTERRUPTED:
                failed.append((job, record.error))
            else:
                open_still.append(job)
        now = run(open_still, watch, waited=True)
        failed += now.failed
        left = now.elsewhere
        if left:
            time.sleep(LOOK_AGAIN)
    return Outcome(failed, [])

"""One job: from a checked `Config` to a folder with its result, its record, its log and a quick look."""

import json
import logging
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradient_horizon import __version__
from gradient_horizon.commands import interrupts
from gradient_horizon.commands.progress import ProgressMeter
from gradient_horizon.ensembles import devices
from gradient_horizon.settings.identity import as_dict, content_hash, deciding, networks_of, spelt_short
from gradient_horizon.settings.schema import Config
from gradient_horizon.settings.validation import checked
from gradient_horizon.store import files, provenance, records
from gradient_horizon.store.checkpoints import Checkpoints

if TYPE_CHECKING:
    import xarray as xr

LOG, SETTINGS, QUICK_LOOK, PARTS, LOCK = "run.log", "config.yaml", "quick_look", "parts", "lock"
CLAIM = ".alone"  # held while a process claims the job, if there are no locks
INTERRUPTED = "interrupted"  # the error of a job that was stopped
_log = logging.getLogger("gradient_horizon")


class TakenError(Exception):
    """Another process has taken over the job; what that process has written is kept."""

    def __init__(self, folder: Path):
        other = records.readable_record(folder)
        by = f"process {other.process} on {other.host}" if other else "another version of gradient-horizon"
        super().__init__(f"{folder}: {by} has taken over the job; this process leaves it alone")


@dataclass(frozen=True)
class Job:
    """One point of a sweep."""

    folder: Path
    config: Config
    swept: dict[str, Any]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def hash(self) -> str:
        return content_hash(deciding(self.config))

    @property
    def networks(self) -> int:
        return networks_of(self.config)

    def record(self) -> records.JobRecord:
        """Return a record which states that this process computes the job from now on."""
        return records.JobRecord(
            *(records.RUNNING, self.hash, spelt_short(deciding(self.config)), self.swept),
            networks=self.networks,
            job=self.name,
            version=__version__,
            token=os.urandom(8).hex(),
        )

    def conflict(self) -> list[str]:
        """Return how the settings of a finished or running job in this folder differ: `steps: 100 there, 200 here`."""
        record = records.readable_record(self.folder)
        if not self.occupied() or record is None or record.hash == self.hash:
            return []
        here = spelt_short(deciding(self.config))
        there = {**({"draws": 1} if "draws" in here else {}), **record.settings}  # version 1 did not record itself
        return [
            f"{'version of the draws' if key == 'draws' else key}: {there.get(key)!r} there, {here.get(key)!r} here"
            for key in dict.fromkeys([*here, *there])
            if there.get(key) != here.get(key)
        ]

    def occupied(self) -> str:
        """Return `finished` or `running` for a job in that state here, whatever its settings; else an empty string."""
        record = records.readable_record(self.folder)
        if record is None:
            return ""
        return record.state if record.state == records.FINISHED or records.is_running(self.folder, record) else ""

    def is_finished(self) -> bool:
        """True if the result is in the job's own folder, was made with these settings, and is unaltered."""
        record = records.readable_record(self.folder)
        if record is not None and not records.is_own(self.folder, record):
            return False
        return records.is_finished(self.folder, self.hash)


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    stream = files.open_log(path)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = _log.level
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    try:
        yield
    finally:
        _log.removeHandler(handler)
        _log.setLevel(level)
        handler.close()
        stream.close()


@contextmanager
def claimed(job: Job) -> Iterator[bool]:
    """Claim the job for this process within the context; yields whether that succeeded.

    The claim is a lock of the operating system on a file in the job's folder, which is released however the process
    ends. If machines share the folder but not the locks, the heartbeat in the job's record reveals a process on another
    machine; if there are no locks at all, it also reveals one on this machine. Raises `ResultError` for a record that
    must not be replaced.
    """
    files.make_folder(job.folder)
    with files.locked(job.folder / LOCK, wait=False) as held:
        if held is False or records.is_computed_elsewhere(job.folder, here=held is None):
            yield False
        elif held:
            yield True
        else:
            with _announced(job) as mine:
                yield mine


@contextmanager
def _announced(job: Job) -> Iterator[bool]:
    """Like `claimed`, but without locks: the record announces that this process has the job, before it is computed."""
    own = None
    with files.alone(job.folder / CLAIM):
        before = records.read_record(job.folder)
        mine = not records.is_running(job.folder, before)
        if mine and (job.config.force or before is None or before.state != records.FINISHED):
            own = job.record()
            records.write_record(job.folder, own)
    try:
        yield mine
    finally:
        if own is not None and records.readable_record(job.folder) == own:  # it was not computed after all
            records.forget(job.folder, own)
            if before is not None:
                records.write_record(job.folder, before)


@contextmanager
def _heartbeat(folder: Path, record: records.JobRecord, meter: ProgressMeter) -> Iterator[Callable[[], None]]:
    """Regularly update the job's record to show that it runs and its progress, unless another process has taken it.

    Yields a function that raises `TakenError` once this has been noticed.
    """
    ended, lost = threading.Event(), threading.Event()

    def beat() -> None:
        while not ended.wait(records.HEARTBEAT):
            if not records.is_held(folder, record):
                lost.set()
                return
            with suppress(OSError):  # a full disk: the job itself will report it
                records.write_record(folder, _now(record, meter))

    def check() -> None:
        if lost.is_set():
            raise TakenError(folder)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield check
    finally:
        ended.set()
        thread.join()


def _now(record: records.JobRecord, meter: ProgressMeter) -> records.JobRecord:
    """Return the record with the current time and progress."""
    return replace(record, changed=time.time(), done=meter.done, left=meter.left)


def write_settings(job: Job) -> None:
    """Write every setting of the job into its folder."""
    files.make_folder(job.folder)
    settings = spelt_short(as_dict(job.config))
    lines = "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in settings.items())
    files.write_atomically(job.folder / SETTINGS, lines.encode())


def leave_to_others(job: Job, memory_budget: float | None) -> None:
    """Write all that another process needs to compute the job, with `memory_budget` (GiB) unless its settings give one.

    The record of earlier attempts is removed, and with `force` so are their measurements. A job that another process is
    computing is left alone, and so, without `force`, is one that has finished since the command was planned. Raises
    `ResultError` for a record that must not be replaced.
    """
    files.make_folder(job.folder)
    with files.locked(job.folder / LOCK, wait=False) as held:
        record = records.read_record(job.folder)
        if held is False or records.is_running(job.folder, record) or (not job.config.force and job.is_finished()):
            return
        records.forget(job.folder, record)
        if job.config.force:
            files.remove_tree(job.folder / PARTS)
        budget = job.config.memory_budget or memory_budget
        write_settings(replace(job, config=replace(job.config, force=False, memory_budget=budget)))


def read_job(folder: Path, keys: Sequence[str]) -> Job:
    """Return the job whose settings `write_settings` wrote to `folder`; `keys` are the settings that the sweep sweeps.

    Raises `ResultError` for a file that it did not write, and `SettingError` for settings that are not allowed.
    """
    path = folder / SETTINGS
    try:
        lines = files.read_regular(path).decode().splitlines()
        values = {key: json.loads(value) for key, _, value in (line.partition(": ") for line in lines)}
    except OSError as error:
        raise records.ResultError(str(error)) from None
    except (ValueError, RecursionError):
        raise records.ResultError(
            f"{path}: not a readable list of settings; allowed: the file that run writes"
        ) from None
    settings = checked(values)
    return Job(folder, settings, {key: getattr(settings, key) for key in keys})


def execute(job: Job, report: Callable[[float], None]) -> None:
    """Compute `job` and write its folder; any error is recorded there before it is raised again.

    Raises `TakenError` if another process, which presumed this one dead, now has the job; then nothing is replaced.
    """
    files.make_folder(job.folder)
    files.clear_unfinished(job.folder)
    record = job.record()
    records.write_record(job.folder, record)
    meter = ProgressMeter(job.networks)

    def check() -> None:
        if not records.is_held(job.folder, record):
            raise TakenError(job.folder)

    start = time.perf_counter()
    try:
        with _logging_to(job.folder / LOG), _heartbeat(job.folder, record, meter) as beating:

            def progressed(networks: float) -> None:
                interrupts.check()
                beating()
                meter.add(networks)
                report(networks)

            _log.info("job %s", job.folder.name)
            checksum, picture = _compute(job, progressed, start, check)
            _log.info("finished")
        check()
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        if not stopped:
            check()
        if records.is_held(job.folder, record):
            reason = INTERRUPTED if stopped else f"{type(error).__name__}: {error}".splitlines()[0]
            _record_failure(job.folder, replace(_now(record, meter), state=records.FAILED, error=reason))
        raise
    wall_time = time.perf_counter() - start
    finished = replace(
        _now(record, meter), state=records.FINISHED, checksum=checksum, wall_time=wall_time, picture=picture
    )
    records.write_record(job.folder, finished)


def _record_failure(folder: Path, record: records.JobRecord) -> None:
    """Write the traceback into the job's log, and the reason for the failure into its record."""
    for write in (
        lambda: files.append(folder / LOG, traceback.format_exc()),
        lambda: records.write_record(folder, record),
    ):
        try:
            write()
        except OSError:  # a full disk: the record remains `running`, which counts as lost once this process ends
            _log.warning("%s: could not record the failure", folder)


def _compute(job: Job, report: Callable[[float], None], start: float, check: Callable[[], None]) -> tuple[str, str]:
    """Measure and write the result; return its checksum, and the reason if a requested quick look is missing.

    `check` raises if the result must no longer be written.
    """
    from gradient_horizon.store import datasets

    checkpoints = job.folder / PARTS
    for name in (records.RESULT, f"{QUICK_LOOK}.png"):
        files.check_place(job.folder / name)
    files.check_folder(checkpoints)
    write_settings(job)
    if job.config.force:
        files.remove_tree(checkpoints)
    dataset = _result(job.config, checkpoints, provenance.made_by(job.hash), report)
    dataset.attrs.update(provenance.attributes(job.config, job.hash, job.swept, time.perf_counter() - start))
    checksum = datasets.save(dataset, job.folder / records.RESULT, check=check)
    picture = _draw_quick_look(dataset, job.folder) if job.config.quick_look else ""
    files.remove_tree(checkpoints)
    return checksum, picture


def owes_quick_look(job: Job) -> bool:
    """True if the job is finished and a picture was requested but is missing."""
    if not job.config.quick_look or (job.folder / f"{QUICK_LOOK}.png").exists():
        return False
    record = records.readable_record(job.folder)
    return record is not None and record.state == records.FINISHED and record.hash == job.hash


def draw_quick_look(job: Job) -> str:
    """Draw the picture of a finished job from its result; return the reason if that failed, else an empty string."""
    from gradient_horizon.store import datasets

    with claimed(job) as mine:
        record = records.readable_record(job.folder)
        if not mine or record is None:  # the process that has the job draws
            return ""
        picture = _draw_quick_look(datasets.open_job(job.folder), job.folder)
        if picture != record.picture:
            records.write_record(job.folder, replace(record, picture=picture))
    return picture


def _draw_quick_look(dataset: "xr.Dataset", folder: Path) -> str:
    """Draw the result next to it; return the reason if that failed, else an empty string.

    A missing picture does not invalidate the measurement.
    """
    (folder / f"{QUICK_LOOK}.png").unlink(missing_ok=True)  # of an earlier result
    try:
        from gradient_horizon import figures

        figures.save(figures.quick_look(dataset), folder / QUICK_LOOK, formats=("png",))
    except Exception as error:
        _log.warning("no quick look", exc_info=True)
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


def _result(config: Config, folder: Path, made_by: str, report: Callable[[float], None]) -> "xr.Dataset":
    """Return the result, resuming from what `folder` already holds of it.

    If there are more networks than should be held at once, they are measured in slabs, each stored as a result of its
    own in `folder` until the whole is written from them.
    """
    from gradient_horizon import experiments
    from gradient_horizon.store import datasets, joining

    slabs = experiments.slabs(config, devices.memory_budget(config.memory_budget))
    if len(slabs) == 1:
        return experiments.measure(config, report, _checkpoints(config, folder, made_by))
    folders = []
    for index, slab in enumerate(slabs):
        own = folder / f"slab-{index:05d}"
        files.check_folder(own)
        folders.append(own)
        settings = content_hash({**deciding(slab), "made_by": made_by})
        if records.is_finished(own, settings):
            report(networks_of(slab))
            continue
        dataset = experiments.measure(slab, report, _checkpoints(slab, own / PARTS, made_by))
        files.make_folder(own)
        checksum = datasets.save(dataset, own / records.RESULT)
        records.write_record(own, records.JobRecord(records.FINISHED, settings, {}, {}, checksum))
        files.remove_tree(own / PARTS)
    return joining.concatenated([datasets.open_job(own, lazy=True) for own in folders])


def _checkpoints(config: Config, folder: Path, made_by: str) -> Checkpoints:
    return Checkpoints(folder, made_by, budget=devices.memory_budget(config.memory_budget))

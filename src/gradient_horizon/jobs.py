"""One job: from a checked `Config` to a folder with its result, its record, its log and a quick look."""

import json
import logging
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from gradient_horizon import __version__, interrupts, provenance, records, runtime
from gradient_horizon.config import Config, as_dict, checked, content_hash, cut, deciding, networks_of, spelt_short
from gradient_horizon.parts import Parts, TooManyNetworksError
from gradient_horizon.progress import Tally

if TYPE_CHECKING:
    import xarray as xr

LOG, SETTINGS, QUICK_LOOK, PARTS, LOCK = "run.log", "config.yaml", "quick_look", "parts", "lock"
INTERRUPTED = "interrupted"  # the error of a job that was stopped
_log = logging.getLogger("gradient_horizon")


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

    def conflict(self) -> list[str]:
        """How a job in this folder that is finished or runs differs in its settings: `steps: 100 there, 200 here`."""
        record = records.read_record(self.folder)
        if not self.occupied() or record is None or record.hash == self.hash:
            return []
        here = spelt_short(deciding(self.config))
        there = {**({"draws": 1} if "draws" in here else {}), **record.settings}  # version 1 did not name itself
        return [
            f"{'version of the draws' if key == 'draws' else key}: {there.get(key)!r} there, {here.get(key)!r} here"
            for key in dict.fromkeys([*here, *there])
            if there.get(key) != here.get(key)
        ]

    def occupied(self) -> str:
        """`finished` or `running` if some job in this folder is, whatever its settings; else empty."""
        record = records.read_record(self.folder)
        if record is None:
            return ""
        if record.state == records.FINISHED or (record.state == records.RUNNING and records.is_alive(record)):
            return record.state
        return ""

    def is_finished(self) -> bool:
        """Whether its result stands, made with these settings, in its own folder, and unaltered since."""
        record = records.read_record(self.folder)
        if record is not None and not records.is_own(self.folder, record):
            return False
        return records.is_finished(self.folder, self.hash)


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path, mode="w", encoding="utf-8")
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


@contextmanager
def claimed(job: Job) -> Iterator[bool]:
    """Whether the job is this process's to compute, for as long as the context lasts.

    A lock of the operating system on a file in the job's folder: a process that dies, however, lets go of it. Where
    machines share a folder but no locks, the heartbeat in the job's record tells of a process on another one.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(job.folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield not records.is_computed_elsewhere(job.folder)
    finally:
        lock.release()


@contextmanager
def _heartbeat(folder: Path, record: records.Record, tally: Tally) -> Iterator[None]:
    """Say in the job's record, again and again, that it runs and how far it is."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(records.HEARTBEAT):
            with suppress(OSError):  # a full disk: the job itself will say so
                records.write_record(folder, _now(record, tally))

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _now(record: records.Record, tally: Tally) -> records.Record:
    """The record as of now."""
    return replace(record, changed=time.time(), done=tally.done, left=tally.left)


def write_settings(job: Job) -> None:
    """Write every setting of the job into its folder."""
    job.folder.mkdir(parents=True, exist_ok=True)
    settings = spelt_short(as_dict(job.config))
    lines = "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in settings.items())
    records.write_atomically(job.folder / SETTINGS, lines.encode())


def leave_to_others(job: Job, memory_budget: float | None) -> None:
    """Write down all that another process needs to compute the job, unless its settings say `memory_budget` GiB.

    What is known of earlier tries is forgotten, and with `force` what they have measured; whoever is at it stays.
    """
    record = records.read_record(job.folder)
    if record is None or record.state != records.RUNNING or not records.is_alive(record):
        (job.folder / records.RECORD).unlink(missing_ok=True)
        if job.config.force:
            shutil.rmtree(job.folder / PARTS, ignore_errors=True)
    budget = job.config.memory_budget or memory_budget
    write_settings(replace(job, config=replace(job.config, force=False, memory_budget=budget)))


def read_job(folder: Path, keys: Sequence[str]) -> Job:
    """The job whose settings were written there; `keys` are those that the sweep sweeps."""
    settings = checked(OmegaConf.to_container(OmegaConf.load(folder / SETTINGS)))  # type: ignore[arg-type]
    return Job(folder, settings, {key: getattr(settings, key) for key in keys})


def execute(job: Job, report: Callable[[float], None]) -> None:
    """Compute `job` and write its folder; whatever goes wrong is recorded there before it is raised again."""
    job.folder.mkdir(parents=True, exist_ok=True)
    records.clear_unfinished(job.folder)
    settings = spelt_short(deciding(job.config))
    record = records.Record(
        *(records.RUNNING, job.hash, settings, job.swept), networks=job.networks, job=job.name, version=__version__
    )
    records.write_record(job.folder, record)
    tally = Tally(job.networks)

    def heard(networks: float) -> None:
        interrupts.check()
        tally.add(networks)
        report(networks)

    begun = time.perf_counter()
    try:
        with _logging_to(job.folder / LOG), _heartbeat(job.folder, record, tally):
            _log.info("job %s", job.folder.name)
            checksum, picture = _compute(job, heard, begun)
            _log.info("finished")
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        reason = INTERRUPTED if stopped else f"{type(error).__name__}: {error}".splitlines()[0]
        try:
            with (job.folder / LOG).open("a", encoding="utf-8") as log:
                log.write(traceback.format_exc())
            records.write_record(job.folder, replace(_now(record, tally), state=records.FAILED, error=reason))
        except OSError:  # a full disk: the record stays at `running`, which reads as lost once this process ends
            _log.warning("%s: could not record the failure", job.folder)
        raise
    wall_time = time.perf_counter() - begun
    finished = replace(
        _now(record, tally), state=records.FINISHED, checksum=checksum, wall_time=wall_time, picture=picture
    )
    records.write_record(job.folder, finished)


def _compute(job: Job, report: Callable[[float], None], begun: float) -> tuple[str, str]:
    """Measure, and write the result; its checksum, and why there is no quick look although there should be one."""
    from gradient_horizon import results

    write_settings(job)
    parts = job.folder / PARTS
    if job.config.force:
        shutil.rmtree(parts, ignore_errors=True)
    dataset = _measured(job.config, parts, provenance.made_by(job.hash), report)
    dataset.attrs.update(provenance.attributes(job.config, job.hash, job.swept, time.perf_counter() - begun))
    checksum = results.save(dataset, job.folder / records.RESULT)
    picture = _draw_quick_look(dataset, job.folder) if job.config.quick_look else ""
    shutil.rmtree(parts, ignore_errors=True)
    return checksum, picture


def owes_quick_look(job: Job) -> bool:
    """Whether the job is finished and asks for a picture that is not there."""
    if not job.config.quick_look or (job.folder / f"{QUICK_LOOK}.png").exists():
        return False
    record = records.read_record(job.folder)
    return record is not None and record.state == records.FINISHED and record.hash == job.hash


def draw_quick_look(job: Job) -> str:
    """Draw the picture of a finished job from its result; why that failed, or an empty text."""
    from gradient_horizon import results

    with claimed(job) as mine:
        record = records.read_record(job.folder)
        if not mine or record is None:  # whoever is at it draws
            return ""
        picture = _draw_quick_look(results.open_job(job.folder), job.folder)
        if picture != record.picture:
            records.write_record(job.folder, replace(record, picture=picture))
    return picture


def _draw_quick_look(dataset: "xr.Dataset", folder: Path) -> str:
    """Draw the result beside it; why that failed, or an empty text. The measurement stands without its picture."""
    (folder / f"{QUICK_LOOK}.png").unlink(missing_ok=True)  # of an earlier result
    try:
        from gradient_horizon import figures

        figures.save(figures.quick_look(dataset), folder / QUICK_LOOK, formats=("png",))
    except Exception as error:
        _log.warning("no quick look", exc_info=True)
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


def _measured(config: Config, folder: Path, made_by: str, report: Callable[[float], None]) -> "xr.Dataset":
    """The result, from what `folder` holds of it on.

    More networks than should be held at once are measured in slabs, each a result of its own in `folder` until the
    whole is written from them.
    """
    from gradient_horizon import experiments, results

    parts = Parts(folder, made_by, budget=runtime.memory_budget(config.memory_budget))
    try:
        return experiments.measure(config, report, parts)
    except TooManyNetworksError as error:
        pieces = cut(config, error.most)
    slabs = []
    for index, piece in enumerate(pieces):
        slab = folder / f"slab-{index:05d}"
        slabs.append(slab)
        settings = content_hash({**deciding(piece), "made_by": made_by})
        if records.is_finished(slab, settings):
            report(networks_of(piece))
            continue
        dataset = _measured(piece, slab / PARTS, made_by, report)
        slab.mkdir(parents=True, exist_ok=True)
        checksum = results.save(dataset, slab / records.RESULT)
        records.write_record(slab, records.Record(records.FINISHED, settings, {}, {}, checksum))
        shutil.rmtree(slab / PARTS, ignore_errors=True)
    return results.concatenated([results.open_job(slab, lazy=True) for slab in slabs])

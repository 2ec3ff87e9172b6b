"""One job: from a checked `Config` to a folder with its result, its record, its log and a quick look."""

import json
import logging
import platform
import resource
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from gradient_horizon import __version__, records, runtime
from gradient_horizon.config import Config, as_dict, content_hash, cut, deciding, networks_of
from gradient_horizon.parts import Parts, TooManyNetworksError

if TYPE_CHECKING:
    import xarray as xr

LOG, SETTINGS, QUICK_LOOK, PARTS, LOCK = "run.log", "config.yaml", "quick_look", "parts", "lock"
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
        """How a finished job in this folder differs in its settings: `steps: 100 there, 200 here`, ..."""
        record = records.read_record(self.folder)
        if record is None or record.state != records.FINISHED or record.hash == self.hash:
            return []
        here = deciding(self.config)
        return [
            f"{key}: {record.settings.get(key)!r} there, {here.get(key)!r} here"
            for key in dict.fromkeys([*here, *record.settings])
            if record.settings.get(key) != here.get(key)
        ]

    def is_finished(self) -> bool:
        """Whether its result stands, made with these settings and unaltered since."""
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


@cache
def _git_commit() -> str:
    """The commit of the checkout that the package runs from, or an empty text."""
    try:
        found = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""


def _made_by(job: Job) -> str:
    """All that decides the bytes of a part, beside the machine."""
    import jax

    return json.dumps([job.hash, __version__, jax.__version__, _git_commit()])


def _peak_memory() -> int:
    """Bytes; `ru_maxrss` counts KiB on Linux and bytes on macOS."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _provenance(job: Job, wall_time: float) -> dict[str, Any]:
    import jax

    return {
        "title": f"Gradient Horizon: {job.config.experiment}",
        "experiment": job.config.experiment,
        "config": json.dumps(as_dict(replace(job.config, output="", name=None, force=False))),
        "config_hash": job.hash,
        "swept": json.dumps(job.swept),
        "package_version": __version__,
        "jax_version": jax.__version__,
        "python_version": platform.python_version(),
        "git_commit": _git_commit(),
        "precision": job.config.precision,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "wall_time_seconds": wall_time,
        "peak_memory_bytes": _peak_memory(),
    }


@contextmanager
def claimed(job: Job) -> Iterator[bool]:
    """Whether the job is this process's to compute, for as long as the context lasts.

    A lock of the operating system on a file in the job's folder: a process that dies, however, lets go of it.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(job.folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def execute(job: Job, report: Callable[[float], None]) -> None:
    """Compute `job` and write its folder; whatever goes wrong is recorded there before it is raised again."""
    job.folder.mkdir(parents=True, exist_ok=True)
    record = records.Record(records.RUNNING, job.hash, deciding(job.config), job.swept)
    records.write_record(job.folder, record)
    begun = time.perf_counter()
    try:
        with _logging_to(job.folder / LOG):
            _log.info("job %s", job.folder.name)
            checksum = _compute(job, report, begun)
            _log.info("finished")
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        reason = "interrupted" if stopped else f"{type(error).__name__}: {error}".splitlines()[0]
        try:
            with (job.folder / LOG).open("a", encoding="utf-8") as log:
                log.write(traceback.format_exc())
            records.write_record(job.folder, replace(record, state=records.FAILED, error=reason, changed=time.time()))
        except OSError:  # a full disk: the record stays at `running`, which reads as lost once this process ends
            _log.warning("%s: could not record the failure", job.folder)
        raise
    wall_time = time.perf_counter() - begun
    finished = replace(record, state=records.FINISHED, checksum=checksum, wall_time=wall_time, changed=time.time())
    records.write_record(job.folder, finished)


def _compute(job: Job, report: Callable[[float], None], begun: float) -> str:
    from gradient_horizon import results

    settings = OmegaConf.to_yaml(OmegaConf.create(as_dict(job.config)))
    records.write_atomically(job.folder / SETTINGS, settings.encode())
    parts = job.folder / PARTS
    if job.config.force:
        shutil.rmtree(parts, ignore_errors=True)
    dataset = _measured(job.config, parts, _made_by(job), report)
    dataset.attrs.update(_provenance(job, time.perf_counter() - begun))
    checksum = results.save(dataset, job.folder / records.RESULT)
    if job.config.quick_look:
        from gradient_horizon import figures

        figures.save(figures.quick_look(dataset), job.folder / QUICK_LOOK, formats=("png",))
    shutil.rmtree(parts, ignore_errors=True)
    return checksum


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

"""What is known of each job without opening its result: `status.json` in its folder, `sweep.json` above.

A job's fate is read from its record alone, whatever launcher ran it.
"""

import dataclasses
import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from gradient_horizon import __version__

RECORD, RESULT, PLAN = "status.json", "result.nc", "sweep.json"
PLAN_LOCK = ".sweep.lock"
RUNNING, FINISHED, FAILED, MISSING, LOST, DAMAGED = "running", "finished", "failed", "missing", "lost", "damaged"
HEARTBEAT, LOST_AFTER = 10.0, 90.0  # seconds; other machines see a file's change late (NFS: up to 60)
LONGEST_JOB_NAME = 120
SINGLE = "single"  # the job of a command that sweeps nothing


class ResultError(ValueError):
    """A result that cannot be read: missing, cut short, altered, or written by another version."""


def job_name(swept: Mapping[str, Any]) -> str:
    """A folder's name from the swept settings, readable and the same whatever their order: `cell=tanh,steps=100`."""
    if not swept:
        return SINGLE
    text = ",".join(
        f"{key}={json.dumps(swept[key]) if not isinstance(swept[key], str) else swept[key]}" for key in sorted(swept)
    )
    text = text.replace(" ", "").replace('"', "")
    clean = re.sub(r"[^A-Za-z0-9_.=,+\-\[\]{}:]", "-", text)
    if clean == text and len(text) <= LONGEST_JOB_NAME:
        return text
    return f"{clean[: LONGEST_JOB_NAME - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Record:
    """The state of one job: `running`, `finished` or `failed`.

    While it runs, `changed` is touched every `HEARTBEAT` seconds, with how many networks are `done` and how many
    seconds are `left`. `job` is the name of the folder that its settings give it, and `picture` why a finished job
    has no quick look.
    """

    state: str
    hash: str
    settings: dict[str, Any]
    swept: dict[str, Any]
    checksum: str = ""
    error: str = ""
    host: str = field(default_factory=socket.gethostname)
    process: int = field(default_factory=os.getpid)
    began: float = field(default_factory=time.time)
    changed: float = field(default_factory=time.time)
    wall_time: float = 0.0
    networks: int = 0
    done: float = 0.0
    left: float | None = None
    job: str = ""
    picture: str = ""
    version: str = ""


def write_atomically(path: Path, content: bytes) -> None:
    """Write under a temporary name, flush to the disk, rename: `path` is the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def clear_unfinished(folder: Path) -> None:
    """Remove what processes that were killed while they wrote have left; for the one process that may write there."""
    for path in folder.glob(".*.*"):
        if path.suffix[1:].isdigit():
            path.unlink(missing_ok=True)


def file_checksum(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_sealed(path: Path, values: dict[str, Any]) -> None:
    """Write values as text, with a checksum of their own."""
    write_atomically(path, json.dumps({**values, "seal": _seal(values)}, indent=1).encode())


def _read_sealed(path: Path) -> dict[str, Any]:
    """What `_write_sealed` wrote; empty where that is missing, cut short or altered."""
    try:
        values = json.loads(path.read_bytes())
        intact = values.pop("seal") == _seal(values)
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return {}
    return values if intact else {}


def _seal(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def write_record(folder: Path, record: Record) -> None:
    _write_sealed(folder / RECORD, dataclasses.asdict(record))


def read_record(folder: Path) -> Record | None:
    """The record of a job's folder; None where there is none, or it is cut short or altered.

    Raises `ResultError` for a record that is intact but has other fields, as another version wrote it.
    """
    values = _read_sealed(folder / RECORD)
    if not values:
        return None
    known = dataclasses.fields(Record)
    required = {entry.name for entry in known if entry.default is entry.default_factory is dataclasses.MISSING}
    _check_version(folder / RECORD, values, required, {entry.name for entry in known})
    return Record(**values)


def _check_version(path: Path, values: Mapping[str, Any], required: Collection[str], known: Collection[str]) -> None:
    """`ResultError` for values that another version of the package wrote: with fields unknown here, or without some."""
    odd = [*sorted(set(values) - set(known)), *(f"no {name}" for name in sorted(set(required) - set(values)))]
    if odd:
        version = values.get("version")
        other = f"gradient-horizon {version}" if version else "another version of gradient-horizon"
        raise ResultError(
            f"{path}: written by {other}, which this one ({__version__}) cannot read ({', '.join(odd)}); allowed: that"
            " version, or another folder"
        )


def is_finished(folder: Path, settings: str) -> bool:
    """Whether a result stands there, made with the settings of this hash and unaltered since."""
    record = read_record(folder)
    if record is None or record.state != FINISHED or record.hash != settings:
        return False
    path = folder / RESULT
    return path.exists() and file_checksum(path) == record.checksum


def is_alive(record: Record) -> bool:
    """Whether the process that wrote this record still runs: it is heard of, and not known to have ended."""
    if time.time() - record.changed > LOST_AFTER:
        return False
    if record.host != socket.gethostname():
        return True
    try:
        os.kill(record.process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def is_computed_elsewhere(folder: Path) -> bool:
    """Whether a process on another machine is at the job; waits until it is heard of again, or taken for dead."""
    first = record = read_record(folder)
    while record and record.state == RUNNING and record.host != socket.gethostname() and is_alive(record):
        if first and record.changed != first.changed:
            return True
        time.sleep(1.0)
        record = read_record(folder)
    return False


def state_of(folder: Path) -> str:
    """`finished`, `running`, `failed`, `lost` (started, neither ended nor alive) or `missing`.

    The copy of a job of another name is no job: `missing`.
    """
    record = read_record(folder)
    if record is None:
        return MISSING
    if not is_own(folder, record) or (record.state == FINISHED and not (folder / RESULT).exists()):
        return MISSING
    if record.state == RUNNING and not is_alive(record):
        return LOST
    return record.state


@contextmanager
def planning(sweep: Path) -> Iterator[None]:
    """Keep the plan of a sweep's folder from other processes meanwhile: what is read there stays true until written."""
    with FileLock(sweep / PLAN_LOCK):
        yield


def write_plan(sweep: Path, jobs: Mapping[str, int], settings: Mapping[str, Any] | None = None) -> None:
    """Remember that these jobs, each of so many networks, belong to the sweep, beside those of earlier commands.

    `settings` are those that all jobs of the sweep share; None: what is known of them stays.
    """
    plan = _read_plan(sweep)
    known = {"jobs": plan.get("jobs", {}), "settings": plan.get("settings")}
    every = {
        "jobs": {**known["jobs"], **jobs},
        "settings": known["settings"] if settings is None else dict(settings),
    }
    if every != known:
        _write_sealed(sweep / PLAN, {**every, "version": __version__})


def _read_plan(sweep: Path) -> dict[str, Any]:
    values = _read_sealed(sweep / PLAN)
    if values:
        _check_version(sweep / PLAN, values, {"jobs"}, {"jobs", "settings", "version"})
    return values


def read_plan(sweep: Path) -> dict[str, int]:
    """The jobs that belong to a sweep's folder, in the order in which they were asked for, and their networks."""
    jobs = _read_plan(sweep).get("jobs", {})
    # a folder from somebody else must not lead out of itself
    return {name: networks for name, networks in jobs.items() if Path(name).name == name not in ("", "..")}


def shared_settings(sweep: Path) -> dict[str, Any] | None:
    """The settings that all jobs of a sweep share, by its plan; None where that names none (version 0.1.0)."""
    try:
        stat = (sweep / PLAN).stat()
    except OSError:
        return None
    return _shared_settings(sweep, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=16)
def _shared_settings(sweep: Path, *_: int) -> dict[str, Any] | None:
    """Read once for each version of the file: it may name 100,000 jobs, each of which asks."""
    return _read_plan(sweep).get("settings")


def is_own(folder: Path, record: Record) -> bool:
    """Whether a job's folder is the one that its settings name, and no copy under another name.

    Version 0.1.0 did not record the name: it is made again from the swept settings, to which lists such as seeds and
    weight scales, which join along an axis of the result, add parts of their own.
    """
    if record.job:
        return folder.name == record.job
    if not record.swept and not record.settings:  # one slab of a job
        return True
    if re.search(r"-[0-9a-f]{8}$", folder.name):  # a name that was too long, which cannot be made again
        return True
    parts, wanted = (set(re.split(r",(?=[a-z_]+=)", name)) - {SINGLE} for name in (folder.name, job_name(record.swept)))
    lists = {part.partition("=")[0] for part in parts - wanted}
    return wanted <= parts and all(key == "seeds" or isinstance(record.settings.get(key), list) for key in lists)


def found_folders(sweep: Path) -> tuple[list[Path], dict[str, str]]:
    """The folders of a sweep's jobs, planned or found; and of the others that hold a job, its name by theirs."""
    plan, others = read_plan(sweep), {}
    found = sorted(path.parent for path in sweep.glob(f"*/{RECORD}"))
    for folder in found:
        record = read_record(folder)
        if record is not None and not is_own(folder, record):
            others[folder.name] = record.job or job_name(record.swept)
    own = [folder.name for folder in found if folder.name not in others]
    return [sweep / name for name in dict.fromkeys([*plan, *own])], others


def job_folders(sweep: Path) -> list[Path]:
    """The folders of a sweep's jobs, planned or found."""
    return found_folders(sweep)[0]


def ignored_lines(others: Mapping[str, str]) -> list[str]:
    """What to say of folders that hold a job of another name."""
    return [f"ignored: {name}: holds the job {job}, whose folder has that name" for name, job in others.items()]

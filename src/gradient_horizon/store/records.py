"""What is known of each job without opening its result: `status.json` in its folder, `sweep.json` above.

A job's fate is read from its record alone, whatever launcher ran it.
"""

import dataclasses
import hashlib
import json
import math
import os
import re
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from gradient_horizon import __version__
from gradient_horizon.store import files
from gradient_horizon.store.files import harmless, write_atomically

RECORD, RESULT, PLAN = "status.json", "result.nc", "sweep.json"
PLAN_LOCK, PLANNER = ".sweep.lock", ".sweep.alone"
RUNNING, FINISHED, FAILED, MISSING, LOST, DAMAGED = "running", "finished", "failed", "missing", "lost", "damaged"
HEARTBEAT, LOST_AFTER = 10.0, 90.0  # seconds; other machines see a file's change late (NFS: up to 60)
LONGEST_JOB_NAME = 120
SINGLE = "single"  # the job of a command that sweeps nothing


class ResultError(ValueError):
    """A result that cannot be read: missing, cut short, altered, or written by another version."""


class DamagedError(ResultError):
    """A record or a plan that this package did not write so; what stands beside it can be read nevertheless."""


def _is_number(value: Any) -> bool:
    """Whether it is a time or a share that can be calculated with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and _is_number(value) and value >= 0


# What the fields of a record may be that are no text; those of a plan, where a job has so many networks.
_RECORDED: dict[str, Callable[[Any], bool]] = {
    "state": lambda value: value in (RUNNING, FINISHED, FAILED),
    "settings": lambda value: isinstance(value, dict),
    "swept": lambda value: isinstance(value, dict),
    "process": lambda value: _is_count(value) and 0 < value < 2**31,
    "networks": _is_count,
    "left": lambda value: value is None or _is_number(value),
    **dict.fromkeys(("began", "changed", "wall_time", "done"), _is_number),
}
_PLANNED: dict[str, Callable[[Any], bool]] = {
    "jobs": lambda value: isinstance(value, dict) and all(map(_is_count, value.values())),
    "settings": lambda value: value is None or isinstance(value, dict),
}


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
    has no quick look. `token` is drawn at random by the process that computes the job, for this once.
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
    token: str = ""


def file_checksum(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with files.open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_sealed(path: Path, values: dict[str, Any]) -> None:
    """Write values as text, with a checksum of their own; `ResultError` for more than would be read again."""
    content = json.dumps({**values, "seal": _seal(values)}, indent=1).encode()
    if len(content) > files.MOST:
        raise ResultError(f"{path}: {len(content)} bytes of settings; allowed: {files.MOST} (shorter lists)")
    write_atomically(path, content)


def _read_sealed(path: Path) -> dict[str, Any]:
    """What `_write_sealed` wrote; empty where that is missing, cut short or altered.

    Raises `DamagedError` where no file stands there, or one that is too large or cannot be opened.
    """
    try:
        values = json.loads(files.read_regular(path))
        intact = values.pop("seal") == _seal(values)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except files.PlaceError as error:
        raise DamagedError(str(error)) from None
    except OSError as error:
        raise DamagedError(harmless(f"{path}: {error.strerror}")) from None
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return {}
    return values if intact else {}


def _seal(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def write_record(folder: Path, record: Record) -> None:
    _write_sealed(folder / RECORD, dataclasses.asdict(record))


def read_record(folder: Path) -> Record | None:
    """The record of a job's folder; None where there is none, or it is cut short or altered.

    Raises `ResultError` for a record that is intact but has other fields, as another version wrote it; `DamagedError`
    for fields of other types, and for what is no file. Texts are `harmless`.
    """
    return _record_of(folder / RECORD)


_remembered: dict[Any, Record | None] | None = None  # by the file, and by which state of it


@contextmanager
def remembering() -> Iterator[None]:
    """Read no record twice meanwhile that was not replaced: for what only looks, many times over."""
    global _remembered
    before = _remembered
    _remembered = {} if before is None else before
    try:
        yield
    finally:
        _remembered = before


def _record_of(path: Path) -> Record | None:
    if _remembered is None:
        return _fresh_record_of(path)
    try:
        found = path.stat()
    except OSError:
        return _fresh_record_of(path)
    key = path, found.st_ino, found.st_size, found.st_mtime_ns
    if key not in _remembered:
        _remembered[key] = _fresh_record_of(path)
    return _remembered[key]


def _fresh_record_of(path: Path) -> Record | None:
    values = _read_sealed(path)
    if not values:
        return None
    known = dataclasses.fields(Record)
    required = {entry.name for entry in known if entry.default is entry.default_factory is dataclasses.MISSING}
    _check_version(path, values, required, {entry.name for entry in known})
    _check_types(path, values, _RECORDED)
    texts = {key: harmless(value) for key, value in values.items() if isinstance(value, str)}
    return Record(**{**values, **texts})


def readable_record(folder: Path) -> Record | None:
    """The record of a job's folder; None where there is none, or it is damaged. `ResultError`: of another version."""
    try:
        return read_record(folder)
    except DamagedError:
        return None


def _check_types(path: Path, values: Mapping[str, Any], rules: Mapping[str, Callable[[Any], bool]]) -> None:
    """`ResultError` for values that this package does not write; those without a rule are texts."""
    for key, value in values.items():
        if not rules.get(key, lambda found: isinstance(found, str))(value):
            raise DamagedError(harmless(f"{path}: {key} is {value!r:.40}; allowed: what gradient-horizon wrote"))


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
    record = readable_record(folder)
    return record is not None and record.state == FINISHED and record.hash == settings and is_intact(folder, record)


def is_intact(folder: Path, record: Record) -> bool:
    """Whether the result of a finished job is what was written."""
    try:
        return file_checksum(folder / RESULT) == record.checksum
    except OSError:
        return False


def silence(folder: Path) -> float:
    """Seconds since a job's record was written, by the clock of the file system, which all its machines share.

    Infinite where there is none. (What the writer took for the time, `changed`, may be minutes off.)
    """
    try:
        written = (folder / RECORD).stat().st_mtime
    except OSError:
        return math.inf
    return files.clock(folder) - written


def is_alive(folder: Path, record: Record) -> bool:
    """Whether the process that wrote the record in `folder` still runs: it is heard of, and not known to have ended."""
    if abs(silence(folder)) > LOST_AFTER:
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


def is_running(folder: Path, record: Record | None) -> bool:
    """Whether some process is at the job whose record this is."""
    return record is not None and record.state == RUNNING and is_alive(folder, record)


def is_computed_elsewhere(folder: Path, *, here: bool = False) -> bool:
    """Whether a process on another machine is at the job; waits until it is heard of again, or taken for dead.

    `here`: one on this machine counts too, as no lock tells.
    """
    first = record = read_record(folder)
    while record is not None and is_running(folder, record):
        if record.host == socket.gethostname():
            return here
        if first and (record.changed, record.token) != (first.changed, first.token):
            return True
        time.sleep(1.0)
        record = read_record(folder)
    return False


def is_held(folder: Path, record: Record) -> bool:
    """Whether the job is still that of the process which wrote `record`: no other has written one since."""
    try:
        found = read_record(folder)
    except ResultError:
        return False
    return found is None or _writer(found) == _writer(record)


def _writer(record: Record) -> tuple[str, int, float, str]:
    return record.host, record.process, record.began, record.token


def forget(folder: Path, record: Record | None) -> None:
    """Remove the record that was read from `folder`; one that another process has written since stays."""
    if record is not None or files.is_regular(folder / RECORD):
        with suppress(FileNotFoundError):
            files.set_aside(folder / RECORD, lambda path: _record_of(path) == record)


def state_of(folder: Path) -> str:
    """`finished`, `running`, `failed`, `lost` (started, neither ended nor alive), `damaged` or `missing`.

    The copy of a job of another name is no job: `missing`.
    """
    try:
        record = read_record(folder)
    except DamagedError:
        return DAMAGED
    if record is None:
        return MISSING
    if not is_own(folder, record) or (record.state == FINISHED and not files.is_regular(folder / RESULT)):
        return MISSING
    if record.state == RUNNING and not is_alive(folder, record):
        return LOST
    return record.state


@contextmanager
def planning(sweep: Path) -> Iterator[None]:
    """Keep the plan of a sweep's folder from other processes meanwhile: what is read there stays true until written.

    Raises `PlaceError` where the folder is a link: what `output` names may be one, what lies below may not.
    """
    files.check_folder(sweep)
    with files.locked(sweep / PLAN_LOCK, wait=True) as held, nullcontext() if held else files.alone(sweep / PLANNER):
        yield


@contextmanager
def writing(sweep: Path) -> Iterator[None]:
    """`planning`, and what processes that were killed while they wrote have left in the sweep's folder is removed."""
    with planning(sweep):
        files.clear_unfinished(sweep)
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
        _check_types(sweep / PLAN, values, _PLANNED)
    return values


def read_plan(sweep: Path) -> dict[str, int]:
    """The jobs that belong to a sweep's folder, in the order in which they were asked for, and their networks.

    Raises `ResultError` for a plan of another version, `DamagedError` for values of other types and what is no file.
    """
    jobs = _read_plan(sweep).get("jobs", {})
    return {name: networks for name, networks in jobs.items() if _is_name(name)}


def _is_name(name: str) -> bool:
    """Whether a job's folder may be called so: a folder from somebody else must not lead out of itself."""
    return Path(name).name == name not in ("", "..") and harmless(name) == name


def known_plan(sweep: Path) -> tuple[dict[str, int], str]:
    """The jobs that a sweep's plan names, and their networks; and why there are none, where it cannot be read."""
    try:
        return read_plan(sweep), ""
    except DamagedError as error:
        return {}, str(error)


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
    """The folders of a sweep's jobs, planned or found; and by its name, what else stands there.

    Of a folder that holds a job of another name, that name; of one that holds no job's record an empty text; of a plan
    that cannot be read the reason.
    """
    plan, reason = known_plan(sweep)
    others = {PLAN: reason} if reason else {}
    own = []
    for folder in sorted(path.parent for path in sweep.glob(f"*/{RECORD}")):
        try:
            record = read_record(folder) if _is_name(folder.name) else None
        except DamagedError:
            if folder.name in plan or files.is_regular(folder / RECORD):
                own.append(folder.name)
            else:
                others[folder.name] = ""
            continue
        if record is not None and not is_own(folder, record):
            others[folder.name] = record.job or job_name(record.swept)
        elif record is not None or folder.name in plan:
            own.append(folder.name)
        else:
            others[folder.name] = ""
    return [sweep / name for name in dict.fromkeys([*plan, *own])], others


def job_folders(sweep: Path) -> list[Path]:
    """The folders of a sweep's jobs, planned or found."""
    return found_folders(sweep)[0]


def ignored_lines(others: Mapping[str, str]) -> list[str]:
    """What to say of what else stands in a sweep's folder, by `found_folders`."""
    return [f"ignored: {harmless(_said_of(name, found))}" for name, found in others.items()]


def _said_of(name: str, found: str) -> str:
    if name == PLAN:
        return found
    return f"{name}: holds the job {found}, whose folder has that name" if found else f"{name}: holds no job's record"

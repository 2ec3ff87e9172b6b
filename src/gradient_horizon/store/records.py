"""Records of jobs, readable without opening results: `status.json` in each job's folder.

The state of a job is read from its record alone, whatever launcher ran it.
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
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradient_horizon import __version__
from gradient_horizon.store import files
from gradient_horizon.store.files import harmless, write_atomically

RECORD, RESULT = "status.json", "result.nc"
RUNNING, FINISHED, FAILED, MISSING, LOST, DAMAGED = "running", "finished", "failed", "missing", "lost", "damaged"
HEARTBEAT, LOST_AFTER = 10.0, 90.0  # seconds; other machines see changes to a file late (NFS: by up to 60)
LONGEST_JOB_NAME = 120
SINGLE = "single"  # the job of a command that sweeps nothing


class ResultError(ValueError):
    """A result that cannot be read: missing, cut short, altered, or written by another version."""


class DamagedError(ResultError):
    """A record or a plan that this package did not write in this form; files next to it can still be read."""


def _is_number(value: Any) -> bool:
    """True if it is a number, such as a time or a fraction, that can be computed with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53


def is_count(value: Any) -> bool:
    return isinstance(value, int) and _is_number(value) and value >= 0


# Tests of the fields of a record that are not text.
_RECORDED: dict[str, Callable[[Any], bool]] = {
    "state": lambda value: value in (RUNNING, FINISHED, FAILED),
    "settings": lambda value: isinstance(value, dict),
    "swept": lambda value: isinstance(value, dict),
    "process": lambda value: is_count(value) and 0 < value < 2**31,
    "networks": is_count,
    "left": lambda value: value is None or _is_number(value),
    **dict.fromkeys(("began", "changed", "wall_time", "done"), _is_number),
}


def job_name(swept: Mapping[str, Any]) -> str:
    """Return a folder name for the swept settings, readable and independent of their order: `cell=tanh,steps=100`."""
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
class JobRecord:
    """The state of one job: `running`, `finished` or `failed`.

    While the job runs, `changed` is updated every `HEARTBEAT` seconds, together with the number of networks `done` and
    the seconds `left`. `job` is the folder name that its settings give it, and `picture` the reason why a finished job
    has no quick look. `token` is drawn at random each time a process starts to compute the job.
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
    """Return the SHA-256 of a file's bytes."""
    with files.open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_sealed(path: Path, values: dict[str, Any]) -> None:
    """Write values as JSON with their own checksum; raise `ResultError` if they are too large to be read back."""
    content = json.dumps({**values, "seal": _seal(values)}, indent=1).encode()
    if len(content) > files.MOST:
        raise ResultError(f"{path}: {len(content)} bytes of settings; allowed: {files.MOST} (shorter lists)")
    write_atomically(path, content)


def read_sealed(path: Path) -> dict[str, Any]:
    """Return what `write_sealed` wrote; empty if it is missing, truncated or altered.

    Raises `DamagedError` if something other than a file is there, or a file that is too large or cannot be opened.
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


def write_record(folder: Path, record: JobRecord) -> None:
    write_sealed(folder / RECORD, dataclasses.asdict(record))


def read_record(folder: Path) -> JobRecord | None:
    """Return the record in a job's folder; None if there is none, or if it is truncated or altered.

    Raises `ResultError` for an intact record with other fields, as written by another version, and `DamagedError` for
    fields of other types or something that is not a file. Strings are made `harmless`.
    """
    return _record_of(folder / RECORD)


_remembered: dict[Any, JobRecord | None] | None = None  # keyed by the file and its state


@contextmanager
def remembering() -> Iterator[None]:
    """Within the context, read a record again only if it was replaced; for repeated reading without writing."""
    global _remembered
    before = _remembered
    _remembered = {} if before is None else before
    try:
        yield
    finally:
        _remembered = before


def _record_of(path: Path) -> JobRecord | None:
    if _remembered is None:
        return _fresh_record_of(path)
    try:
        status = path.stat()
    except OSError:
        return _fresh_record_of(path)
    key = path, status.st_ino, status.st_size, status.st_mtime_ns
    if key not in _remembered:
        _remembered[key] = _fresh_record_of(path)
    return _remembered[key]


def _fresh_record_of(path: Path) -> JobRecord | None:
    values = read_sealed(path)
    if not values:
        return None
    known = dataclasses.fields(JobRecord)
    required = {entry.name for entry in known if entry.default is entry.default_factory is dataclasses.MISSING}
    check_version(path, values, required, {entry.name for entry in known})
    check_types(path, values, _RECORDED)
    texts = {key: harmless(value) for key, value in values.items() if isinstance(value, str)}
    return JobRecord(**{**values, **texts})


def readable_record(folder: Path) -> JobRecord | None:
    """Like `read_record`, but None if the record is damaged. Raises `ResultError` if another version wrote it."""
    try:
        return read_record(folder)
    except DamagedError:
        return None


def check_types(path: Path, values: Mapping[str, Any], rules: Mapping[str, Callable[[Any], bool]]) -> None:
    """Raise `DamagedError` for values that this package does not write; those without a rule must be strings."""
    for key, value in values.items():
        if not rules.get(key, lambda text: isinstance(text, str))(value):
            raise DamagedError(harmless(f"{path}: {key} is {value!r:.40}; allowed: what gradient-horizon wrote"))


def check_version(path: Path, values: Mapping[str, Any], required: Collection[str], known: Collection[str]) -> None:
    """Raise `ResultError` if another version of the package wrote the values, with unknown or missing fields."""
    odd = [*sorted(set(values) - set(known)), *(f"no {name}" for name in sorted(set(required) - set(values)))]
    if odd:
        version = values.get("version")
        other = f"gradient-horizon {version}" if version else "another version of gradient-horizon"
        raise ResultError(
            f"{path}: written by {other}, which this one ({__version__}) cannot read ({', '.join(odd)}); allowed: that"
            " version, or another folder"
        )


def is_finished(folder: Path, settings: str) -> bool:
    """True if the folder holds a result that was made with the settings of this hash and is unaltered."""
    record = readable_record(folder)
    return record is not None and record.state == FINISHED and record.hash == settings and is_intact(folder, record)


def is_intact(folder: Path, record: JobRecord) -> bool:
    """True if the result of a finished job is what was written."""
    try:
        return file_checksum(folder / RESULT) == record.checksum
    except OSError:
        return False


def silence(folder: Path) -> float:
    """Return the seconds since a job's record was written, by the clock of the file system, which all machines share.

    Infinite if there is no record. (`changed`, by the writer's own clock, may be minutes off.)
    """
    try:
        time_of_record = (folder / RECORD).stat().st_mtime
    except OSError:
        return math.inf
    return files.clock(folder) - time_of_record


def is_alive(folder: Path, record: JobRecord) -> bool:
    """True if the process that wrote the record in `folder` is alive: it wrote recently and is not known to be dead."""
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


def is_running(folder: Path, record: JobRecord | None) -> bool:
    """True if some process is computing the job that has this record."""
    return record is not None and record.state == RUNNING and is_alive(folder, record)


def is_computed_elsewhere(folder: Path, *, here: bool = False) -> bool:
    """True if a process on another machine is computing the job.

    Waits until that process is heard from again, or presumed dead. With `here`, a process on this machine counts too,
    as there is no lock that would show it.
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


def is_held(folder: Path, record: JobRecord) -> bool:
    """True if the job still belongs to the process that wrote `record`: no other has written a record since."""
    try:
        record_now = read_record(folder)
    except ResultError:
        return False
    return record_now is None or _writer(record_now) == _writer(record)


def _writer(record: JobRecord) -> tuple[str, int, float, str]:
    return record.host, record.process, record.began, record.token


def forget(folder: Path, record: JobRecord | None) -> None:
    """Remove the record that was read from `folder`, unless another process has written a new one since."""
    if record is not None or files.is_regular(folder / RECORD):
        with suppress(FileNotFoundError):
            files.set_aside(folder / RECORD, lambda path: _record_of(path) == record)


def state_of(folder: Path) -> str:
    """Return `finished`, `running`, `failed`, `lost` (started, neither ended nor alive), `damaged` or `missing`.

    A copy of a job under another name does not count as a job: `missing`.
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


def is_own(folder: Path, record: JobRecord) -> bool:
    """True if a job's folder is the one that its settings name, and not a copy under another name.

    Version 0.1.0 did not record the name, which is then rebuilt from the swept settings. Lists such as seeds and weight
    scales, which join along an axis of the result, may add parts of their own to it.
    """
    if record.job:
        return folder.name == record.job
    if not record.swept and not record.settings:  # one slab of a job
        return True
    if re.search(r"-[0-9a-f]{8}$", folder.name):  # a name that was too long, and cannot be rebuilt
        return True
    parts, wanted = (set(re.split(r",(?=[a-z_]+=)", name)) - {SINGLE} for name in (folder.name, job_name(record.swept)))
    lists = {part.partition("=")[0] for part in parts - wanted}
    return wanted <= parts and all(key == "seeds" or isinstance(record.settings.get(key), list) for key in lists)

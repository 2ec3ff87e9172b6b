"""What is known of each job without opening its result: `status.json` in its folder, `sweep.json` above.

A job's fate is read from its record alone, whatever launcher ran it.
"""

import dataclasses
import hashlib
import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RECORD, RESULT, PLAN = "status.json", "result.nc", "sweep.json"
RUNNING, FINISHED, FAILED, MISSING, LOST = "running", "finished", "failed", "missing", "lost"
HEARTBEAT, LOST_AFTER = 10.0, 90.0  # seconds; other machines see a file's change late (NFS: up to 60)


@dataclass(frozen=True)
class Record:
    """The state of one job: `running`, `finished` or `failed`.

    While it runs, `changed` is touched every `HEARTBEAT` seconds, with how many networks are `done` and how many
    seconds are `left`.
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
    """The record of a job's folder; None where there is none that can be read."""
    try:
        return Record(**_read_sealed(folder / RECORD))
    except TypeError:  # nothing, or what another version wrote
        return None


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
    """`finished`, `running`, `failed`, `lost` (started, neither ended nor alive) or `missing`."""
    record = read_record(folder)
    if record is None:
        return MISSING
    if record.state == FINISHED and not (folder / RESULT).exists():
        return MISSING
    if record.state == RUNNING and not is_alive(record):
        return LOST
    return record.state


def write_plan(sweep: Path, jobs: Mapping[str, int]) -> None:
    """Remember that these jobs, each of so many networks, belong to the sweep, beside those of earlier commands."""
    known = read_plan(sweep)
    every = {**known, **jobs}
    if every != known:
        _write_sealed(sweep / PLAN, {"jobs": every})


def read_plan(sweep: Path) -> dict[str, int]:
    """The jobs that belong to a sweep's folder, in the order in which they were asked for, and their networks."""
    jobs = _read_sealed(sweep / PLAN).get("jobs", {})
    # a folder from somebody else must not lead out of itself
    return {name: networks for name, networks in jobs.items() if Path(name).name == name not in ("", "..")}


def job_folders(sweep: Path) -> list[Path]:
    """The folders of a sweep's jobs, planned or found."""
    found = sorted(path.parent.name for path in sweep.glob(f"*/{RECORD}"))
    return [sweep / name for name in dict.fromkeys([*read_plan(sweep), *found])]

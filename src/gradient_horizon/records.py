"""What is known of each job without opening its result: `status.json` in its folder, `sweep.json` above.

A job's fate is read from its record alone, whatever launcher ran it.
"""

import dataclasses
import hashlib
import json
import os
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RECORD, RESULT, PLAN = "status.json", "result.nc", "sweep.json"
RUNNING, FINISHED, FAILED, MISSING, LOST = "running", "finished", "failed", "missing", "lost"


@dataclass(frozen=True)
class Record:
    """The state of one job: `running`, `finished` or `failed`."""

    state: str
    hash: str
    settings: dict[str, Any]
    swept: dict[str, Any]
    checksum: str = ""
    error: str = ""
    host: str = field(default_factory=socket.gethostname)
    process: int = field(default_factory=os.getpid)
    changed: float = field(default_factory=time.time)
    wall_time: float = 0.0


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


def file_checksum(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_record(folder: Path, record: Record) -> None:
    write_atomically(folder / RECORD, json.dumps(dataclasses.asdict(record), indent=1).encode())


def read_record(folder: Path) -> Record | None:
    """The record of a job's folder; None where there is none that can be read."""
    try:
        return Record(**json.loads((folder / RECORD).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def is_finished(folder: Path, settings: str) -> bool:
    """Whether a result stands there, made with the settings of this hash and unaltered since."""
    record = read_record(folder)
    if record is None or record.state != FINISHED or record.hash != settings:
        return False
    path = folder / RESULT
    return path.exists() and file_checksum(path) == record.checksum


def process_is_alive(record: Record) -> bool:
    """Whether the process that wrote this record still runs; assumed so where it ran on another machine."""
    if record.host != socket.gethostname():
        return True
    try:
        os.kill(record.process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def state_of(folder: Path) -> str:
    """`finished`, `running`, `failed`, `lost` (started, neither ended nor alive) or `missing`."""
    record = read_record(folder)
    if record is None:
        return MISSING
    if record.state == FINISHED and not (folder / RESULT).exists():
        return MISSING
    if record.state == RUNNING and not process_is_alive(record):
        return LOST
    return record.state


def write_plan(sweep: Path, jobs: list[str]) -> None:
    """Remember that these jobs belong to the sweep, beside those of earlier commands with its name."""
    known = read_plan(sweep)
    names = [*known, *(name for name in jobs if name not in known)]
    if names != known:
        write_atomically(sweep / PLAN, json.dumps({"jobs": names}, indent=1).encode())


def read_plan(sweep: Path) -> list[str]:
    """The names of the jobs that belong to a sweep's folder, in the order in which they were asked for."""
    try:
        return list(json.loads((sweep / PLAN).read_bytes())["jobs"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def job_folders(sweep: Path) -> list[Path]:
    """The folders of a sweep's jobs, planned or found."""
    planned = read_plan(sweep)
    found = sorted(path.parent.name for path in sweep.glob(f"*/{RECORD}"))
    return [sweep / name for name in dict.fromkeys([*planned, *found])]

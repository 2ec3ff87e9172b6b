"""A sweep's own figures, beside its jobs: drawn again unless those that stand show just what is finished.

What they were drawn from stands in `figures.json`, which is written last: a hash of the finished results, and one of
each file. So whatever ends a process while it draws, the next command finds that the figures are still owed.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import xarray as xr

from gradient_horizon import __version__, figures
from gradient_horizon.store import files, records

DRAWN = "figures.json"
ENDINGS = (".pdf", ".png")


def shown_by(folder: Path) -> str:
    """A hash of what the figures of a sweep's folder are to show: its finished results, by name and checksum."""
    found = {}
    for job in records.job_folders(folder):
        record = records.readable_record(job)
        if record is not None and records.state_of(job) == records.FINISHED:
            found[job.name] = record.checksum
    return hashlib.sha256(json.dumps([__version__, found], sort_keys=True).encode()).hexdigest()


def _drawn(folder: Path) -> tuple[str, dict[str, str]]:
    """What the figures there were drawn from, and their files by name with a hash of each; both empty if unknown."""
    try:
        drawn = json.loads(files.read_regular(folder / DRAWN))
        return drawn["shows"], {name: drawn["files"][name] for name in drawn["files"] if _is_figure(name)}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return "", {}


def _is_figure(name: str) -> bool:
    return Path(name).name == name and name.endswith(ENDINGS)


def standing(folder: Path, shows: str) -> list[Path] | None:
    """The files of the figures that stand there, if they show what they are to; None where they are owed."""
    drawn_from, checksums = _drawn(folder)
    if drawn_from != shows:
        return None
    paths = [folder / name for name in checksums]
    try:
        intact = all(records.file_checksum(path) == checksums[path.name] for path in paths)
    except OSError:
        return None
    return paths if intact else None


def draw(folder: Path, dataset: xr.Dataset, shows: str, check: Callable[[], None] = lambda: None) -> list[Path]:
    """Draw every figure of `dataset`, which is what `shows` is the hash of, and return the files.

    A figure that an earlier drawing has left and this one does not make is removed. `check` is called before each.
    """
    with records.writing(folder):
        return _draw(folder, dataset, shows, check)


def _draw(folder: Path, dataset: xr.Dataset, shows: str, check: Callable[[], None]) -> list[Path]:
    before = _drawn(folder)[1]
    paths: list[Path] = []
    for name, figure in figures.sweep_figures(dataset).items():
        check()
        paths += figures.save(figure, folder / name)
    for name in before.keys() - {path.name for path in paths}:
        (folder / name).unlink(missing_ok=True)
    drawn = {"shows": shows, "files": {path.name: records.file_checksum(path) for path in paths}}
    files.write_atomically(folder / DRAWN, json.dumps(drawn, indent=1).encode() + b"\n")
    return paths

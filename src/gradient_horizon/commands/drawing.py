"""A sweep's own figures, next to its jobs: redrawn unless the existing ones show exactly what is finished.

`figures.json` records what the figures were drawn from: a hash of the finished results, and a hash of each file. It is
written last, so that if a process ends while drawing, for whatever reason, the next command draws the figures again.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import xarray as xr

from gradient_horizon import __version__, figures
from gradient_horizon.store import files, records, sweep_folders

FIGURES = "figures.json"
ENDINGS = (".pdf", ".png")


def finished(folder: Path) -> dict[str, str]:
    """Return the checksums of the finished results in a sweep's folder, by the names of their jobs."""
    checksums = {}
    for job in sweep_folders.job_folders(folder):
        record = records.readable_record(job)
        if record is not None and records.state_of(job) == records.FINISHED:
            checksums[job.name] = record.checksum
    return checksums


def shown_by(checksums: Mapping[str, str]) -> str:
    """Return a hash of what figures of these results show; it also depends on the version of the package."""
    return hashlib.sha256(json.dumps([__version__, dict(checksums)], sort_keys=True).encode()).hexdigest()


def _record_of(folder: Path) -> tuple[str, dict[str, str]]:
    """Return a hash of what the existing figures show, and a hash of each of their files; both empty if unknown."""
    try:
        record = json.loads(files.read_regular(folder / FIGURES))
        return record["shows"], {name: record["files"][name] for name in record["files"] if _is_figure(name)}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return "", {}


def _is_figure(name: str) -> bool:
    return Path(name).name == name and name.endswith(ENDINGS)


def current(folder: Path, shows: str) -> list[Path] | None:
    """Return the files of the existing figures if these are up to date; None if they have to be drawn."""
    source, checksums = _record_of(folder)
    if source != shows:
        return None
    paths = [folder / name for name in checksums]
    try:
        intact = all(records.file_checksum(path) == checksums[path.name] for path in paths)
    except OSError:
        return None
    return paths if intact else None


def draw(folder: Path, dataset: xr.Dataset, shows: str, check: Callable[[], None] = lambda: None) -> list[Path]:
    """Draw every figure of `dataset`, whose hash is `shows`, and return the files.

    Figures of an earlier drawing that are no longer made are removed. `check` is called before each figure.
    """
    with sweep_folders.writing(folder):
        return _draw(folder, dataset, shows, check)


def _draw(folder: Path, dataset: xr.Dataset, shows: str, check: Callable[[], None]) -> list[Path]:
    before = _record_of(folder)[1]
    paths: list[Path] = []
    for name, figure in figures.sweep_figures(dataset).items():
        check()
        paths += figures.save(figure, folder / name)
    for name in before.keys() - {path.name for path in paths}:
        (folder / name).unlink(missing_ok=True)
    record = {"shows": shows, "files": {path.name: records.file_checksum(path) for path in paths}}
    files.write_atomically(folder / FIGURES, json.dumps(record, indent=1).encode() + b"\n")
    return paths

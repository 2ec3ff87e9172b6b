"""Checkpoints of unfinished jobs: results of the networks measured so far, from which an interrupted job resumes.

They also hold the last saved state of work on networks that are still unfinished.

A checkpoint is a file NUMBER.part: an .npz of plain arrays, preceded by a SHA-256 of its bytes, written under a
temporary name and renamed. It holds consecutive networks, from the one of this number on. A checkpoint that was written
with other settings or by another version, or that is truncated or altered, is ignored, and its networks are computed
again.
"""

import hashlib
import io
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from gradient_horizon.store import files

Leaves: TypeAlias = list[np.ndarray[Any, Any]]
Networks: TypeAlias = tuple[slice, Leaves]  # which networks, and their entries in each leaf
UNFINISHED = "unfinished"  # the file with the state of unfinished work
_DIGEST = hashlib.sha256().digest_size


class Checkpoints:
    """The checkpoints in one folder.

    `made_by` identifies everything that determines their bytes. `seconds` is the minimum time between two writes, and
    `budget` the memory, in bytes, that may be filled.
    """

    def __init__(self, folder: Path, made_by: str, *, seconds: float = 10.0, budget: int = 2**40):
        self.folder, self.made_by, self.seconds, self.budget = folder, made_by, seconds, budget
        self._waiting: list[Networks] = []
        self._written = self._saved = time.monotonic()

    def stored(self) -> Iterator[Networks]:
        """Yield the stored networks in order from the first, up to the first missing or invalid checkpoint."""
        start = 0
        for path in sorted(self.folder.glob("*.part")):
            networks = self._read(path)
            if networks is None or networks[0].start != start:
                return
            start = networks[0].stop
            yield networks

    def _read(self, path: Path) -> Networks | None:
        arrays = self._arrays(path, "rows")
        if not arrays or arrays[0].shape != (2,) or arrays[0].dtype.kind != "i":
            return None
        return slice(*arrays[0].tolist()), arrays[1:]

    def _arrays(self, path: Path, label: str) -> Leaves | None:
        """Return a file's array `label` and then its leaves; None if the file is not intact or `made_by` differs."""
        try:
            with files.open_regular(path) as stream:
                content = stream.read()
        except OSError:
            return None
        if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
            return None
        try:
            with np.load(io.BytesIO(content[_DIGEST:]), allow_pickle=False) as arrays:
                if str(arrays["made_by"]) != self.made_by:
                    return None
                return [arrays[label], *(arrays[f"leaf_{index}"] for index in range(len(arrays.files) - 2))]
        except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile):  # intact, but not one of ours
            return None

    def _write(self, path: Path, leaves: Leaves, **label: np.ndarray[Any, Any]) -> None:
        stream = io.BytesIO()
        named = {f"leaf_{index}": leaf for index, leaf in enumerate(leaves)}
        np.savez(stream, made_by=np.array(self.made_by), **label, **named)  # type: ignore[arg-type]
        content = stream.getvalue()
        files.make_folder(self.folder)
        files.write_atomically(path, hashlib.sha256(content).digest() + content)

    def save_unfinished(self, work: str, leaves: Callable[[], Leaves]) -> None:
        """Replace the saved state by that of unfinished `work`, if `seconds` have passed since the last save."""
        if time.monotonic() - self._saved >= self.seconds:
            self._write(self.folder / UNFINISHED, leaves(), work=np.array(work))
            self._saved = time.monotonic()

    def unfinished(self, work: str) -> Leaves | None:
        """Return the saved state of this work; None if there is none."""
        arrays = self._arrays(self.folder / UNFINISHED, "work")
        return arrays[1:] if arrays and str(arrays[0]) == work else None

    def add(self, networks: slice, leaves: Leaves) -> None:
        """Add the results of the networks that follow the previous ones; written once `seconds` have passed."""
        self._waiting.append((networks, leaves))
        if time.monotonic() - self._written >= self.seconds:
            self.flush()

    def flush(self) -> None:
        """Write all pending results."""
        self._written = time.monotonic()
        if not self._waiting:
            return
        start, stop = self._waiting[0][0].start, self._waiting[-1][0].stop
        columns = zip(*(leaves for _, leaves in self._waiting), strict=True)
        leaves = [np.concatenate(column) for column in columns]
        self._write(self.folder / f"{start:010d}.part", leaves, rows=np.array([start, stop]))
        self._waiting.clear()

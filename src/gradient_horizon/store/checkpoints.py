"""What an unfinished job has measured so far: files of consecutive networks, from which it goes on after any end.

(And of work on networks that are unfinished, the last state that was kept.)

A part is an .npz of plain arrays behind a SHA-256 of its bytes, written under a temporary name and renamed. What was
written by other settings or other versions, cut short or altered, is not read but computed again.
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


class TooManyNetworksError(Exception):
    """More networks than should be held at once, which is `most`."""

    def __init__(self, most: int):
        super().__init__(f"more than {most} networks at once")
        self.most = most


Leaves: TypeAlias = list[np.ndarray[Any, Any]]
Rows: TypeAlias = tuple[slice, Leaves]  # which networks, and what each leaf holds of them
CHECKPOINT = "unfinished"
_DIGEST = hashlib.sha256().digest_size


class Parts:
    """The parts in one folder. `made_by` names all that decides their bytes; `seconds` pass between two writes.

    `budget` is how many bytes of memory there are to fill.
    """

    def __init__(self, folder: Path, made_by: str, *, seconds: float = 10.0, budget: int = 2**40):
        self.folder, self.made_by, self.seconds, self.budget = folder, made_by, seconds, budget
        self._waiting: list[Rows] = []
        self._written = self._kept = time.monotonic()

    def stored(self) -> Iterator[Rows]:
        """Consecutive networks from the first one on, as far as parts stand."""
        start = 0
        for path in sorted(self.folder.glob("*.part")):
            read = self._read(path)
            if read is None or read[0].start != start:
                return
            start = read[0].stop
            yield read

    def _read(self, path: Path) -> Rows | None:
        arrays = self._arrays(path, "rows")
        if not arrays or arrays[0].shape != (2,) or arrays[0].dtype.kind != "i":
            return None
        return slice(*arrays[0].tolist()), arrays[1:]

    def _arrays(self, path: Path, label: str) -> Leaves | None:
        """The array called `label` in a file, then the leaves; None where it is not whole, or made otherwise."""
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
        except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile):  # the digest of something else
            return None

    def _write(self, path: Path, leaves: Leaves, **label: np.ndarray[Any, Any]) -> None:
        stream = io.BytesIO()
        named = {f"leaf_{index}": leaf for index, leaf in enumerate(leaves)}
        np.savez(stream, made_by=np.array(self.made_by), **label, **named)  # type: ignore[arg-type]
        content = stream.getvalue()
        files.make_folder(self.folder)
        files.write_atomically(path, hashlib.sha256(content).digest() + content)

    def checkpoint(self, work: str, leaves: Callable[[], Leaves]) -> None:
        """Keep the state of unfinished `work` in place of the last one, once `seconds` have passed since."""
        if time.monotonic() - self._kept >= self.seconds:
            self._write(self.folder / CHECKPOINT, leaves(), work=np.array(work))
            self._kept = time.monotonic()

    def checkpointed(self, work: str) -> Leaves | None:
        """The state that was kept of this work; None where there is none."""
        arrays = self._arrays(self.folder / CHECKPOINT, "work")
        return arrays[1:] if arrays and str(arrays[0]) == work else None

    def add(self, rows: slice, leaves: Leaves) -> None:
        """Keep these networks, which follow the ones before; they are written once `seconds` have passed."""
        self._waiting.append((rows, leaves))
        if time.monotonic() - self._written >= self.seconds:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        self._written = time.monotonic()
        if not self._waiting:
            return
        start, stop = self._waiting[0][0].start, self._waiting[-1][0].stop
        columns = zip(*(leaves for _, leaves in self._waiting), strict=True)
        leaves = [np.concatenate(column) for column in columns]
        self._write(self.folder / f"{start:010d}.part", leaves, rows=np.array([start, stop]))
        self._waiting.clear()

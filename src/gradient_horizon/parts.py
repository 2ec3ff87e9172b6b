"""What an unfinished job has measured so far: files of consecutive networks, from which it goes on after any end.

A part is an .npz of plain arrays behind a SHA-256 of its bytes, written under a temporary name and renamed. What was
written by other settings or other versions, cut short or altered, is not read but computed again.
"""

import hashlib
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from gradient_horizon import records


class TooManyNetworksError(Exception):
    """More networks than should be held at once, which is `most`."""

    def __init__(self, most: int):
        super().__init__(f"more than {most} networks at once")
        self.most = most


Rows: TypeAlias = tuple[slice, list[np.ndarray[Any, Any]]]  # which networks, and what each leaf holds of them
_DIGEST = hashlib.sha256().digest_size


class Parts:
    """The parts in one folder. `made_by` names all that decides their bytes; `seconds` pass between two writes.

    `budget` is how many bytes of memory there are to fill.
    """

    def __init__(self, folder: Path, made_by: str, *, seconds: float = 10.0, budget: int = 2**40):
        self.folder, self.made_by, self.seconds, self.budget = folder, made_by, seconds, budget
        self._waiting: list[Rows] = []
        self._written = time.monotonic()

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
        try:
            content = path.read_bytes()
        except OSError:
            return None
        if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
            return None
        with np.load(io.BytesIO(content[_DIGEST:]), allow_pickle=False) as arrays:
            if str(arrays["made_by"]) != self.made_by:
                return None
            start, stop = arrays["rows"].tolist()
            return slice(start, stop), [arrays[f"leaf_{index}"] for index in range(len(arrays.files) - 2)]

    def add(self, rows: slice, leaves: list[np.ndarray[Any, Any]]) -> None:
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
        arrays = {f"leaf_{index}": np.concatenate(column) for index, column in enumerate(columns)}
        stream = io.BytesIO()
        np.savez(stream, made_by=np.array(self.made_by), rows=np.array([start, stop]), **arrays)  # type: ignore[arg-type]
        content = stream.getvalue()
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{start:010d}.part"
        records.write_atomically(path, hashlib.sha256(content).digest() + content)
        self._waiting.clear()

"""Contestants: this project and its peers, each kind in its own process, prepared and timed on request.

A maker is a function of one of the benchmark's modules, named `module.maker`: given a case (a dictionary of plain
values) it returns a `Ready`. The processes take turns, so that anything else the machine does slows all of them alike.
Each has the settings that suit it: this project its own, plain JAX its defaults except for a single BLAS thread
(LAPACK's threads compete with XLA's), PyTorch the number of threads that its makers find to be the fastest.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from machine import SETTINGS, seconds

OWN, JAX, TORCH = "this project", "JAX", "PyTorch"
RESULTS = Path(__file__).parent / "results"
_ENVIRONMENTS: dict[str, dict[str, str]] = {
    OWN: {},
    JAX: {"OPENBLAS_NUM_THREADS": "1", "JAX_COMPILATION_CACHE_DIR": str(RESULTS / "xla")},  # compiling is not timed
    TORCH: {},
}
Arrays = dict[str, np.ndarray]
Case = dict[str, Any]
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Ready:
    """`call` is timed; `arrays` turns its result into the numbers on which contestants must agree."""

    call: Callable[[], Any]
    arrays: Callable[[Any], Arrays]
    note: str = ""


@dataclass(frozen=True)
class Prepared:
    """A contestant that has run once and waits to be timed; `path` holds its arrays."""

    process: "Process"
    number: int
    path: Path
    note: str

    def seconds(self) -> float:
        """Return the seconds that one run takes."""
        return self.process.ask(do="time", number=self.number)["seconds"]

    def peak(self) -> float:
        """Return the peak memory of the process during one run, in bytes."""
        return self.process.ask(do="peak", number=self.number)["bytes"]

    def arrays(self) -> Arrays:
        """Return the arrays of its first run."""
        with np.load(self.path) as arrays:
            return dict(arrays)


class Process:
    """A process of one kind of contestant; a context manager."""

    def __init__(self, kind: str, folder: Path, **environment: str):
        self.kind, self._folder, self._numbers = kind, folder, count()
        command = [sys.executable, __file__, kind]
        given = {**os.environ, **_ENVIRONMENTS[kind], **environment}
        self._server = subprocess.Popen(
            command, env=given, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        with self._server as server:
            assert server.stdin is not None
            server.stdin.close()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and return the process's answer; raise `SystemExit` if there is none."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        with suppress(BrokenPipeError):
            print(json.dumps(request), file=self._server.stdin, flush=True)
        line = self._server.stdout.readline()
        if not line:
            raise SystemExit(f"{self.kind}: {request} ended its process; the peers come with pip install '.[bench]'")
        return json.loads(line)

    def settings(self) -> dict[str, str]:
        """Return the thread and device settings in force in the process."""
        return self.ask(do="settings")

    def prepare(self, maker: str, case: Case) -> Prepared:
        """Prepare a contestant, run it once and keep its arrays."""
        number = next(self._numbers)
        path = self._folder / f"{self.kind.replace(' ', '-')}-{os.getpid()}-{id(self)}-{number}.npz"
        note = self.ask(do="prepare", number=number, maker=maker, case=case, path=str(path))["note"]
        return Prepared(self, number, path, note)

    def forget(self) -> None:
        """Drop everything that was prepared."""
        self.ask(do="forget")


def alternate(calls: Mapping[K, Prepared], repeats: int) -> dict[K, np.ndarray]:
    """Return the seconds of each of `calls`, timed in turn, `repeats` times."""
    taken = [{key: call.seconds() for key, call in calls.items()} for _ in range(repeats)]
    return {key: np.array([each[key] for each in taken]) for key in calls}


def fastest(candidates: Mapping[str, Callable[[], Any]]) -> tuple[str, Callable[[], Any]]:
    """Return the name and call of the candidate whose second call takes the least time."""
    taken = {}
    for name, call in candidates.items():
        call()
        taken[name] = seconds(call)
    best = min(taken, key=lambda name: taken[name])
    return best, candidates[best]


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _peak(call: Callable[[], Any]) -> int:
    """Return the peak memory in bytes; on Linux only, where a process can reset its own peak."""
    Path("/proc/self/clear_refs").write_text("5")
    call()
    return _status("VmHWM")


def _answer(request: dict[str, Any], ready: dict[int, Ready]) -> dict[str, Any]:
    if request["do"] == "settings":
        return {name: os.environ[name] for name in SETTINGS if name in os.environ}
    if request["do"] == "forget":
        ready.clear()
        return {}
    if request["do"] == "prepare":
        module, _, name = request["maker"].partition(".")
        made: Ready = getattr(import_module(module), name)(request["case"])
        np.savez(request["path"], **made.arrays(made.call()))  # type: ignore[arg-type]
        ready[request["number"]] = made
        return {"note": made.note}
    call = ready[request["number"]].call
    return {"bytes": _peak(call)} if request["do"] == "peak" else {"seconds": seconds(call)}


def main() -> None:
    """Answer each line of standard input."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # keeps what libraries print out of the answers
    if sys.argv[1] == OWN:
        from gradient_horizon.ensembles import process

        process.prepare_own()
    ready: dict[int, Ready] = {}
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line), ready)), file=answers, flush=True)


if __name__ == "__main__":
    main()

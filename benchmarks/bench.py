"""State shared by all parts of the benchmark: processes, repeats, the screen, and the data of the figures."""

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from contestants import OWN, K, Prepared, Process, alternate

from gradient_horizon.ensembles import devices as runtime
from gradient_horizon.ensembles.block_size import block_size


@dataclass
class Bench:
    """A run; `throughput` (GFLOP/s by contestant and N), `roofline` and `scaling` are collected for the figures."""

    quick: bool
    repeats: int
    folder: Path
    say: Callable[[str], None]
    stack: ExitStack
    throughput: dict[str, dict[int, float]] = field(default_factory=dict)
    roofline: float = float("nan")
    scaling: list[Any] = field(default_factory=list)
    _processes: dict[str, Process] = field(default_factory=dict)

    def process(self, kind: str) -> Process:
        """Return the process of this kind, started on first use."""
        if kind not in self._processes:
            self._processes[kind] = self.stack.enter_context(Process(kind, self.folder))
            settings = " ".join(f"{name}={value}" for name, value in self._processes[kind].settings().items())
            self.say(f"{kind}: {settings or 'its own defaults'}")
        return self._processes[kind]

    def started(self, **environment: str) -> Process:
        """Start another process of this project with these settings."""
        return self.stack.enter_context(Process(OWN, self.folder, **environment))

    def forget(self) -> None:
        """Make every process drop what it has prepared."""
        for process in self._processes.values():
            process.forget()

    def alternate(self, calls: Mapping[K, Prepared]) -> dict[K, np.ndarray]:
        """Return the seconds of each call, timed in turn, `repeats` times."""
        return alternate(calls, self.repeats)

    def whole_chunks(self, n: int, steps: int, networks: int) -> int:
        """Round `networks` down to a whole number of this project's chunks, at least one."""
        devices = int(os.environ.get("JAX_NUM_CPU_DEVICES", runtime.cpu_count()))
        chunk = block_size(n, steps) * devices
        return max(1, networks // chunk) * chunk

    def agreed(self, who: str, difference: float, tolerance: float, note: str = "") -> None:
        """Report how far the results of a peer differ from ours; raise `SystemExit` if by more than `tolerance`."""
        self.say(f"{who}: differs by {difference:.1e} at most{f' ({note})' if note else ''}")
        if not difference <= tolerance:
            raise SystemExit(f"{who}: differs by {difference:.1e}; allowed: {tolerance:g}; not timed")

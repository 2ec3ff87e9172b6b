"""Whole commands: a million networks, the cost of each job in a multirun, a small job, and startup.

Each runs in its own process. Times are measured from outside or read from the jobs' records; programs are compiled and
cached beforehand.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

import numpy as np
from bench import Bench
from rows import LESS, Row, row

from gradient_horizon.store import records, sweep_folders

SCALES = 50
REFERENCE, MILLION, QUICK = 10_000, 1_000_000, 30_000
JOBS = 40
TINY = ("hidden_size=2", "steps=2", "seeds=1", "weight_scales=1")
SMALL = ("hidden_size=32", "steps=100", "seeds=32", "weight_scales={start: 0.5, stop: 2, num: 8}", "force=true")


@dataclass(frozen=True)
class Ran:
    """A command that succeeded: its duration in seconds, and its peak memory in bytes."""

    seconds: float
    peak: int


def ran(arguments: Sequence[str]) -> Ran:
    """Run Python with these arguments; raise `SystemExit` if it fails."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with status {process.returncode}")
    return Ran(time.perf_counter() - start, used.ru_maxrss * (1 if sys.platform == "darwin" else 1024))


def _run(folder: Path, *settings: str) -> Ran:
    """Run a job or a sweep from scratch in `folder`."""
    rmtree(folder, ignore_errors=True)
    return ran(["-m", "gradient_horizon", "run", "-m", *settings, f"output={folder}", "name=bench"])


def _ensemble(folder: Path, networks: int) -> tuple[float, int]:
    """Return the seconds per network of one job, according to its record, and its peak memory in bytes."""
    scales = f"weight_scales={{start: 0.5, stop: 2, num: {SCALES}}}"
    job = _run(folder, "hidden_size=16", "steps=100", f"seeds={networks // SCALES}", scales)
    record = records.read_record(folder / "bench" / "single")
    assert record is not None
    rmtree(folder)
    return record.wall_time / networks, job.peak


def _million(bench: Bench) -> list[Row]:
    networks = QUICK if bench.quick else MILLION
    folder = bench.folder / "ensemble"
    _ensemble(folder, REFERENCE)  # compiles
    times, peaks = [], []
    for _ in range(1 if bench.quick else 3):
        few, _ = _ensemble(folder, REFERENCE)
        many, peak = _ensemble(folder, networks)
        bench.say(f"{1e6 * few:.0f} µs a network of {REFERENCE}, {1e6 * many:.0f} µs a network of {networks}")
        times.append(many / few)
        peaks.append(peak / 2**30)
    size = f"N = 16, T = 100, {networks} networks"
    return [
        row("sweeps", f"time a network, over that of {REFERENCE} networks", size, times, LESS, 1.15),
        row("sweeps", "peak memory of the process", size, peaks, LESS, 4, unit="GiB"),
    ]


def _price_of_a_job(bench: Bench) -> list[Row]:
    """Measure the time from the start of one job to the start of the next, for jobs that share a compiled program.

    It covers settings, record and result. The figures of a whole sweep are drawn once, after the last job.
    """
    folder, table = bench.folder / "jobs", []
    cases = (
        ("", "horizon_threshold", "false", 0.05),
        (", with its quick look", "horizon_threshold", "true", None),
        (" over a number that its programs read", "bias_scale", "false", 0.05),
    )
    for more, swept, quick_look, target in cases:
        _run(folder, *TINY, f"quick_look={quick_look}", f"{swept}=range(2,{JOBS + 2})")
        job_records = [records.read_record(path) for path in sweep_folders.job_folders(folder / "bench")]
        began = np.sort([record.began for record in job_records if record is not None])
        what = f"each further job of a multirun{more}"
        table.append(row("sweeps", what, "N = 2, T = 2, 1 network", np.diff(began)[1:], LESS, target, unit="s"))
    rmtree(folder)
    return table


def _whole_processes(bench: Bench) -> list[Row]:
    folder = bench.folder / "small"
    small = ["-m", "gradient_horizon", "run", *SMALL, f"output={folder}", "name=small"]
    commands: dict[str, tuple[list[str], str, float | None]] = {
        "small job, whole process": (small, "N = 32, T = 100, 8 scales × 32 seeds", 6),
        "gradient-horizon settings": (["-m", "gradient_horizon", "settings"], "whole process", None),
        "import gradient_horizon": (["-c", "import gradient_horizon"], "whole process", None),
        "import jax, for comparison": (["-c", "import jax"], "whole process", None),
    }
    ran(small)  # compiles
    repeats = 3 if bench.quick else 7
    taken = [{what: ran(arguments).seconds for what, (arguments, _, _) in commands.items()} for _ in range(repeats)]
    rmtree(folder)
    return [
        row("sweeps", what, size, np.array([each[what] for each in taken]), LESS, target, unit="s")
        for what, (_, size, target) in commands.items()
    ]


def rows(bench: Bench) -> list[Row]:
    """Return the rows in the order given in the module's docstring."""
    return _million(bench) + _price_of_a_job(bench) + _whole_processes(bench)

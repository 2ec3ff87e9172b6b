"""One sweep of many jobs: what each costs."""

import itertools
import json
import os
import resource
import time
from functools import partial
from pathlib import Path
from typing import Any

from forks import fork


def run(scratch: Path, count: int) -> list[str]:
    """One sweep of so many jobs over a scalar: its time and memory a job, and those of what reads it."""
    folder = scratch / "many"
    folder.mkdir()
    axis = f"bias_scale=range(0.001,{(count + 0.5) / 1000:.4f},0.001)"
    words = ["run", "-m", axis, "hidden_size=8", "steps=20", "seeds=4", "weight_scales=[1.0]", "quick_look=false"]
    told = {}
    for name, run in {
        "run": partial(watched, [*words, "name=kept"]),
        "status": partial(watched, ["status", "results/kept"]),
        "load": partial(loaded, "results/kept"),
        "collect": partial(watched, ["collect", "results/kept"]),
        "load of the collected file": partial(loaded, "results/kept/collected.nc"),
    }.items():
        child = fork(run, scratch / "said.txt", folder)
        status = child.wait(seconds=3600)
        if status:
            return [f"{name}: status {status}: {child.said.read_text()[-800:]}"]
        told[name] = json.loads((folder / "watched.json").read_text())
        print(f"{name}: {json.dumps(told[name])}")
    return []


def watched(words: list[str]) -> int:
    """A command, with its seconds, and what memory it held as jobs went by."""
    from gradient_horizon.commands import parser, sweep

    memory: list[float] = []
    times: list[float] = []
    run_one = sweep.jobs.execute

    def execute(*arguments: Any, **named: Any) -> None:
        run_one(*arguments, **named)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        memory.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)
        times.append(time.monotonic())

    sweep.jobs.execute = execute
    begun = time.monotonic()
    status = parser.main(words)
    told: dict[str, Any] = {"seconds": round(time.monotonic() - begun, 2), "peak MB": _peak()}
    if len(times) > 20:
        tenth = len(times) // 10
        told["ms a job, median"] = round(1e3 * sorted(b - a for a, b in itertools.pairwise(times))[len(times) // 2], 1)
        told["MB after a tenth and all"] = [round(memory[tenth - 1]), round(memory[-1])]
    Path("watched.json").write_text(json.dumps(told))
    return status


def loaded(path: str) -> int:
    import gradient_horizon as gh

    begun = time.monotonic()
    dataset = gh.load(path)
    told = {"seconds": round(time.monotonic() - begun, 2), "peak MB": _peak(), "sizes": dict(dataset.sizes)}
    Path("watched.json").write_text(json.dumps(told))
    return 0


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

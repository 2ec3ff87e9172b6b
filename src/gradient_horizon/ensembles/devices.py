"""Cores, memory and block sizes: the one place that knows the machine."""

import os
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any


def cpu_count() -> int:
    """The cores this process may use; of a SLURM job, those it asked for, which the system need not enforce."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    granted = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE")
    return min(cores, int(granted)) if granted else cores


def free_memory() -> int:
    """Bytes that this process may still take: what the machine has available, or its control group allows if less."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux: what there is at all
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return min([available, *_group_limits()])


def _group_limits() -> list[int]:
    """What each control group (version 2) that this process is in still allows; pages of files can be given back."""
    groups = Path("/proc/self/cgroup").read_text().splitlines()
    group = next((line.removeprefix("0::/") for line in groups if line.startswith("0::/")), "")
    folder, left = Path("/sys/fs/cgroup") / group, []
    for place in (folder, *folder.parents[:-3]):
        try:
            statistics = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
            limit, used = ((place / name).read_text().strip() for name in ("memory.max", "memory.current"))
            left.append(int(limit) - int(used) + int(statistics["inactive_file"]))
        except (OSError, ValueError, KeyError):  # no such file, or no limit: "max"
            continue
    return left


def memory_budget(gibibytes: float | None) -> int:
    """Bytes that a job may take: as many as are asked for, or 60 % of what is free."""
    return int(gibibytes * 2**30) if gibibytes is not None else int(0.6 * free_memory())


def is_without_float64() -> bool:
    """Whether the environment keeps JAX from computing in float64, which it then would make float32 of in silence."""
    return os.environ.get("JAX_ENABLE_X64", "1").lower() in ("0", "false", "f", "no", "n", "off")


def __getattr__(name: str) -> Any:
    """`prepare` of 0.1, which also turned float64 on for the whole process."""
    if name != "prepare":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn("runtime.prepare is now gradient_horizon.prepare", DeprecationWarning, stacklevel=2)
    return import_module("gradient_horizon.ensembles.process").prepare_own


def block_size(n: int, steps: int, *, precision: str = "float32", backend: str = "cpu") -> int:
    """How many networks one compiled block holds: as many as keep their matrices in the cache.

    A function of the network's own settings and the backend alone, never of how many networks, devices or bytes
    there are, so a network's last digits do not depend on the sweep around it. Measured for float32 on a CPU with
    1 MiB of cache a core; float64 takes half. Of more than 2¹⁵ entries the products are split over the threads of
    all cores, which then wait for each other: a third slower at N = 16, 64 and 100. Beyond 1000 steps blocks shrink,
    down to 8 networks: their trajectories take memory, and a few networks are all that most such runs have.
    """
    if backend != "cpu":  # an accelerator wants whole batches: some 64 MiB of state matrices
        return max(1, min(4096, 2**24 // (n * n)))
    size = 2 ** (min(256, max(1, 2**15 // (n * n))).bit_length() - 1)
    if precision == "float64":
        size = max(1, size // 2)
    while size > 8 and size * steps > 256_000:
        size //= 2
    return size


def training_block(n: int, steps: int, batch_size: int, *, precision: str = "float32", backend: str = "cpu") -> int:
    """How many networks one compiled block trains: as many as keep the states of a batch in the cache.

    A function of the network's own settings and the backend alone, as `block_size`. Measured for float32 on a CPU with
    1 MiB of second-level cache a core: 4 networks of 50 units at 100 steps of 20 sequences; 16 take half as long again.
    Never more than 4 on a CPU: jobs of a few networks would wait for padding.
    """
    states = n * steps * batch_size * (2 if precision == "float64" else 1)
    sizes, most = ((4, 2), 400_000) if backend == "cpu" else ((256, 64, 16, 4), 2**28)
    return next((size for size in sizes if size * states <= most), 1)


def lane_width(n: float, block: int, *, precision: str = "float32", backend: str = "cpu") -> int:
    """How many networks of a block lie side by side in the processor's vector lanes (see `batch_last_vmap`); 1: none.

    As many as keep their matrices in the cache next to the processor. Measured for float32 on a CPU with 512-bit lanes
    and 32 KiB of it: 2 to 3 times as fast as one by one at N = 3 to 14, 1.7 at 16, 1.3 at 24 and no faster from 28 on;
    float64 gains nothing. The environment's GRADIENT_HORIZON_LANES=0 turns it off: results then differ in their last
    digits.
    """
    if backend != "cpu" or precision != "float32" or os.environ.get("GRADIENT_HORIZON_LANES") == "0":
        return 1
    width = next((width for largest, width in ((4, 256), (12, 64), (14, 32), (24, 16)) if n <= largest), 1)
    return min(width, block)

"""The number of cores, the free memory and the block sizes: everything that depends on the machine."""

import os
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any


def cpu_count() -> int:
    """The number of cores this process may use; in a SLURM job, as requested, since the system may not enforce that."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    granted = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE")
    return min(cores, int(granted)) if granted else cores


def free_memory() -> int:
    """Bytes that this process may still take: the machine's available memory, or less if its control group has less."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux: the machine's total memory
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return min([available, *_group_limits()])


def _group_limits() -> list[int]:
    """Bytes that each control group (version 2) of this process still allows; cached file pages count as free."""
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
    """Bytes that a job may take: `gibibytes` if given, otherwise 60 % of the free memory."""
    return int(gibibytes * 2**30) if gibibytes is not None else int(0.6 * free_memory())


def is_without_float64() -> bool:
    """True if the environment disables float64 in JAX, which would then silently compute in float32."""
    return os.environ.get("JAX_ENABLE_X64", "1").lower() in ("0", "false", "f", "no", "n", "off")


def __getattr__(name: str) -> Any:
    """Provide the deprecated `prepare` of version 0.1, which also enabled float64 for the whole process."""
    if name != "prepare":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn("runtime.prepare is now gradient_horizon.prepare", DeprecationWarning, stacklevel=2)
    return import_module("gradient_horizon.ensembles.process").prepare_own


def block_size(n: int, steps: int, *, precision: str = "float32", backend: str = "cpu") -> int:
    """The number of networks in one compiled block: as many as keep their matrices in the cache.

    It depends only on the network's own settings and the backend, never on the number of networks, devices or bytes,
    so that a network's last digits do not depend on the rest of the sweep. Measured for float32 on a CPU with 1 MiB of
    cache per core; float64 takes half as many. Products of more than 2¹⁵ entries are split over the threads of all
    cores, which then wait for each other: a third slower at N = 16, 64 and 100. Beyond 1000 steps blocks shrink, down
    to 8 networks, because trajectories take memory and most such runs have only a few networks.
    """
    if backend != "cpu":  # an accelerator needs large batches: about 64 MiB of state matrices
        return max(1, min(4096, 2**24 // (n * n)))
    size = 2 ** (min(256, max(1, 2**15 // (n * n))).bit_length() - 1)
    if precision == "float64":
        size = max(1, size // 2)
    while size > 8 and size * steps > 256_000:
        size //= 2
    return size


def training_block(n: int, steps: int, batch_size: int, *, precision: str = "float32", backend: str = "cpu") -> int:
    """The number of networks that one compiled block trains: as many as keep the states of a batch in the cache.

    Like `block_size`, it depends only on the network's own settings and the backend. Measured for float32 on a CPU with
    1 MiB of second-level cache per core: 4 networks of 50 units at 100 steps of 20 sequences; blocks of 16 take half as
    long again. Never more than 4 on a CPU, where jobs of a few networks would spend their time on padding.
    """
    states = n * steps * batch_size * (2 if precision == "float64" else 1)
    sizes, most = ((4, 2), 400_000) if backend == "cpu" else ((256, 64, 16, 4), 2**28)
    return next((size for size in sizes if size * states <= most), 1)


def batch_last_width(n: float, block: int, *, precision: str = "float32", backend: str = "cpu") -> int:
    """The number of networks of a block that share the processor's vector lanes (see `batch_last_vmap`); 1: no sharing.

    As many as keep their matrices in the first-level cache. Measured for float32 on a CPU with 512-bit lanes and 32 KiB
    of that cache: 2 to 3 times as fast as one by one at N = 3 to 14, 1.7 times at 16, 1.3 times at 24 and no faster
    from 28 on; float64 gains nothing. The environment variable GRADIENT_HORIZON_LANES=0 turns it off; results then
    differ in their last digits.
    """
    if backend != "cpu" or precision != "float32" or os.environ.get("GRADIENT_HORIZON_LANES") == "0":
        return 1
    width = next((width for largest, width in ((4, 256), (12, 64), (14, 32), (24, 16)) if n <= largest), 1)
    return min(width, block)

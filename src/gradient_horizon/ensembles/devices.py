"""What this machine offers to a process: cores, free memory, and whether JAX may compute in float64."""

import os
from pathlib import Path


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

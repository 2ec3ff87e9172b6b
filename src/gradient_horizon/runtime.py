"""Devices, threads and block sizes: the one place that knows the machine.

`prepare` is called by the command line before JAX starts and never on import.
"""

import logging
import os
import sys
from pathlib import Path

_log = logging.getLogger(__name__)


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


def prepare(*, devices: int | None = None, compile_cache: bool = True) -> None:
    """Set JAX up: one CPU device a core, no threads inside a product, one BLAS thread, float64 allowed.

    Small matrix products do not gain from threads, networks do: the ensemble is spread over the devices instead.
    LAPACK's own threads fight XLA's (an SVD of 128 × 128 takes 50 times as long with them). A value that the
    user's environment already sets is kept. (More threads than devices, by NPROC, would spin for work and halve the
    speed.) Raises `RuntimeError` when JAX has been imported already, since the
    settings would not take effect.
    """
    if "jax" in sys.modules:
        raise RuntimeError("runtime.prepare must be called before JAX is imported")
    devices = devices or int(os.environ.get("JAX_NUM_CPU_DEVICES", cpu_count()))
    environment = {
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_ENABLE_X64": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    flags = os.environ.get("XLA_FLAGS", "")
    for flag, value in (
        ("xla_cpu_multi_thread_eigen", "false"),
        # The other scheduler spreads one network's small operations over threads, at half the speed.
        ("xla_cpu_scheduler_type", "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"),
        # XLA's own choice is 256 bits; where a processor has 512, training gains a twentieth.
        ("xla_cpu_prefer_vector_width", "512"),
        # XLA splits loops over all cores' threads, which then wait for each other at every step.
        ("xla_disable_hlo_passes", "cpu-parallel-task-assigner"),
        # A loop over 32 numbers is unrolled into 32 operations before it could become two of 16 numbers each. A loop
        # of small operations that touches up to a mebibyte becomes one function, where XLA's own limit is a kibibyte:
        # to start an operation of its own takes 0.07 µs, as long as one on hundreds of numbers.
        ("xla_backend_extra_options", "xla_cpu_disable_loop_unrolling,xla_cpu_small_while_loop_byte_threshold=1048576"),
    ):
        if flag not in flags:
            flags = f"{flags} --{flag}={value}".strip()
    os.environ["XLA_FLAGS"] = flags
    if compile_cache:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        environment["JAX_COMPILATION_CACHE_DIR"] = str(home / "gradient-horizon" / "xla")
        environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    for name, value in environment.items():
        os.environ.setdefault(name, value)


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
    """How many networks of a block lie side by side in the processor's vector lanes (see `lanes`); 1: none.

    As many as keep their matrices in the cache next to the processor. Measured for float32 on a CPU with 512-bit lanes
    and 32 KiB of it: 2 to 3 times as fast as one by one at N = 3 to 14, 1.7 at 16, 1.3 at 24 and no faster from 28 on;
    float64 gains nothing.
    """
    if backend != "cpu" or precision != "float32":
        return 1
    width = next((width for largest, width in ((4, 256), (12, 64), (14, 32), (24, 16)) if n <= largest), 1)
    return min(width, block)


def unroll(n: int) -> int:
    """Steps of a scan in one loop body: gains up to 30 % where a step is short, nothing beyond N = 64."""
    return 4 if n <= 64 else 1

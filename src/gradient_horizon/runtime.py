"""Devices, threads and block sizes: the one place that knows the machine.

`prepare` is called by the command line before JAX starts and never on import.
"""

import logging
import os
import sys
from pathlib import Path

_log = logging.getLogger(__name__)


def cpu_count() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prepare(*, devices: int | None = None, compile_cache: bool = True) -> None:
    """Set JAX up: one CPU device a core, no threads inside a product, one BLAS thread, float64 allowed.

    Small matrix products do not gain from threads, networks do: the ensemble is spread over the devices instead.
    LAPACK's own threads fight XLA's (an SVD of 128 × 128 takes 50 times as long with them). A value that the
    user's environment already sets is kept. Raises `RuntimeError` when JAX has been imported already, since the
    settings would not take effect.
    """
    if "jax" in sys.modules:
        raise RuntimeError("runtime.prepare must be called before JAX is imported")
    devices = devices or int(os.environ.get("JAX_NUM_CPU_DEVICES", cpu_count()))
    # A device's program waits in XLA's pool of threads for parts of itself that run in the same pool. With as many
    # threads as devices, all of them can be waiting: it hangs for ever (seen with jax 0.10.2 at the second QR).
    for name in ("NPROC", "PJRT_NPROC"):
        threads = os.environ.get(name, "")
        os.environ[name] = str(max(int(threads) if threads.isdecimal() else 0, 4 * devices, 8))
    environment = {
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_ENABLE_X64": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_multi_thread_eigen" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    if compile_cache:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        environment["JAX_COMPILATION_CACHE_DIR"] = str(home / "gradient-horizon" / "xla")
        environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    for name, value in environment.items():
        os.environ.setdefault(name, value)


def block_size(n: int, *, precision: str = "float32", backend: str = "cpu") -> int:
    """How many networks one compiled block holds: as many as keep their matrices in the cache.

    A function of the network's own settings and the backend alone, never of how many networks, devices or bytes
    there are, so a network's last digits do not depend on the sweep around it. Measured for float32 on a CPU with
    2 MiB of cache a core; float64 takes half.
    """
    if backend != "cpu":  # an accelerator wants whole batches: some 64 MiB of state matrices
        return max(1, min(4096, 2**24 // (n * n)))
    for largest, size in ((16, 256), (32, 32), (64, 16), (128, 8)):
        if n <= largest:
            return size if precision == "float32" else size // 2
    return 1


def unroll(n: int) -> int:
    """Steps of a scan in one loop body: gains up to 30 % where a step is short, nothing beyond N = 64."""
    return 4 if n <= 64 else 1

"""This process's devices, threads and compiler: what JAX and BLAS read when they start."""

import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

from gradient_horizon.ensembles.devices import cpu_count

_FLAGS = {
    "xla_cpu_multi_thread_eigen": "false",
    # The other scheduler spreads one network's small operations over threads, at half the speed.
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
    # XLA's own choice is 256 bits; where a processor has 512, training gains a twentieth.
    "xla_cpu_prefer_vector_width": "512",
    # XLA splits loops over all cores' threads, which then wait for each other at every step.
    "xla_disable_hlo_passes": "cpu-parallel-task-assigner",
    # A loop over 32 numbers is unrolled into 32 operations before it could become two of 16 numbers each. A loop
    # of small operations that touches up to a mebibyte becomes one function, where XLA's own limit is a kibibyte:
    # to start an operation of its own takes 0.07 µs, as long as one on hundreds of numbers.
    "xla_backend_extra_options": "xla_cpu_disable_loop_unrolling,xla_cpu_small_while_loop_byte_threshold=1048576",
}
_X86 = ("x86_64", "AMD64")
_TRIED = ("0.10.", "0.11.", "0.12.")  # of jaxlib, on Linux and x86-64: all flags are known there


@functools.cache
def _are_known(flags: tuple[str, ...]) -> bool:
    """Whether this jaxlib knows these flags; one that it does not know ends the process, so another one tries them."""
    version = importlib.metadata.version("jaxlib")
    if sys.platform == "linux" and platform.machine() in _X86 and version.startswith(_TRIED):
        return True
    environment = {**os.environ, "XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", "import jax; jax.numpy.ones(2).block_until_ready()"]
    return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0


def _flags() -> str:
    """XLA_FLAGS: what the environment has, and what of `_FLAGS` it does not mention."""
    given = os.environ.get("XLA_FLAGS", "")
    is_x86 = platform.machine() in _X86
    own = {name: value for name, value in _FLAGS.items() if name not in given}
    own = {name: value for name, value in own.items() if is_x86 or name != "xla_cpu_prefer_vector_width"}
    added = tuple(f"--{name}={value}" for name, value in own.items())
    return " ".join([given, *added]).strip() if added and _are_known(added) else given


def prepare(*, devices: int | None = None) -> dict[str, str]:
    """Make this process ready for ensembles: one CPU device a core, no threads inside a product, one BLAS thread.

    Small matrix products do not gain from threads, networks do: an ensemble is spread over the devices instead.
    LAPACK's own threads fight XLA's (an SVD of 128 × 128 takes 50 times as long with them). Nothing else changes: not
    the precision that JAX computes in, nor where it keeps compiled programs. What the environment already sets is
    kept. (More threads than devices, by NPROC, would spin for work and halve the speed.)

    **Arguments:** `devices`: how many CPU devices; None: one for each core that this process may use.

    **Returns:** what it set, by the names of the environment's variables.

    **Raises:** `RuntimeError` where JAX has started its devices already (it does at the first array), which cannot be
    changed then. That JAX has been imported does not matter.
    """
    devices = devices or int(os.environ.get("JAX_NUM_CPU_DEVICES", cpu_count()))
    if "jax" in sys.modules:
        import jax

        try:
            jax.config.update("jax_num_cpu_devices", devices)
        except RuntimeError as error:
            raise RuntimeError(
                "prepare: JAX has started its devices already; call it before the first array"
            ) from error
    found = {"JAX_NUM_CPU_DEVICES": str(devices), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    found = {name: value for name, value in found.items() if name not in os.environ}
    flags = _flags()
    if flags != os.environ.get("XLA_FLAGS", ""):
        found["XLA_FLAGS"] = flags
    os.environ.update(found)
    if "numpy" in sys.modules and os.environ["OPENBLAS_NUM_THREADS"] == "1":  # it has read the environment already
        import threadpoolctl

        threadpoolctl.threadpool_limits(1, user_api="blas")
    return found


def prepare_own(*, devices: int | None = None, compile_cache: bool = True) -> None:
    """`prepare` a process of this package's own: float64 allowed, and compiled programs kept from run to run.

    Raises `RuntimeError` when JAX has been imported already, which would not take all of it.
    """
    if "jax" in sys.modules:
        raise RuntimeError("prepare_own must be called before JAX is imported")
    os.environ.setdefault("JAX_ENABLE_X64", "1")
    prepare(devices=devices)
    if compile_cache:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(home / "gradient-horizon" / "xla"))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

"""Settings of this process's devices, threads and compiler, which JAX and BLAS read when they start."""

import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from gradient_horizon.ensembles.devices import cpu_count

_FLAGS = {
    "xla_cpu_multi_thread_eigen": "false",
    # The other scheduler spreads the small operations of one network over threads, at half the speed.
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
    # XLA's default is 256 bits; on a processor with 512, training gains a twentieth.
    "xla_cpu_prefer_vector_width": "512",
    # XLA would split loops over the threads of all cores, which then wait for each other at every step.
    "xla_disable_hlo_passes": "cpu-parallel-task-assigner",
    # Unrolling would turn a loop over 32 numbers into 32 operations before it could become two of 16 numbers each. A
    # loop of small operations that touches up to a mebibyte (XLA's default: a kibibyte) becomes one function, because
    # launching a separate operation takes 0.07 µs, as long as computing on hundreds of numbers.
    "xla_backend_extra_options": "xla_cpu_disable_loop_unrolling,xla_cpu_small_while_loop_byte_threshold=1048576",
}
_X86 = ("x86_64", "AMD64")
_TRIED = ("0.10.", "0.11.", "0.12.")  # versions of jaxlib that know all the flags, on Linux and x86-64


@functools.cache
def _are_supported(flags: tuple[str, ...]) -> bool:
    """True if this jaxlib knows these flags. An unknown flag ends the process, so they are tried in another one."""
    version = importlib.metadata.version("jaxlib")
    if sys.platform == "linux" and platform.machine() in _X86 and version.startswith(_TRIED):
        return True
    environment = {**os.environ, "XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", "import jax; jax.numpy.ones(2).block_until_ready()"]
    return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0


def _flags() -> str:
    """XLA_FLAGS as set in the environment, plus those of `_FLAGS` that it does not mention, if jaxlib knows them."""
    own_flags = os.environ.get("XLA_FLAGS", "")
    is_x86 = platform.machine() in _X86
    own = {name: value for name, value in _FLAGS.items() if name not in own_flags}
    own = {name: value for name, value in own.items() if is_x86 or name != "xla_cpu_prefer_vector_width"}
    added = tuple(f"--{name}={value}" for name, value in own.items())
    return " ".join([own_flags, *added]).strip() if added and _are_supported(added) else own_flags


def compiler_options() -> dict[str, Any]:
    """Those of `_FLAGS` that XLA_FLAGS does not mention and that can be set for a single program; for the CPU only."""
    own_flags, is_x86 = os.environ.get("XLA_FLAGS", ""), platform.machine() in _X86
    added = {
        name: value
        for name, value in _FLAGS.items()
        if name not in own_flags
        and name != "xla_backend_extra_options"  # for the whole process only
        and (is_x86 or name != "xla_cpu_prefer_vector_width")
    }
    if not added or not _are_supported(tuple(f"--{name}={value}" for name, value in added.items())):
        return {}
    return {
        name: {"false": False}.get(value, int(value) if value.isdigit() else value) for name, value in added.items()
    }


def prepare(*, devices: int | None = None) -> dict[str, str]:
    """Prepare this process for ensembles: one CPU device per core, no threads inside a product, one BLAS thread.

    Threads do not speed up small matrix products, but they do speed up an ensemble, which is spread over the devices.
    LAPACK's own threads compete with XLA's (with them an SVD of 128 × 128 takes 50 times as long). Nothing else
    changes, neither the precision that JAX computes in nor the place where it keeps compiled programs. Variables that
    the environment already sets are kept. (More threads than devices, set by NPROC, would spin for work and halve the
    speed.)

    **Arguments:** `devices`: the number of CPU devices; None: one for each core that this process may use.

    **Returns:** the environment variables that were set, by name.

    **Raises:** `RuntimeError` if JAX has already started its devices (which it does at the first array), as they cannot
    be changed afterwards. It does not matter whether JAX has been imported.
    """
    devices = devices or int(os.environ.get("JAX_NUM_CPU_DEVICES", cpu_count()))
    if "jax" in sys.modules:
        import jax

        try:
            jax.config.update("jax_num_cpu_devices", devices)
        except RuntimeError as error:
            raise RuntimeError(
                "prepare: JAX has already started its devices; call it before the first array is made"
            ) from error
    variables = {"JAX_NUM_CPU_DEVICES": str(devices), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    variables = {name: value for name, value in variables.items() if name not in os.environ}
    flags = _flags()
    if flags != os.environ.get("XLA_FLAGS", ""):
        variables["XLA_FLAGS"] = flags
    os.environ.update(variables)
    if "numpy" in sys.modules and os.environ["OPENBLAS_NUM_THREADS"] == "1":  # NumPy has already read the environment
        import threadpoolctl

        threadpoolctl.threadpool_limits(1, user_api="blas")
    return variables


def prepare_own(*, devices: int | None = None, compile_cache: bool = True) -> None:
    """`prepare` one of the package's own processes: float64 is enabled, and compiled programs are kept between runs.

    Raises `RuntimeError` if JAX has already been imported, because some of the settings would then have no effect.
    """
    if "jax" in sys.modules:
        raise RuntimeError("prepare_own must be called before JAX is imported")
    os.environ.setdefault("JAX_ENABLE_X64", "1")
    prepare(devices=devices)
    if compile_cache:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(home / "gradient-horizon" / "xla"))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

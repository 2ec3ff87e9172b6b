"""Description of the machine, and timing, for every benchmark."""

import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console

from gradient_horizon import __version__
from gradient_horizon.ensembles import devices

SETTINGS = ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "NPROC")


def seconds(call: Callable[[], Any]) -> float:
    """Return the seconds that one call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def cpu_model() -> str:
    """Return the name of the processor as the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def console() -> Console:
    """Return a console on standard output, with a fixed width unless it is a terminal."""
    screen = Console(highlight=False)
    return screen if screen.is_terminal else Console(highlight=False, width=120)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def description(packages: tuple[str, ...]) -> list[str]:
    """Describe the machine and the versions, one line each, without starting JAX."""
    versions = ", ".join(f"{name} {_version(name)}" for name in packages)
    return [
        f"{cpu_model()}, {devices.cpu_count()} cores, {platform.system()} {platform.machine()}",
        f"gradient-horizon {__version__}, {versions}, Python {platform.python_version()}",
    ]

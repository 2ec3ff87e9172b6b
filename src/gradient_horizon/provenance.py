"""How a result was made: settings, versions, commit, device, time and memory, as attributes of its Dataset."""

import json
import platform
import resource
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from gradient_horizon import __version__
from gradient_horizon.config import HOUSEKEEPING, Config, as_dict, draws_of, spelt_short


@cache
def _git_commit() -> str:
    """The commit of the checkout that the package runs from, or an empty text."""
    try:
        found = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""


def made_by(settings: str) -> str:
    """All that decides the bytes of a part, beside the machine; `settings` is their hash."""
    import jax

    return json.dumps([settings, __version__, jax.__version__, _git_commit()])


def _peak_memory() -> int:
    """Bytes; `ru_maxrss` counts KiB on Linux and bytes on macOS."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _told(config: Config) -> dict[str, Any]:
    return {key: value for key, value in spelt_short(as_dict(config)).items() if key not in HOUSEKEEPING}


def attributes(config: Config, settings: str, swept: dict[str, Any], wall_time: float) -> dict[str, Any]:
    """The attributes of a result; `settings` is their hash, `wall_time` in seconds."""
    import jax

    draws = draws_of(config.experiment)
    return {
        "title": f"Gradient Horizon: {config.experiment}",
        "experiment": config.experiment,
        "config": json.dumps(_told(config)),
        "config_hash": settings,
        "swept": json.dumps(swept),
        **({} if draws is None else {"draws": draws}),
        "package_version": __version__,
        "jax_version": jax.__version__,
        "python_version": platform.python_version(),
        "git_commit": _git_commit(),
        "precision": config.precision,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "wall_time_seconds": wall_time,
        "peak_memory_bytes": _peak_memory(),
    }

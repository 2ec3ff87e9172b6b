"""How a result was made: settings, versions, commit, device, time and memory, as attributes of its Dataset."""

import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gradient_horizon import __version__
from gradient_horizon.settings.schema import HOUSEKEEPING, Config, as_dict, draws_of, spelt_short

_PACKAGE = Path(__file__).resolve().parents[1]
CALCULATING = ("jax", "jaxlib", "numpy", "optax", "pandas", "scipy", "xarray")  # versions that may change a number
_SECONDS = 10.0  # at most, for an answer of git
# A repository's own settings must not start programs, nor a question change its index.
_QUIET = ("-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}")


@cache
def _git_commit() -> str:
    """The commit of the repository that holds the package's source, or an empty text.

    No other repository's: neither one that an installed package lies below, nor one that the environment names.
    """
    return _commit_of(_PACKAGE)


def _commit_of(package: Path) -> str:
    """The commit of the checkout whose `src/` holds this package under version control, "-dirty" where it differs."""
    checkout = package.parents[1]
    if package.parent.name != "src" or not (checkout / ".git").exists():
        return ""
    if _git(checkout, "rev-parse", "--show-toplevel") != str(checkout):
        return ""
    if not _git(checkout, "ls-files", "--error-unmatch", "--", f"src/{package.name}/__init__.py"):
        return ""
    return _git(checkout, "describe", "--always", "--dirty", "--abbrev=40")


def _git(checkout: Path, *words: str) -> str:
    """What git answers about the repository at `checkout`, whatever the environment says; empty where it does not."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    own |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_CEILING_DIRECTORIES": str(checkout.parent), "GIT_NO_LAZY_FETCH": "1"}
    command = ["git", *_QUIET, "-C", str(checkout), *words]
    try:
        found = subprocess.run(command, env=own, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""


def code_hash() -> str:
    """Of the package's own source as this process first found it, and of the versions of what it calculates with."""
    return _code_hash(_PACKAGE)


@cache
def _code_hash(package: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
    digest.update(json.dumps({name: version(name) for name in CALCULATING}).encode())
    return digest.hexdigest()


def made_by(settings: str) -> str:
    """All that decides the bytes of a part, beside the machine: the settings, by their hash, and the code.

    Not the commit: what else is committed beside the package's source changes no number.
    """
    return json.dumps([settings, code_hash()])


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

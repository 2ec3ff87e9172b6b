"""Provenance of results: settings, versions, commit, device, time and memory, as attributes of the Dataset."""

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
from gradient_horizon.names import declare
from gradient_horizon.settings.identity import described
from gradient_horizon.settings.schema import Config, draws_of

_PACKAGE = Path(__file__).resolve().parents[1]
CALCULATING = ("jax", "jaxlib", "numpy", "optax", "pandas", "scipy", "xarray")  # versions that may affect the numbers
_SECONDS = 10.0  # timeout of a git command
# The repository's own settings must not start programs, and a query must not change its index.
_QUIET = ("-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}")


@cache
def _git_commit() -> str:
    """Return the commit of the repository that holds the package's source, or an empty string.

    No other repository is considered: neither one that happens to contain an installed package, nor one that the
    environment names.
    """
    return _commit_of(_PACKAGE)


def _commit_of(package: Path) -> str:
    """Return the commit of the checkout that tracks this package in its `src/`, with "-dirty" if it was modified."""
    checkout = package.parents[1]
    if package.parent.name != "src" or not (checkout / ".git").exists():
        return ""
    if _git(checkout, "rev-parse", "--show-toplevel") != str(checkout):
        return ""
    if not _git(checkout, "ls-files", "--error-unmatch", "--", f"src/{package.name}/__init__.py"):
        return ""
    return _git(checkout, "describe", "--always", "--dirty", "--abbrev=40")


def _git(checkout: Path, *words: str) -> str:
    """Return the output of git for the repository at `checkout`, whatever the environment; empty if git fails."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    own |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_CEILING_DIRECTORIES": str(checkout.parent), "GIT_NO_LAZY_FETCH": "1"}
    command = ["git", *_QUIET, "-C", str(checkout), *words]
    try:
        process = subprocess.run(command, env=own, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return ""
    return process.stdout.strip() if process.returncode == 0 else ""


def code_hash() -> str:
    """Return a hash of the package's source, as first read by this process, and of the versions in `CALCULATING`."""
    return _code_hash(_PACKAGE)


@cache
def _code_hash(package: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
    digest.update(json.dumps({name: version(name) for name in CALCULATING}).encode())
    digest.update(json.dumps(declare.packages()).encode())
    return digest.hexdigest()


def made_by(settings: str) -> str:
    """Return what determines the bytes of a checkpoint, apart from the machine: the hash of the settings, and the code.

    The commit is not included, since other changes committed along with the package's source do not affect the numbers.
    """
    return json.dumps([settings, code_hash()])


def _peak_memory() -> int:
    """Return the peak memory in bytes; `ru_maxrss` counts KiB on Linux and bytes on macOS."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def attributes(config: Config, settings: str, swept: dict[str, Any], wall_time: float) -> dict[str, Any]:
    """Return the attributes of a result; `settings` is the hash of its settings, and `wall_time` is in seconds."""
    import jax

    draws = draws_of(config.experiment)
    packages: dict[str, list[str]] = {}  # with the settings that they declare
    for one in declare.chosen(config):
        if one.package:
            packages.setdefault(one.package, []).extend(one.settings)
    return {
        "title": f"Gradient Horizon: {config.experiment}",
        "experiment": config.experiment,
        "config": json.dumps(described(config)),
        "config_hash": settings,
        "swept": json.dumps(swept),
        **({} if draws is None else {"draws": draws}),
        "package_version": __version__,
        **({"packages": json.dumps(packages)} if packages else {}),
        "jax_version": jax.__version__,
        "python_version": platform.python_version(),
        "git_commit": _git_commit(),
        "precision": config.precision,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "wall_time_seconds": wall_time,
        "peak_memory_bytes": _peak_memory(),
    }

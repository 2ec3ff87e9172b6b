"""Experiments: each takes a checked `Config` and returns a labelled Dataset. One experiment per file."""

from collections.abc import Callable
from importlib import import_module

import xarray as xr

from gradient_horizon.settings.schema import Config
from gradient_horizon.store.checkpoints import Parts

Report = Callable[[float], None]  # receives the number of networks finished since the last call, possibly fractional


def measure(config: Config, report: Report, parts: Parts | None = None) -> xr.Dataset:
    """Run the experiment named by `config`, resuming from what `parts` holds. JAX is not loaded before this call."""
    return import_module(f"gradient_horizon.experiments.{config.experiment}").measure(config, report, parts)

"""Experiments: a checked `Config` in, a labelled Dataset out. One experiment a file."""

from collections.abc import Callable
from importlib import import_module

import xarray as xr

from gradient_horizon.settings.schema import Config
from gradient_horizon.store.checkpoints import Parts

Report = Callable[[float], None]  # told how many more networks are finished, perhaps a part of one


def measure(config: Config, report: Report, parts: Parts | None = None) -> xr.Dataset:
    """Run the experiment that `config` names, from what `parts` hold of it on; JAX is loaded here and not before."""
    return import_module(f"gradient_horizon.experiments.{config.experiment}").measure(config, report, parts)

"""Experiments: each takes a checked `Config` and returns a labelled Dataset. One experiment per file."""

from collections.abc import Callable
from importlib import import_module
from types import ModuleType

import xarray as xr

from gradient_horizon.settings.schema import Config, cut
from gradient_horizon.store.checkpoints import Checkpoints

Report = Callable[[float], None]  # receives the number of networks finished since the last call, possibly fractional


def _module_of(config: Config) -> ModuleType:
    return import_module(f"gradient_horizon.experiments.{config.experiment}")


def slabs(config: Config, budget: int) -> list[Config]:
    """Cut `config` into slabs of networks, each to be measured and held in memory at once, in `budget` bytes.

    Nothing is compiled or computed. Raises `SettingError` for networks that the precision cannot represent. JAX is not
    loaded before this call.
    """
    most = _module_of(config).slab_size(config, budget)
    return [config] if most is None else cut(config, most)


def measure(config: Config, report: Report, checkpoints: Checkpoints | None = None) -> xr.Dataset:
    """Run the experiment named by `config`, resuming from what `checkpoints` hold. JAX is not loaded before this call.

    All networks are held in memory at once; `slabs` says whether they fit.
    """
    return _module_of(config).measure(config, report, checkpoints)

"""Experiments: each takes a checked `Config` and returns a labelled Dataset. One experiment per file."""

from collections.abc import Callable

import xarray as xr

from gradient_horizon.names import declare
from gradient_horizon.settings.schema import Config
from gradient_horizon.store.checkpoints import Parts

Report = Callable[[float], None]  # receives the number of networks finished since the last call, possibly fractional


def measure(config: Config, report: Report, parts: Parts | None = None) -> xr.Dataset:
    """Run the experiment named by `config`, resuming from what `parts` holds. JAX is not loaded before this call."""
    return declare.declared(declare.Experiment)[config.experiment].load()(config, report, parts)

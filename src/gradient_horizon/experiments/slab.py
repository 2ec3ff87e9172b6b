"""Slabs, the networks of a job that are held in memory at once: how a job is cut into them, and how one is measured.

How many networks fit is decided by `grid.NetworkGrid.slab_size`.
"""

from collections.abc import Callable

import xarray as xr

from gradient_horizon.names import declare
from gradient_horizon.settings.identity import cut
from gradient_horizon.settings.schema import Config
from gradient_horizon.store.checkpoints import Checkpoints

Report = Callable[[float], None]  # receives the number of networks finished since the last call, possibly fractional


def slabs(config: Config, budget: int) -> list[Config]:
    """Cut `config` into slabs of networks, each small enough to be measured and held in `budget` bytes of memory.

    Nothing is compiled or computed. Raises `SettingError` for networks that the precision cannot represent. JAX is not
    loaded before this call.
    """
    slab_size = declare.declared(declare.Experiment)[config.experiment].load_slab_size()
    most = None if slab_size is None else slab_size(config, budget)
    return [config] if most is None else cut(config, most)


def measure(config: Config, report: Report, checkpoints: Checkpoints | None = None) -> xr.Dataset:
    """Run the experiment named by `config`, resuming from what `checkpoints` hold. JAX is not loaded before this call.

    All networks are held in memory at once; `slabs` cuts a config into what fits.
    """
    return declare.declared(declare.Experiment)[config.experiment].load()(config, report, checkpoints)

"""Log Frobenius norms of ∂h_t/∂h_s for every pair of times s < t: the whole triangle."""

from typing import Any

import numpy as np
import xarray as xr

from gradient_horizon.cells.cell import Cell
from gradient_horizon.experiments.networks import Measurement, Network, Networks
from gradient_horizon.measures.all_pairs import log_jacobian_norms_all_pairs
from gradient_horizon.names import declare
from gradient_horizon.settings.schema import Config
from gradient_horizon.store.checkpoints import Checkpoints

DECLARES = declare.Experiment(
    "pairs",
    "norms of the Jacobian product between every pair of times",
    make="measure",
    slab_size="slab_size",
    reads=declare.DRAWN,
    defaults={"seeds": 1},
)


def _measure(_: None, cell: Cell, network: Network) -> dict[str, Any]:
    params, h0, xs, trajectory = network
    pairs = log_jacobian_norms_all_pairs(cell.step, params, h0, xs, steps=trajectory.length, trajectory=trajectory)
    return {"log_norm": pairs, "first_bad_step": trajectory.first_bad_step}


_MEASUREMENT = Measurement(_measure)


def slab_size(config: Config, budget: int) -> int | None:
    """Return how many networks may be measured at once in `budget` bytes; None: all of them."""
    return Networks(config).slab_size(_MEASUREMENT, budget)


def measure(config: Config, report: Any, checkpoints: Checkpoints | None = None) -> xr.Dataset:
    """Measure the triangle of every network of `config`, labelled by the times t (`late`) and s (`early`)."""
    networks = Networks(config, checkpoints)
    measured = networks.every(_MEASUREMENT, report)
    described = {
        "log_norm_of_pair": networks.per_network(
            measured["log_norm"],
            "late",
            "early",
            title="log Frobenius norm of ∂h_late/∂h_early",
            comment="natural logarithm; NaN where early is not before late",
        ),
        **networks.descriptions(measured["first_bad_step"], networks.eigenvalues()),
    }
    times = np.arange(config.steps)
    coordinates = {
        **networks.coordinates(),
        "late": ("late", times + 1, {"long_name": "time t of the state in the numerator", "units": "step"}),
        "early": ("early", times, {"long_name": "time s of the state in the denominator", "units": "step"}),
    }
    return xr.Dataset(described, coords=coordinates).assign_attrs(block_size=networks.block)

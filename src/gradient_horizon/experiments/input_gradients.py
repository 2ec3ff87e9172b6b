"""How far back a network sees its input: log ‖∂h_T/∂x_(T-lag)‖ against lag, over seeds and weight scales."""

from typing import Any

import numpy as np
import xarray as xr

from gradient_horizon.cells.cell import Cell
from gradient_horizon.experiments.networks import Measurement, Network, Networks
from gradient_horizon.measures.input_gradients import log_input_gradients
from gradient_horizon.names import declare
from gradient_horizon.settings.schema import Config
from gradient_horizon.store.checkpoints import Checkpoints

DECLARES = declare.Experiment(
    "input_gradients",
    "how far back a network sees its input: norms of the derivative of the last state in every input",
    make="measure",
    slab_size="slab_size",
    reads=declare.DRAWN,
    defaults={"inputs": "noise"},
    needs=(
        declare.Need(
            "inputs",
            lambda settings: settings.inputs != "none",
            lambda settings: "noise, digits where experiment=input_gradients",
        ),
    ),
)


def _measure(_: None, cell: Cell, network: Network) -> dict[str, Any]:
    params, h0, xs, trajectory = network
    gradients = log_input_gradients(cell.step, params, h0, xs, trajectory=trajectory)
    # lag 0, the last input, comes first
    return {"log_norm": gradients["frobenius"][::-1], "first_bad_step": trajectory.first_bad_step}


_MEASUREMENT = Measurement(_measure)


def slab_size(config: Config, budget: int) -> int | None:
    """Return how many networks may be measured at once in `budget` bytes; None: all of them."""
    return Networks(config).slab_size(_MEASUREMENT, budget)


def measure(config: Config, report: Any, checkpoints: Checkpoints | None = None) -> xr.Dataset:
    """Measure the gradient of the last state in every input, for every network of `config`, labelled by lag."""
    networks = Networks(config, checkpoints)
    measured = networks.every(_MEASUREMENT, report)
    described = {
        "log_input_gradient": networks.per_network(
            measured["log_norm"],
            "lag",
            title="log Frobenius norm of ∂h_T/∂x_(T-lag)",
            comment="natural logarithm; -inf where it is exactly zero",
        ),
        **networks.descriptions(measured["first_bad_step"], networks.eigenvalues()),
    }
    lags = ("lag", np.arange(config.steps), {"long_name": "lag of the input, 0 for the last", "units": "step"})
    coordinates = {**networks.coordinates(), "lag": lags}
    return xr.Dataset(described, coords=coordinates).assign_attrs(block_size=networks.block)

"""Contribution of each node of the step, activation and matrix, to the log norm of a backpropagated gradient."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray as xr

from gradient_horizon import names
from gradient_horizon.cells.cell import Cell
from gradient_horizon.experiments.networks import Measurement, Network, Networks
from gradient_horizon.measures.nodes import node_split
from gradient_horizon.names import declare
from gradient_horizon.settings.schema import Config
from gradient_horizon.store.checkpoints import Checkpoints

DECLARES = declare.Experiment(
    "nodes",
    "contributions of the activation and of the matrix to the norm of a gradient",
    make="measure",
    slab_size="slab_size",
    reads=declare.DRAWN,
    needs=(
        declare.Need(
            "cell",
            lambda settings: declare.cell_of(settings).one_path,
            lambda settings: f"{', '.join(names.ONE_PATH_CELLS)} where experiment=nodes",
        ),
    ),
)

NODES = ("activation", "matrix")


def _measure(_: None, cell: Cell, network: Network) -> dict[str, Any]:
    params, h0, xs, trajectory = network
    split = node_split(cell, params, h0, xs, steps=trajectory.length, trajectory=trajectory)
    return {"split": jnp.stack([split[node] for node in NODES]), "first_bad_step": trajectory.first_bad_step}


_MEASUREMENT = Measurement(_measure)


def slab_size(config: Config, budget: int) -> int | None:
    """Return how many networks may be measured at once in `budget` bytes; None: all of them."""
    return Networks(config).slab_size(_MEASUREMENT, budget)


def measure(config: Config, report: Any, checkpoints: Checkpoints | None = None) -> xr.Dataset:
    """Measure the contribution of each node in every network of `config` and label the result."""
    networks = Networks(config, checkpoints)
    measured = networks.every(_MEASUREMENT, report)
    described = {
        "log_growth": networks.per_network(
            measured["split"],
            "node",
            "lag",
            title="contribution of the node to the log norm of ∂L/∂h, from lag - 1 to lag",
            units="1/step",
            comment="natural logarithm; ∂L/∂h_T is all ones; the sum over nodes and lags is the log of the whole",
        ),
        **networks.descriptions(measured["first_bad_step"], networks.eigenvalues()),
    }
    node = ("node", np.array(NODES), {"long_name": "node of the step", "units": "1"})
    coordinates = {"node": node, **networks.coordinates(lag=True)}
    return xr.Dataset(described, coords=coordinates).assign_attrs(block_size=networks.block)

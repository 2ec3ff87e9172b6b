"""All singular values of ∂h_T/∂h_(T-lag) over seeds and weight scales: in how many directions the gradient survives."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from gradient_horizon.cells.cell import Cell
from gradient_horizon.experiments.networks import Measurement, Network, Networks
from gradient_horizon.measures.singular_values import log_singular_values_at_lags
from gradient_horizon.names import declare, rules
from gradient_horizon.settings.schema import Config
from gradient_horizon.store.checkpoints import Checkpoints

DECLARES = declare.Experiment(
    "singular_values",
    "in how many directions the gradient survives: all singular values of the Jacobian product",
    make="measure",
    slab_size="slab_size",
    reads=declare.DRAWN,
    settings={
        "lags": declare.Setting(
            None,
            rules.LAGS,
            "lags to measure, in steps back from T; null: 1, 2, 5, 10, 20, 50, ... and T",
            type=Any,
            coordinate="lag",
        )
    },
    needs=(
        declare.Need(
            "lags",
            lambda settings: settings.lags is None or settings.lags[-1] <= settings.steps,
            lambda settings: f"at most steps={settings.steps}",
        ),
    ),
)


@dataclass(frozen=True)
class Spec:
    """The static part of a measurement; seeds, scales and the cell's numbers are arguments of the compiled program."""

    lags: tuple[int, ...]


def round_lags(steps: int) -> list[int]:
    """Return the lags 1, 2, 5, 10, 20, 50, ... below `steps`, followed by `steps`."""
    powers = (10**power for power in range(len(str(steps))))
    return [*(lag for ten in powers for lag in (ten, 2 * ten, 5 * ten) if lag < steps), steps]


def _measure(spec: Spec, cell: Cell, network: Network) -> dict[str, Any]:
    params, h0, xs, trajectory = network
    logs = log_singular_values_at_lags(
        cell.step, params, h0, xs, lags=spec.lags, steps=trajectory.length, trajectory=trajectory
    )
    return {"logs": logs, "first_bad_step": trajectory.first_bad_step}


def _lags(config: Config) -> list[int]:
    return round_lags(config.steps) if config.lags is None else config.lags


def _measurement(config: Config) -> Measurement:
    return Measurement(_measure, Spec(tuple(_lags(config))))


def slab_size(config: Config, budget: int) -> int | None:
    """Return how many networks may be measured at once in `budget` bytes; None: all of them."""
    return Networks(config).slab_size(_measurement(config), budget)


def measure(config: Config, report: Any, checkpoints: Checkpoints | None = None) -> xr.Dataset:
    """Measure the singular values of every network of `config`, labelled by lag and by index, the largest first."""
    networks = Networks(config, checkpoints)
    measured = networks.every(_measurement(config), report)
    described = {
        "log_singular_value": networks.per_network(
            measured["logs"],
            "lag",
            "index",
            title="log singular value of ∂h_T/∂h_(T-lag)",
            comment="natural logarithm; -inf where it is exactly zero",
        ),
        **networks.descriptions(measured["first_bad_step"], networks.eigenvalues()),
    }
    index = np.arange(1, networks.state_size + 1)
    coordinates = {
        **networks.coordinates(),
        "lag": ("lag", _lags(config), {"long_name": "lag", "units": "step"}),
        "index": ("index", index, {"long_name": "number of the singular value, from the largest", "units": "1"}),
    }
    return xr.Dataset(described, coords=coordinates).assign_attrs(block_size=networks.block)

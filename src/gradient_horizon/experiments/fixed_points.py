"""The fixed points of undriven networks: how many Newton's method finds, how many are stable, over seeds and scales."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import lax

from gradient_horizon.cells.cell import Cell
from gradient_horizon.experiments.networks import Measurement, Network, Networks
from gradient_horizon.measures.fixed_points import linearise, search
from gradient_horizon.measures.states import layout_of
from gradient_horizon.names import PointKind, declare, rules
from gradient_horizon.numerics.keys import fixed_normal
from gradient_horizon.settings.schema import Config
from gradient_horizon.store.checkpoints import Checkpoints

DECLARES = declare.Experiment(
    "fixed_points",
    "fixed points of undriven networks and their stability",
    make="measure",
    slab_size="slab_size",
    reads=declare.DRAWN,
    defaults={"hidden_size": 16, "seeds": 16, "precision": "float64"},
    settings={
        "starts": declare.Setting(
            32,
            rules.whole(2),
            "number of states from which the search starts: half of the trajectory, half drawn",
        ),
    },
    needs=(
        declare.Need(
            "inputs",
            lambda settings: settings.inputs == "none",
            lambda settings: "none where experiment=fixed_points",
        ),
    ),
)


def starts_of(states: Any, count: int) -> Any:
    """Return `count` states, (count, n): the first half of h_0 .. h_T, evenly spaced, then N(0, 1), always the same."""
    places = np.linspace(0, len(states) - 1, count // 2).round().astype(int)
    drawn = jnp.asarray(fixed_normal(count - count // 2, states.shape[1]), states.dtype)
    return jnp.concatenate([states[places], drawn])


def _measure(count: int, cell: Cell, network: Network) -> dict[str, Any]:
    params, h0, _, trajectory = network
    layout = layout_of(h0)
    starts = jax.vmap(lambda vector: layout.unpack(vector, []))(starts_of(trajectory.states, count))
    found = search(cell.step, params, None, starts)

    def one(inputs):
        point, is_fixed = inputs
        return linearise(cell.step, params, None, layout.unpack(point, []), is_fixed=is_fixed)

    points = lax.map(one, (found.points, found.is_fixed))
    is_point = found.is_first & found.is_fixed
    undecided = (points.kind == int(PointKind.MARGINAL)) | (points.kind == int(PointKind.KINK))

    def number(flags):
        return jnp.sum(flags & is_point, dtype=jnp.int32)

    largest = jnp.max(jnp.where(is_point, jnp.abs(points.eigenvalues[:, 0]), -jnp.inf))
    return {
        "count": number(is_point),
        "stable": number(points.kind == int(PointKind.STABLE)),
        "undecided": number(undecided),
        "largest": jnp.where(jnp.any(is_point), largest, jnp.nan),
        "failed": jnp.sum(found.first < 0, dtype=jnp.int32),
        "first_bad_step": trajectory.first_bad_step,
    }


def _measurement(config: Config) -> Measurement:
    return Measurement(_measure, config.starts)


def slab_size(config: Config, budget: int) -> int | None:
    """Return how many networks may be measured at once in `budget` bytes; None: all of them."""
    return Networks(config).slab_size(_measurement(config), budget)


def measure(config: Config, report: Any, checkpoints: Checkpoints | None = None) -> xr.Dataset:
    """Find the fixed points of every network of `config`, count them by kind, and label the result."""
    networks = Networks(config, checkpoints)
    measured = networks.every(_measurement(config), report)
    described = {
        "fixed_point_count": networks.per_network(
            measured["count"],
            title="number of distinct fixed points found",
            comment="a lower bound: points to which no start leads are not found",
        ),
        "stable_count": networks.per_network(measured["stable"], title="number of stable fixed points found"),
        "undecided_count": networks.per_network(
            measured["undecided"], title="number of fixed points found whose stability is not decided"
        ),
        "largest_multiplier": networks.per_network(
            measured["largest"],
            title="largest modulus of a multiplier of any fixed point found",
            comment="NaN if none was found",
        ),
        "failed_starts": networks.per_network(
            measured["failed"], title="number of starts from which Newton's method led to no fixed point"
        ),
        **networks.descriptions(measured["first_bad_step"], networks.eigenvalues()),
    }
    return xr.Dataset(described, coords=networks.coordinates()).assign_attrs(block_size=networks.block)

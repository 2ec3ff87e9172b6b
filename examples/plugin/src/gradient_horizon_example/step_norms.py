"""The spectral norm of each single step's Jacobian: an upper bound, per step, on the growth of any gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from gradient_horizon.experiments.networks import Measurement, Networks
from gradient_horizon.names import declare

DECLARES = declare.Experiment(
    "step_norms",
    "the spectral norm of every step's Jacobian",
    make="measure",
    slab_size="slab_size",
    reads=declare.DRAWN,
    draw="norm_against_time",
)


def _measure(_, cell, network):
    before = jax.tree.map(lambda leaf: leaf[:-1], network.trajectory.states)  # h_0 .. h_{T-1}, raveled

    def norm(h, x):
        return jnp.linalg.norm(jax.jacobian(lambda h: cell.step(network.params, h, x))(h), 2)

    norms = jax.vmap(norm, in_axes=(0, None if network.xs is None else 0))(before, network.xs)
    return {"log_norm_of_step": jnp.log(norms)}


MEASUREMENT = Measurement(_measure)


def slab_size(config, budget):
    """Return how many networks may be measured at once in `budget` bytes; None: all of them."""
    return Networks(config).slab_size(MEASUREMENT, budget)


def measure(config, report, checkpoints=None):
    """Measure every network of `config`, whose state must be a vector, and label the result."""
    networks = Networks(config, checkpoints)
    measured = networks.every(MEASUREMENT, report)
    values = networks.per_network(
        measured["log_norm_of_step"], "time", title="log spectral norm of ∂h_t/∂h_(t-1)", comment="natural logarithm"
    )
    time = ("time", np.arange(1, config.steps + 1), {"long_name": "time t", "units": "step"})
    dataset = xr.Dataset({"log_norm_of_step": values}, coords={**networks.coordinates(), "time": time})
    return dataset.assign_attrs(block_size=networks.block)


def norm_against_time(dataset):
    """Plot the median over seeds against time, one line for each weight scale."""
    figure = Figure(figsize=(4, 3), layout="constrained")
    ax = figure.subplots()
    median = dataset.log_norm_of_step.median("seed")
    for scale in dataset.weight_scale.values:
        line = median.sel(weight_scale=scale)
        line = line.isel({dim: 0 for dim in line.dims if dim != "time"})
        ax.plot(dataset.time, line, label=f"g = {scale:g}")
    ax.set(xlabel="time $t$", ylabel=r"log spectral norm of $\partial h_t/\partial h_{t-1}$")
    ax.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize="small", handlelength=1)
    return figure

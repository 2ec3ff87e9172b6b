"""What was learned: the loss against the update, with the level of chance."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradient_horizon.figures import style
from gradient_horizon.figures.bands import quantiles
from gradient_horizon.figures.panels import split
from gradient_horizon.figures.scales import ScaleColours

XLABEL, YLABEL = "update", "loss"


def _draw(ax: Axes, data: xr.Dataset, colours: ScaleColours) -> None:
    axes = ("weight_scale", "seed", "learning_rate", "clip_threshold")
    losses = data["loss"].transpose(*axes, "update").values
    losses = losses.reshape(len(losses), -1, losses.shape[-1])
    for index, values in enumerate(losses):
        lower, median, upper = quantiles(np.where(np.isfinite(values), values, np.nan), axis=0)
        ax.fill_between(data["update"].values, lower, upper, color=colours.of(index), alpha=0.18, linewidth=0)
        ax.plot(data["update"].values, median, color=colours.of(index))
    ax.axhline(float(data.attrs["chance_loss"]), **style.REFERENCE)
    ax.set_yscale("log")


def loss_against_update(dataset: xr.Dataset) -> Figure:
    """The loss on fresh sequences against the update, coloured by weight scale: median and 10–90 % band over the rest.

    One panel a combination of swept settings; dashed, the smallest loss without reading the input. Networks that have
    diverged are left out from there on.
    """
    dataset = dataset.sortby("weight_scale")
    grid = split(dataset)
    with style.applied():
        colours = ScaleColours(dataset["weight_scale"].values)
        figure = grid.new_figure()
        axes = grid.axes(figure, XLABEL, YLABEL)
        for ax, panel in zip(axes, grid.panels, strict=True):
            _draw(ax, panel.data, colours)
        colours.add_bar(figure, axes)
        style.add_key(figure, style.median_key(dataset.sizes["seed"], colours.remark()), [])
    return figure

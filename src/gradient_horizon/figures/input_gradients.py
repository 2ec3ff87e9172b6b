"""The derivative of the last state in every input, against the lag of the input: how far back a network sees it."""

import math

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gradient_horizon.figures.kit import style
from gradient_horizon.figures.kit.panels import remarks_on, split
from gradient_horizon.figures.kit.quantiles import over_seeds, thin_band, thin_curve
from gradient_horizon.figures.kit.weight_scale import ScaleColours

XLABEL = R"lag $\tau$ of the input (steps)"
YLABEL = R"$\log_{10}\,\Vert \partial h_T/\partial x_{T\!-\!\tau}\Vert_F$"


def decades_of(data: xr.Dataset) -> Float[np.ndarray, "3 G T"]:
    """Return the 10, 50 and 90 % quantiles over seeds of log10 ‖∂h_T/∂x_(T-τ)‖_F, by weight scale and lag.

    NaN if most networks overflow.
    """
    logs = data["log_input_gradient"].transpose("weight_scale", "seed", "lag").values / math.log(10.0)
    return over_seeds(logs, data["finite"].transpose("weight_scale", "seed").values)


def reach_of_inputs(dataset: xr.Dataset) -> Figure:
    """Plot log10 ‖∂h_T/∂x_(T-τ)‖_F against the lag τ of the input, coloured by weight scale: median and 10–90 % band.

    One panel per combination of swept settings. A gradient that is exactly zero leaves the axis at the bottom.
    """
    dataset = dataset.sortby("weight_scale")
    grid = split(dataset)
    with style.applied():
        colours = ScaleColours(dataset["weight_scale"].values)
        figure, axes = grid.subplots(XLABEL, YLABEL, sharex="steps" not in dataset.dims)
        bands = [decades_of(panel.data) for panel in grid.panels]
        every = np.concatenate([band[np.isfinite(band)] for band in bands])
        bottom, top = (float(every.min()), float(every.max())) if every.size else (-1.0, 1.0)
        room = 0.04 * max(top - bottom, 0.1)
        strong = colours.strong()
        for ax, panel, band in zip(axes, grid.panels, bands, strict=True):
            measured = np.flatnonzero(~np.isnan(band[1]).all(axis=0))
            last = int(measured[-1]) + 1 if measured.size else band.shape[-1]
            lags = panel.data["lag"].values[:last]
            below = np.where(np.isneginf(band), bottom - (top - bottom) - 2 * room, band)[..., :last]
            for index, (lower, median, upper) in enumerate(np.moveaxis(below, 1, 0)):
                colour = colours.of(index)
                if index in strong and not np.array_equal(lower, upper, equal_nan=True):
                    x, low, high = thin_band(lags, lower, upper)
                    ax.fill_between(x, low, high, color=colour, alpha=0.25, linewidth=0)
                width, marker = (1.2 if index in strong else 0.5), ("." if last == 1 else "")
                ax.plot(*thin_curve(lags, median), color=colour, linewidth=width, marker=marker)
            ax.set_xlim(0, max(int(lags[-1]), 1))
            ax.set_ylim(bottom - room, top + room)
            ax.yaxis.set_major_locator(MaxNLocator(6, integer=True, steps=style.ROUND))
            ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=style.ROUND))
        colours.add_bar(figure, axes)
        key = style.median_key(dataset.sizes["seed"], colours.remark())
        style.add_key(figure, key, remarks_on(dataset, grid.left_out), 1 if len(axes) == 1 else 4)
    return figure

"""Contribution of each node of the step, activation and matrix, to the growth of the gradient back in time."""

import math

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from gradient_horizon.figures.kit import style, theory
from gradient_horizon.figures.kit.panels import MOST_COLUMNS, remarks_on, split_scales
from gradient_horizon.figures.kit.quantiles import over_seeds, thin_band, thin_curve
from gradient_horizon.figures.norm_curves import XLABEL

YLABEL = "cumulative growth (decades)"
SUM = "sum"


def growth_of(data: xr.Dataset) -> dict[str, Float[np.ndarray, "3 T"]]:
    """Return the 10, 50 and 90 % quantiles over seeds of the growth up to each lag, by node and summed over nodes.

    In decades, counted from the last step. -inf once a node has made the gradient exactly zero; NaN if most networks
    overflow.
    """
    added = data["log_growth"].transpose("node", "seed", "lag").values / math.log(10.0)
    total = dict(zip([str(node) for node in data["node"].values], added.cumsum(axis=-1), strict=True))
    total = {SUM: np.sum(list(total.values()), axis=0), **total}
    return {name: over_seeds(values[None], data["finite"].values[None])[:, 0] for name, values in total.items()}


def _looks(names: list[str]) -> dict[str, dict]:
    """Return the line styles: the sum wide and pale beneath the nodes, as it often coincides with one of them."""
    nodes = [name for name in names if name != SUM]
    colours = [look["color"] for look in style.line_looks(len(nodes))]
    wide = {"color": "0.7", "linewidth": 3.0, "solid_capstyle": "butt"}
    return {
        SUM: wide,
        **{name: {"color": colour, "linewidth": 1.1} for name, colour in zip(nodes, colours, strict=True)},
    }


def growth_by_node(dataset: xr.Dataset) -> Figure:
    """Plot what activation and matrix add to log10 ‖∂L/∂h‖ up to each lag, and their sum: median and band over seeds.

    One panel per weight scale, at most four, and one row per combination of swept settings. Dotted, the growth of the
    sum by mean field. A gradient that is exactly zero leaves the axis at the bottom.
    """
    dataset = dataset.sortby("weight_scale")
    grid = split_scales(dataset, MOST_COLUMNS)
    with style.applied():
        figure, axes = grid.subplots(XLABEL, YLABEL)
        growth = [growth_of(panel.data) for panel in grid.panels]
        looks = _looks(list(growth[0]))
        every = np.concatenate([bands[np.isfinite(bands)] for by_node in growth for bands in by_node.values()])
        bottom, top = (every.min(), every.max()) if every.size else (-1.0, 1.0)
        room = 0.04 * max(top - bottom, 0.1)
        for ax, panel, by_node in zip(axes, grid.panels, growth, strict=True):
            _draw(ax, panel.data, by_node, looks, bottom - (top - bottom) - 2 * room)
            ax.set_ylim(bottom - room, top + room)
            ax.yaxis.set_major_locator(MaxNLocator(6, integer=True, steps=style.ROUND))
            ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=style.ROUND))
        key: style.Key = [(Line2D([], [], **look), name) for name, look in looks.items()]
        key += style.median_key(dataset.sizes["seed"]) + theory.key_of(panel.data for panel in grid.panels)
        notes = remarks_on(dataset, grid.left_out)
        style.add_key(figure, key, notes)
    return figure


def _draw(
    ax: Axes, data: xr.Dataset, growth: dict[str, Float[np.ndarray, "3 T"]], looks: dict[str, dict], below: float
) -> None:
    measured = np.flatnonzero(~np.isnan(growth[SUM][1]))
    last = int(measured[-1]) + 1 if measured.size else data.sizes["lag"]
    lags = data["lag"].values[:last]
    ax.axhline(0, **style.REFERENCE)
    for name, bands in growth.items():
        lower, median, upper = np.where(np.isneginf(bands), below, bands)[:, :last]
        if not np.array_equal(lower, upper, equal_nan=True):
            x, low, high = thin_band(lags, lower, upper)
            ax.fill_between(x, low, high, color=looks[name]["color"], alpha=0.25, linewidth=0)
        ax.plot(*thin_curve(lags, median), **looks[name], marker="." if last == 1 else "")
    law = theory.law_of(data)
    slope = law.log_growth(float(data["weight_scale"])) / math.log(10.0) if law and measured.size else -math.inf
    if math.isfinite(slope):
        ax.plot((0, lags[-1]), (0, slope * lags[-1]), **theory.look("black"))
    ax.set_xlim(0, lags[-1])

"""Transient growth against the weight scale: overshoot, its lag, departure from normality, parallelisability."""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from gradient_horizon.figures.kit import style, weight_scale
from gradient_horizon.figures.kit.panels import lines_of, remarks_on, split, title_of
from gradient_horizon.figures.kit.quantiles import over_seeds
from gradient_horizon.names import Parallelisable

OVERSHOOT = "overshoot (decades)"
LAG = "lag of the overshoot (steps)"
DEPARTURE = "departure from normality"
SHARE = "share of networks"
PARALLEL = "share parallelisable in time"
# Okabe and Ito's colours, which any colour vision tells apart; the share without a verdict lies between them
_VERDICTS = (
    (Parallelisable.YES, "#0072B2", R"$\lambda_1 < 0$: parallelisable"),
    (Parallelisable.UNDECIDED, "0.8", "undecided"),
    (Parallelisable.NO, "#D55E00", R"$\lambda_1 > 0$: not"),
)


def curves_of(data: xr.Dataset, name: str) -> Float[np.ndarray, "3 G"]:
    """Return the 10, 50 and 90 % quantiles over seeds of a variable; infinite values count as not measured."""
    values, finite = (data[key].transpose("weight_scale", "seed").values for key in (name, "finite"))
    return over_seeds(np.where(np.isfinite(values), values, np.nan), finite)


def shares_of(data: xr.Dataset) -> dict[Parallelisable, Float[np.ndarray, " G"]]:
    """Return the share of networks with each verdict, by weight scale; networks that overflow do not count."""
    verdict, finite = (data[key].transpose("weight_scale", "seed").values for key in ("parallelisable", "finite"))
    measured = finite == 1
    count = measured.sum(axis=1)
    every = {which: ((verdict == int(which)) & measured).sum(axis=1) for which in Parallelisable}
    return {which: np.where(count > 0, number / np.maximum(count, 1), np.nan) for which, number in every.items()}


def draw_curve(ax: Axes, data: xr.Dataset, name: str, factor: float = 1.0, **look: Any) -> None:
    """Draw the median of a variable and its band over seeds against the weight scale."""
    x = data["weight_scale"].values
    lower, median, upper = factor * curves_of(data, name)
    if data.sizes["seed"] > 1:
        weight_scale.draw_band(ax, x, lower, upper, look["color"])
    ax.plot(x, median, marker="o", markersize=2.5, linewidth=0.9, **look)


def draw_shares(ax: Axes, data: xr.Dataset) -> style.Key:
    """Draw the verdicts as areas on top of each other, or as bars for a single weight scale."""
    x, below = data["weight_scale"].values, np.zeros(data.sizes["weight_scale"])
    shares = shares_of(data)
    for which, colour, _ in _VERDICTS:
        above = below + shares[which]
        if len(x) == 1:
            ax.bar(x, shares[which], 0.1, bottom=below, color=colour)
        else:
            ax.fill_between(x, below, above, color=colour, linewidth=0)
        below = above
    ax.set_ylim(0, 1)
    return [(Patch(facecolor=colour, linewidth=0), words) for _, colour, words in _VERDICTS]


def notes_on(dataset: xr.Dataset, left_out: int = 0) -> list[str]:
    """Return notes on what a figure leaves out."""
    dead = int(np.isposinf(dataset["log_overshoot"].values).sum())
    note = f"{dead} networks forget everything after some steps ($\\lambda_1 = -\\infty$): no overshoot is drawn."
    return remarks_on(dataset, left_out) + ([note] if dead else [])


def _finish(axes: Sequence[Axes], x: Float[np.ndarray, " G"]) -> None:
    for ax in axes:
        weight_scale.set_axis(ax, x)
        ax.yaxis.set_major_locator(MaxNLocator(5, steps=style.ROUND))


def transient_quick_look(dataset: xr.Dataset) -> Figure:
    """Plot overshoot, its lag, departure from normality and verdicts against the weight scale, for one job."""
    dataset = dataset.sortby("weight_scale")
    with style.applied():
        figure = style.new_figure(style.DOUBLE, 4.6)
        axes = figure.subplots(2, 2, sharex=True).ravel().tolist()
        overshoot, lag, departure, share = axes
        first, second, third = (look["color"] for look in style.line_looks(3))
        draw_curve(overshoot, dataset, "log_overshoot", 1 / math.log(10), color=first)
        draw_curve(overshoot, dataset, "log_peak", 1 / math.log(10), color=second, linestyle="--")
        draw_curve(lag, dataset, "overshoot_lag", color=first)
        draw_curve(departure, dataset, "henrici_of_w", color=third)
        draw_curve(departure, dataset, "henrici_mean", color=second, linestyle="--")
        verdicts = draw_shares(share, dataset)
        _finish(axes, dataset["weight_scale"].values)
        overshoot.axhline(0, **style.REFERENCE)
        overshoot.set(ylabel=OVERSHOOT, title=title_of(json.loads(dataset.attrs["swept"])))
        lag.set(ylabel=LAG)
        departure.set(ylabel=DEPARTURE, xlabel=weight_scale.LABEL, ylim=(0, 1))
        share.set(ylabel=SHARE, xlabel=weight_scale.LABEL)
        key: style.Key = [
            (Line2D([], [], color=first), R"overshoot over $e^{\lambda_1 k}$"),
            (Line2D([], [], color=second, linestyle="--"), R"peak of $\Vert M_k\Vert_2$; departure of $J_t$"),
            (Line2D([], [], color=third), "departure of $W$"),
        ]
        style.add_key(figure, key + verdicts + style.median_key(dataset.sizes["seed"]), notes_on(dataset), 4)
    return figure


def overshoot_against_scale(dataset: xr.Dataset) -> Figure:
    """Plot the overshoot against the weight scale, one line per cell with its 10–90 % band over seeds."""
    dataset = dataset.sortby("weight_scale")
    grid = split(dataset, within=("cell",))
    with style.applied():
        figure, axes = grid.subplots(weight_scale.LABEL, OVERSHOOT)
        names: style.Key = []
        for ax, panel in zip(axes, grid.panels, strict=True):
            lines = lines_of(panel.data)
            looks = style.line_looks(len(lines))
            for look, line in zip(looks, lines.values(), strict=True):
                draw_curve(ax, line, "log_overshoot", 1 / math.log(10), **look)
            names = [(Line2D([], [], **look), name) for look, name in zip(looks, lines, strict=True) if name]
        _finish(axes, dataset["weight_scale"].values)
        key = names + style.median_key(dataset.sizes["seed"])
        style.add_key(figure, key, notes_on(dataset, grid.left_out), 7 if len(axes) > 1 else 2)
    return figure


def share_parallelisable(dataset: xr.Dataset) -> Figure:
    """Plot the share of networks that are parallelisable in time against the weight scale, one line per cell.

    Shaded, up to the share that would be if every undecided network were.
    """
    dataset = dataset.sortby("weight_scale")
    grid = split(dataset, within=("cell",))
    with style.applied():
        figure, axes = grid.subplots(weight_scale.LABEL, PARALLEL)
        names: style.Key = []
        colours: set[str] = set()
        for ax, panel in zip(axes, grid.panels, strict=True):
            lines, x = lines_of(panel.data), panel.data["weight_scale"].values
            looks = style.line_looks(len(lines))
            for look, line in zip(looks, lines.values(), strict=True):
                shares = shares_of(line)
                sure = shares[Parallelisable.YES]
                colours.add(look["color"])
                weight_scale.draw_band(ax, x, sure, sure + shares[Parallelisable.UNDECIDED], look["color"])
                ax.plot(x, sure, marker="o", markersize=2.5, linewidth=0.9, **look)
            ax.set_ylim(-0.03, 1.03)
            names = [(Line2D([], [], **look), name) for look, name in zip(looks, lines, strict=True) if name]
        _finish(axes, dataset["weight_scale"].values)
        colour, words = style.GREY, "undecided, in the colour of its line"
        if len(colours) == 1:
            colour, words = next(iter(colours)), "undecided"
        key = [*names, (Patch(facecolor=colour, alpha=0.18, linewidth=0), words)]
        style.add_key(figure, key, remarks_on(dataset, grid.left_out), 7 if len(axes) > 1 else 2)
    return figure

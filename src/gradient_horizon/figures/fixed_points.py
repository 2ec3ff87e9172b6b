"""Fixed points against the weight scale: how many are found, and how many networks have several stable ones."""

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

from gradient_horizon.analysis.intervals import share
from gradient_horizon.figures.kit import style, weight_scale
from gradient_horizon.figures.kit.panels import lines_of, remarks_on, split
from gradient_horizon.figures.kit.quantiles import over_seeds

NUMBER = "fixed points found"
SHARE = "share of networks with\nseveral stable fixed points"
_STABLE: dict[str, Any] = {"linewidth": 0.9, "linestyle": (0, (4, 2)), "marker": "s", "markersize": 2.5}
_HATCHED: dict[str, Any] = {"facecolor": "none", "hatch": "/////", "linewidth": 0, "alpha": 0.5}
_ALL: dict[str, Any] = {"linewidth": 0.9, "marker": "o", "markersize": 2.5}


def shares_of(data: xr.Dataset) -> Float[np.ndarray, "3 G"]:
    """Return the share of networks with at least two stable fixed points, and Wilson's limits, by weight scale.

    Networks whose state overflows are counted like all others: the search does not need their trajectory.
    """
    stable = data["stable_count"].transpose("weight_scale", "seed").values
    shares = [share(int(np.sum(row >= 2)), int(np.sum(~np.isnan(row)))) for row in stable.astype(float)]
    return np.array([(one.estimate, one.lower, one.upper) for one in shares]).T


def draw_numbers(axes: Sequence[Axes], panels: Sequence[xr.Dataset]) -> style.Key:
    """Draw one panel per Axes: the median number of fixed points by weight scale, all and stable ones, with bands."""
    names: style.Key = []
    for ax, data in zip(axes, panels, strict=True):
        lines, x = lines_of(data), data["weight_scale"].values
        looks = style.line_looks(len(lines))
        for look, line in zip(looks, lines.values(), strict=True):
            finite = line["finite"].transpose("weight_scale", "seed").values
            known = np.where(np.isnan(finite.astype(float)), np.nan, 1.0)
            for name, mark in (("fixed_point_count", _ALL), ("stable_count", _STABLE)):
                counts = line[name].transpose("weight_scale", "seed").values
                lower, median, upper = over_seeds(counts.astype(float), known)
                if line.sizes["seed"] > 1 and mark is _ALL:
                    weight_scale.draw_band(ax, x, lower, upper, look["color"])
                elif line.sizes["seed"] > 1:
                    ax.fill_between(x, lower, upper, edgecolor=look["color"], **_HATCHED)
                    if len(x) == 1:  # a band without width
                        ax.vlines(x, lower, upper, color=look["color"], linestyle=":", linewidth=2)
                ax.plot(x, median, color=look["color"], **mark)
        weight_scale.set_axis(ax, x)
        ax.set_ylim(bottom=0)
        ax.yaxis.set_major_locator(MaxNLocator(6, integer=True, steps=style.ROUND))
        names = [(Line2D([], [], color=look["color"]), name) for look, name in zip(looks, lines, strict=True) if name]
    marks: style.Key = [
        (Line2D([], [], color=style.GREY, **_ALL), "all"),
        (Line2D([], [], color=style.GREY, **_STABLE), "stable"),
    ]
    if any(panel.sizes["seed"] > 1 for panel in panels):
        marks[1] = ((Patch(edgecolor=style.GREY, **_HATCHED), marks[1][0]), "stable")
    return names + marks


def draw_shares(axes: Sequence[Axes], panels: Sequence[xr.Dataset]) -> style.Key:
    """Draw one panel per Axes: one line per cell, with Wilson's interval at every weight scale."""
    names: style.Key = []
    for ax, data in zip(axes, panels, strict=True):
        lines, x = lines_of(data), data["weight_scale"].values
        looks = style.line_looks(len(lines))
        for look, line in zip(looks, lines.values(), strict=True):
            middle, lower, upper = shares_of(line)
            ax.vlines(x, lower, upper, color=look["color"], linewidth=0.8, alpha=0.7)
            ax.plot(x, middle, marker="o", markersize=2.5, linewidth=0.9, **look)
        weight_scale.set_axis(ax, x)
        ax.set_ylim(-0.03, 1.03)
        names = [(Line2D([], [], **look), name) for look, name in zip(looks, lines, strict=True) if name]
    bar = Line2D([], [], color=style.GREY, linestyle="none", marker="|", markersize=9)
    return [*names, (bar, "95 % Wilson interval")]


def notes_on(dataset: xr.Dataset, left_out: int = 0) -> list[str]:
    """Return notes on what the numbers leave open."""
    notes = ["Points to which no start leads are not found."]
    undecided = int((dataset["undecided_count"] > 0).sum())
    if undecided:
        networks = "network has" if undecided == 1 else "networks have"
        notes.append(f"{undecided} {networks} points whose stability is not decided; they do not count as stable.")
    return notes + remarks_on(dataset, left_out)[1 if bool((dataset["finite"] == 0).any()) else 0 :]


def fixed_points_against_scale(dataset: xr.Dataset) -> Figure:
    """Plot the number of fixed points found against the weight scale g, one colour per cell: all and stable ones.

    Medians with 10–90 % bands over seeds. One panel per combination of the other swept settings.
    """
    dataset = dataset.sortby("weight_scale")
    grid = split(dataset, within=("cell",))
    with style.applied():
        figure, axes = grid.subplots(weight_scale.LABEL, NUMBER)
        key = draw_numbers(axes, [panel.data for panel in grid.panels])
        key += style.median_key(dataset.sizes["seed"])
        style.add_key(figure, key, notes_on(dataset, grid.left_out), 7 if len(axes) > 1 else 2)
    return figure


def multistability_against_scale(dataset: xr.Dataset) -> Figure:
    """Plot the share of networks with at least two stable fixed points against the weight scale g, one line per cell.

    With Wilson's 95 % intervals. One panel per combination of the other swept settings.
    """
    dataset = dataset.sortby("weight_scale")
    grid = split(dataset, within=("cell",))
    with style.applied():
        figure, axes = grid.subplots(weight_scale.LABEL, SHARE)
        key = draw_shares(axes, [panel.data for panel in grid.panels])
        style.add_key(figure, key, notes_on(dataset, grid.left_out), 7 if len(axes) > 1 else 2)
    return figure


def numbers_and_shares(dataset: xr.Dataset) -> Figure:
    """Plot both of the above for one job, side by side."""
    dataset = dataset.sortby("weight_scale")
    with style.applied():
        figure = style.new_figure(style.DOUBLE, 2.8)
        left, right = figure.subplots(1, 2)
        left.set(xlabel=weight_scale.LABEL, ylabel=NUMBER)
        right.set(xlabel=weight_scale.LABEL, ylabel=SHARE)
        left.set_title(split(dataset).panels[0].title)
        key = draw_numbers([left], [dataset]) + style.median_key(dataset.sizes["seed"])
        key += [entry for entry in draw_shares([right], [dataset]) if entry[1].startswith("95")]
        style.add_key(figure, key, notes_on(dataset))
    return figure

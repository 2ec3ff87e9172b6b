"""Shared parts of the figures of training: histories as bands over seeds, and the choice of networks."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from gradient_horizon.analysis.outcomes import AXES, best_over, exists, has_diverged, has_solved, held
from gradient_horizon.figures.kit import style
from gradient_horizon.figures.kit.panels import (
    CHARACTERS,
    MOST_COLUMNS,
    Grid,
    Panel,
    left_out_note,
    setting,
    split,
    wrapped,
)
from gradient_horizon.figures.kit.quantiles import is_majority, quantiles
from gradient_horizon.figures.kit.weight_scale import ScaleColours

XLABEL = "update"
SYMBOLS = {"learning_rate": R"$\eta$", "clip_threshold": "$c$", "weight_scale": "$g$"}
MOST_STACKED = 32  # Axes that fit on a page when they have rows of their own
_MOST_BANDS = 3  # per Axes: more would hide each other


def split_at_best(dataset: xr.Dataset, axes: Sequence[str] = ("learning_rate", "clip_threshold")) -> Grid:
    """Split by `panels.split`, each panel at the values of `axes` with which most of its networks solved their task.

    The title names the values of those axes that make any difference.
    """
    grid = split(dataset)
    panels = []
    for panel in grid.panels:
        data, chosen = best_over(panel.data, axes)
        named = [f"{SYMBOLS[axis]} = {value:g}" for axis, value in chosen.items()]
        panels.append(Panel(", ".join(filter(None, [panel.title, *named])), data))
    return Grid(panels, grid.columns, grid.left_out)


def bands_of(data: xr.Dataset, name: str) -> tuple[Int[np.ndarray, " U"], Float[np.ndarray, "3 G U ..."]]:
    """Return the updates at which `name` was recorded, and its 10, 50 and 90 % quantiles over seeds by weight scale.

    A network that is no longer followed because it has solved its task keeps its last value. Networks that have
    diverged are left out; NaN where they are the majority.
    """
    networks = ("weight_scale", "seed")
    values = data[name].transpose(*networks, ..., "update").values
    there, solved, diverged = (
        np.expand_dims(flag(data).transpose(*networks).values, tuple(range(2, values.ndim)))
        for flag in (exists, has_solved, has_diverged)
    )
    updates, last_of_all = data["update"].values, setting(data, "updates") or math.inf
    recorded = ~np.isnan(values).all(axis=tuple(range(values.ndim - 1)))
    if recorded.any():  # after their last record all networks have solved their task or diverged
        recorded |= (updates > updates[recorded][-1]) & (updates <= last_of_all)
    values = np.where(solved & ~diverged, held(values), values)[..., recorded]
    lost = is_majority(np.isnan(values), np.broadcast_to(there, values.shape), axis=1)
    bands = quantiles(np.where(np.expand_dims(lost, 1), np.nan, values), axis=1)
    return updates[recorded], np.moveaxis(bands, -1, 2)


def draw_bands(
    ax: Axes,
    updates: Int[np.ndarray, " U"],
    bands: Float[np.ndarray, "3 G U"],
    colours: ScaleColours,
    *,
    banded: bool = True,
    **line: Any,
) -> None:
    """Draw one median per weight scale, with bands for as many scales as stay legible."""
    strong = sorted(colours.strong())
    marker = "." if len(updates) == 1 else ""
    with_band = {strong[0], strong[len(strong) // 2], strong[-1]} if len(strong) > _MOST_BANDS else set(strong)
    for index, (lower, median, upper) in enumerate(np.moveaxis(bands, 1, 0)):
        colour = colours.of(index)
        if banded and index in with_band and not np.array_equal(lower, upper, equal_nan=True):
            ax.fill_between(updates, lower, upper, color=colour, alpha=0.16, linewidth=0)
        width = 1.2 if index in strong else 0.5
        ax.plot(updates, median, color=colour, marker=marker, **{"linewidth": width, **line})


def set_updates(axes: Iterable[Axes], panels: Iterable[xr.Dataset]) -> None:
    """Set an abscissa that ends with the last update of any of `panels`."""
    last = max(setting(data, "updates") or int(data["update"].values[-1]) for data in panels)
    for ax in axes:
        ax.set_xlim(0, last)
        set_update_ticks(ax)


def set_update_ticks(ax: Axes) -> None:
    """Set the ticks of an abscissa of updates, fewer if Axes are close together."""
    spec = ax.get_subplotspec()
    wide = spec is None or spec.get_gridspec().ncols <= 2
    ax.xaxis.set_major_locator(MaxNLocator(5 if wide else 3, integer=True, steps=style.ROUND))


def set_ordinate(axes: Sequence[Axes], curves: Sequence[np.ndarray], *, decades: float = 1.5) -> None:
    """Set a logarithmic ordinate if all values are positive and span more than `decades`, otherwise a linear one."""
    finite = np.concatenate([values[np.isfinite(values)] for values in curves])
    positive = finite[finite > 0]
    wide = positive.size == finite.size > 0 and positive.max() > 10**decades * positive.min()
    for ax in axes:
        if wide:
            ax.set_yscale("log")
            ax.yaxis.set_major_locator(LogLocator(numticks=6))
            ax.yaxis.set_minor_formatter(NullFormatter())
        else:
            ax.yaxis.set_major_locator(MaxNLocator(5, steps=style.ROUND))


def cut_to(grid: Grid, quantities: int) -> Grid:
    """Keep as many panels as fit on a page when each takes `quantities` Axes, one below the other."""
    most = MOST_STACKED // quantities
    panels = grid.panels[: most - most % MOST_COLUMNS]
    return Grid(panels, min(MOST_COLUMNS, len(panels)), grid.left_out + len(grid.panels) - len(panels))


def stacked(grid: Grid, labels: Sequence[str]) -> tuple[Figure, list[list[Axes]]]:
    """Return a Figure with one column per panel and one row per label, and its Axes by panel; rows share ordinates.

    Columns beyond `grid.columns` continue below the first ones.
    """
    blocks = math.ceil(len(grid.panels) / grid.columns)
    alone = len(grid.panels) == 1
    height = 0.9 + (1.5 if alone else 1.2) * blocks * len(labels)
    figure = style.new_figure(style.SINGLE if alone else style.DOUBLE, height)
    every = figure.subplots(blocks * len(labels), grid.columns, sharex=True, squeeze=False)
    places = every.reshape(blocks, len(labels), grid.columns).swapaxes(1, 2).reshape(-1, len(labels)).tolist()
    for ax in (ax for axes in places[len(grid.panels) :] for ax in axes):
        ax.remove()
    columns: list[list[Axes]] = []
    for place, (axes, panel) in enumerate(zip(places, grid.panels, strict=False)):
        axes[0].set_title(wrapped(panel.title, CHARACTERS // grid.columns))
        for row, (ax, label) in enumerate(zip(axes, labels, strict=True)):
            if columns:
                ax.sharey(columns[0][row])
            if place % grid.columns:
                ax.tick_params(labelleft=False)
            else:
                ax.set_ylabel(label)
        if place + grid.columns >= len(grid.panels):
            axes[-1].set_xlabel(XLABEL)
            axes[-1].tick_params(labelbottom=True)
        columns.append(axes)
    figure.align_ylabels()
    return figure, columns


def notes_on(dataset: xr.Dataset, grid: Grid) -> list[str]:
    """Return notes on the networks that a figure leaves out or holds at their last values, and on what it selects."""
    notes = []
    diverged = sum(int(has_diverged(panel.data).sum()) for panel in grid.panels)
    if diverged:
        total = sum(int(exists(panel.data).sum()) for panel in grid.panels)
        notes.append(
            f"{diverged} of {total} networks diverge and are omitted from then on; no median is drawn where they are"
            " the majority."
        )
    if any(setting(panel.data, "until_solved") for panel in grid.panels):
        notes.append("Networks that have solved their task are no longer followed and keep their last values.")
    notes += left_out_note(grid.left_out)
    return notes + chosen_note(dataset, [axis for axis in SYMBOLS if axis not in grid.panels[0].data.dims])


def chosen_note(dataset: xr.Dataset, axes: Iterable[str]) -> list[str]:
    """Note which of several values of `axes` a figure shows, as chosen by `outcomes.best_over`, and why."""
    names = [f"{style.in_words(axis)} {SYMBOLS[axis]}" for axis in axes if dataset.sizes[axis] > 1]
    if not names:
        return []
    of_job = [axis for axis in AXES if axis in dataset.dims]
    solves = has_solved(dataset).any(of_job).values[exists(dataset).any(of_job).values]
    chosen, error = " and ".join(names), "with the lowest mean final error"
    if not solves.any():
        return [f"No network solved its task: shown at the {chosen} {error}, selected on these same networks."]
    otherwise = "" if solves.all() else f" (if none did, {error})"
    return [
        f"Shown at the {chosen} with which most networks solved their task{otherwise}, selected on these same networks."
    ]

"""Heat map of the networks that solved their task, over two of learning rate, clip threshold and weight scale."""

from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradient_horizon.analysis.outcomes import exists, has_solved
from gradient_horizon.figures.kit import histories, style
from gradient_horizon.figures.kit.panels import left_out_note
from gradient_horizon.figures.share_solved import CHOICES, LABELS, budget
from gradient_horizon.store.records import ResultError

_COLOURS = "Blues"
_DARK = 0.55  # share of all from which the numbers are white


def axes_of(dataset: xr.Dataset) -> tuple[str, str] | None:
    """Return the two axes of one job that span the map; None if fewer than two have several values."""
    several = [axis for axis in ("learning_rate", "clip_threshold", "weight_scale") if dataset.sizes[axis] > 1]
    return (several[0], several[1]) if len(several) > 1 else None


def _draw(ax: Axes, data: xr.Dataset, across: str, up: str) -> None:
    counted = data.transpose(up, across, "seed", ...)
    solved, total = (flag(counted).sum("seed").values for flag in (has_solved, exists))
    share = np.where(total > 0, solved / np.maximum(total, 1), np.nan)
    colours: dict[str, Any] = {"cmap": matplotlib.colormaps[_COLOURS], "vmin": 0, "vmax": 1}
    ax.pcolormesh(share, edgecolors="white", linewidth=0.8, **colours)
    for (j, i), part in np.ndenumerate(share):
        shade = "white" if part > _DARK else "black"
        ax.text(i + 0.5, j + 0.5, f"{solved[j, i]}/{total[j, i]}", ha="center", va="center", fontsize=6.5, color=shade)
    for axis, name in ((ax.xaxis, across), (ax.yaxis, up)):
        places = np.arange(data.sizes[name])
        axis.set_ticks(places + 0.5, [f"{value:g}" for value in data[name].values.tolist()])
        axis.set_tick_params(length=0)
    ax.spines[["left", "bottom"]].set_visible(False)


def solved_map(dataset: xr.Dataset) -> Figure:
    """Plot the number of networks that solved their task, out of all, over the two axes named by `axes_of`.

    One panel per combination of swept settings; a third axis that varies is at its best value. Raises `ValueError` if
    fewer than two axes vary.
    """
    axes_of_map = axes_of(dataset)
    if axes_of_map is None:
        raise ResultError(
            "dataset: has a single learning rate, clip threshold or weight scale; allowed: several of at least two"
        )
    across, up = axes_of_map
    others = [axis for axis in CHOICES if axis not in (across, up)]
    grid = histories.split_at_best(dataset, others)
    with style.applied():
        figure, axes = grid.subplots(LABELS[across], LABELS[up])
        for ax, panel in zip(axes, grid.panels, strict=True):
            _draw(ax, panel.data, across, up)
        notes = [budget(dataset), *histories.chosen_note(dataset, others), *left_out_note(grid.left_out)]
        style.add_key(figure, [], notes)
    return figure

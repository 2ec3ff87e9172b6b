"""The global norm of the gradient before and after clipping, and how often it is clipped, against the update."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gradient_horizon.figures.kit import histories, style
from gradient_horizon.figures.kit.weight_scale import ScaleColours

LABEL = R"$\Vert\nabla L\Vert$"
FRACTION = "fraction clipped"
_AFTER: dict[str, Any] = {"linewidth": 0.8, "linestyle": (0, (4, 1.5))}


def draw_norms(axes: Sequence[Axes], panels: Sequence[xr.Dataset], colours: ScaleColours) -> bool:
    """Draw one panel per Axes: the norm before clipping with its band over seeds; dashed, the median after clipping.

    Returns True if the gradient of any panel is ever clipped.
    """
    curves, clips = [], False
    for ax, data in zip(axes, panels, strict=True):
        updates, before = histories.bands_of(data, "gradient_norm")
        _, after = histories.bands_of(data, "clipped_gradient_norm")
        histories.draw_bands(ax, updates, before, colours)
        if not np.array_equal(before, after, equal_nan=True):
            histories.draw_bands(ax, updates, after, colours, banded=False, **_AFTER)
            clips = True
        curves += [before, after]
    histories.set_ordinate(axes, curves)
    return clips


def key_of(clips: bool) -> style.Key:
    """Return the legend entry for the dashed lines."""
    return [(Line2D([], [], color=style.GREY, **_AFTER), "median after clipping")] if clips else []


def gradient_norm_against_update(dataset: xr.Dataset) -> Figure:
    """Plot the global norm of the gradient before and after clipping, and below it the share clipped.

    One column per combination of swept settings, coloured by weight scale; medians and 10–90 % bands over seeds. The
    share is of the gradients since the previous record.
    """
    dataset = dataset.sortby("weight_scale")
    grid = histories.cut_to(histories.split_at_best(dataset), 2)
    panels = [panel.data for panel in grid.panels]
    with style.applied():
        colours = ScaleColours(dataset["weight_scale"].values)
        figure, columns = histories.stacked(grid, (LABEL, FRACTION))
        above, below = zip(*columns, strict=True)
        clips = draw_norms(above, panels, colours)
        for ax, data in zip(below, panels, strict=True):
            histories.draw_bands(ax, *histories.bands_of(data, "clip_fraction"), colours)
            ax.set_ylim(-0.04, 1.04)
        every = [ax for axes in columns for ax in axes]
        histories.set_updates(every, panels)
        colours.add_bar(figure, every)
        key = style.median_key(dataset.sizes["seed"], colours.remark()) + key_of(clips)
        style.add_key(figure, key, histories.notes_on(dataset, grid))
    return figure

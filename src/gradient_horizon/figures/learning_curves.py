"""Learning curves: loss and error against the update, with the level of chance."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gradient_horizon.figures.kit import histories, style
from gradient_horizon.figures.kit.weight_scale import ScaleColours

LOSS, ERROR = "loss", "error"


def draw(axes: Sequence[Axes], panels: Sequence[xr.Dataset], name: str, colours: ScaleColours) -> None:
    """Draw one panel per Axes: one line per weight scale with its band over seeds; dashed, chance."""
    curves = []
    for ax, data in zip(axes, panels, strict=True):
        updates, bands = histories.bands_of(data, name)
        chance = float(data[f"chance_{name}"])
        ax.axhline(chance, zorder=2.5, **style.REFERENCE)
        histories.draw_bands(ax, updates, bands, colours)
        curves += [bands, np.array([chance])]
    histories.set_updates(axes, panels)
    if name == LOSS:
        histories.set_ordinate(axes, curves)
        ends = np.array([ax.get_ylim() for ax in axes])
        for ax in axes:
            ax.set_ylim(ends[:, 0].min(), ends[:, 1].max())
    else:
        for ax in axes:
            ax.set_ylim(-0.02, 1.02)


def chance_key() -> style.Key:
    """Return the legend entry for the dashed line."""
    return [(Line2D([], [], **style.REFERENCE), "chance")]


def _against_update(dataset: xr.Dataset, name: str) -> Figure:
    dataset = dataset.sortby("weight_scale")
    grid = histories.split_at_best(dataset)
    data = [panel.data for panel in grid.panels]
    chances = [float(panel[f"chance_{name}"]) for panel in data]
    one_scale = len({*chances}) == 1 or name == ERROR
    with style.applied():
        colours = ScaleColours(dataset["weight_scale"].values)
        figure, axes = grid.subplots(histories.XLABEL, name, sharey=one_scale)
        for level in {*chances}:
            group = [place for place, chance in enumerate(chances) if chance == level]
            draw([axes[place] for place in group], [data[place] for place in group], name, colours)
        colours.add_bar(figure, axes)
        key = style.median_key(dataset.sizes["seed"], colours.remark()) + chance_key()
        style.add_key(figure, key, histories.notes_on(dataset, grid))
    return figure


def loss_against_update(dataset: xr.Dataset) -> Figure:
    """Plot the loss on fresh sequences against the update, coloured by weight scale.

    Median and 10–90 % band over seeds. One panel per combination of swept settings, at the learning rate and clip
    threshold with which most networks solved the task; dashed, the smallest loss possible without reading the input.
    Networks that diverge are left out from then on, and counted.
    """
    return _against_update(dataset, LOSS)


def error_against_update(dataset: xr.Dataset) -> Figure:
    """Plot the share of wrong answers to fresh sequences against the update, as in `loss_against_update`."""
    return _against_update(dataset, ERROR)

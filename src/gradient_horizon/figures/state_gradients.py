"""Heat map over training of the gradient of the loss with respect to each state: how far back the loss is felt."""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from gradient_horizon.figures.kit import histories, style

TIME = "time $t$ (steps)"
LABEL = R"$\log_{10}\,\Vert\partial L/\partial h_t\Vert$"
CHOSEN = ("learning_rate", "clip_threshold", "weight_scale")
DECADES = 12  # decades that the colours span, from the largest gradient down
_COLOURS = "viridis"
_ZERO, _MISSING = "#D55E00", "0.8"


def decades_of(data: xr.Dataset) -> tuple[Int[np.ndarray, " U"], Float[np.ndarray, "T U"]]:
    """Return the updates, and the median over seeds of log10 ‖∂L/∂h_t‖ by t and update.

    NaN where most networks have diverged.
    """
    updates, bands = histories.bands_of(data.expand_dims("weight_scale"), "log_state_gradient_norm")
    decades = bands[1, 0].T / math.log(10.0)
    measured = np.flatnonzero(~np.isnan(decades).all(axis=1))
    return updates, decades[: int(measured[-1]) + 1 if measured.size else len(decades)]


def _edges(places: Int[np.ndarray, " K"]) -> Float[np.ndarray, " K+1"]:
    """Return the cell edges along an axis: halfway between neighbouring places, and as far beyond both ends."""
    if len(places) == 1:
        return np.array([places[0] - 0.5, places[0] + 0.5])
    between = (places[1:] + places[:-1]) / 2
    return np.concatenate([[2 * places[0] - between[0]], between, [2 * places[-1] - between[-1]]])


class Heat:
    """The heat maps of several panels, all on the same colour scale."""

    def __init__(self, panels: Sequence[xr.Dataset]):
        self.maps = [decades_of(data) for data in panels]
        finite = np.concatenate([decades[np.isfinite(decades)] for _, decades in self.maps])
        top, bottom = (float(finite.max()), float(finite.min())) if finite.size else (0.0, -1.0)
        self.is_cut = bottom < top - DECADES
        self.norm = Normalize(max(bottom, top - DECADES), top)
        self.shown: set[str] = set()

    @property
    def has_one_length(self) -> bool:
        """True if all maps have the same times."""
        return len({len(decades) for _, decades in self.maps}) == 1

    def draw(self, axes: Sequence[Axes]) -> None:
        """Draw one map per Axes."""
        for ax, (updates, decades) in zip(axes, self.maps, strict=True):
            edges = _edges(updates), np.arange(len(decades) + 1) + 0.5
            mesh: dict[str, Any] = {"rasterized": True}
            ax.pcolormesh(
                *edges, np.where(np.isfinite(decades), decades, np.nan), cmap=_COLOURS, norm=self.norm, **mesh
            )
            marks = {"zero": (_ZERO, np.isneginf(decades)), "missing": (_MISSING, np.isnan(decades))}
            for name, (colour, where) in marks.items():
                if where.any():
                    ax.pcolormesh(*edges, np.where(where, 1.0, np.nan), cmap=ListedColormap([colour]), **mesh)
                    self.shown.add(name)
            ax.set(xlim=(edges[0][0], edges[0][-1]), ylim=(0.5, len(decades) + 0.5))
            histories.set_update_ticks(ax)
            ax.yaxis.set_major_locator(MaxNLocator(5, integer=True, steps=style.ROUND))

    def add_bar(self, figure: Figure, axes: Sequence[Axes], seeds: int, aspect: float = 20.0) -> None:
        """Add the colour bar."""
        mappable = ScalarMappable(self.norm, matplotlib.colormaps[_COLOURS])
        label = f"{LABEL}\n" + ("one seed" if seeds == 1 else f"median of {seeds} seeds")
        extend = "min" if self.is_cut else "neither"
        bar = style.add_bar(figure, mappable, axes, label=label, extend=extend, pad=0.02, aspect=aspect)
        bar.locator = MaxNLocator(6, integer=True, steps=style.ROUND)

    def key(self) -> style.Key:
        """Return legend entries for the colours that are not on the bar."""
        entries = {
            "zero": (Patch(facecolor=_ZERO), "exactly zero"),
            "missing": (Patch(facecolor=_MISSING), "most networks have diverged"),
        }
        return [entry for name, entry in entries.items() if name in self.shown]


def state_gradient_over_training(dataset: xr.Dataset) -> Figure:
    """Plot log10 of ‖∂L/∂h_t‖ for every time t against the update, as a heat map: the median over seeds.

    One panel per combination of swept settings, at the weight scale, learning rate and clip threshold with which most
    of its networks solved the task. The loss is read at the top, t = T; below, colours show how much of it reaches
    back. Networks that diverge are left out from then on, and counted.
    """
    dataset = dataset.sortby("weight_scale")
    grid = histories.split_at_best(dataset, CHOSEN)
    with style.applied():
        heat = Heat([panel.data for panel in grid.panels])
        figure, axes = grid.subplots(histories.XLABEL, TIME, sharex=False, sharey=heat.has_one_length)
        heat.draw(axes)
        heat.add_bar(figure, axes, dataset.sizes["seed"], max(20.0, 7 * figure.get_figheight()))
        style.add_key(figure, heat.key(), histories.notes_on(dataset, grid))
    return figure

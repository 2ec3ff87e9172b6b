"""Heat map of all pairs of times, which shows between which times the gradient survives."""

import math
from collections.abc import Collection, Sequence
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from gradient_horizon.figures.kit import style
from gradient_horizon.figures.kit.panels import remarks_on, setting, split_scales
from gradient_horizon.figures.kit.quantiles import over_seeds
from gradient_horizon.settings.schema import Config

EARLY, LATE = "from time $s$ (steps)", "to time $t$ (steps)"
LABEL = R"$\log_{10}\,\Vert\partial h_t/\partial h_s\Vert_F\,/\sqrt{n}$"
MOST_ALONE = 8  # weight scales shown for a result without a swept setting
_COLOURS = "RdBu_r"  # white where the gradient passes unchanged
_ZERO, _MISSING = "#F0E442", "0.75"
_THRESHOLD: dict[str, Any] = {"linewidth": 0.8}


def decades_of(data: xr.Dataset) -> Float[np.ndarray, "T T"]:
    """Return the median over seeds of log10(‖∂h_t/∂h_s‖_F / √n), by t and s; NaN if most networks overflow."""
    logs = data["log_norm_of_pair"].transpose("seed", "late", "early").values
    decades = logs / math.log(10.0) - 0.5 * math.log10(float(data["state_size"]))
    return over_seeds(decades[None], data["finite"].values[None])[1, 0]


def draw_triangle(ax: Axes, decades: Float[np.ndarray, "T T"], threshold: float, norm: Normalize) -> set[str]:
    """Draw one triangle; return which of `zero`, `missing` and `threshold` it shows."""
    steps = len(decades)
    extent = (-0.5, steps - 0.5, 0.5, steps + 0.5)
    image: dict[str, Any] = {"origin": "lower", "extent": extent, "aspect": "auto", "interpolation": "nearest"}
    ax.imshow(np.where(np.isneginf(decades), np.nan, decades), cmap=_COLOURS, norm=norm, **image)
    pairs = np.tri(steps, dtype=bool)
    marks = {"zero": (_ZERO, np.isneginf(decades)), "missing": (_MISSING, pairs & np.isnan(decades))}
    shown = set()
    for name, (colour, where) in marks.items():
        if where.any():
            ax.imshow(np.where(where, 1.0, np.nan), cmap=ListedColormap([colour]), **image)
            shown.add(name)
    passed = np.abs(decades) > threshold
    if (passed & pairs).any() and (pairs & ~passed & ~np.isnan(decades)).any():
        # Beyond twice the threshold a value no longer affects the contour; clipping also makes -inf finite.
        height = np.clip(decades, -2 * threshold, 2 * threshold)
        places = np.arange(steps)
        ax.contour(places, places + 1, height, (-threshold, threshold), colors="black", linestyles="-", **_THRESHOLD)
        shown.add("threshold")
    ax.plot((-0.5, steps - 0.5), (-0.5, steps - 0.5), color=style.GREY, linewidth=0.5)
    ax.set(xlim=(-0.5, steps - 0.5), ylim=(0.5, steps + 0.5))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(4, integer=True, steps=style.ROUND))
    return shown


def colours_of(images: Sequence[Float[np.ndarray, "T T"]], threshold: float) -> tuple[Normalize, bool]:
    """Return the colour scale of these triangles, and whether any value exceeds it.

    The scale ends at the largest value, but at most at twice the threshold.
    """
    largest = max([1.0, *(float(np.abs(image[np.isfinite(image)]).max(initial=0)) for image in images)])
    end = min(largest, 2 * threshold)
    return Normalize(-end, end), largest > end


def add_bar(figure: Figure, axes: Sequence[Axes], norm: Normalize, seeds: int, *, is_cut: bool) -> None:
    """Add the colour bar."""
    mappable = ScalarMappable(norm, matplotlib.colormaps[_COLOURS])
    label = f"{LABEL}\n" + ("one seed" if seeds == 1 else f"median of {seeds} seeds")
    bar = style.add_bar(figure, mappable, axes, label=label, extend="both" if is_cut else "neither", pad=0.02)
    bar.locator = MaxNLocator(6, integer=True, steps=style.ROUND)


def key_of(marks: Collection[str], threshold: float) -> style.Key:
    """Return legend entries for the contour and for the colours that are not on the bar."""
    entries = {
        "threshold": (Line2D([], [], color="black", **_THRESHOLD), f"horizon threshold (±{threshold:g} decades)"),
        "zero": (Patch(facecolor=_ZERO), "exactly zero"),
        "missing": (Patch(facecolor=_MISSING), "no value"),
    }
    return [entry for name, entry in entries.items() if name in marks]


def reach_of_every_pair(dataset: xr.Dataset) -> Figure:
    """Plot log10 of ‖∂h_t/∂h_s‖_F / √n for every pair s < t as a heat map: the median over seeds.

    One panel per weight scale, at most `MOST_ALONE`, and one row per combination of swept settings. The contour is the
    horizon's threshold, and the colours end at twice that. A product that is exactly zero, and one without a value,
    have colours of their own.
    """
    dataset = dataset.sortby("weight_scale")
    grid = split_scales(dataset, MOST_ALONE)
    same, seeds = "steps" not in dataset.dims, dataset.sizes["seed"]
    with style.applied():
        figure, axes = grid.subplots(EARLY, LATE, sharex=same, sharey=same)
        thresholds = [setting(panel.data, "horizon_threshold") or Config().horizon_threshold for panel in grid.panels]
        images = [decades_of(panel.data) for panel in grid.panels]
        norm, is_cut = colours_of(images, max(thresholds))
        marks = set()
        for ax, image, threshold in zip(axes, images, thresholds, strict=True):
            marks |= draw_triangle(ax, image[: _steps(image), : _steps(image)], threshold, norm)
        add_bar(figure, axes, norm, seeds, is_cut=is_cut)
        key = key_of(marks, thresholds[0])
        notes = remarks_on(dataset, grid.left_out)
        style.add_key(figure, key, notes)
    return figure


def _steps(decades: Float[np.ndarray, "T T"]) -> int:
    """Return the number of steps of a job; shorter jobs in a sweep are padded with NaN."""
    measured = np.flatnonzero(~np.isnan(decades).all(axis=1))
    return int(measured[-1]) + 1 if measured.size else len(decades)

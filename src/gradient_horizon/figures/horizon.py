"""The gradient horizon against the weight scale: how far back the gradient reaches, and how it ends there."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from gradient_horizon.figures.kit import style, theory, weight_scale
from gradient_horizon.figures.kit.panels import left_out_note, lines_of, setting, split
from gradient_horizon.figures.kit.quantiles import LEVELS
from gradient_horizon.measures.horizon import horizon_quantile

YLABEL = "gradient horizon (steps)"
_MARKS: dict[str, dict[str, Any]] = {
    "vanished": {"marker": "o"},
    "exploded": {"marker": "o", "markerfacecolor": "white"},
    "beyond": {"marker": "^", "markersize": 4.2},
}
_MARK: dict[str, Any] = {"linestyle": "none", "markeredgewidth": 0.8}


def _last_lag(data: xr.Dataset) -> int:
    return int(data["steps"]) if "steps" in data.coords else data.sizes["lag"]


def horizons_of(data: xr.Dataset) -> tuple[Float[np.ndarray, "3 G"], list[str]]:
    """Return the 10, 50 and 90 % quantiles of the horizon over seeds by weight scale, and the kind of the median.

    Each is the horizon of one network (`horizon_quantile`): if a quantile lies between two, the band reaches to the
    outer one, and the median is the lower. A quantile is NaN if its network may be one that overflows, at an unknown
    lag. The kind states how the gradient ends at the median; "" if the median may be a network that overflows.
    """
    horizons, kinds = (data[name].transpose("weight_scale", "seed").values for name in ("horizon", "horizon_kind"))
    bands, ends = [], []
    for horizon, kind in zip(horizons, kinds, strict=True):
        (lower, _), (median, _), (_, upper) = (horizon_quantile(horizon, kind, level) for level in LEVELS)
        bands.append((lower.lag, median.lag, upper.lag))
        ends.append("" if median.kind == "nonfinite" else median.kind)
    return np.array(bands).T, ends


def draw_horizons(axes: Sequence[Axes], panels: Sequence[xr.Dataset]) -> tuple[style.Key, style.Key]:
    """Draw one panel per Axes: one line per cell with its band over seeds; dashed, T, where the measurement ends.

    A horizon beyond T is drawn at T + 1, where its value is censored. Returns legend entries for the lines and for the
    markers.
    """
    names: style.Key = []
    marked: set[str] = set()
    shortest, longest = np.inf, max(_last_lag(data) for data in panels)
    for ax, data in zip(axes, panels, strict=True):
        lines, last, x = lines_of(data), _last_lag(data), data["weight_scale"].values
        looks = style.line_looks(len(lines))
        for look, line in zip(looks, lines.values(), strict=True):
            (lower, median, upper), kinds = horizons_of(line)
            if line.sizes["seed"] > 1:
                weight_scale.draw_band(ax, x, lower, upper, look["color"])
            ax.plot(x, median, linewidth=0.9, **look)
            draw_marks(ax, x, median, kinds, look["color"])
            _draw_law(ax, x, line, look["color"])
            marked.update(kinds)
            shortest = np.nanmin([shortest, last, *lower, *median])
        draw_end(ax, last)
        weight_scale.set_axis(ax, x)
        names = [(Line2D([], [], **look), name) for look, name in zip(looks, lines, strict=True) if name]
    set_ordinate(axes, float(shortest), longest)
    return names, marks_key(marked)


def draw_marks(
    ax: Axes, x: Float[np.ndarray, " K"], median: Float[np.ndarray, " K"], kinds: list[str], color: Any
) -> None:
    """Mark each median by how the gradient ends there."""
    for kind, mark in _MARKS.items():
        at = np.array(kinds) == kind
        ax.plot(x[at], median[at], color=color, **_MARK, **mark)


def marks_key(kinds: Collection[str]) -> style.Key:
    """Return legend entries for the markers of these kinds."""
    marks = [(kind, mark) for kind, mark in _MARKS.items() if kind in kinds]
    words = {"beyond": "beyond $T$"}
    return [(Line2D([], [], color=style.GREY, **_MARK, **mark), words.get(kind, kind)) for kind, mark in marks]


def draw_end(ax: Axes, last: int) -> None:
    """Draw the end of the measurement, T = `last`."""
    ax.axhline(last, **style.REFERENCE)
    # On the left, where the law seldom crosses it, and on white, for where it does.
    white = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.5}
    ax.annotate(
        f"beyond T = {last}", (0, last), (3, 4), xycoords=("axes fraction", "data"), textcoords="offset points",
        ha="left", va="bottom", fontsize=style.SMALL, color=style.GREY, bbox=white,
    )  # fmt: skip


def _draw_law(ax: Axes, x: Float[np.ndarray, " G"], line: xr.Dataset, color: Any) -> None:
    law = theory.law_of(line)
    if law is None:
        return
    threshold = setting(line, "horizon_threshold")
    fine = theory.grid(x, law)
    horizon = np.array([law.horizon(scale, threshold) for scale in fine.tolist()])
    # Infinite at the edge: drawn far above the axis, so that the line leaves it steeply.
    ax.plot(fine, np.minimum(horizon, 1e9), **theory.look(color))


def set_ordinate(axes: Sequence[Axes], shortest: float, longest: int) -> None:
    """Set a logarithmic ordinate from the `shortest` horizon to the `longest` measurement."""
    shortest = min(shortest, max(1.0, longest / 10))
    span = np.log10(longest / shortest)
    for ax in axes:
        ax.set_yscale("log")
        # Leave room above for the label of T.
        ax.set_ylim(shortest / 10 ** (0.06 * span + 0.02), (longest + 1) * 10 ** (0.12 * span + 0.04))
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if span < 2.5 else (1.0,)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())


def notes_on(dataset: xr.Dataset, left_out: int = 0) -> list[str]:
    """Return notes on networks without a known horizon, and on panels that are left out."""
    kinds = dataset["horizon_kind"].values
    lost = int(np.sum(kinds == "nonfinite"))
    note = (
        f"{lost} of {int(np.sum(kinds != ''))} networks overflow: they explode at an unknown lag. No band is drawn"
        " where they exceed a tenth of the networks, and no median where they reach half."
    )
    return ([note] if lost else []) + left_out_note(left_out)


def horizon_against_scale(dataset: xr.Dataset) -> Figure:
    """Plot the median gradient horizon against the weight scale g, one line per cell, with its 10–90 % band over seeds.

    One panel per combination of the other swept settings. Markers show how the gradient of the median network ends: it
    vanishes (filled) or explodes (open), or its horizon lies beyond T (triangle). Networks that overflow are counted.
    """
    dataset = dataset.sortby("weight_scale")
    grid = split(dataset, within=("cell",))
    with style.applied():
        figure, axes = grid.subplots(weight_scale.LABEL, YLABEL)
        names, marks = draw_horizons(axes, [panel.data for panel in grid.panels])
        key = names + marks + style.median_key(dataset.sizes["seed"])
        key += theory.key_of(panel.data for panel in grid.panels)
        columns = 7 if len(axes) > 1 else 2 if len(key) <= 8 else 3
        style.add_key(figure, key, notes_on(dataset, grid.left_out), columns)
    return figure

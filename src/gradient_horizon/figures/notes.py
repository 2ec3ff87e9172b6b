"""The study notes' figure: multiplying dh by the same matrix repeatedly makes it grow or decay as a power."""

import math
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from gradient_horizon.figures.kit import style
from gradient_horizon.figures.kit.panels import MOST_COLUMNS, left_out_note, split
from gradient_horizon.figures.kit.quantiles import quantiles, thin_band, thin_curve

NORM, LOGARITHM = R"$\Vert dh\Vert_F\,/\,N$", R"$\log_{10}\,\Vert dh\Vert_F\,/\,N$"
MOST_DOTS = 50
LINEAR_RANGE = 1e5  # above this ratio, a linear axis would show only the largest values
_LINEAR, _FLOAT32 = "#0072B2", "#D55E00"
_THICK: dict[str, Any] = {"linewidth": 3.5, "alpha": 0.55}
_LAW: dict[str, Any] = {"color": "black", "linewidth": 0.7, "linestyle": (0, (4, 3))}


def columns_of(dataset: xr.Dataset) -> list[tuple[str, xr.Dataset]]:
    """Return the title and data of each column: one per swept setting and factor on W_h, in the order of `dataset`."""
    columns = []
    for panel in split(dataset).panels:
        for index, scale in enumerate(panel.data["weight_scale"].values.tolist()):
            matrix = "$W_h$" if scale == 1 else f"{scale:g} $W_h$"
            title = f"{panel.title}, {matrix}" if panel.title else matrix
            columns.append((title, panel.data.isel(weight_scale=index).transpose("seed", ...)))
    return columns


def _draw_band(ax: Axes, x: np.ndarray, values: Float[np.ndarray, "S T"], color: str, **line: Any) -> None:
    lower, median, upper = quantiles(values, axis=0)
    if len(values) > 1:
        steps, low, high = thin_band(x, lower, upper)
        ax.fill_between(steps, low, high, color=color, alpha=0.25, linewidth=0)
    ax.plot(*thin_curve(x, median), color=color, **line)


def draw_norm(ax: Axes, data: xr.Dataset) -> None:
    """Draw ‖dh‖_F / N as the study notes plot it."""
    steps, norms = data["step"].values, data["norm"].values
    dots = {"marker": "o", "markersize": 2.5} if len(steps) <= MOST_DOTS else {}
    _draw_band(ax, steps, norms, _LINEAR, linewidth=0.9, **dots)
    positive = norms[np.isfinite(norms) & (norms > 0)]
    if positive.size and positive.max() > LINEAR_RANGE * positive.min():
        ax.set_yscale("log")
    else:
        ax.set_ylim(bottom=0)
    ax.set_xlabel("time step")
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=style.ROUND))


def logarithms_of(data: xr.Dataset) -> dict[str, Float[np.ndarray, "S T"]]:
    """Return log10 of ‖dh‖_F / N by seed and step: in float32, in the log domain, and by the law.

    The law is that of the largest eigenvalue.
    """
    steps, logs = data["long_step"].values, data["log_norm"].values / math.log(10.0)
    with np.errstate(divide="ignore"):
        single = np.log10(data["norm_float32"].values.astype(float))
        growth = np.log10(data["spectral_radius"].values)[:, None]
    return {"float32": single, "log domain": logs, "law": logs[:, :1] + growth * (steps - steps[0])}


def draw_logarithms(ax: Axes, data: xr.Dataset) -> None:
    """Draw `logarithms_of`, which cover more steps, and mark where float32 fails."""
    steps, logs = data["long_step"].values, logarithms_of(data)
    single = logs["float32"]
    _draw_band(ax, steps, np.where(np.isfinite(single), single, np.nan), _FLOAT32, **_THICK)
    _draw_band(ax, steps, logs["log domain"], _LINEAR)
    ax.plot(*thin_curve(steps, quantiles(logs["law"], (0.5,), axis=0)[0]), **_LAW)
    _mark_the_end(ax, steps, np.median(single, axis=0))
    ax.set_xlabel("time step")
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=style.ROUND))
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True, steps=style.ROUND))


def _mark_the_end(ax: Axes, steps: np.ndarray, single: Float[np.ndarray, " T"]) -> None:
    """Draw a cross where float32 fails, and state what it gives from there on."""
    lost = np.flatnonzero(np.isinf(single))
    if not lost.size or lost[0] == 0:
        return
    result = "0" if np.isneginf(single[lost[0]]) else "∞"
    x, y = steps[lost[0] - 1], single[lost[0] - 1]
    ax.plot(x, y, color=_FLOAT32, marker="x", markersize=5, markeredgewidth=1.3, linestyle="none")
    # The corner that a rising or falling line leaves free.
    corner, side = ((0.98, 0.04), "bottom") if y > 0 else ((0.98, 0.96), "top")
    ax.annotate(
        f"float32 gives {result}\nfrom step {steps[lost[0]]} on", corner, xycoords="axes fraction",
        ha="right", va=side, fontsize=6.5, color=_FLOAT32,
    )  # fmt: skip


def logarithms_key() -> style.Key:
    """Return legend entries for the lines of `draw_logarithms`."""
    return [
        (Line2D([], [], color=_FLOAT32, **_THICK), "float32"),
        (Line2D([], [], color=_LINEAR), "log domain"),
        (Line2D([], [], **_LAW), R"slope $\log_{10}\,\rho(W_h)$"),
    ]


def norm_growth_and_decay(dataset: xr.Dataset) -> Figure:
    """Plot ‖dh‖_F / N against the time step, one column per factor on W_h.

    Above, the series as the study notes plot it. Below, its logarithm over more steps: in float32, which overflows or
    gives 0; in the log domain, which does neither; and by the law, whose slope is log10 of W_h's spectral radius. If
    there are many factors, only a few are drawn, evenly spread.
    """
    columns = columns_of(dataset.sortby("weight_scale", ascending=False))  # growth before decay, as in the study notes
    places = np.linspace(0, len(columns) - 1, min(len(columns), MOST_COLUMNS)).round().astype(int)
    with style.applied():
        figure = style.new_figure(style.SINGLE if len(places) == 1 else style.DOUBLE, 3.8)
        axes = figure.subplots(2, len(places), squeeze=False)
        for (above, below), place in zip(axes.T, places, strict=True):
            title, data = columns[place]
            above.set_title(title)
            draw_norm(above, data)
            draw_logarithms(below, data)
        axes[0, 0].set_ylabel(NORM)
        axes[1, 0].set_ylabel(LOGARITHM)
        key = logarithms_key()
        seeds = dataset.sizes["seed"]
        notes = left_out_note(len(columns) - len(places))
        style.add_key(figure, key if seeds == 1 else key + style.median_key(seeds), notes)
    return figure

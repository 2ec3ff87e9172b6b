"""Whether and when networks solve their task, against the growth of their gradient before training."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from gradient_horizon.analysis.outcomes import exists, has_diverged, has_solved, horizon_auc, initial_growth
from gradient_horizon.figures.kit import histories, style
from gradient_horizon.figures.kit.panels import left_out_note, setting
from gradient_horizon.figures.kit.weight_scale import ScaleColours
from gradient_horizon.figures.share_solved import budget
from gradient_horizon.settings.schema import Config

XLABEL = "initial growth (1/step)"
GROWTH = R"Initial growth: $\log(\Vert\partial h_T/\partial h_0\Vert_F/\sqrt{n})\,/\,T$ before the first update."
AREA = (
    "AUC: probability that a network that solves its task has a longer initial gradient horizon"
    f" ({Config().horizon_threshold:g} decades) than one that does not, with its 95 % bootstrap interval over seeds."
)
YLABEL = "updates until solved"
_UNSOLVED, _DIVERGED = 1.12, 1.25  # ordinates, as multiples of the last update
_POINT: dict[str, Any] = {"linestyle": "none", "markersize": 3.4, "markeredgewidth": 0.7}
_MARKS: dict[str, dict[str, Any]] = {
    "solved": {"marker": "o"},
    "not solved": {"marker": "o", "markerfacecolor": "none"},
    "diverged": {"marker": "x"},
}


def _points(data: xr.Dataset, last: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return, for each kind of mark, which networks of one weight scale have it, and their ordinates."""
    solved, diverged, there = (flag(data).values for flag in (has_solved, has_diverged, exists))
    return {
        "solved": (solved, data["solved_at"].values),
        "not solved": (there & ~solved & ~diverged, np.full(solved.shape, _UNSOLVED * last)),
        "diverged": (there & ~solved & diverged, np.full(solved.shape, _DIVERGED * last)),
    }


def draw_points(axes: Sequence[Axes], panels: Sequence[xr.Dataset], colours: ScaleColours) -> tuple[set[str], int]:
    """Draw one point per network; return the kinds of mark shown and how many networks have a zero gradient."""
    shown: set[str] = set()
    off = 0
    last = max(setting(data, "updates") or int(data["update"].values[-1]) for data in panels)
    growths = [initial_growth(data.transpose("weight_scale", "seed", ...)) for data in panels]
    finite = np.concatenate([growth[np.isfinite(growth)] for growth in growths])
    first = float(finite.min()) if finite.size else -1.0
    for ax, data, growth in zip(axes, panels, growths, strict=True):
        off += int(np.isneginf(growth).sum())
        for index in range(data.sizes["weight_scale"]):
            # A gradient that is exactly zero is drawn at the left end.
            x = np.maximum(growth[index], first)
            for kind, (chosen, y) in _points(data.isel(weight_scale=index), last).items():
                if chosen.any():
                    ax.plot(x[chosen], y[chosen], color=colours.of(index), **_POINT, **_MARKS[kind])
                    shown.add(kind)
        ax.axvline(0, **style.REFERENCE)
        ax.axhline(last, color=style.GREY, linewidth=0.5)
        ax.annotate(_verdict(data), (0.02, 0.03), xycoords="axes fraction", fontsize=6.5, color=style.GREY)
        ax.xaxis.set_major_locator(MaxNLocator(5, steps=style.ROUND))
    ticks = MaxNLocator(4, integer=True, steps=style.ROUND).tick_values(0, last)
    for ax in axes:
        ax.set_yticks([tick for tick in ticks if 0 <= tick <= last])
        ax.set_ylim(-0.18 * last, (_DIVERGED if "diverged" in shown else _UNSOLVED) * last + 0.07 * last)
    return shown, off


def _verdict(data: xr.Dataset) -> str:
    area = horizon_auc(data)
    if area is not None:
        return f"AUC {area.estimate:.2f} ({area.lower:.2f} to {area.upper:.2f})"
    return "all solved" if has_solved(data).any() else "none solved"


def key_of(shown: Collection[str]) -> style.Key:
    """Return legend entries for the marks."""
    marks = {kind: mark for kind, mark in _MARKS.items() if kind in shown}
    return [(Line2D([], [], color=style.GREY, **_POINT, **mark), kind) for kind, mark in marks.items()]


def zero_note(off: int) -> list[str]:
    """Note where networks with a gradient of exactly zero, which has no logarithm, are drawn."""
    with_zero = (
        "network with a gradient of exactly zero is" if off == 1 else "networks with a gradient of exactly zero are"
    )
    return [f"{off} {with_zero} drawn at the left edge."] if off else []


def solving_against_initial_growth(dataset: xr.Dataset) -> Figure:
    """Plot when each network solved its task against the initial growth of its gradient, coloured by weight scale.

    One panel per combination of swept settings, at the learning rate and clip threshold with which most networks solved
    the task; networks that did not are drawn above the line. Each panel states how well the initial gradient horizon
    tells the two apart: `outcomes.horizon_auc`.
    """
    dataset = dataset.sortby("weight_scale")
    grid = histories.split_at_best(dataset)
    panels = [panel.data for panel in grid.panels]
    with style.applied():
        colours = ScaleColours(dataset["weight_scale"].values)
        figure, axes = grid.subplots(XLABEL, YLABEL)
        shown, off = draw_points(axes, panels, colours)
        colours.add_bar(figure, axes)
        key = key_of(shown)
        notes = [
            budget(dataset),
            GROWTH,
            AREA,
            *histories.chosen_note(dataset, ("learning_rate", "clip_threshold")),
        ]
        notes += zero_note(off)
        notes += left_out_note(grid.left_out)
        style.add_key(figure, key, notes)
    return figure

"""The share of networks that solve their task, and their accuracy, against whatever a sweep varies."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from gradient_horizon.analysis.intervals import Interval
from gradient_horizon.analysis.outcomes import best_over, exists, final_error, has_diverged, share_solved
from gradient_horizon.figures.kit import histories, style, weight_scale
from gradient_horizon.figures.kit.panels import (
    MOST_COLUMNS,
    MOST_PANELS,
    Grid,
    Panel,
    left_out_note,
    setting,
    split,
    title_of,
)
from gradient_horizon.figures.kit.quantiles import quantiles
from gradient_horizon.figures.learning_curves import chance_key

METHODS = ("cell", "clip", "omega", "floss_updates")  # compared within a panel
CHOICES = ("weight_scale", "learning_rate", "clip_threshold")  # along the axes of one job
LABELS = {
    "steps": "sequence length $T$ (steps)",
    "distance": "distance (words)",
    "weight_scale": weight_scale.LABEL,
    "learning_rate": R"learning rate $\eta$",
    "clip_threshold": "clip threshold $c$",
}
_MARKERS, _DASHES = "osD^v", ("-", (0, (4, 1.5)), (0, (1, 1.3)), (0, (6, 1.5, 1, 1.5)))
_APART = 0.017  # share of an axis by which lines that would hide each other's intervals are shifted

Measure = Callable[[xr.Dataset], Interval]


@dataclass(frozen=True)
class Line:
    """One method: its name, its line style, and its selection from a panel's Dataset."""

    name: str
    look: dict[str, Any]
    place: dict[str, Any]


def abscissa_of(dataset: xr.Dataset) -> str:
    """Return the variable along which the networks of a sweep are compared.

    It is the first of these with several values: steps, distance, any other swept number that does not belong to a
    method, weight scale, learning rate, clip threshold, and finally a method's number. If there is none, it is the
    weight scale.
    """
    several = [str(dim) for dim in dataset.dims if dim in dataset.coords and dataset.sizes[dim] > 1]
    # a swept null has no place along an axis of numbers
    numbers = [name for name in several if dataset[name].dtype.kind in "if" and bool(dataset[name].notnull().all())]
    swept = [name for name in numbers if name not in (*CHOICES, "seed", "update", "time", "lag")]
    order = [
        *(name for name in ("steps", "distance") if name in swept),
        *(name for name in swept if name not in METHODS),
        *(name for name in CHOICES if name in numbers),
        *swept,
        "weight_scale",
    ]
    return order[0]


def lines_of(dataset: xr.Dataset, abscissa: str) -> list[Line]:
    """Return one line per combination of methods: a colour for the first method, a marker and a dash for the others."""
    keys = [key for key in METHODS if key in dataset.dims and key != abscissa]
    if not keys:
        return [Line("", style.line_looks(1)[0] | {"marker": "o"}, {})]
    first, others = dataset[keys[0]].values.tolist(), [dataset[key].values.tolist() for key in keys[1:]]
    lines = []
    for value, look in zip(first, style.line_looks(len(first)), strict=True):
        for index, rest in enumerate(itertools.product(*others)):
            place = dict(zip(keys, (value, *rest), strict=True))
            dash = {"linestyle": _DASHES[index % len(_DASHES)]} if index else {}
            lines.append(Line(title_of(place), {**look, **dash, "marker": _MARKERS[index % len(_MARKERS)]}, place))
    return lines


def by_threshold(dataset: xr.Dataset, grid: Grid, abscissa: str) -> Grid:
    """Split each panel of `grid` into one per clip threshold, if there are several and they are not the abscissa.

    Success depends on the threshold, so the best one alone would say too little. One row per panel of `grid`.
    """
    thresholds = dataset["clip_threshold"].values.tolist()
    if len(thresholds) == 1 or abscissa == "clip_threshold":
        return grid
    every = [
        Panel(", ".join(filter(None, [panel.title, f"{histories.SYMBOLS['clip_threshold']} = {value:g}"])), data)
        for panel in grid.panels
        for value, data in ((value, panel.data.sel(clip_threshold=[value])) for value in thresholds)
    ]
    total = (len(grid.panels) + grid.left_out) * len(thresholds)
    return Grid(every[:MOST_PANELS], min(len(thresholds), MOST_COLUMNS), total - len(every[:MOST_PANELS]))


def _threshold_note(dataset: xr.Dataset, abscissa: str) -> list[str]:
    """Note that lines without a clip rule are the same in every panel of `by_threshold`, if there are any."""
    in_panels = abscissa != "clip_threshold" and dataset.sizes["clip_threshold"] > 1 and "clip" in dataset.dims
    unclipped = in_panels and "none" in dataset["clip"].values
    return ["Unclipped networks are the same at every clip threshold $c$."] if unclipped else []


def accuracy(data: xr.Dataset) -> Interval:
    """Return the median of 1 - final error, with its 10 % and 90 % quantiles, over networks that have not diverged."""
    lower, median, upper = quantiles(1.0 - np.ravel(final_error(data).values)).tolist()
    return Interval(median, lower, upper)


def points_of(panel: xr.Dataset, line: Line, abscissa: str, measure: Measure) -> dict[float, Interval]:
    """Return what `measure` gives at each measured point of a line, with the other `CHOICES` at their best values."""
    data = panel.sel(line.place)
    axes = [axis for axis in CHOICES if axis != abscissa]
    if abscissa in CHOICES:
        if not exists(data).any():
            return {}
        data, _ = best_over(data, axes)
    points = {}
    for value in data[abscissa].values.tolist():
        at = data.sel({abscissa: value})
        if exists(at).any():
            points[value] = measure(at if abscissa in CHOICES else best_over(at, axes)[0])
    return points


def _set_abscissa(axes: Sequence[Axes], values: np.ndarray, abscissa: str) -> Callable[[np.ndarray, float], np.ndarray]:
    """Set limits and ticks; return a function that moves points by a share of the axis."""
    first, last = float(values.min()), float(values.max())
    logarithmic = weight_scale.spans_decades(values) or (
        abscissa in ("learning_rate", "clip_threshold") and len(values) > 1
    )
    for ax in axes:
        if logarithmic:
            ax.set_xscale("log")
            room = (last / first) ** 0.08
            ax.set_xlim(first / room, last * room)
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        else:
            room = 0.08 * (last - first) or 0.1 * abs(first) or 0.1
            ax.set_xlim(first - room, last + room)
            ax.xaxis.set_major_locator(MaxNLocator(6, steps=style.ROUND))
        if len(values) <= 6:
            ax.set_xticks(values, [f"{value:g}" for value in values.tolist()])
            ax.xaxis.set_minor_locator(NullLocator())
    if logarithmic:
        return lambda x, part: x * (last / first) ** part
    return lambda x, part: x + part * ((last - first) or 1.0)


def draw_lines(
    axes: Sequence[Axes], grid: Grid, lines: Sequence[Line], abscissa: str, measure: Measure, values: np.ndarray
) -> None:
    """Draw what `measure` gives along every line, with its interval; one panel per Axes."""
    moved = _set_abscissa(axes, values, abscissa)
    for ax, panel in zip(axes, grid.panels, strict=True):
        for index, line in enumerate(lines):
            points = points_of(panel.data, line, abscissa, measure)
            if not points:
                continue
            x = moved(np.array([*points]), _APART * (index - (len(lines) - 1) / 2))
            middle, lower, upper = np.array([*points.values()]).T
            ax.vlines(x, lower, upper, color=line.look["color"], linewidth=0.8, alpha=0.7)
            ax.plot(x, middle, linewidth=0.9, **line.look)
        ax.set_ylim(-0.03, 1.03)


def key_of(lines: Sequence[Line], bars: str) -> style.Key:
    """Return legend entries for the lines and their bars."""
    key: style.Key = [(Line2D([], [], linewidth=0.9, **line.look), line.name) for line in lines if line.name]
    return [*key, (Line2D([], [], color=style.GREY, linestyle="none", marker="|", markersize=9), bars)]


def budget(dataset: xr.Dataset, *, solved: bool = True) -> str:
    """Describe the networks' training budget and, with `solved`, when they count as successful."""
    updates, batch = setting(dataset, "updates"), setting(dataset, "batch_size")
    spent = f"{updates} updates" if updates else "each job's number of updates"
    spent += f" of {batch} sequences each" if batch else ""
    if not solved:
        return f"Accuracy on fresh sequences after {spent}."
    # if it is swept, the coordinate takes its name, and null means the task's own
    least_errors = dataset["solved_below_used" if "solved_below_used" in dataset else "solved_below"].values
    errors = np.unique(least_errors[~np.isnan(least_errors)])
    is_swept = "solved_below_used" in dataset
    several = "below the swept value" if is_swept else "below the limit of its task"
    least = f"below {errors[0]:g}" if len(errors) == 1 else several
    return f"Solved: error {least} on fresh sequences within {spent}."


def _against(dataset: xr.Dataset, measure: Measure, label: str, bars: str, *, chance: bool) -> Figure:
    """Plot `measure` along the abscissa.

    With `chance`, `measure` is one of the error, which is undefined for networks that diverge.
    """
    dataset = dataset.sortby("weight_scale")
    abscissa = abscissa_of(dataset)
    grid = by_threshold(dataset, split(dataset, within=(*METHODS, abscissa)), abscissa)
    notes = [budget(dataset, solved=not chance), *_threshold_note(dataset, abscissa)]
    notes += histories.chosen_note(dataset, [axis for axis in CHOICES if axis not in (abscissa, "clip_threshold")])
    diverged = int(has_diverged(dataset).sum())
    if chance and diverged:
        notes.append(f"{diverged} of {int(exists(dataset).sum())} networks diverge and are omitted.")
    notes += left_out_note(grid.left_out)
    with style.applied():
        lines = lines_of(dataset, abscissa)
        figure, axes = grid.subplots(LABELS.get(abscissa, style.in_words(abscissa)), label)
        draw_lines(axes, grid, lines, abscissa, measure, dataset[abscissa].values)
        key = key_of(lines, bars)
        if chance:
            key += draw_chance(axes, grid, abscissa)
        style.add_key(figure, key, notes, 7 if len(axes) > 1 else 2)
    return figure


def draw_chance(axes: Sequence[Axes], grid: Grid, abscissa: str) -> style.Key:
    """Draw the accuracy at chance, and return its legend entry."""
    for ax, panel in zip(axes, grid.panels, strict=True):
        chance = 1.0 - panel.data["chance_error"]
        known = chance.max([dim for dim in chance.dims if dim != abscissa])
        if known.ndim:
            ax.plot(known[abscissa], known, **style.REFERENCE)
        else:
            ax.axhline(float(known), **style.REFERENCE)
    return chance_key()


def intervals(seeds: int) -> str:
    """Return the legend text for the bars of a share of networks."""
    return f"95 % Wilson interval, {seeds} seeds" if seeds > 1 else "95 % Wilson interval, one seed"


def share_solved_against(dataset: xr.Dataset) -> Figure:
    """Plot the share of networks that solved their task, with Wilson's 95 % intervals, one line per method.

    The abscissa is steps, distance, weight scale or whatever else a sweep varies (`abscissa_of`); there is one panel
    per combination of the other swept settings and clip threshold. Weight scale and learning rate, if a job varies them
    as well, are at their best values, and the budget of updates is stated.
    """
    bars = intervals(dataset.sizes["seed"])
    return _against(dataset, share_solved, "success rate", bars, chance=False)


def accuracy_against(dataset: xr.Dataset) -> Figure:
    """Plot 1 - final error, median and 10–90 % over seeds, one line per method, as in `share_solved_against`.

    Dashed, chance. Networks that diverge are left out and counted.
    """
    seeds = dataset.sizes["seed"]
    bars = f"10–90 % range, {seeds} seeds" if seeds > 1 else "one seed"
    return _against(dataset, accuracy, "accuracy (1 − error)", bars, chance=True)

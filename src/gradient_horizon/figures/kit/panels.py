"""Layout of a figure with one panel per combination of the swept settings."""

import itertools
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradient_horizon.figures.kit import style
from gradient_horizon.settings.schema import JOINED
from gradient_horizon.store.joining import is_label_of, settings_of

MOST_PANELS, MOST_COLUMNS = 24, 4
CHARACTERS = 96  # most characters in a title across two columns of a page
_NAMED = ("cell", "weights", "task")  # settings whose values speak for themselves


@dataclass(frozen=True)
class Panel:
    """The part of a Dataset that one panel shows, and the panel's title."""

    title: str
    data: xr.Dataset


@dataclass(frozen=True)
class Grid:
    """Panels in row order, and the number left out because a page cannot hold them."""

    panels: list[Panel]
    columns: int
    left_out: int = 0

    def subplots(
        self, xlabel: str, ylabel: str, *, sharex: bool = True, sharey: bool = True
    ) -> tuple[Figure, list[Axes]]:
        """Return a Figure sized for these panels, a key and a colour bar, and its `axes`."""
        alone = len(self.panels) == 1
        height = 3.1 if alone else 0.8 + 1.7 * math.ceil(len(self.panels) / self.columns)
        figure = style.new_figure(style.SINGLE if alone else style.DOUBLE, height)
        return figure, self.axes(figure, xlabel, ylabel, sharex=sharex, sharey=sharey)

    def axes(self, figure: Figure, xlabel: str, ylabel: str, *, sharex: bool = True, sharey: bool = True) -> list[Axes]:
        """Return one labelled Axes per panel, with shared ordinates; places without a panel are left empty."""
        rows = math.ceil(len(self.panels) / self.columns)
        every = figure.subplots(rows, self.columns, sharex=sharex, sharey=sharey, squeeze=False).ravel().tolist()
        axes = every[: len(self.panels)]
        for spare in every[len(self.panels) :]:
            spare.remove()
        for place, (ax, panel) in enumerate(zip(axes, self.panels, strict=True)):
            ax.set_title(wrapped(panel.title, CHARACTERS // self.columns))
            if place % self.columns == 0:
                ax.set_ylabel(ylabel)
            if place + self.columns >= len(axes):
                ax.set_xlabel(xlabel)
                ax.tick_params(labelbottom=True)
        return axes


def _jobs(dataset: xr.Dataset) -> list[dict[str, Any]]:
    return json.loads(dataset.attrs.get("jobs", "[]"))


def setting(dataset: xr.Dataset, name: str) -> Any:
    """Return the value of the setting `name` in every job behind `dataset`; None if they differ or none is known."""
    return settings_of(dataset).get(name)


def title_of(swept: Mapping[str, Any]) -> str:
    """Return the title of a panel with these settings, such as "ReLU, hidden size 64"."""
    return ", ".join(
        style.in_words(value) if key in _NAMED else f"{style.in_words(key)} {style.in_words(value)}"
        for key, value in swept.items()
        if key not in JOINED
    )


def _length(title: str) -> int:
    """Return the visible length of a title, counting each symbol as one character."""
    return len(re.sub(r"\$[^$]*\$", "x", title))


def wrapped(title: str, width: int) -> str:
    """Break a title after some of its commas, into lines of at most `width` characters where possible."""
    lines: list[str] = []
    for part in title.split(", "):
        if lines and _length(f"{lines[-1]}, {part}") <= width:
            lines[-1] += f", {part}"
        else:
            lines.append(part)
    return ",\n".join(lines)


def lines_of(data: xr.Dataset) -> dict[str, xr.Dataset]:
    """Return the data of each line, one per cell, by its name in the key: "" if the cell is not swept."""
    if "cell" not in data.dims:
        return {"": data}
    return {style.in_words(cell): data.sel(cell=cell) for cell in data["cell"].values.tolist()}


def _points(dataset: xr.Dataset, keys: Sequence[str]) -> list[tuple[Any, ...]]:
    """Return the combinations of these settings that a job measured, the first setting varying fastest."""
    points = [point[::-1] for point in itertools.product(*(dataset[key].values.tolist() for key in reversed(keys)))]
    values = {tuple(job["swept"].get(key, job["config"].get(key)) for key in keys) for job in _jobs(dataset)}
    measured = [
        point
        for point in points
        if any(all(is_label_of(*pair) for pair in zip(point, value, strict=True)) for value in values)
    ]
    return measured or points


def split(dataset: xr.Dataset, within: Collection[str] = ()) -> Grid:
    """Return one panel per combination of the swept settings other than those in `within`; missing jobs have none."""
    swept = json.loads(dataset.attrs.get("swept", "{}"))
    keys = [key for key in swept if key in dataset.dims and key not in within]
    if len(keys) == 2 and dataset.sizes[keys[0]] > MOST_COLUMNS >= dataset.sizes[keys[1]]:
        keys.reverse()
    points = _points(dataset, keys)
    count = min(len(points), MOST_PANELS)
    columns = math.ceil(count / math.ceil(count / MOST_COLUMNS))
    # Two settings make a table, the first along its rows, unless jobs are missing from it.
    if len(keys) == 2 and len(points) == math.prod(dataset.sizes[key] for key in keys):
        columns = min(dataset.sizes[keys[0]], MOST_COLUMNS)
    places = [dict(zip(keys, point, strict=True)) for point in points[:count]]
    return Grid([Panel(title_of(at), dataset.sel(at)) for at in places], columns, len(points) - count)


def split_scales(dataset: xr.Dataset, alone: int, most: int = MOST_COLUMNS) -> Grid:
    """Return one panel per combination of the swept settings and weight scale, with one row per combination.

    Up to `most` evenly spread weight scales are shown, or up to `alone` if there is only one combination.
    """
    combinations = split(dataset)
    scales = dataset["weight_scale"].values
    count = min(len(scales), alone if len(combinations.panels) == 1 else most)
    shown = np.linspace(0, len(scales) - 1, count).round().astype(int)
    named = combinations.panels[0].title or title_of(json.loads(dataset.attrs.get("swept", "{}")))
    every = [
        Panel(
            ", ".join(filter(None, [panel.title or named, f"$g$ = {scales[index]:g}"])),
            panel.data.isel(weight_scale=index),
        )
        for panel in combinations.panels
        for index in shown
    ]
    panels = every[:MOST_PANELS]
    total = (len(combinations.panels) + combinations.left_out) * len(scales)
    return Grid(panels, min(count, MOST_COLUMNS), total - len(panels))


def remarks_on(dataset: xr.Dataset, left_out: int = 0) -> list[str]:
    """Return notes on what a figure omits: networks that overflow, and panels that do not fit on a page.

    `finite` is NaN where there is no network.
    """
    finite = dataset["finite"]
    lost, total = int((finite == 0).sum()), int(finite.notnull().sum())
    note = f"{lost} of {total} networks overflow and are omitted; no median is drawn where they are the majority."
    return ([note] if lost else []) + left_out_note(left_out)


def left_out_note(count: int) -> list[str]:
    """Note how many panels do not fit on a page, if there are any."""
    return [f"{count} more {'panel is' if count == 1 else 'panels are'} not shown."] if count else []

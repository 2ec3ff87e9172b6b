"""The choice of clip threshold. Success and speed over threshold and learning rate."""

from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from gradient_horizon.analysis.intervals import share
from gradient_horizon.analysis.outcomes import exists, has_diverged, has_solved
from gradient_horizon.figures import share_solved
from gradient_horizon.figures.kit import style
from gradient_horizon.names import declare
from gradient_horizon.store.records import ResultError

DECLARES = declare.PaperFigure(
    "thresholds",
    "success and speed over clip threshold and learning rate",
    number=10,
    preset="thresholds",
    title="Choosing a clip threshold: success and speed over threshold and learning rate",
    caption=(
        "Left: number of networks that solve the task, out of all, over the learning rate η and the threshold c of"
        " the clip rule g ← g·c/(‖g‖ + 10⁻⁶) if that is shorter; the last column is not clipped. Right: median over"
        " all networks of the number of updates until they solve the task, to the resolution of the records; networks"
        " that never do count as the slowest, and no median is given if they are half or more. An asterisk marks"
        " entries in which some networks diverge."
    ),
    quick=(
        "updates=200",
        "record_every=20",
        "test_size=200",
        "seeds=3",
        "hidden_size=24",
        "steps=10",
        "learning_rates=[0.03,0.3]",
        "clip_thresholds=[0.1,1.0]",
    ),
)
_DARK = 0.55  # share of the colour range beyond which the numbers are white


@dataclass(frozen=True)
class Map:
    """Outcomes by learning rate, ascending, and column: one per threshold, then no clipping if that was trained."""

    learning_rates: list[float]
    columns: list[str]
    solved: Int[np.ndarray, "R C"]
    total: Int[np.ndarray, "R C"]
    diverged: Int[np.ndarray, "R C"]
    median_update: Float[np.ndarray, "R C"]


def map_of(dataset: xr.Dataset) -> Map:
    """Return the outcomes of the networks at every pair of learning rate and column."""
    if "solved_at" not in dataset or "clip" not in dataset.dims or {*dataset["clip"].values} == {"none"}:
        raise ResultError(
            "dataset: not a training sweep over clip thresholds; gradient-horizon run +sweeps=thresholds makes one"
        )
    dataset = dataset.sortby("learning_rate").sortby("clip_threshold")
    rule = next(rule for rule in dataset["clip"].values.tolist() if rule != "none")
    clipped = dataset.sel(clip=rule)
    columns = {f"{value:g}": clipped.sel(clip_threshold=value) for value in clipped["clip_threshold"].values.tolist()}
    if "none" in dataset["clip"]:
        columns["none"] = dataset.sel(clip="none").isel(clip_threshold=0)
    columns_of: dict[str, list[Any]] = {"solved": [], "total": [], "diverged": [], "median_update": []}
    for data in columns.values():
        networks = [dim for dim in ("weight_scale", "seed") if dim in data.dims]
        solved, there = has_solved(data), exists(data)
        columns_of["solved"].append(solved.sum(networks).values)
        columns_of["total"].append(there.sum(networks).values)
        columns_of["diverged"].append(has_diverged(data).sum(networks).values)
        slowest_last = data["solved_at"].where(solved, np.inf).where(there)
        median = slowest_last.stack(network=networks).quantile(0.5, "network", method="higher").values
        columns_of["median_update"].append(np.where(np.isfinite(median), median, np.nan))
    arrays = {name: np.stack(values, axis=1) for name, values in columns_of.items()}
    return Map(dataset["learning_rate"].values.tolist(), [*columns], **arrays)


def _draw(
    ax: Axes, values: Float[np.ndarray, "R C"], words: np.ndarray, table: Map, colours: Any, norm: Normalize
) -> None:
    ax.pcolormesh(np.ma.masked_invalid(values), edgecolors="white", linewidth=0.8, cmap=colours, norm=norm)
    for (row, column), word in np.ndenumerate(words):
        dark = np.isfinite(values[row, column]) and norm(values[row, column]) > _DARK
        ax.text(column + 0.5, row + 0.5, word, ha="center", va="center", fontsize=style.SMALL,
                color="white" if dark else "black")  # fmt: skip
    ax.set_xticks(np.arange(len(table.columns)) + 0.5, table.columns)
    ax.set_yticks(np.arange(len(table.learning_rates)) + 0.5, [f"{rate:g}" for rate in table.learning_rates])
    ax.tick_params(length=0)
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.set(xlabel=share_solved.LABELS["clip_threshold"], ylabel=share_solved.LABELS["learning_rate"])


def draw(dataset: xr.Dataset) -> Figure:
    """Draw two maps: success and speed."""
    table = map_of(dataset)
    star = np.where(table.diverged > 0, "*", "")
    counts = np.array(
        [[f"{s}/{t}" for s, t in zip(*row, strict=True)] for row in zip(table.solved, table.total, strict=True)]
    )
    updates = np.where(np.isnan(table.median_update), "–", [[f"{u:.0f}" for u in row] for row in table.median_update])
    finite = table.median_update[np.isfinite(table.median_update)]
    fastest, slowest = (float(finite.min()), float(finite.max())) if finite.size else (1.0, 2.0)
    with style.applied():
        figure = style.new_figure(style.DOUBLE, 2.7)
        left, right = figure.subplots(1, 2)
        part = np.where(table.total > 0, table.solved / np.maximum(table.total, 1), np.nan)
        _draw(left, part, np.char.add(counts, star), table, matplotlib.colormaps["Blues"], Normalize(0, 1))
        speed = LogNorm(fastest, max(slowest, 1.5 * fastest))
        _draw(
            right,
            table.median_update,
            updates,
            table,
            matplotlib.colormaps["Oranges"].with_extremes(bad="0.93"),
            speed,
        )
        left.set_title("networks that solve the task")
        right.set_title("median number of updates until solved")
        style.add_key(figure, [], [share_solved.budget(dataset)])
    return figure


def numbers(dataset: xr.Dataset) -> pd.DataFrame:
    """Tabulate every entry of the maps, with Wilson's interval of the share."""
    table = map_of(dataset)
    rows = []
    for (row, column), solved in np.ndenumerate(table.solved):
        total = table.total[row, column]
        rows.append(
            {
                "learning_rate": table.learning_rates[row],
                "clip_threshold": table.columns[column],
                "solved": solved,
                "networks": total,
                "diverged": table.diverged[row, column],
                **dict(zip(("share_solved", "lower", "upper"), share(int(solved), int(total)), strict=True)),
                "median_update": table.median_update[row, column],
            }
        )
    return pd.DataFrame(rows)

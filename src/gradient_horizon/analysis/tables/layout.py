"""Shared parts of the tables: their rows, and the formatting of numbers."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Int
from rich.table import Table

from gradient_horizon.store.joining import settings_of

MOST_SCALES = 5  # rows per swept setting in tables with a row per weight scale


def swept_keys(dataset: xr.Dataset) -> list[str]:
    """Return the swept settings that are dimensions of a joined result."""
    return [key for key in json.loads(dataset.attrs["swept"]) if key in dataset.dims]


def points_of(dataset: xr.Dataset, keys: list[str]) -> Iterator[tuple[dict[str, Any], xr.Dataset]]:
    """Yield each combination of these settings that a job measured, as it was set, with the data measured there."""
    for point in itertools.product(*(dataset[key].values.tolist() for key in keys)):
        chosen = dataset.sel(dict(zip(keys, point, strict=True)))
        if chosen.state_size.notnull():
            settings = settings_of(chosen)
            yield {key: "null" if settings[key] is None else settings[key] for key in keys}, chosen


def table_of(title: str, keys: list[str], columns: tuple[str, ...]) -> Table:
    """Return an empty table with a column per swept setting, followed by columns of numbers."""
    table = Table(title=title)
    for key in keys:
        table.add_column(key)
    for name in columns:
        table.add_column(name, justify="right")
    return table


def few_scales(dataset: xr.Dataset) -> Int[np.ndarray, " K"]:
    """Return the indices of up to `MOST_SCALES` weight scales, evenly spaced and including both ends."""
    last = dataset.sizes["weight_scale"] - 1
    return np.linspace(0, last, min(last + 1, MOST_SCALES)).round().astype(int)


def median_of(values: xr.DataArray, digits: int, *, spread: bool = False) -> str:
    """Return the median over seeds as text and, with `spread`, half the 10–90 % range if that is finite."""
    known = values.values[~np.isnan(values.values)]
    if not len(known):
        return ""
    text = f"{np.median(known):z.{digits}f}"
    if not spread or len(known) == 1 or np.isinf(known).any():
        return text
    lower, upper = np.quantile(known, (0.1, 0.9))
    return f"{text}±{(upper - lower) / 2:.{digits}f}"

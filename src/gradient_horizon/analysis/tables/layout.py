"""What the tables share: their rows, and numbers as text."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Int
from rich.table import Table

from gradient_horizon.store.datasets import settings_of

MOST_SCALES = 5  # rows a swept setting where each weight scale has its own


def swept_keys(dataset: xr.Dataset) -> list[str]:
    """The swept settings that are dimensions of a joined result."""
    return [key for key in json.loads(dataset.attrs["swept"]) if key in dataset.dims]


def points_of(dataset: xr.Dataset, keys: list[str]) -> Iterator[tuple[dict[str, Any], xr.Dataset]]:
    """The combinations of these settings that a job measured, as they were set, and what it measured there."""
    for point in itertools.product(*(dataset[key].values.tolist() for key in keys)):
        chosen = dataset.sel(dict(zip(keys, point, strict=True)))
        if chosen.state_size.notnull():
            settings = settings_of(chosen)
            yield {key: "null" if settings[key] is None else settings[key] for key in keys}, chosen


def table_of(title: str, keys: list[str], columns: tuple[str, ...]) -> Table:
    """A table with a column a swept setting, and columns of numbers."""
    table = Table(title=title)
    for key in keys:
        table.add_column(key)
    for name in columns:
        table.add_column(name, justify="right")
    return table


def few_scales(dataset: xr.Dataset) -> Int[np.ndarray, " K"]:
    """The places of up to `MOST_SCALES` weight scales, evenly spread, both ends among them."""
    last = dataset.sizes["weight_scale"] - 1
    return np.linspace(0, last, min(last + 1, MOST_SCALES)).round().astype(int)


def median_of(values: xr.DataArray, digits: int, *, spread: bool = False) -> str:
    """The median over seeds, and half the 10–90 % range where that is finite."""
    known = values.values[~np.isnan(values.values)]
    if not len(known):
        return ""
    text = f"{np.median(known):z.{digits}f}"
    if not spread or len(known) == 1 or np.isinf(known).any():
        return text
    lower, upper = np.quantile(known, (0.1, 0.9))
    return f"{text}±{(upper - lower) / 2:.{digits}f}"

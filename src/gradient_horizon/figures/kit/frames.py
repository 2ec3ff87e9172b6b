"""Plotted data as tables, one row per point."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float


def curve(place: dict[str, Any], **columns: np.ndarray) -> pd.DataFrame:
    """Return a table with one row per point; its first columns identify the curve."""
    return pd.DataFrame(
        {**{key: [value] * len(next(iter(columns.values()))) for key, value in place.items()}, **columns}
    )


def band(place: dict[str, Any], abscissa: str, x: np.ndarray, values: Float[np.ndarray, "3 X"]) -> pd.DataFrame:
    """Return the 10 % quantile, the median and the 90 % quantile over seeds along an abscissa."""
    lower, median, upper = values
    return curve(place, **{abscissa: x, "lower": lower, "median": median, "upper": upper})


def stacked(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Concatenate the tables in order; columns that a table lacks are empty."""
    return pd.concat([*tables], ignore_index=True)

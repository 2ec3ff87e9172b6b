"""What a figure plots, as a table: one row a point."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float


def curve(place: dict[str, Any], **columns: np.ndarray) -> pd.DataFrame:
    """A row a point; the first columns say which curve it is of."""
    return pd.DataFrame(
        {**{key: [value] * len(next(iter(columns.values()))) for key, value in place.items()}, **columns}
    )


def band(place: dict[str, Any], abscissa: str, x: np.ndarray, values: Float[np.ndarray, "3 X"]) -> pd.DataFrame:
    """The 10 % quantile, the median and the 90 % quantile over seeds along an abscissa."""
    lower, median, upper = values
    return curve(place, **{abscissa: x, "lower": lower, "median": median, "upper": upper})


def stacked(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """The rows of all, in order; what a table has no column for is empty."""
    return pd.concat([*tables], ignore_index=True)

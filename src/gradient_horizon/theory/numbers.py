"""Validation of arguments, a log that accepts 0, and a bracketing root finder."""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike


def number(name: str, value: float, low: float = 0.0) -> float:
    """`value` as a float; `ValueError`, naming the setting, if it is not finite or is below `low`."""
    if not (math.isfinite(value) and value >= low):
        allowed = "any finite number" if low == -math.inf else f"a finite number of at least {low:g}"
        raise ValueError(f"{name}: {value}; allowed: {allowed}")
    return float(value)


def count(name: str, value: int) -> int:
    """`value` as an int; `ValueError`, naming the setting, if it is not a whole number of at least 1."""
    if value < 1 or int(value) != value:
        raise ValueError(f"{name}: {value}; allowed: a whole number of at least 1")
    return int(value)


def counts(name: str, values: ArrayLike) -> Float[np.ndarray, "..."]:
    """`values` in float64; `ValueError`, naming the setting, if any is negative or not a whole number."""
    array = np.asarray(values, dtype=np.float64)
    if not np.all(np.isfinite(array) & (array >= 0) & (np.floor(array) == array)):
        raise ValueError(f"{name}: {values}; allowed: whole numbers of at least 0")
    return array


def log(value: float) -> float:
    """The natural log; -inf at 0."""
    return math.log(value) if value > 0 else -math.inf


def positive_root(function: Callable[[float], float], low: float, high: float) -> float:
    """The point at which `function`, above zero at `low` and below at `high`, changes sign; 0 < `low` < `high`.

    Bisection on a logarithmic scale, down to neighbouring floats, however many decades lie in between.
    """
    while low < (middle := math.sqrt(low) * math.sqrt(high)) < high:
        if function(middle) > 0:
            low = middle
        else:
            high = middle
    return low

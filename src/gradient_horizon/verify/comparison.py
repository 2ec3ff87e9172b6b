"""Lines of the verification page: a law, its prediction, the measurement, and the tolerance between the two."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

CHAIN_RULE = "chain rule; Pascanu, Mikolov, Bengio 2013, eq. 5"
ROUNDING = "each step rounds by (n + 8) eps, times the cancellation in the product"
STANDARD_ERRORS = 5.0  # exceeded by one normal number in 1.7 million


@dataclass(frozen=True)
class Comparison:
    """A law compared with a measurement.

    - `law`, `source`: what must hold, and the paper or argument it comes from.
    - `predicted`, `measured`: one number each; of many, the pair that comes closest to failing.
    - `tolerance`, `origin`: how far apart they may be, and the reason for that limit.
    - `bound`: the law is an upper bound, so only an excess over `predicted` counts.
    - `trace`: the traceback, if an error stopped the check; later laws of that check were not measured.
    """

    law: str
    source: str
    predicted: float
    measured: float
    tolerance: float
    origin: str
    bound: bool = False
    trace: str = ""

    @property
    def difference(self) -> float:
        """How far `measured` is from what the law allows; 0 if both are the same infinity, or both NaN."""
        if self.predicted == self.measured or (math.isnan(self.predicted) and math.isnan(self.measured)):
            return 0.0
        gap = self.measured - self.predicted
        return max(gap, 0.0) if self.bound else abs(gap)

    @property
    def passed(self) -> bool:
        """True if the difference is within the tolerance; False for a NaN on one side only."""
        return self.difference <= self.tolerance


@dataclass(frozen=True)
class Plot:
    """A figure of the page, drawn when the page is written."""

    caption: str
    draw: Callable[[], Any]


Item: TypeAlias = Comparison | Plot
Check: TypeAlias = Callable[[bool], Iterator[Item]]  # check(full): with more and larger networks if `full`


def worst(
    law: str,
    source: str,
    predicted: ArrayLike,
    measured: Any,
    tolerance: ArrayLike,
    origin: str,
    *,
    bound: bool = False,
) -> Comparison:
    """The comparison of that pair, out of arrays of pairs, whose difference is largest relative to its tolerance."""
    arrays = np.broadcast_arrays(*(np.asarray(values, np.float64) for values in (predicted, measured, tolerance)))
    lines = [
        Comparison(law, source, float(one), float(other), float(allowed), origin, bound)
        for one, other, allowed in zip(*(array.ravel() for array in arrays), strict=True)
    ]
    if len(lines) == 1:
        return lines[0]

    tightest = max(lines, key=_strain)
    return replace(tightest, law=f"{law} (worst of {len(lines)})")


def _strain(line: Comparison) -> float:
    """How close the line is to failing: 1 at the tolerance, inf beyond it."""
    if not line.passed:
        return math.inf
    gap = line.measured - line.predicted if line.bound else line.difference  # for bounds, the tightest
    return gap / line.tolerance if line.tolerance > 0 else 0.0


def standard_error(sample: ArrayLike) -> float:
    """The standard error of the mean of independent numbers."""
    values = np.asarray(sample, np.float64)
    return float(np.std(values, ddof=1) / math.sqrt(values.size))


def extrapolated(
    small: Float[np.ndarray, "... S"], large: Float[np.ndarray, "... S"], power: float
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """The mean of logs at N → ∞, from samples at N and 2N with corrections like N^-`power`, and its tolerance."""
    ratio = 2.0**power
    low, high = small.mean(axis=-1), large.mean(axis=-1)
    limit = (ratio * high - low) / (ratio - 1.0)
    errors = [sample.std(axis=-1, ddof=1) / math.sqrt(sample.shape[-1]) for sample in (small, large)]
    error = np.hypot(errors[0], ratio * errors[1]) / (ratio - 1.0)
    return limit, STANDARD_ERRORS * error + (low - limit) ** 2


def product_rounding(factors: Float[np.ndarray, "T n n"], dtype: Any) -> float:
    """A bound on the error of log‖J_T ... J_1‖_F, formed one factor at a time, to first order in eps.

    Each step rounds by (n + 8) eps ‖J_j‖ ‖M(j-1, 0)‖: n for the sums of n terms, 8 for the entries of J_j itself. Later
    steps multiply that by at most ‖M(T, j)‖₂: Σ_j ‖M(T, j)‖₂ ‖J_j‖_F ‖M(j-1, 0)‖₂ / ‖M(T, 0)‖_F is the cancellation in
    the product (Higham 2002, section 3.7).
    """
    steps, n, _ = factors.shape
    early, late = [np.eye(n)], [np.eye(n)]
    for factor in factors:
        early.append(factor @ early[-1])
    for factor in factors[::-1]:
        late.append(late[-1] @ factor)
    loss = sum(
        np.linalg.norm(late[steps - j], 2) * np.linalg.norm(factors[j - 1]) * np.linalg.norm(early[j - 1], 2)
        for j in range(1, steps + 1)
    )
    size = np.linalg.norm(early[-1])
    return float((n + 8) * np.finfo(dtype).eps * loss / size) if size > 0 else 0.0


def log_norms(factors: Float[np.ndarray, "T n n"], anchor: str, order: Any = None) -> Float[np.ndarray, " T"]:
    """Log norms of the products of `factors` at every lag, in NumPy; `order` is that of `numpy.linalg.norm`."""
    product = np.eye(factors.shape[1])
    logs = []
    for factor in factors if anchor == "start" else factors[::-1]:
        product = factor @ product if anchor == "start" else product @ factor
        with np.errstate(divide="ignore"):
            logs.append(np.log(np.linalg.norm(product, order)))
    return np.array(logs)

"""The gradient horizon: the first lag at which the gradient has vanished or exploded, and quantiles over networks."""

import math
import sys
import warnings
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from gradient_horizon.names import HORIZON_KINDS, HorizonKind


class Horizon(NamedTuple):
    """The horizon of a network, or of many.

    - `lag`: the first lag, from 1, at which the gradient has left its range; T + 1 if `kind` is `BEYOND` (read it as
      censored), NaN if `kind` is `NONFINITE`.
    - `kind`: a `HorizonKind`, or an array of their integer values.
    """

    lag: Any
    kind: Any


class Reach(NamedTuple):
    """The horizon of one network: T + 1 if `kind` is `beyond`, NaN if it is `nonfinite`."""

    lag: float
    kind: str


def horizon_of(log_norm: Float[Any, "*networks T"], state_size: int, threshold: float = 3.0) -> Horizon:
    """The first lag (from 1) at which |log10(‖M‖_F / √n)| exceeds `threshold`, and what happened there.

    `log_norm` holds natural logs of Frobenius norms from the end, lags along the last axis; n = `state_size`.

    **Returns:** a `Horizon`: Python numbers for one network, NumPy arrays (lags in float64) for several. Inside
    `jax.jit` or `jax.vmap`, JAX arrays (lags in the dtype of `log_norm`) with zero derivative.
    """
    jax: Any = sys.modules.get("jax")  # not imported just for this: printing tables does not need it
    is_traced = jax is not None and isinstance(log_norm, jax.core.Tracer)
    xp: Any = sys.modules["jax.numpy"] if is_traced else np
    log_norm = log_norm if is_traced else np.asarray(log_norm, np.float64)
    scaled = (log_norm - 0.5 * math.log(state_size)) / math.log(10.0)
    stops = ~(xp.abs(scaled) <= threshold)  # NaN stops too
    reached = stops.any(axis=-1)
    first = stops.argmax(axis=-1)
    value = xp.take_along_axis(scaled, first[..., None], axis=-1)[..., 0]
    kind = xp.where(value < 0, int(HorizonKind.VANISHED), int(HorizonKind.EXPLODED))
    kind = xp.where(xp.isnan(value), int(HorizonKind.NONFINITE), kind)
    kind = xp.where(reached, kind, int(HorizonKind.BEYOND)).astype(np.int8)
    lag = xp.where(reached, first + 1, scaled.shape[-1] + 1).astype(scaled.dtype)
    lag = xp.where(kind == int(HorizonKind.NONFINITE), np.nan, lag)
    return Horizon(lag, kind) if is_traced or kind.ndim else Horizon(float(lag), HorizonKind(int(kind)))


def gradient_horizon(log_norm: Float[Any, "*networks T"], state_size: int, threshold: float = 3.0) -> Horizon:
    """The name of `horizon_of` in version 0.1; deprecated."""
    warnings.warn(
        "gradient_horizon.gradient_horizon is now gradient_horizon.horizon_of", DeprecationWarning, stacklevel=2
    )
    return horizon_of(log_norm, state_size, threshold)


def horizon_quantile(horizon: ArrayLike, kind: ArrayLike, level: float = 0.5) -> tuple[Reach, Reach]:
    """The two networks whose horizons bracket the quantile `level`, each with the way its gradient ends.

    `horizon` and `kind` have shape (S,) and are as returned by `horizon_of`; `kind` may also be given as words.
    Censored values cannot be averaged, nor can a gradient that vanishes with one that explodes, so the result is a pair
    of order statistics: of m networks sorted by lag, those at positions ⌊`level` (m - 1)⌋ and ⌈`level` (m - 1)⌉,
    counted from 0. Both are the same network unless the quantile lies between two. A network that overflows
    (`nonfinite`) has exploded at an unknown lag: it is sorted first for the lower position and last for the upper one,
    so the quantile lies between the two whatever that lag was. Networks without a kind ("", from missing jobs) are
    ignored; if there are no others, the kind returned is "".
    """
    horizon, kind = np.asarray(horizon, np.float64), np.asarray(kind)
    words = kind if kind.dtype.kind in "UO" else np.array([*HORIZON_KINDS, ""])[kind]
    overflows = [Reach(math.nan, "nonfinite")] * int(np.sum(words == "nonfinite"))
    has_lag = (words != "nonfinite") & (words != "")
    reaches = sorted(Reach(lag, str(word)) for lag, word in zip(horizon[has_lag].tolist(), words[has_lag], strict=True))
    last = len(overflows) + len(reaches) - 1
    if last < 0:
        return Reach(math.nan, ""), Reach(math.nan, "")
    return [*overflows, *reaches][math.floor(level * last)], [*reaches, *overflows][math.ceil(level * last)]


def neutral_scale(scales: Float[np.ndarray, " G"], log_growth: Float[np.ndarray, " G"]) -> float:
    """The weight scale at which a log growth first crosses zero from below, interpolated; NaN if it never does."""
    scales, log_growth = np.asarray(scales, np.float64), np.asarray(log_growth, np.float64)
    below, above = log_growth[:-1], log_growth[1:]
    crossings = np.flatnonzero((below < 0) & (above >= 0))
    if not len(crossings):
        return float("nan")
    k = crossings[0]
    if not np.isfinite(below[k]) or not np.isfinite(above[k]):
        return float(scales[k + 1])
    return float(scales[k] - below[k] * (scales[k + 1] - scales[k]) / (above[k] - below[k]))

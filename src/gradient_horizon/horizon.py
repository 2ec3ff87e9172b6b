"""The gradient horizon: the first lag at which the gradient has vanished or exploded."""

import numpy as np
from jaxtyping import Float, Int

from gradient_horizon.names import HORIZON_KINDS

VANISHED, EXPLODED, BEYOND, NONFINITE = range(len(HORIZON_KINDS))


def gradient_horizon(
    log_norm: Float[np.ndarray, "*networks T"], state_size: int, threshold: float = 3.0
) -> tuple[Float[np.ndarray, "*networks"], Int[np.ndarray, "*networks"]]:
    """The first lag (from 1) at which |log10(‖M‖_F / √n)| exceeds `threshold`, and what happened there.

    `log_norm` holds natural logs of Frobenius norms from the end, lags along the last axis; n = `state_size`.
    The kind indexes `names.HORIZON_KINDS`: `vanished`, `exploded`, `beyond` (T ends first; the value is then T + 1,
    to be read as censored) or `nonfinite` (value NaN).
    """
    scaled = (np.asarray(log_norm, np.float64) - 0.5 * np.log(state_size)) / np.log(10.0)
    stops = ~(np.abs(scaled) <= threshold)  # NaN stops too
    reached = stops.any(axis=-1)
    first = stops.argmax(axis=-1)
    value = np.take_along_axis(scaled, first[..., None], axis=-1)[..., 0]
    kind = np.where(value < 0, VANISHED, EXPLODED)
    kind = np.where(np.isnan(value), NONFINITE, kind)
    kind = np.where(reached, kind, BEYOND)
    horizon = np.where(reached, first + 1.0, scaled.shape[-1] + 1.0)
    return np.where(kind == NONFINITE, np.nan, horizon), kind.astype(np.int8)


def neutral_scale(scales: Float[np.ndarray, " G"], log_growth: Float[np.ndarray, " G"]) -> float:
    """The weight scale at which a log growth first crosses zero from below, interpolated; NaN where it never does."""
    scales, log_growth = np.asarray(scales, np.float64), np.asarray(log_growth, np.float64)
    below, above = log_growth[:-1], log_growth[1:]
    crossings = np.flatnonzero((below < 0) & (above >= 0))
    if not len(crossings):
        return float("nan")
    k = crossings[0]
    if not np.isfinite(below[k]) or not np.isfinite(above[k]):
        return float(scales[k + 1])
    return float(scales[k] - below[k] * (scales[k + 1] - scales[k]) / (above[k] - below[k]))

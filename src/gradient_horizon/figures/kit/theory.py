"""Theory overlaid on measurements: the law that applies to a panel, and the style of its lines."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D

from gradient_horizon.analysis.laws import Law, law_for
from gradient_horizon.figures.kit import style
from gradient_horizon.figures.kit.panels import lines_of
from gradient_horizon.figures.kit.weight_scale import spans_decades
from gradient_horizon.store.joining import settings_of

_DOTS: dict[str, Any] = {"linestyle": (0, (1, 1.3)), "linewidth": 1.0, "dash_capstyle": "butt", "gid": "theory"}
_POINTS = 80


def law_of(data: xr.Dataset) -> Law | None:
    """Return what theory predicts for the networks of one panel or line; None if there is no closed form."""
    return law_for(settings_of(data))


def look(color: Any) -> dict[str, Any]:
    """Return a dotted style, darker than the measurement's colour, so that both stay visible where they agree."""
    return {"color": tuple(0.55 * part for part in to_rgb(color)), **_DOTS}


def grid(scales: Float[np.ndarray, " G"], law: Law) -> Float[np.ndarray, " P"]:
    """Return weight scales over the measured range, dense enough for a smooth curve.

    Includes the edge, where χ is 1, if it lies within the range.
    """
    first, last = float(scales.min()), float(scales.max())
    if first == last:
        return np.array([first])
    points = np.geomspace if spans_decades(scales) else np.linspace
    fine, edge = points(first, last, _POINTS), law.edge()
    return np.union1d(fine, [edge]) if first < edge < last else fine


def growth_of(data: xr.Dataset) -> tuple[Float[np.ndarray, " P"], Float[np.ndarray, " P"]]:
    """Return weight scales over the measured range and the theoretical growth per step there; empty without a law."""
    law = law_of(data)
    if law is None:
        return np.empty(0), np.empty(0)
    fine = grid(data["weight_scale"].values, law)
    return fine, np.array([law.log_growth(scale) for scale in fine.tolist()])


def key_of(panels: Iterable[xr.Dataset]) -> style.Key:
    """Return the legend entry for the dotted lines on these panels.

    No spread is predicted: for one W at every step neither the scatter of log‖M‖_F nor its bias at finite N has a
    closed form beyond lags of about √N (at N = 256, lag 100, a tanh network lies up to 1.2 below the limit and scatters
    by 0.9). The band over seeds shows the spread at this N, and the entry states that N.
    """
    lines = [line for panel in panels for line in lines_of(panel).values()]
    exact = {law.is_exact for line in lines if (law := law_of(line)) is not None}
    if not exact:
        return []
    sizes = {settings_of(line).get("hidden_size") for line in lines}
    here = f" (here $N$ = {sizes.pop()})" if len(sizes) == 1 else ""
    limit = Rf"mean field, $N \to \infty${here}"
    words = "exact" if exact == {True} else limit if exact == {False} else f"{limit}, or exact"
    return [(Line2D([], [], **look(style.GREY)), words)]

"""The norm of the Jacobian product against lag: how fast the gradient grows or decays on its way back in time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from gradient_horizon.figures.kit import style, theory
from gradient_horizon.figures.kit.panels import remarks_on, setting, split
from gradient_horizon.figures.kit.quantiles import over_seeds, thin_band, thin_curve
from gradient_horizon.figures.kit.weight_scale import ScaleColours

XLABEL = R"lag $\tau$ (steps)"
MOST_NUMBERS = 2**22  # numbers of a large result sorted at once
_PRODUCTS = {
    "log_norm": R"\partial {0}_T/\partial {0}_{{T\!-\!\tau}}",
    "log_norm_from_start": R"\partial {0}_\tau/\partial {0}_0",
}

_SECOND: dict[str, Any] = {"linewidth": 0.8, "linestyle": (0, (5, 2))}


@dataclass(frozen=True)
class Quantity:
    """The norm that a figure shows, in decades.

    `threshold`: that of the gradient horizon, if this norm defines it. `state`: the symbol of the differentiated state.
    """

    variable: str
    norm: str
    per_unit: bool
    threshold: float | None
    state: str = "h"

    @property
    def has_theory(self) -> bool:
        """True if theory covers it: the Frobenius norm over √n, from the end, where the state has settled."""
        return self.variable == "log_norm" and self.per_unit

    @property
    def label(self) -> str:
        """The axis label."""
        index = "F" if self.norm == "frobenius" else "2"
        divisor = R"\,/\sqrt{n}" if self.per_unit else ""
        product = _PRODUCTS[self.variable].format(self.state)
        return Rf"$\log_{{10}}\,\Vert {product}\Vert_{index}{divisor}$"

    def decades(self, data: xr.Dataset) -> Float[np.ndarray, "G S T"]:
        """Return log10 of the norm, divided by √n for a Frobenius norm, by weight scale, seed and lag."""
        logs = data[self.variable].sel(norm=self.norm).transpose("weight_scale", "seed", "lag").values
        return logs / math.log(10.0) - (0.5 * math.log10(float(data["state_size"])) if self.per_unit else 0.0)

    def bands(self, data: xr.Dataset) -> Float[np.ndarray, "3 G T"]:
        """Return the 10, 50 and 90 % quantiles over seeds, in decades, by weight scale and lag.

        NaN if most networks overflow. Computed for a few weight scales at a time, as the whole may be larger than
        memory.
        """
        step = max(1, MOST_NUMBERS // (data.sizes["seed"] * data.sizes["lag"]))
        bands = []
        for start in range(0, data.sizes["weight_scale"], step):
            some = data.isel(weight_scale=slice(start, start + step))
            bands.append(over_seeds(self.decades(some), some["finite"].transpose("weight_scale", "seed").values))
        return np.concatenate(bands, axis=1)


def quantity_of(dataset: xr.Dataset) -> Quantity:
    """Return the Frobenius norm from the end if it was measured, otherwise what was measured instead."""
    variable = "log_norm" if "log_norm" in dataset else "log_norm_from_start"
    norms = [str(name) for name in dataset["norm"].values]
    norm = "frobenius" if "frobenius" in norms else norms[0]
    # √n is the Frobenius norm of the identity: a gradient that passes unchanged has 0 decades. ‖I‖₂ is 1 already.
    per_unit = norm == "frobenius" and "state_size" in dataset
    defines = variable == "log_norm" and per_unit
    threshold = setting(dataset, "horizon_threshold") if defines else None
    return Quantity(variable, norm, per_unit, threshold, "c" if setting(dataset, "block") == "cell" else "h")


def spectral_beside(dataset: xr.Dataset, quantity: Quantity, colours: ScaleColours) -> Quantity | None:
    """Return the spectral norm if it was measured along with the Frobenius norm.

    None if it was not, or if too many lines would cross.
    """
    has_both = quantity.norm == "frobenius" and "spectral" in dataset["norm"].values
    return Quantity(quantity.variable, "spectral", False, None) if has_both and colours.is_named else None


def _growth(
    data: xr.Dataset, bands: Float[np.ndarray, "3 G T"], quantity: Quantity, colours: ScaleColours
) -> dict[int, float]:
    """Return the theoretical decades per step by index of each scale drawn bold; empty if no law applies."""
    law = theory.law_of(data) if quantity.has_theory else None
    alive = [index for index in colours.strong() if not np.isnan(bands[1, index]).all()]
    growth = {index: law.log_growth(float(colours.scales[index])) / math.log(10.0) for index in alive if law}
    return {index: slope for index, slope in growth.items() if math.isfinite(slope)}


def _limits(curves: Sequence[np.ndarray], threshold: float | None) -> tuple[float, float]:
    finite = np.concatenate([values[np.isfinite(values)] for values in curves])
    ends = [finite.min(), finite.max()] if finite.size else [-1.0, 1.0]
    ends += [-threshold, threshold] if threshold else []
    room = 0.04 * max(max(ends) - min(ends), 0.1)
    return float(min(ends) - room), float(max(ends) + room)


def draw_norms(
    axes: Sequence[Axes],
    panels: Sequence[xr.Dataset],
    quantity: Quantity,
    colours: ScaleColours,
    second: Quantity | None = None,
) -> None:
    """Draw one panel per Axes: one line per weight scale, and the threshold.

    As many scales as stay legible also get the band over seeds, theory (dotted), and the median of a `second` norm
    (dashed).
    """
    bands = [quantity.bands(data) for data in panels]
    medians = [second.bands(data)[1] if second else np.empty((0, 0)) for data in panels]
    growth = [_growth(data, band, quantity, colours) for data, band in zip(panels, bands, strict=True)]
    last = [_last(band) for band in bands]
    ends = [lag * np.array([*slopes.values()]) for lag, slopes in zip(last, growth, strict=True)]
    bottom, top = _limits([*bands, *medians, *ends], quantity.threshold)
    for ax, data, band, dashed, slopes, lag in zip(axes, panels, bands, medians, growth, last, strict=True):
        lags = data["lag"].values[:lag]
        # A product that is exactly zero has no logarithm: its line drops through the bottom of the axis.
        _draw_lines(ax, lags, np.where(np.isneginf(band), 2 * bottom - top, band)[..., :lag], colours)
        for index in colours.strong() if dashed.size else ():
            ax.plot(*thin_curve(lags, dashed[index, :lag]), color=colours.of(index), **_SECOND)
        for index, slope in slopes.items():
            ax.plot((0, lags[-1]), (0, slope * lags[-1]), **theory.look(colours.of(index)))
        for height in (-quantity.threshold, quantity.threshold) if quantity.threshold else ():
            ax.axhline(height, **style.REFERENCE)
        ax.set_ylim(bottom, top)
        ax.yaxis.set_major_locator(MaxNLocator(6, integer=True, steps=style.ROUND))
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=style.ROUND))


def _last(bands: Float[np.ndarray, "3 G T"]) -> int:
    """Return the number of lags that were measured; those of a shorter job are padded with NaN."""
    measured = np.flatnonzero(~np.isnan(bands[1]).all(axis=0))
    return int(measured[-1]) + 1 if measured.size else bands.shape[-1]


def _draw_lines(
    ax: Axes, lags: Int[np.ndarray, " T"], bands: Float[np.ndarray, "3 G T"], colours: ScaleColours
) -> None:
    strong = colours.strong()
    for index, (lower, median, upper) in enumerate(np.moveaxis(bands, 1, 0)):
        colour = colours.of(index)
        if index in strong and not np.array_equal(lower, upper, equal_nan=True):
            x, low, high = thin_band(lags, lower, upper)
            ax.fill_between(x, low, high, color=colour, alpha=0.25, linewidth=0)
        marker = "." if len(lags) == 1 else ""
        ax.plot(*thin_curve(lags, median), color=colour, linewidth=1.2 if index in strong else 0.5, marker=marker)
    ax.set_xlim(0, lags[-1])


def key_of(quantity: Quantity, colours: ScaleColours, seeds: int, second: Quantity | None = None) -> style.Key:
    """Return legend entries for the lines, bands and dashes of `draw_norms`."""
    key = style.median_key(seeds, colours.remark())
    if second:
        key.append((Line2D([], [], color=style.GREY, **_SECOND), R"spectral norm, $\Vert\cdot\Vert_2$"))
    if quantity.threshold:
        key.append((Line2D([], [], **style.REFERENCE), f"horizon threshold (±{quantity.threshold:g} decades)"))
    return key


def norm_against_lag(dataset: xr.Dataset) -> Figure:
    """Plot log10 of ‖∂h_T/∂h_(T-τ)‖_F / √n against the lag τ, coloured by weight scale.

    Median and 10–90 % band over seeds. One panel per combination of swept settings. A median that is exactly zero
    leaves the axis at the bottom. Networks that overflow are left out and counted. Without `state_size` the norm is not
    divided by √n.
    """
    dataset = dataset.sortby("weight_scale")
    quantity, grid = quantity_of(dataset), split(dataset)
    with style.applied():
        colours = ScaleColours(dataset["weight_scale"].values)
        figure, axes = grid.subplots(XLABEL, quantity.label, sharex="steps" not in dataset.dims)
        draw_norms(axes, [panel.data for panel in grid.panels], quantity, colours)
        colours.add_bar(figure, axes)
        notes = remarks_on(dataset, grid.left_out)
        columns = 1 if len(axes) == 1 else 4
        key = key_of(quantity, colours, dataset.sizes["seed"])
        if quantity.has_theory:
            key += theory.key_of(panel.data for panel in grid.panels)
        style.add_key(figure, key, notes, columns)
    return figure

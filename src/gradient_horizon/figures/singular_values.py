"""The singular values of the Jacobian product: in how many directions the gradient grows, and in how many it decays."""

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gradient_horizon.figures.kit import style, theory
from gradient_horizon.figures.kit.panels import MOST_COLUMNS, remarks_on, split_scales
from gradient_horizon.figures.kit.quantiles import over_seeds, thin_band, thin_curve
from gradient_horizon.figures.kit.weight_scale import ScaleColours
from gradient_horizon.figures.lyapunov import INDEX, draw_limit, limit_key

LAG = R"lag $\tau$"
GROWTH = R"$\log\,\sigma_i\,/\,\tau$ (1/step)"


def logs_of(data: xr.Dataset) -> Float[np.ndarray, "3 L N"]:
    """Return the 10, 50 and 90 % quantiles over seeds of each log σ_i (natural), by lag and index, of one weight scale.

    NaN if most networks overflow, at lags that were not measured, and beyond the state of a smaller network.
    """
    logs = data["log_singular_value"].transpose("seed", "lag", "index").values
    return over_seeds(logs[None], data["finite"].values[None])[:, 0]


def draw_lines(ax: Axes, bands: Float[np.ndarray, "3 L N"], colours: ScaleColours, below: float) -> None:
    """Draw one line per lag against the index over n, with its band; -inf is drawn at `below`, out of sight."""
    measured = np.flatnonzero(~np.isnan(bands[1]).all(axis=0))
    n = int(measured[-1]) + 1 if measured.size else bands.shape[2]
    x = np.arange(1, n + 1) / n
    for index, (lower, median, upper) in enumerate(np.moveaxis(np.where(np.isneginf(bands), below, bands), 1, 0)):
        if not np.array_equal(lower, upper, equal_nan=True):
            places, low, high = thin_band(x, lower[:n], upper[:n])
            ax.fill_between(places, low, high, color=colours.of(index), alpha=0.25, linewidth=0)
        marker = "." if n == 1 else ""
        ax.plot(*thin_curve(x, median[:n]), color=colours.of(index), linewidth=1.1, marker=marker)
    ax.set_xlim(0, 1)
    ax.xaxis.set_major_locator(MaxNLocator(4, steps=style.ROUND))


def growth_of_every_direction(dataset: xr.Dataset) -> Figure:
    """Plot log σ_i / τ of ∂h_T/∂h_(T-τ) against the index over n, one line per lag: median and 10–90 % band over seeds.

    One panel per weight scale, at most four, and one row per combination of swept settings. As the lag grows, the lines
    settle at the Lyapunov exponents; on the left, the largest of these by mean field. A σ that is exactly zero leaves
    the axis at the bottom.
    """
    dataset = dataset.sortby("weight_scale")
    grid = split_scales(dataset, MOST_COLUMNS)
    lags = dataset["lag"].values
    with style.applied():
        figure, axes = grid.subplots(INDEX, GROWTH)
        colours = ScaleColours(lags, LAG)
        growth = [logs_of(panel.data) / lags[:, None] for panel in grid.panels]
        every = np.concatenate([bands[np.isfinite(bands)] for bands in growth])
        bottom, top = (min(0.0, every.min()), max(0.0, every.max())) if every.size else (-1.0, 1.0)
        room = 0.04 * max(top - bottom, 0.1)
        for ax, panel, bands in zip(axes, grid.panels, growth, strict=True):
            ax.axhline(0, **style.REFERENCE)
            draw_lines(ax, bands, colours, 2 * bottom - top - 2 * room)
            law = theory.law_of(panel.data)
            limit = law.log_growth(float(panel.data["weight_scale"])) if law else np.nan
            if np.isfinite(limit):
                draw_limit(ax, limit, style.GREY)
            ax.set_ylim(bottom - room, top + room)
            ax.yaxis.set_major_locator(MaxNLocator(6, steps=style.ROUND))
        colours.add_bar(figure, axes)
        key = style.median_key(dataset.sizes["seed"], colours.remark())
        key += limit_key([panel.data for panel in grid.panels])
        notes = remarks_on(dataset, grid.left_out)
        style.add_key(figure, key, notes, 1 if len(axes) == 1 else 4)
    return figure

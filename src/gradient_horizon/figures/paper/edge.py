"""The gradient's norm against lag below, at and above the edge of chaos."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from gradient_horizon.figures import norm_curves
from gradient_horizon.figures.kit import frames, panels, style, theory
from gradient_horizon.figures.kit.weight_scale import ScaleColours
from gradient_horizon.names import declare
from gradient_horizon.store.records import ResultError

DECLARES = declare.PaperFigure(
    "edge",
    "norm against lag below, at and above the edge of chaos, for tanh, ReLU and hard tanh, with mean field",
    number=2,
    preset="edge",
    title="The gradient vanishes below the edge of chaos, explodes above it, and lasts longest near it",
    caption=(
        "Norm of the Jacobian product, ‖∂h_T/∂h_(T-τ)‖_F/√n, against the lag τ: median (line) and 10–90 % range"
        " (band) over seeds. Colours give the weight scale g as a multiple of g_c, the cell's edge of chaos, at which"
        " χ = 1: g_c is 1 for tanh and hard tanh, and √2 for ReLU. Dotted: mean field, τ ½ log χ, which is exact as N"
        " → ∞ (Poole et al. 2016; Schoenholz et al. 2017) and makes no statement about the band, the spread at finite"
        " N. The longest lags reach back to the random initial state. Dashed: the threshold of the gradient horizon."
    ),
    quick=("hidden_size=32", "steps=50", "seeds=16"),
)
MULTIPLES = (0.8, 0.9, 1.0, 1.2, 1.5)
_COMMAND = "gradient-horizon run +sweeps=edge"


@dataclass(frozen=True)
class Curve:
    """One cell at one multiple of its edge: quantiles over seeds and mean field by lag, in decades."""

    cell: str
    multiple: float
    weight_scale: float
    lags: Int[np.ndarray, " T"]
    bands: Float[np.ndarray, "3 T"]
    theory: Float[np.ndarray, " T"]


def curves_of(dataset: xr.Dataset) -> list[Curve]:
    """Return the curve of every cell at every multiple, in order."""
    if "log_norm" not in dataset or "cell" not in dataset.dims:
        raise ResultError(f"dataset: has no norms of several cells; {_COMMAND} makes them")
    curves, quantity = [], norm_curves.quantity_of(dataset)
    for cell in dataset["cell"].values.tolist():
        data = dataset.sel(cell=cell)
        law = theory.law_of(data)
        if law is None:
            raise ResultError(f"dataset: there is no mean field of {cell} here; {_COMMAND} makes what has one")
        for multiple in MULTIPLES:
            scale = multiple * law.edge()
            near = data.isel(weight_scale=np.flatnonzero(np.isclose(data["weight_scale"], scale, rtol=1e-6)))
            if not near.sizes["weight_scale"]:
                raise ResultError(f"dataset: {cell} was not measured at g = {scale:g}; {_COMMAND} makes it")
            lags, growth = data["lag"].values, law.log_growth(scale) / math.log(10.0)
            bands = quantity.bands(near)[:, 0]
            curves.append(Curve(cell, multiple, near["weight_scale"].item(), lags, bands, growth * lags))
    return curves


def _draw(ax: Axes, curves: list[Curve], colours: dict[float, Any]) -> None:
    for curve in curves:
        lower, median, upper = curve.bands
        colour = colours[curve.multiple]
        ax.fill_between(curve.lags, lower, upper, color=colour, alpha=0.22, linewidth=0)
        ax.plot(curve.lags, median, color=colour)
        ax.plot(curve.lags, curve.theory, **theory.look(colour))
    edge = next(curve.weight_scale for curve in curves if curve.multiple == 1.0)
    ax.set_title(f"{style.in_words(curves[0].cell)}, $g_c$ = {edge:.4g}")
    ax.set(xlabel=norm_curves.XLABEL, xlim=(0, curves[0].lags[-1]))
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=style.ROUND))
    ax.yaxis.set_major_locator(MaxNLocator(6, integer=True, steps=style.ROUND))


def draw(dataset: xr.Dataset) -> Figure:
    """Draw one panel per cell, with one colour per multiple of its edge."""
    curves = curves_of(dataset)
    cells = list(dict.fromkeys(curve.cell for curve in curves))
    quantity = norm_curves.quantity_of(dataset)
    with style.applied():
        shades = ScaleColours(np.array(MULTIPLES))
        colours = {multiple: shades.of(index) for index, multiple in enumerate(MULTIPLES)}
        figure = style.new_figure(style.DOUBLE, 2.7)
        axes = figure.subplots(1, len(cells), sharey=True, squeeze=False)[0]
        for ax, cell in zip(axes, cells, strict=True):
            _draw(ax, [curve for curve in curves if curve.cell == cell], colours)
            for height in (-quantity.threshold, quantity.threshold) if quantity.threshold else ():
                ax.axhline(height, **style.REFERENCE)
        axes[0].set_ylabel(quantity.label)
        key: style.Key = [(Line2D([], [], color=colour), f"{multiple:g} $g_c$") for multiple, colour in colours.items()]
        key += norm_curves.key_of(quantity, shades, dataset.sizes["seed"])
        key += theory.key_of(dataset.sel(cell=cell) for cell in cells)
        notes = panels.remarks_on(dataset)
        style.add_key(figure, key, notes, 5)
    return figure


def numbers(dataset: xr.Dataset) -> pd.DataFrame:
    """Tabulate every curve: log10 of the norm over √n by lag, with mean field."""
    return frames.stacked(
        frames.band(
            {"cell": curve.cell, "weight_scale": curve.weight_scale, "multiple_of_the_edge": curve.multiple},
            "lag",
            curve.lags,
            curve.bands,
        ).assign(mean_field=curve.theory)
        for curve in curves_of(dataset)
    )

"""The gradient horizon over weight scale and network size, with the mean-field prediction."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator, StrMethodFormatter

from gradient_horizon.figures import horizon
from gradient_horizon.figures.kit import frames, style, theory, weight_scale
from gradient_horizon.figures.kit.panels import setting
from gradient_horizon.figures.kit.weight_scale import ScaleColours
from gradient_horizon.names import declare
from gradient_horizon.store.records import ResultError

DECLARES = declare.PaperFigure(
    "reach",
    "the gradient horizon over weight scale and network size, with the mean-field prediction",
    number=4,
    preset="reach",
    title="The gradient horizon of tanh networks over weight scale and network size",
    caption=(
        "The gradient horizon is the first lag τ at which ‖∂h_T/∂h_(T-τ)‖_F/√N has grown or shrunk by more than three"
        " decades. Left: the horizon against the weight scale g, one line per network size N; median over seeds and,"
        " for the largest N, the 10–90 % range. Dotted: the mean-field prediction, the first τ with τ |½ log₁₀ χ| > 3"
        " (Schoenholz et al. 2017), which diverges at the edge of chaos, g = 1. Dashed: the end T of the measurement,"
        " beyond which a horizon is only known to be longer. Right: the horizon against N at several weight scales,"
        " each with its 10–90 % range and its prediction (dotted)."
    ),
    quick=("hidden_size=8,16,32", "steps=100", "seeds=4", "weight_scales=[0.6,0.8,1.0,1.2,1.5,2.0]"),
)
SIZES = "hidden units $N$"
SHOWN = (0.7, 0.9, 1.2, 1.5, 2.0)  # weight scales of the right panel, if they were measured
_FAR = 1e9  # the prediction at the edge, drawn far above the axis so that the line leaves it steeply


def _checked(dataset: xr.Dataset) -> xr.Dataset:
    if "horizon" not in dataset or "hidden_size" not in dataset.dims or dataset.sizes["weight_scale"] < 2:
        raise ResultError(
            "dataset: has no horizon over hidden_size and weight_scale; gradient-horizon run +sweeps=reach makes it"
        )
    return dataset.sortby(["hidden_size", "weight_scale"])


def _by_size(dataset: xr.Dataset) -> list[xr.Dataset]:
    return [dataset.sel(hidden_size=size) for size in dataset["hidden_size"].values]


def _horizons(dataset: xr.Dataset) -> tuple[Float[np.ndarray, "K 3 G"], list[list[str]]]:
    """Return the 10, 50 and 90 % quantiles over seeds by size and weight scale, and the kind of each median."""
    horizons = [horizon.horizons_of(data) for data in _by_size(dataset)]
    return np.stack([bands for bands, _ in horizons]), [kinds for _, kinds in horizons]


def _law(dataset: xr.Dataset, at: Float[np.ndarray, " G"] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return weight scales, those given or a grid fine enough to draw, and the predicted horizon at each."""
    law = theory.law_of(dataset.isel(hidden_size=0))
    if law is None:
        return np.empty(0), np.empty(0)
    fine = theory.grid(dataset["weight_scale"].values, law) if at is None else at
    threshold = setting(dataset, "horizon_threshold")
    return fine, np.array([law.horizon(scale, threshold) for scale in fine.tolist()])


def _shown(dataset: xr.Dataset) -> list[int]:
    """Return the indices of the weight scales of the right panel."""
    return [place for place, scale in enumerate(dataset["weight_scale"].values.tolist()) if scale in SHOWN]


def _draw_scales(
    ax: Axes, dataset: xr.Dataset, bands: Float[np.ndarray, "K 3 G"], kinds: list[list[str]], colours: ScaleColours
) -> None:
    g = dataset["weight_scale"].values
    weight_scale.draw_band(ax, g, bands[-1, 0], bands[-1, 2], colours.of(len(bands) - 1))
    for index, median in enumerate(bands[:, 1]):
        ax.plot(g, median, color=colours.of(index), linewidth=1.0)
        horizon.draw_marks(ax, g, median, kinds[index], colours.of(index))
    fine, law = _law(dataset)
    ax.plot(fine, np.minimum(law, _FAR), **theory.look("black"))
    weight_scale.set_axis(ax, g)
    ax.set(xlabel=weight_scale.LABEL, ylabel=horizon.YLABEL)


def _draw_sizes(ax: Axes, dataset: xr.Dataset, bands: Float[np.ndarray, "K 3 G"], kinds: list[list[str]]) -> style.Key:
    sizes, places = dataset["hidden_size"].values.astype(float), _shown(dataset)
    looks = style.line_looks(len(places))
    g = dataset["weight_scale"].values[places]
    _, predicted = _law(dataset, g)
    for number, (place, look) in enumerate(zip(places, looks, strict=True)):
        lower, median, upper = bands[:, :, place].T
        ax.fill_between(sizes, lower, upper, color=look["color"], alpha=0.18, linewidth=0)
        ax.plot(sizes, median, linewidth=1.0, **look)
        horizon.draw_marks(ax, sizes, median, [of_size[place] for of_size in kinds], look["color"])
        if predicted.size:
            ax.plot(sizes[[0, -1]], [predicted[number]] * 2, **theory.look(look["color"]))
    ax.set(xscale="log", xlabel=SIZES, xlim=(sizes[0] / 1.1, sizes[-1] * 1.1))
    ax.xaxis.set_major_locator(FixedLocator(sizes.tolist()))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_minor_formatter(NullFormatter())
    return [(Line2D([], [], **look), f"$g$ = {scale:g}") for look, scale in zip(looks, g.tolist(), strict=True)]


def draw(dataset: xr.Dataset) -> Figure:
    """Draw the horizon against the weight scale, and against the size of the network."""
    dataset = _checked(dataset)
    bands, kinds = _horizons(dataset)
    last = dataset.sizes["lag"]
    with style.applied():
        figure = style.new_figure(style.DOUBLE, 3.3)
        axes: Any = figure.subplots(1, 2, sharey=True, width_ratios=(1.5, 1))
        left, right = axes
        colours = ScaleColours(dataset["hidden_size"].values, SIZES)
        _draw_scales(left, dataset, bands, kinds, colours)
        key = _draw_sizes(right, dataset, bands, kinds)
        for ax in axes:
            horizon.draw_end(ax, last)
        finite = bands[np.isfinite(bands)]
        horizon.set_ordinate(axes, float(finite.min(initial=last)), last)
        colours.add_bar(figure, [left])
        key += horizon.marks_key({kind for row in kinds for kind in row})
        key += style.median_key(dataset.sizes["seed"]) + theory.key_of(_by_size(dataset))
        style.add_key(figure, key, horizon.notes_on(dataset), 5)
    return figure


def numbers(dataset: xr.Dataset) -> pd.DataFrame:
    """Tabulate the horizon with its band and kind by `hidden_size` and `weight_scale`, and the prediction.

    The prediction is the same for every size.
    """
    dataset = _checked(dataset)
    bands, kinds = _horizons(dataset)
    g, sizes = dataset["weight_scale"].values, dataset["hidden_size"].values.tolist()
    rows = [
        frames.band({"curve": "measured", "hidden_size": size}, "weight_scale", g, of_size).assign(kind=kind)
        for size, of_size, kind in zip(sizes, bands, kinds, strict=True)
    ]
    fine, law = _law(dataset)
    return frames.stacked([*rows, frames.curve({"curve": "mean field"}, weight_scale=fine, horizon=law)])

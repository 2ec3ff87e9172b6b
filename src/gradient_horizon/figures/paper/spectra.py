"""Lyapunov spectra against the weight scale, the dimension of the attractor and the entropy rate."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from gradient_horizon.figures import lyapunov
from gradient_horizon.figures.kit import frames, style, theory, weight_scale
from gradient_horizon.figures.kit.quantiles import over_seeds
from gradient_horizon.figures.kit.weight_scale import ScaleColours
from gradient_horizon.names import declare
from gradient_horizon.store.records import ResultError

DECLARES = declare.PaperFigure(
    "spectra",
    "Lyapunov spectra against weight scale; dimension and entropy rate",
    number=6,
    preset="spectra",
    title="Lyapunov spectra of tanh networks, and the dimension and entropy rate of their attractors",
    caption=(
        "(a) All Lyapunov exponents λ_i (natural logarithm, per step) of the largest networks against their index"
        " over N, coloured by the weight scale g; the axis is cut off at −3. Diamonds: the largest exponent by mean"
        " field, N → ∞. Dashed: the exact exponents of networks at rest, log |eigenvalue_i of W|. (b) The largest"
        " exponent, with ½ log χ of mean field dotted (Molgedey, Schuchhardt, Schuster 1992). (c) The Kaplan-Yorke"
        " dimension of the attractor over N, and (d) its entropy rate over N, the sum of the positive exponents"
        " (Pesin). Where different sizes agree in (c) and (d), chaos is extensive (Engelken, Wolf, Abbott 2023); far"
        " above the edge this takes larger N than are shown. All panels: median and 10–90 % range over seeds."
    ),
    quick=("hidden_size=16,32", "steps=200", "transient=100", "seeds=3", "weight_scales=[0.8,1.5,2.5,5.0,10.0]"),
)
LOWEST = -3.0  # lowest exponent of panel (a): saturated networks have far lower ones, which would hide all others
DIMENSION = R"dimension $D_{KY}\,/\,N$"
ENTROPY = R"entropy rate$\,/\,N$ (1/step)"
_OF_UNIT = {"kaplan_yorke_dimension": DIMENSION, "entropy_rate": ENTROPY}


def _by_size(dataset: xr.Dataset) -> dict[int, xr.Dataset]:
    needed = {"lyapunov_exponent", *_OF_UNIT} <= {*dataset.data_vars}
    if not needed or "hidden_size" not in dataset.dims or dataset.sizes["weight_scale"] < 2:
        raise ResultError(
            "dataset: has no exponents over hidden_size and weight_scale; gradient-horizon run +sweeps=spectra makes it"
        )
    dataset = dataset.sortby(["hidden_size", "weight_scale"])
    return {int(size): dataset.sel(hidden_size=size) for size in dataset["hidden_size"].values}


def _over_n(data: xr.Dataset, name: str) -> Float[np.ndarray, "3 G"]:
    """Return the 10, 50 and 90 % quantiles over seeds of dimension or entropy rate, over the number of units."""
    values, finite = (data[key].transpose("weight_scale", "seed").values for key in (name, "finite"))
    return over_seeds(values / float(data["state_size"]), finite)


def _curves(sizes: dict[int, xr.Dataset]) -> dict[str, dict[int, Float[np.ndarray, "3 G"]]]:
    """Return bands against the weight scale, by the label of the ordinate and the size."""
    largest = {size: lyapunov.spectra_of(data)[..., 0] for size, data in sizes.items()}
    per_unit = {label: {size: _over_n(data, name) for size, data in sizes.items()} for name, label in _OF_UNIT.items()}
    return {lyapunov.LARGEST: largest, **per_unit}


def _shown(largest: dict[int, Float[np.ndarray, "3 G"]]) -> tuple[float, float]:
    """Return the limits of panel (a): from `LOWEST` to a little above the largest exponent."""
    finite = [bands[np.isfinite(bands)].max(initial=0.0) for bands in largest.values()]
    return LOWEST, max(finite) + 0.1 * (max(finite) - LOWEST)


def _draw_curves(ax: Axes, curves: dict[int, np.ndarray], g: np.ndarray, looks: dict[int, dict[str, Any]]) -> None:
    for size, bands in curves.items():
        lower, median, upper = np.where(np.isneginf(bands), np.nan, bands)
        weight_scale.draw_band(ax, g, lower, upper, looks[size]["color"])
        ax.plot(g, median, marker="o", markersize=2, linewidth=0.9, **looks[size])
    weight_scale.set_axis(ax, g)
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=style.ROUND))


def draw(dataset: xr.Dataset) -> Figure:
    """Draw the spectra of the largest networks, and the largest exponent, dimension and entropy rate of every size."""
    sizes = _by_size(dataset)
    biggest = sizes[max(sizes)]
    g, curves = biggest["weight_scale"].values, _curves(sizes)
    with style.applied():
        figure = style.new_figure(style.DOUBLE, 4.6)
        axes: Any = figure.subplots(2, 2)
        colours = ScaleColours(g)
        exact = lyapunov.draw_spectra([axes[0, 0]], [biggest], colours)
        axes[0, 0].set(xlabel=lyapunov.INDEX, ylabel=lyapunov.SPECTRUM, ylim=_shown(curves[lyapunov.LARGEST]))
        colours.add_bar(figure, [axes[0, 0]])
        looks = dict(zip(sizes, style.line_looks(len(sizes)), strict=True))
        others = (axes[0, 1], axes[1, 0], axes[1, 1])
        for ax, (label, of_sizes) in zip(others, curves.items(), strict=True):
            _draw_curves(ax, of_sizes, g, looks)
            ax.set(xlabel=weight_scale.LABEL, ylabel=label)
        axes[0, 1].axhline(0, **style.REFERENCE)
        axes[0, 1].plot(*theory.growth_of(biggest), **theory.look("black"))
        for ax in axes[1]:
            ax.set_ylim(bottom=0)
        for letter, ax in zip("abcd", axes.ravel(), strict=True):
            ax.set_title(f"({letter})" + (f" $N$ = {max(sizes)}" if letter == "a" else ""))
        key: style.Key = [(Line2D([], [], **look), f"$N$ = {size}") for size, look in looks.items()]
        key += style.median_key(dataset.sizes["seed"]) + lyapunov.limit_key([*sizes.values()]) + exact
        style.add_key(figure, key, lyapunov.notes_on(dataset), 4)
    return figure


def numbers(dataset: xr.Dataset) -> pd.DataFrame:
    """Tabulate each curve by `hidden_size` and `weight_scale`, and the largest exponent by mean field.

    Spectra are also by `index`.
    """
    sizes = _by_size(dataset)
    biggest = max(sizes)
    g = sizes[biggest]["weight_scale"].values
    names = ("largest exponent", "dimension over N", "entropy rate over N")
    rows = [
        frames.band({"curve": name, "hidden_size": size}, "weight_scale", g, bands)
        for name, curves in zip(names, _curves(sizes).values(), strict=True)
        for size, bands in curves.items()
    ]
    spectra, rest = lyapunov.spectra_of(sizes[biggest]), lyapunov.at_rest_of(sizes[biggest])
    index = np.arange(1, biggest + 1)
    for place, scale in enumerate(g.tolist()):
        here = {"hidden_size": biggest, "weight_scale": scale}
        rows.append(frames.band({"curve": "spectrum", **here}, "index", index, spectra[:, place, :biggest]))
        if rest is not None and not np.isnan(rest[place]).any():
            rows.append(frames.curve({"curve": "spectrum at rest", **here}, index=index, exact=rest[place]))
    fine, law = theory.growth_of(sizes[biggest])
    rows.append(frames.curve({"curve": "mean field"}, weight_scale=fine, law=law))
    return frames.stacked(rows)

"""The phase diagram of where gradients decay and grow, over the scales of weights and biases."""

from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from gradient_horizon.figures import lyapunov
from gradient_horizon.figures.kit import frames, style, theory, weight_scale
from gradient_horizon.measures.horizon import neutral_scale
from gradient_horizon.names import declare
from gradient_horizon.store.joining import settings_of
from gradient_horizon.store.records import ResultError
from gradient_horizon.theory.mean_field_theory import critical_line

DECLARES = declare.PaperFigure(
    "phase",
    "growth per step over weight scale and bias, with the critical line",
    number=3,
    preset="phase",
    title="Phase diagram of tanh networks: growth of the gradient over the scales of weights and biases",
    caption=(
        "Left: growth of the gradient per step, that is, the largest Lyapunov exponent λ₁ (natural logarithm, median"
        " over seeds), against the weight scale g and the standard deviation σ_b of the biases. Blue: perturbations"
        " decay, and the gradient vanishes. Red: perturbations grow (chaos), and the gradient explodes; the colours"
        " saturate at the fastest growth. Circles: zero crossings of the median; line: the critical line χ = 1 of mean"
        " field, N → ∞ (Poole et al. 2016; Schoenholz et al. 2017). Right: cuts at several σ_b with the 10–90 % range"
        " over seeds (bands) and ½ log χ (dotted)."
    ),
    quick=(
        "hidden_size=32",
        "steps=150",
        "transient=50",
        "seeds=2",
        "bias_scale=0.0,0.5,1.0",
        "weight_scales={start: 0.5, stop: 3.5, num: 7}",
    ),
)
BIAS = R"standard deviation $\sigma_b$ of the biases"
CUTS = 4  # values of σ_b that are drawn as lines
_FINE = 200
_COLOURS = "RdBu_r"  # white where the gradient keeps its size
_LINE: dict[str, Any] = {"color": "black", "linewidth": 1.2}
_MEASURED: dict[str, Any] = {
    "linestyle": "none",
    "marker": "o",
    "markersize": 4,
    "markerfacecolor": "white",
    "markeredgecolor": "black",
    "markeredgewidth": 0.8,
}


def _growth(dataset: xr.Dataset) -> tuple[xr.Dataset, Float[np.ndarray, "B 3 G"]]:
    """Return the sorted data, and the 10, 50 and 90 % quantiles of λ_1 over seeds, by bias scale and weight scale."""
    if "lyapunov_exponent" not in dataset or "bias_scale" not in dataset.dims or dataset.sizes["weight_scale"] < 2:
        raise ResultError(
            "dataset: has no exponents over bias_scale and weight_scale; gradient-horizon run +sweeps=phase makes it"
        )
    dataset = dataset.sortby(["bias_scale", "weight_scale"])
    return dataset, np.stack([lyapunov.spectra_of(cut)[..., 0] for _, cut in _by_bias(dataset)])


def _by_bias(dataset: xr.Dataset) -> list[tuple[float, xr.Dataset]]:
    return [(float(bias), dataset.sel(bias_scale=bias)) for bias in dataset["bias_scale"].values]


def _cuts(dataset: xr.Dataset) -> list[int]:
    last = dataset.sizes["bias_scale"] - 1
    return np.unique(np.linspace(0, last, CUTS).round().astype(int)).tolist()


def _critical(dataset: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the critical line: σ_b, and the g at which χ is 1."""
    biases, cell = dataset["bias_scale"].values, settings_of(dataset)["cell"]
    fine = np.linspace(biases[0], biases[-1], _FINE)
    return fine, np.array([critical_line(cell, bias) for bias in fine.tolist()])


def _crossings(dataset: xr.Dataset, growth: Float[np.ndarray, "B 3 G"]) -> Float[np.ndarray, " B"]:
    """Return where the median crosses zero, by bias scale; NaN if it does not."""
    return np.array([neutral_scale(dataset["weight_scale"].values, bands[1]) for bands in growth])


def _draw_map(ax: Axes, dataset: xr.Dataset, growth: Float[np.ndarray, "B 3 G"], norm: Normalize) -> None:
    g, biases = dataset["weight_scale"].values, dataset["bias_scale"].values
    ax.pcolormesh(g, biases, growth[:, 1], cmap=_COLOURS, norm=norm, shading="nearest", rasterized=True)
    fine, critical = _critical(dataset)
    left, right = ax.get_xlim()
    shown = critical < right
    ax.plot(critical[shown], fine[shown], **_LINE)
    ax.plot(_crossings(dataset, growth), biases, **_MEASURED)
    for x, y, side, words in ((0.03, 0.95, "left", "vanishing"), (0.97, 0.05, "right", "exploding")):
        at: dict[str, Any] = {"ha": side, "va": "center", "transform": ax.transAxes}
        ax.text(x, y, words, color="white", fontweight="bold", **at)
    ax.set(xlim=(left, right), xlabel=weight_scale.LABEL, ylabel=BIAS)


def _draw_cuts(ax: Axes, dataset: xr.Dataset, growth: Float[np.ndarray, "B 3 G"]) -> style.Key:
    g, by_bias, places = dataset["weight_scale"].values, _by_bias(dataset), _cuts(dataset)
    looks = style.line_looks(len(places))
    ax.axhline(0, **style.REFERENCE)
    for look, place in zip(looks, places, strict=True):
        lower, median, upper = growth[place]
        weight_scale.draw_band(ax, g, lower, upper, look["color"])
        ax.plot(g, median, linewidth=1.0, **look)
        ax.plot(*theory.growth_of(by_bias[place][1]), **theory.look(look["color"]))
    weight_scale.set_axis(ax, g)
    ax.yaxis.set_major_locator(MaxNLocator(6, steps=style.ROUND))
    ax.set(xlabel=weight_scale.LABEL, ylabel=R"$\lambda_1$ (1/step)")
    return [
        (Line2D([], [], **look), Rf"$\sigma_b$ = {by_bias[place][0]:g}")
        for look, place in zip(looks, places, strict=True)
    ]


def draw(dataset: xr.Dataset) -> Figure:
    """Draw the map with the critical line, and cuts through it with mean field."""
    dataset, growth = _growth(dataset)
    finite = growth[:, 1][np.isfinite(growth[:, 1])]
    end = finite.max(initial=0.1)  # decay may be far faster than growth, and would leave no colours for it
    norm = Normalize(-end, end)
    with style.applied():
        figure = style.new_figure(style.DOUBLE, 3.2)
        left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
        _draw_map(left, dataset, growth, norm)
        mappable, extend = (
            ScalarMappable(norm, matplotlib.colormaps[_COLOURS]),
            "min" if finite.min(initial=0.0) < -end else "neither",
        )
        style.add_bar(figure, mappable, [left], label=lyapunov.LARGEST, extend=extend)
        cuts = _draw_cuts(right, dataset, growth)
        key: style.Key = [
            (Line2D([], [], **_LINE), R"critical line, $\chi = 1$"),
            (Line2D([], [], **_MEASURED), R"measured $\lambda_1 = 0$"),
        ]
        key += cuts + style.median_key(dataset.sizes["seed"]) + theory.key_of([dataset.isel(bias_scale=0)])
        style.add_key(figure, key, lyapunov.notes_on(dataset, spectra=False), 4)
    return figure


def numbers(dataset: xr.Dataset) -> pd.DataFrame:
    """Tabulate λ_1 with its band by `bias_scale` and `weight_scale`, mean field on the cuts, and the critical line.

    Also the measured crossings.
    """
    dataset, growth = _growth(dataset)
    g, by_bias = dataset["weight_scale"].values, _by_bias(dataset)
    rows = [
        frames.band({"curve": "measured", "bias_scale": bias}, "weight_scale", g, bands)
        for (bias, _), bands in zip(by_bias, growth, strict=True)
    ]
    for bias, cut in (by_bias[place] for place in _cuts(dataset)):
        fine, law = theory.growth_of(cut)
        rows.append(frames.curve({"curve": "mean field", "bias_scale": bias}, weight_scale=fine, growth=law))
    fine, critical = _critical(dataset)
    rows.append(frames.curve({"curve": "critical line"}, bias_scale=fine, weight_scale=critical))
    crossings = _crossings(dataset, growth)
    rows.append(
        frames.curve({"curve": "measured crossing"}, bias_scale=dataset["bias_scale"].values, weight_scale=crossings)
    )
    return frames.stacked(rows)

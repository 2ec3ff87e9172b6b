"""Dynamical isometry, or how many directions of the gradient survive with Gaussian and orthogonal weights."""

import math
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from gradient_horizon.figures import singular_values
from gradient_horizon.figures.kit import frames, style, theory
from gradient_horizon.figures.kit.panels import remarks_on, title_of
from gradient_horizon.figures.kit.quantiles import over_seeds
from gradient_horizon.figures.kit.weight_scale import ScaleColours
from gradient_horizon.figures.lyapunov import INDEX
from gradient_horizon.names import declare
from gradient_horizon.store.records import ResultError
from gradient_horizon.theory.random_matrices import gaussian_power_spectrum

DECLARES = declare.PaperFigure(
    "isometry",
    "singular values against lag, Gaussian against orthogonal weights",
    number=5,
    preset="isometry",
    title="Dynamical isometry: singular values of the Jacobian product with Gaussian and with orthogonal weights",
    caption=(
        "Left and middle: all singular values σ_i of ∂h_T/∂h_(T-τ) at the edge of chaos, g = 1, after the state has"
        " settled, against their index over n: median and 10–90 % range over seeds, coloured by the lag τ. With"
        " Gaussian weights the mean square of σ is preserved, but a few directions carry all of it while the others"
        " die out; with orthogonal weights all directions behave alike (dynamical isometry: Saxe, McClelland, Ganguli"
        " 2014; Pennington, Schoenholz, Ganguli 2017). Right: the share of directions that have grown or shrunk by at"
        " most one decade. Dotted: the limit of large N, which for linear Gaussian networks is the Fuss-Catalan law of"
        " order τ (Alexeev, Götze, Tikhomirov 2010), drawn for τ < √N, and for linear orthogonal networks σ = 1, at"
        " every N."
    ),
    quick=("hidden_size=16", "steps=40", "seeds=2", "lags=[1,2,5,10,20]"),
)
DECADES = R"$\log_{10}\,\sigma_i$"
SHARE = R"share with $|\log_{10}\,\sigma_i| \leq 1$"
KEPT = 1.0  # decades that a direction may gain or lose to count as kept
RANGE = (-4.0, 1.5)  # decades that the axis shows: anything below is lost, however far
_CELLS, _WEIGHTS = ("linear", "tanh"), ("gaussian", "orthogonal")


def _panels(dataset: xr.Dataset) -> dict[tuple[str, str], xr.Dataset]:
    """Return the data of each cell and ensemble at its first weight scale."""
    if "log_singular_value" not in dataset or not {"cell", "weights"} <= {*dataset.dims}:
        raise ResultError(
            "dataset: has no singular values over cell and weights; gradient-horizon run +sweeps=isometry makes it"
        )
    chosen = dataset.isel(weight_scale=0)
    return {
        (cell, weights): chosen.sel(cell=cell, weights=weights)
        for cell in _CELLS
        for weights in _WEIGHTS
        if cell in dataset["cell"] and weights in dataset["weights"]
    }


def _decades(data: xr.Dataset) -> Float[np.ndarray, "3 L N"]:
    return singular_values.logs_of(data) / math.log(10.0)


def _shares(data: xr.Dataset) -> Float[np.ndarray, "3 L"]:
    """Return the 10, 50 and 90 % quantiles over seeds of the share of directions that are kept, by lag."""
    logs = data["log_singular_value"].transpose("seed", "lag", "index").values / math.log(10.0)
    kept = np.where(np.isnan(logs).all(axis=-1), np.nan, np.mean(np.abs(logs) <= KEPT, axis=-1))
    return over_seeds(kept[None], data["finite"].values[None])[:, 0]


def _law(at: tuple[str, str], scale: float, lag: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Return index over n, and log10 σ, in the limit of large N; None if no law is known."""
    if at == ("linear", "orthogonal"):
        share, logs = np.array([0.0, 1.0]), np.zeros(2)
    elif at == ("linear", "gaussian"):
        share, logs = gaussian_power_spectrum(lag)
    else:
        return None
    return share, (logs + lag * math.log(scale)) / math.log(10.0)


def _share_by_law(at: tuple[str, str], scale: float, lag: int) -> float | None:
    law = _law(at, scale, lag)
    if law is None:
        return None
    share, decades = law
    if at[1] == "orthogonal":
        return float(abs(decades[0]) <= KEPT)
    lost_above, kept = np.interp((KEPT, -KEPT), decades[::-1], share[::-1])
    return float(kept - lost_above)


def _known(data: xr.Dataset, at: tuple[str, str]) -> list[int]:
    """Return the lags at which the law holds at this N: all if orthogonal, τ < √N for powers of one Gaussian matrix."""
    lags = data["lag"].values.tolist()
    return [lag for lag in lags if at[1] == "orthogonal" or lag * lag < int(data["state_size"])]


def _draw_spectra(ax: Axes, data: xr.Dataset, at: tuple[str, str], colours: ScaleColours) -> None:
    ax.axhline(0, **style.REFERENCE)
    singular_values.draw_lines(ax, _decades(data), colours, RANGE[0] - 10)
    lags, scale = data["lag"].values.tolist(), float(data["weight_scale"])
    for lag in _known(data, at):
        law = _law(at, scale, lag)
        if law is not None:
            ax.plot(*law, **theory.look(colours.of(lags.index(lag))))
    ax.set_ylim(*RANGE)
    ax.yaxis.set_major_locator(MaxNLocator(6, integer=True))


def _draw_shares(ax: Axes, panels: dict[str, xr.Dataset], cell: str, looks: dict[str, dict[str, Any]]) -> None:
    for weights, data in panels.items():
        lags, (lower, median, upper) = data["lag"].values, _shares(data)
        ax.fill_between(lags, lower, upper, color=looks[weights]["color"], alpha=0.25, linewidth=0)
        ax.plot(lags, median, marker="o", markersize=2.5, linewidth=1.0, **looks[weights])
        at, scale = (cell, weights), float(data["weight_scale"])
        law = [(lag, share) for lag in _known(data, at) if (share := _share_by_law(at, scale, lag)) is not None]
        if law:
            ax.plot(*zip(*law, strict=True), **theory.look(looks[weights]["color"]))
    ax.set(xscale="log", ylim=(0, 1.04))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def draw(dataset: xr.Dataset) -> Figure:
    """Draw one row per cell: the singular values with each ensemble of weights, and the share of directions kept."""
    panels = _panels(dataset)
    cells = list(dict.fromkeys(cell for cell, _ in panels))
    with style.applied():
        figure = style.new_figure(style.DOUBLE, 0.9 + 1.85 * len(cells))
        axes = figure.subplots(len(cells), 3, sharex="col", squeeze=False)
        colours = ScaleColours(dataset["lag"].values, singular_values.LAG)
        looks = dict(zip(_WEIGHTS, style.line_looks(2), strict=True))
        for row, cell in zip(axes, cells, strict=True):
            of_cell = {weights: panels[cell, weights] for weights in _WEIGHTS if (cell, weights) in panels}
            for ax, (weights, data) in zip(row, of_cell.items(), strict=False):
                _draw_spectra(ax, data, (cell, weights), colours)
                ax.set_title(title_of({"cell": cell, "weights": weights}))
                ax.set_ylabel(DECADES)
            _draw_shares(row[2], of_cell, cell, looks)
            row[2].set(title=title_of({"cell": cell}), ylabel=SHARE)
        for ax in axes[-1, :2]:
            ax.set_xlabel(INDEX)
        axes[-1, 2].set_xlabel(singular_values.LAG + " (steps)")
        colours.add_bar(figure, axes[:, :2].ravel().tolist())
        key: style.Key = [
            (Line2D([], [], marker="o", markersize=2.5, **look), f"{style.in_words(name)} weights")
            for name, look in looks.items()
        ]
        key += style.median_key(dataset.sizes["seed"])
        key.append((Line2D([], [], **theory.look(style.GREY)), R"theory, $N \to \infty$"))
        style.add_key(figure, key, remarks_on(dataset))
    return figure


def numbers(dataset: xr.Dataset) -> pd.DataFrame:
    """Tabulate log10 σ against `index_over_n` and the share kept, each with its law, by `cell`, `weights` and `lag`."""
    rows = []
    for at, data in _panels(dataset).items():
        place = dict(zip(("cell", "weights"), at, strict=True))
        lags, bands, n, scale = data["lag"].values, _decades(data), int(data["state_size"]), float(data["weight_scale"])
        index = np.arange(1, n + 1) / n
        for lag, of_lag in zip(lags.tolist(), np.moveaxis(bands, 1, 0), strict=True):
            here = {"curve": "log10 singular value", **place, "lag": lag}
            rows.append(frames.band(here, "index_over_n", index, of_lag[:, :n]))
        rows.append(frames.band({"curve": "share kept", **place}, "lag", lags, _shares(data)))
        for lag in _known(data, at):
            law, share = _law(at, scale, lag), _share_by_law(at, scale, lag)
            if law is not None and share is not None:
                here = {"curve": "log10 singular value, law", **place, "lag": lag}
                rows.append(frames.curve(here, index_over_n=law[0], law=law[1]))
                here = {"curve": "share kept, law", **place, "lag": lag}
                rows.append(frames.curve(here, law=np.array([share])))
    return frames.stacked(rows)

"""The norm of the gradient between every pair of times, in the three regimes."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gradient_horizon.figures import all_pairs
from gradient_horizon.figures.kit import frames, panels, style, theory
from gradient_horizon.names import declare
from gradient_horizon.settings.schema import Config
from gradient_horizon.store.records import ResultError

DECLARES = declare.PaperFigure(
    "triangle",
    "the norm between every pair of times, in three regimes",
    number=7,
    preset="triangle",
    title="Reach of the gradient between every pair of times, below, at and above the edge of chaos",
    caption=(
        "Norm of the Jacobian product, ‖∂h_t/∂h_s‖_F/√n, for every pair of times s < t: median over seeds. Blue: the"
        " gradient vanishes on its way from t back to s; white: it keeps its size; red: it explodes. Black contour:"
        " the threshold of the gradient horizon. Dotted: the lag at which mean field crosses that threshold,"
        " threshold/|½ log₁₀ χ| (Schoenholz et al. 2017); at the edge it never does. Below the edge J_t comes to rest,"
        " and only the lag t - s matters; at the edge the gradient lasts; above it the gradient grows, wherever it"
        " starts."
    ),
    quick=("hidden_size=32", "steps=30", "seeds=8"),
)


def _regimes(dataset: xr.Dataset) -> dict[float, Float[np.ndarray, "T T"]]:
    """Return the median over seeds by t and s, in decades, of each weight scale."""
    if "log_norm_of_pair" not in dataset:
        raise ResultError("dataset: has no norms of pairs; gradient-horizon run +sweeps=triangle makes them")
    scales = sorted(dataset["weight_scale"].values.tolist())
    return {scale: all_pairs.decades_of(dataset.sel(weight_scale=scale)) for scale in scales}


def _threshold(dataset: xr.Dataset) -> float:
    return panels.setting(dataset, "horizon_threshold") or Config().horizon_threshold


def _horizons(dataset: xr.Dataset) -> dict[float, float]:
    """Return the lag at which mean field crosses the threshold, as a real number, by weight scale; inf at the edge."""
    law = theory.law_of(dataset)
    decades = (
        {scale: abs(law.log_growth(scale)) / np.log(10.0) for scale in dataset["weight_scale"].values} if law else {}
    )
    return {float(scale): _threshold(dataset) / slope if slope > 1e-12 else np.inf for scale, slope in decades.items()}


def _regime(scale: float, edge: float) -> str:
    return ", the edge" if np.isclose(scale, edge) else ", below the edge" if scale < edge else ", above the edge"


def draw(dataset: xr.Dataset) -> Figure:
    """Draw one triangle per weight scale."""
    regimes, threshold, horizons = _regimes(dataset), _threshold(dataset), _horizons(dataset)
    law = theory.law_of(dataset)
    line: dict[str, Any] = theory.look(style.GREY)
    with style.applied():
        figure = style.new_figure(style.DOUBLE, 2.7)
        axes = figure.subplots(1, len(regimes), sharex=True, sharey=True, squeeze=False)[0].tolist()
        norm, is_cut = all_pairs.colours_of([*regimes.values()], threshold)
        shown: set[str] = set()
        for ax, (scale, decades) in zip(axes, regimes.items(), strict=True):
            shown |= all_pairs.draw_triangle(ax, decades, threshold, norm)
            ax.set(
                title=f"$g$ = {scale:g}{_regime(scale, law.edge()) if law else ''}",
                xlabel=all_pairs.EARLY,
                box_aspect=1,
            )
            steps = len(decades)
            if horizons.get(scale, np.inf) < steps:
                ax.plot((0, steps - horizons[scale]), (horizons[scale], steps), **line)
        axes[0].set_ylabel(all_pairs.LATE)
        all_pairs.add_bar(figure, axes, norm, dataset.sizes["seed"], is_cut=is_cut)
        key = all_pairs.key_of(shown, threshold)
        if any(horizons.get(scale, np.inf) < len(decades) for scale, decades in regimes.items()):
            key.append((Line2D([], [], **line), R"mean-field horizon, $N \to \infty$"))
        style.add_key(figure, key, panels.remarks_on(dataset))
    return figure


def numbers(dataset: xr.Dataset) -> pd.DataFrame:
    """Tabulate every pair s < t: the median of log10 of the norm over √n; and the lag of the mean-field horizon."""
    horizons = _horizons(dataset)
    rows = []
    for scale, decades in _regimes(dataset).items():
        late, early = np.tril_indices(len(decades))
        place = {"weight_scale": scale, "mean_field_horizon": horizons.get(scale, np.nan)}
        rows.append(frames.curve(place, late=late + 1, early=early, median=decades[late, early]))
    return frames.stacked(rows)

"""Cells with and without gates under the same measurement, and the bias of the LSTM's forget gate."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
from gradient_horizon.theory.one_unit import lstm_forget_log_norm

DECLARES = declare.PaperFigure(
    "gates",
    "vanilla, leaky, GRU and LSTM networks under the same measurement; the forget bias",
    number=8,
    preset="gates",
    title="Gates make the gradient last, and the bias of the forget gate sets for how long",
    caption=(
        "Norm of the Jacobian product of the whole state, ‖∂s_T/∂s_(T-τ)‖_F/√n, against the lag τ, where s is h or,"
        " for the LSTM, h and c together: median (line) and 10–90 % range (band) over seeds, one column per weight"
        " scale g of every recurrent matrix. Top: four cells; the LSTM has no forget bias, and the leaky cell replaces"
        " a fifth of its state per step. Bottom: the LSTM with several forget biases b. Dotted: the forget line τ"
        " log₁₀ σ(b), by which c decays in an LSTM without weights (Gers, Schmidhuber, Cummins 2000; Jozefowicz,"
        " Zaremba, Sutskever 2015). Dashed: the threshold of the gradient horizon."
    ),
    quick=("hidden_size=16", "steps=30", "seeds=8", "forget_bias=0,2", "weight_scales=[0.5,2.0]"),
)


@dataclass(frozen=True)
class Curve:
    """One cell, at one forget bias and weight scale: quantiles over seeds by lag, in decades."""

    cell: str
    forget_bias: float
    weight_scale: float
    lags: Int[np.ndarray, " T"]
    bands: Float[np.ndarray, "3 T"]

    @property
    def forget_line(self) -> Float[np.ndarray, " T"]:
        """log10 of the share of c that an LSTM with this bias and no weights keeps."""
        return lstm_forget_log_norm(self.forget_bias, self.lags) / math.log(10.0)


def curves_of(dataset: xr.Dataset) -> tuple[list[Curve], list[Curve]]:
    """Return every cell at the smallest forget bias, and the LSTM at every forget bias, each at every weight scale."""
    if "log_norm" not in dataset or not {"cell", "forget_bias"} <= {*dataset.dims}:
        raise ResultError(
            "dataset: has no norms over cells and forget biases; gradient-horizon run +sweeps=gates makes them"
        )

    def curves_at(cell: str, bias: float) -> list[Curve]:
        data = dataset.sel(cell=cell, forget_bias=bias).sortby("weight_scale")
        bands = np.moveaxis(norm_curves.quantity_of(dataset).bands(data), 1, 0)
        scales = data["weight_scale"].values.tolist()
        return [
            Curve(cell, bias, *rest) for rest in zip(scales, [data["lag"].values] * len(scales), bands, strict=True)
        ]

    biases = sorted(dataset["forget_bias"].values.tolist())
    cells = [curve for cell in dataset["cell"].values.tolist() for curve in curves_at(cell, biases[0])]
    return cells, [curve for bias in biases for curve in curves_at("lstm", bias)]


def _draw(
    axes: Sequence[Axes], curves: Sequence[Curve], colours: Mapping[Any, Any], of: Callable[[Curve], Any]
) -> None:
    """Draw one Axes per weight scale; `of` returns the property by which curves are coloured."""
    for ax, scale in zip(axes, dict.fromkeys(curve.weight_scale for curve in curves), strict=True):
        for curve in (curve for curve in curves if curve.weight_scale == scale):
            lower, median, upper = curve.bands
            ax.fill_between(curve.lags, lower, upper, color=colours[of(curve)], alpha=0.2, linewidth=0)
            ax.plot(curve.lags, median, color=colours[of(curve)])


def draw(dataset: xr.Dataset) -> Figure:
    """Draw one column per weight scale: every cell above, the LSTM at several forget biases below."""
    (cells, lstms), quantity = curves_of(dataset), norm_curves.quantity_of(dataset)
    scales = dict.fromkeys(curve.weight_scale for curve in cells)
    names, biases = (dict.fromkeys(names) for names in ([c.cell for c in cells], [c.forget_bias for c in lstms]))
    with style.applied():
        figure = style.new_figure(style.DOUBLE, 4.4)
        axes = figure.subplots(2, len(scales), sharex=True, sharey=True, squeeze=False)
        of_cells = dict(zip(names, [look["color"] for look in style.line_looks(len(names))], strict=True))
        shades = ScaleColours(np.array([*biases]))
        of_biases = {bias: shades.of(index) for index, bias in enumerate(biases)}
        _draw(axes[0], cells, of_cells, lambda curve: curve.cell)
        _draw(axes[1], lstms, of_biases, lambda curve: curve.forget_bias)
        for ax in axes[1]:
            for curve in lstms[:: len(scales)]:
                ax.plot(curve.lags, curve.forget_line, **theory.look(of_biases[curve.forget_bias]))
            ax.set_xlabel(norm_curves.XLABEL)
        for ax, scale in zip(axes[0], scales, strict=True):
            ax.set_title(f"$g$ = {scale:g}")
        for ax in axes.ravel():
            for height in (-quantity.threshold, quantity.threshold) if quantity.threshold else ():
                ax.axhline(height, **style.REFERENCE)
            ax.set_xlim(0, cells[0].lags[-1])
            ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=style.ROUND))
            ax.yaxis.set_major_locator(MaxNLocator(6, integer=True, steps=style.ROUND))
        figure.supylabel(replace(quantity, state="s").label)
        keys = (
            [(Line2D([], [], color=colour), style.in_words(name)) for name, colour in of_cells.items()],
            [(Line2D([], [], color=colour), f"LSTM, $b$ = {bias:g}") for bias, colour in of_biases.items()],
        )
        for ax, key in zip(axes[:, 0], keys, strict=True):
            ax.legend(*zip(*key, strict=True), loc="lower left", handlelength=1.2)
        key = norm_curves.key_of(quantity, shades, dataset.sizes["seed"])
        key.append((Line2D([], [], **theory.look(style.GREY)), R"forget line, $\tau\,\log_{10}\,\sigma(b)$"))
        style.add_key(figure, key, panels.remarks_on(dataset))
    return figure


def numbers(dataset: xr.Dataset) -> pd.DataFrame:
    """Tabulate every curve: log10 of the norm over √n by lag; for the forget biases, also the forget line."""
    cells, lstms = curves_of(dataset)
    rows = []
    for row, curves in (("cells", cells), ("forget bias", lstms)):
        for curve in curves:
            place = {
                "row": row,
                "cell": curve.cell,
                "forget_bias": curve.forget_bias,
                "weight_scale": curve.weight_scale,
            }
            table = frames.band(place, "lag", curve.lags, curve.bands)
            rows.append(table.assign(forget_line=curve.forget_line) if row == "forget bias" else table)
    return frames.stacked(rows)

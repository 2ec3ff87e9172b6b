"""From the study notes: what one step does to the gradient, and what repeating the same matrix does."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from gradient_horizon.figures import activations, computation_graph, notes
from gradient_horizon.figures.kit import style
from gradient_horizon.names import declare
from gradient_horizon.store.records import ResultError

DECLARES = declare.PaperFigure(
    "notes",
    "one step as a graph and the effect of each node on the gradient; repeated multiplication by one matrix",
    number=1,
    preset="notes",
    title="One step of backpropagation, and repeated multiplication by one matrix",
    caption=(
        "Top left: computation graph of one step of a plain recurrent network, with the forward pass in black and, in"
        " orange, the gradient δ of the loss and the effect of each node on it. Top right: tanh and its derivative,"
        " the factor by which the tanh node multiplies each entry of δ. Bottom: repeated multiplication dh ← dh Wₕᵀ,"
        " starting from dh = ones((2, 3)), by Wₕ = randn(3, 3) of NumPy's seed 3 and by half of it: ‖dh‖_F/N with N ="
        " 2 for 20 steps, and its logarithm for 400. float32 overflows or underflows to zero, whereas the log domain"
        " does neither. Dashed: the law by which the logarithm has the slope log₁₀ ρ, where the spectral radius ρ is"
        " the largest modulus of an eigenvalue of Wₕ."
    ),
    quick=(),
)


def _columns(dataset: xr.Dataset) -> list[tuple[str, xr.Dataset]]:
    if not {"norm", "norm_float32", "log_norm"} <= {*dataset.data_vars} or dataset.sizes["weight_scale"] != 2:
        raise ResultError(
            "dataset: has no series of experiment=notes at two scales; gradient-horizon run +sweeps=notes makes it"
        )
    return notes.columns_of(dataset.sortby("weight_scale", ascending=False))


def draw(dataset: xr.Dataset) -> Figure:
    """Draw the computation graph, tanh with its derivative, and growth and decay."""
    columns = _columns(dataset)
    with style.applied():
        figure = style.new_figure(style.DOUBLE, 4.2)
        parts: Any = figure.subfigures(2, 1)
        above, below = parts
        graph, tanh = above.subplots(1, 2, width_ratios=(2.6, 1))
        computation_graph.draw(graph)
        graph.set_title("one step, and the effect of each node on the gradient")
        colours = [look["color"] for look in style.line_looks(2)]
        activations.draw_activation(tanh, "tanh", colours)
        tanh.set(title="tanh and its derivative", xlabel="pre-activation $a$")
        tanh.legend(loc="lower right", handlelength=1.2)
        axes = below.subplots(1, 2 * len(columns))
        for (title, data), norm, logarithm in zip(columns, axes[::2], axes[1::2], strict=True):
            notes.draw_norm(norm, data)
            notes.draw_logarithms(logarithm, data)
            norm.set(title=f"multiplied by {title}", ylabel=notes.NORM)
            logarithm.set(title="its logarithm", ylabel=notes.LOGARITHM)
        style.add_key(figure, notes.logarithms_key())
    return figure


def numbers(dataset: xr.Dataset) -> pd.DataFrame:
    """Tabulate every curve, by panel; `x` is the pre-activation or the step."""
    x, value, derivative = activations.curves_of("tanh")
    curves = [("tanh", "value", x, value), ("tanh", "derivative", x, derivative)]
    for _, data in _columns(dataset):
        panel = f"{data['weight_scale'].item():g} W_h"
        curves.append((panel, "norm", data["step"].values, data["norm"].values[0]))
        for name, logs in notes.logarithms_of(data).items():
            curves.append((panel, f"log10 norm, {name}", data["long_step"].values, logs[0]))
    return pd.concat(
        [pd.DataFrame({"panel": panel, "curve": curve, "x": x, "y": np.asarray(y)}) for panel, curve, x, y in curves]
    )

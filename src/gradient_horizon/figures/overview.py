"""Which figures a job and a sweep get, by the experiment that the result's attributes name."""

import json
from collections.abc import Callable
from typing import NamedTuple

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradient_horizon.figures import (
    horizon,
    learning,
    lyapunov,
    nodes,
    norms,
    notes,
    pairs,
    panels,
    scales,
    style,
    theory,
)


def _side_by_side(
    dataset: xr.Dataset, abscissa: str, ordinates: tuple[str, str]
) -> tuple[Figure, Axes, Axes, scales.ScaleColours]:
    """Two labelled Axes: on the left a line a weight scale with its colours, on the right weight scales."""
    figure = style.new_figure(style.DOUBLE, 2.8)
    left, right = figure.subplots(1, 2)
    left.set(xlabel=abscissa, ylabel=ordinates[0])
    left.set_title(panels.title_of(json.loads(dataset.attrs["swept"])))
    right.set(xlabel=scales.LABEL, ylabel=ordinates[1])
    colours = scales.ScaleColours(dataset["weight_scale"].values)
    colours.add_bar(figure, [left])
    return figure, left, right, colours


def _norms_and_horizon(dataset: xr.Dataset) -> Figure:
    """The norm against lag beside the horizon against the weight scale; dashed the spectral norm's median."""
    if "horizon" not in dataset:
        return norms.norm_against_lag(dataset)
    dataset = dataset.sortby("weight_scale")
    quantity = norms.quantity_of(dataset)
    with style.applied():
        figure, left, right, colours = _side_by_side(dataset, norms.XLABEL, (quantity.label, horizon.YLABEL))
        second = norms.spectral_beside(dataset, quantity, colours)
        norms.draw_norms([left], [dataset], quantity, colours, second)
        _, marks = horizon.draw_horizons([right], [dataset])
        key = norms.key_of(quantity, colours, dataset.sizes["seed"], second) + marks + theory.key_of([dataset])
        style.add_key(figure, key, horizon.notes_on(dataset))
    return figure


def _spectrum_and_largest(dataset: xr.Dataset) -> Figure:
    """The Lyapunov spectrum beside the largest exponent against the weight scale."""
    dataset = dataset.sortby("weight_scale")
    with style.applied():
        labels = (lyapunov.SPECTRUM, lyapunov.LARGEST)
        figure, left, right, colours = _side_by_side(dataset, lyapunov.INDEX, labels)
        exact = lyapunov.draw_spectra([left], [dataset], colours)
        lyapunov.draw_largest([right], [dataset])
        median = style.median_key(dataset.sizes["seed"], colours.remark())
        style.add_key(figure, median + lyapunov.limit_key([dataset]) + exact, lyapunov.notes_on(dataset))
    return figure


def _of_norms(dataset: xr.Dataset) -> dict[str, Figure]:
    figures = {"norm_against_lag": norms.norm_against_lag(dataset)}
    if "horizon" in dataset:
        figures["horizon"] = horizon.horizon_against_scale(dataset)
    return figures


def _of_exponents(dataset: xr.Dataset) -> dict[str, Figure]:
    return {
        "lyapunov_spectrum": lyapunov.lyapunov_spectrum(dataset),
        "largest_exponent": lyapunov.largest_exponent_against_scale(dataset),
    }


def _of_notes(dataset: xr.Dataset) -> dict[str, Figure]:
    from gradient_horizon.figures import activations  # loads JAX

    return {
        "norm_growth_and_decay": notes.norm_growth_and_decay(dataset),
        "activations": activations.activations(),
        "tanh_derivative_in_float32": activations.tanh_derivative_in_float32(),
    }


class _Drawn(NamedTuple):
    quick_look: Callable[[xr.Dataset], Figure]
    sweep: Callable[[xr.Dataset], dict[str, Figure]]


_DRAWN = {
    "jacobian": _Drawn(_norms_and_horizon, _of_norms),
    "lyapunov": _Drawn(_spectrum_and_largest, _of_exponents),
    "pairs": _Drawn(pairs.reach_of_every_pair, lambda dataset: {"pairs": pairs.reach_of_every_pair(dataset)}),
    "nodes": _Drawn(nodes.growth_by_node, lambda dataset: {"nodes": nodes.growth_by_node(dataset)}),
    "training": _Drawn(learning.loss_against_update, lambda dataset: {"loss": learning.loss_against_update(dataset)}),
    "notes": _Drawn(notes.norm_growth_and_decay, _of_notes),
}


def quick_look(dataset: xr.Dataset) -> Figure:
    """The figure that lies beside one job's result."""
    return _DRAWN[dataset.attrs["experiment"]].quick_look(dataset)


def sweep_figures(dataset: xr.Dataset) -> dict[str, Figure]:
    """Every figure of a joined sweep, by name."""
    return _DRAWN[dataset.attrs["experiment"]].sweep(dataset)

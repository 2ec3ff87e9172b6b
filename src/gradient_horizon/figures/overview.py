"""Which figures a job and a sweep get."""

import json

import xarray as xr
from matplotlib.figure import Figure

from gradient_horizon.figures import style


def quick_look(dataset: xr.Dataset) -> Figure:
    """The figure that lies beside one job's result, by the experiment that its attributes name."""
    if dataset.attrs["experiment"] == "notes":
        from gradient_horizon.figures.notes import norm_growth_and_decay

        return norm_growth_and_decay(dataset)
    return _norms_and_horizon(dataset)


def _norms_and_horizon(dataset: xr.Dataset) -> Figure:
    """The norm against lag beside the horizon against the weight scale."""
    from gradient_horizon.figures import horizon, norms, panels, scales

    if "horizon" not in dataset:
        return norms.norm_against_lag(dataset)
    dataset = dataset.sortby("weight_scale")
    quantity = norms.quantity_of(dataset)
    with style.applied():
        figure = style.new_figure(style.DOUBLE, 2.8)
        left, right = figure.subplots(1, 2)
        left.set(xlabel=norms.XLABEL, ylabel=quantity.label)
        left.set_title(panels.title_of(json.loads(dataset.attrs["swept"])))
        right.set(xlabel=scales.LABEL, ylabel=horizon.YLABEL)
        colours = scales.ScaleColours(dataset["weight_scale"].values)
        norms.draw_norms([left], [dataset], quantity, colours)
        colours.add_bar(figure, [left])
        _, marks = horizon.draw_horizons([right], [dataset])
        key = norms.key_of(quantity, colours, dataset.sizes["seed"]) + marks
        style.add_key(figure, key, horizon.notes_on(dataset))
    return figure


def sweep_figures(dataset: xr.Dataset) -> dict[str, Figure]:
    """Every figure of a joined sweep, by name, by the experiment that its attributes name."""
    if dataset.attrs["experiment"] == "notes":
        from gradient_horizon.figures import activations, notes

        return {
            "norm_growth_and_decay": notes.norm_growth_and_decay(dataset),
            "activations": activations.activations(),
            "tanh_derivative_in_float32": activations.tanh_derivative_in_float32(),
        }
    from gradient_horizon.figures import horizon, norms

    figures = {"norm_against_lag": norms.norm_against_lag(dataset)}
    if "horizon" in dataset:
        figures["horizon"] = horizon.horizon_against_scale(dataset)
    return figures

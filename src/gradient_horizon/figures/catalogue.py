"""The figures of a job and of a sweep, by the experiment named in the result's attributes."""

import json
from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradient_horizon.figures import (
    all_pairs,
    covariant_vectors,
    fixed_points,
    gradient_norms,
    horizon,
    input_gradients,
    learning_curves,
    lyapunov,
    nodes,
    norm_curves,
    notes,
    share_solved,
    share_solved_map,
    singular_values,
    solving_against_growth,
    state_gradients,
    transient,
    weight_spectra_over_training,
)
from gradient_horizon.figures.kit import histories, panels, style, theory, weight_scale
from gradient_horizon.names import declare


def _side_by_side(
    dataset: xr.Dataset, abscissa: str, ordinates: tuple[str, str]
) -> tuple[Figure, Axes, Axes, weight_scale.ScaleColours]:
    """Return a Figure, its two labelled Axes, and the colours of the weight scales.

    The left Axes is for one line per weight scale and has a colour bar; the right one has weight scales as its
    abscissa.
    """
    figure = style.new_figure(style.DOUBLE, 2.8)
    left, right = figure.subplots(1, 2)
    left.set(xlabel=abscissa, ylabel=ordinates[0])
    left.set_title(panels.title_of(json.loads(dataset.attrs["swept"])))
    right.set(xlabel=weight_scale.LABEL, ylabel=ordinates[1])
    colours = weight_scale.ScaleColours(dataset["weight_scale"].values)
    colours.add_bar(figure, [left])
    return figure, left, right, colours


def _norms_and_horizon(dataset: xr.Dataset) -> Figure:
    """Plot the norm against lag, and the horizon against the weight scale; dashed, the spectral norm's median."""
    if "horizon" not in dataset:
        return norm_curves.norm_against_lag(dataset)
    dataset = dataset.sortby("weight_scale")
    quantity = norm_curves.quantity_of(dataset)
    with style.applied():
        figure, left, right, colours = _side_by_side(dataset, norm_curves.XLABEL, (quantity.label, horizon.YLABEL))
        second = norm_curves.spectral_beside(dataset, quantity, colours)
        norm_curves.draw_norms([left], [dataset], quantity, colours, second)
        _, marks = horizon.draw_horizons([right], [dataset])
        key = norm_curves.key_of(quantity, colours, dataset.sizes["seed"], second) + marks + theory.key_of([dataset])
        style.add_key(figure, key, horizon.notes_on(dataset))
    return figure


def _spectrum_and_largest(dataset: xr.Dataset) -> Figure:
    """Plot the Lyapunov spectrum, and the largest exponent against the weight scale."""
    dataset = dataset.sortby("weight_scale")
    with style.applied():
        labels = (lyapunov.SPECTRUM, lyapunov.LARGEST)
        figure, left, right, colours = _side_by_side(dataset, lyapunov.INDEX, labels)
        exact = lyapunov.draw_spectra([left], [dataset], colours)
        lyapunov.draw_largest([right], [dataset])
        median = style.median_key(dataset.sizes["seed"], colours.remark())
        style.add_key(figure, median + lyapunov.limit_key([dataset]) + exact, lyapunov.notes_on(dataset))
    return figure


def _spectrum_and_angles(dataset: xr.Dataset) -> Figure:
    """Plot the Lyapunov spectrum, and the density of the smallest angle between unstable and other directions."""
    dataset = dataset.sortby("weight_scale")
    with style.applied():
        labels = (lyapunov.SPECTRUM, covariant_vectors.DENSITY)
        figure, left, right, colours = _side_by_side(dataset, lyapunov.INDEX, labels)
        lyapunov.draw_spectra([left], [dataset], colours)
        covariant_vectors.draw_densities([right], [dataset], colours)
        right.set_xlabel(covariant_vectors.ANGLE)
        median = style.median_key(dataset.sizes["seed"], colours.remark())
        style.add_key(figure, median + lyapunov.limit_key([dataset]), covariant_vectors.notes_on(dataset))
    return figure


def _training(dataset: xr.Dataset) -> Figure:
    """Plot loss, error and the norm of the gradient, and ‖∂L/∂h_t‖ as a heat map, each against the update."""
    dataset = dataset.sortby("weight_scale")
    grid, mapped = histories.split_at_best(dataset), histories.split_at_best(dataset, state_gradients.CHOSEN)
    with style.applied():
        figure = style.new_figure(style.DOUBLE, 4.4)
        (loss, error), (gradient, heat) = figure.subplots(2, 2)
        colours = weight_scale.ScaleColours(dataset["weight_scale"].values)
        data = [panel.data for panel in grid.panels]
        for ax, name in ((loss, learning_curves.LOSS), (error, learning_curves.ERROR)):
            learning_curves.draw([ax], data, name, colours)
            ax.set_ylabel(name)
        clips = gradient_norms.draw_norms([gradient], data, colours)
        histories.set_updates([gradient], data)
        gradient.set(xlabel=histories.XLABEL, ylabel=gradient_norms.LABEL)
        maps = state_gradients.Heat([panel.data for panel in mapped.panels])
        maps.draw([heat])
        heat.set(xlabel=histories.XLABEL, ylabel=state_gradients.TIME)
        heat.set_title(mapped.panels[0].title)
        loss.set_title(
            ", ".join(filter(None, [panels.title_of(json.loads(dataset.attrs["swept"])), grid.panels[0].title]))
        )
        colours.add_bar(figure, [loss, error])
        maps.add_bar(figure, [heat], dataset.sizes["seed"])
        key = style.median_key(dataset.sizes["seed"], colours.remark()) + learning_curves.chance_key()
        key += gradient_norms.key_of(clips) + maps.key()
        style.add_key(figure, key, histories.notes_on(dataset, mapped))
    return figure


def _of_training(dataset: xr.Dataset) -> dict[str, Figure]:
    figures = {
        "loss": learning_curves.loss_against_update(dataset),
        "error": learning_curves.error_against_update(dataset),
        "gradient_norm": gradient_norms.gradient_norm_against_update(dataset),
        "state_gradient": state_gradients.state_gradient_over_training(dataset),
        "network": weight_spectra_over_training.evolution_of_the_network(dataset),
        "solved": share_solved.share_solved_against(dataset),
        "accuracy": share_solved.accuracy_against(dataset),
        "prediction": solving_against_growth.solving_against_initial_growth(dataset),
    }
    if share_solved_map.axes_of(dataset):
        figures["solved_map"] = share_solved_map.solved_map(dataset)
    return figures


def _of_norms(dataset: xr.Dataset) -> dict[str, Figure]:
    figures = {"norm_against_lag": norm_curves.norm_against_lag(dataset)}
    if "horizon" in dataset:
        figures["horizon"] = horizon.horizon_against_scale(dataset)
    return figures


def _of_exponents(dataset: xr.Dataset) -> dict[str, Figure]:
    return {
        "lyapunov_spectrum": lyapunov.lyapunov_spectrum(dataset),
        "largest_exponent": lyapunov.largest_exponent_against_scale(dataset),
    }


def _of_covariant_vectors(dataset: xr.Dataset) -> dict[str, Figure]:
    return {
        "smallest_angle": covariant_vectors.smallest_angle_over_time(dataset),
        "lyapunov_spectrum": lyapunov.lyapunov_spectrum(dataset),
    }


def _of_transients(dataset: xr.Dataset) -> dict[str, Figure]:
    return {
        "overshoot": transient.overshoot_against_scale(dataset),
        "parallelisable": transient.share_parallelisable(dataset),
    }


def _of_fixed_points(dataset: xr.Dataset) -> dict[str, Figure]:
    return {
        "fixed_points": fixed_points.fixed_points_against_scale(dataset),
        "multistability": fixed_points.multistability_against_scale(dataset),
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
    "singular_values": _Drawn(
        singular_values.growth_of_every_direction,
        lambda dataset: {"singular_values": singular_values.growth_of_every_direction(dataset)},
    ),
    "lyapunov": _Drawn(_spectrum_and_largest, _of_exponents),
    "covariant": _Drawn(_spectrum_and_angles, _of_covariant_vectors),
    "pairs": _Drawn(all_pairs.reach_of_every_pair, lambda dataset: {"pairs": all_pairs.reach_of_every_pair(dataset)}),
    "nodes": _Drawn(nodes.growth_by_node, lambda dataset: {"nodes": nodes.growth_by_node(dataset)}),
    "input_gradients": _Drawn(
        input_gradients.reach_of_inputs,
        lambda dataset: {"input_gradients": input_gradients.reach_of_inputs(dataset)},
    ),
    "transient": _Drawn(transient.transient_quick_look, _of_transients),
    "fixed_points": _Drawn(fixed_points.numbers_and_shares, _of_fixed_points),
    "training": _Drawn(_training, _of_training),
    "notes": _Drawn(notes.norm_growth_and_decay, _of_notes),
}


def _drawn(dataset: xr.Dataset) -> _Drawn:
    """Return how the results of an experiment are drawn; one of an installed package declares its own figure."""
    name = dataset.attrs["experiment"]
    if name in _DRAWN:
        return _DRAWN[name]
    declared = declare.declared(declare.Experiment)[name]
    draw = getattr(import_module(declared.module), declared.draw)
    return _Drawn(draw, lambda dataset: {name: draw(dataset)})


def quick_look(dataset: xr.Dataset) -> Figure:
    """Return the figure that accompanies the result of one job."""
    return _drawn(dataset).quick_look(dataset)


def sweep_figures(dataset: xr.Dataset) -> dict[str, Figure]:
    """Return every figure of a joined sweep, by name."""
    return _drawn(dataset).sweep(dataset)

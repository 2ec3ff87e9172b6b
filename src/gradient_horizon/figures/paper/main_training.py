"""Training of tanh and ReLU networks from two ensembles of weights, with and without gradient clipping."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from gradient_horizon.figures import gradient_norms, learning_curves, state_gradients
from gradient_horizon.figures.kit import frames, histories, style
from gradient_horizon.figures.kit.panels import CHARACTERS, Grid, wrapped
from gradient_horizon.figures.kit.weight_scale import ScaleColours
from gradient_horizon.names import declare
from gradient_horizon.store.records import ResultError

DECLARES = declare.PaperFigure(
    "main_training",
    "loss, gradient norm and ‖∂L/∂h_t‖ over training, for tanh and ReLU, with and without clipping",
    number=9,
    preset="main_training",
    title=(
        "Training of tanh and ReLU networks from Gaussian weights and from the identity, with and without gradient"
        " clipping"
    ),
    caption=(
        "Training against the number of updates, one column per cell, ensemble of W and clip rule, at the learning"
        " rate η with which most of its networks solved the task. Top: loss on fresh sequences; dashed, the chance"
        " level, the smallest loss possible without reading the input. Middle: norm ‖∇L‖ of the gradient of all"
        " parameters before clipping and, dashed, after it: g ← g·c/(‖g‖ + 10⁻⁶) if that is shorter. Both rows show"
        " the median (line) and 10–90 % range (band) over seeds, coloured by the weight scale g. Bottom: log₁₀"
        " ‖∂L/∂h_t‖, root mean square over sequences, at every time t; the loss is read out at the top, t = T, and the"
        " colours below show how much of its gradient reaches back (median over seeds, at the weight scale with which"
        " most networks solved the task)."
    ),
    quick=("updates=200", "record_every=20", "test_size=200", "seeds=4", "hidden_size=24", "steps=20"),
)
_ROWS = ("loss", gradient_norms.LABEL, state_gradients.TIME)


def _grids(dataset: xr.Dataset) -> tuple[Grid, Grid]:
    """Return one panel per cell, ensemble and clip rule: with every weight scale, and at the best one."""
    if "loss" not in dataset or not {"cell", "clip"} <= {*dataset.dims}:
        raise ResultError(
            "dataset: not a training sweep over cells and clip rules;"
            " gradient-horizon run +sweeps=main_training makes one"
        )
    dataset = dataset.sortby("weight_scale")
    return histories.split_at_best(dataset), histories.split_at_best(dataset, state_gradients.CHOSEN)


def _title(data: xr.Dataset, axes: Iterable[str]) -> str:
    """Return the title of a column: what it shows, and its values along `axes`."""
    words = [style.in_words(data[key].item()) for key in ("cell", "weights") if key in data.coords]
    words.append("not clipped" if data["clip"].item() == "none" else "clipped")
    return ", ".join([*words, *_at(data, axes)])


def _at(data: xr.Dataset, axes: Iterable[str]) -> list[str]:
    return [f"{histories.SYMBOLS[axis]} = {data[axis].item():g}" for axis in axes]


def draw(dataset: xr.Dataset) -> Figure:
    """Draw one column per cell, ensemble and clip rule, with loss, gradient norm and every state's gradient in rows."""
    curves, maps = (histories.cut_to(grid, len(_ROWS)) for grid in _grids(dataset))
    data, mapped = ([panel.data for panel in grid.panels] for grid in (curves, maps))
    several = ["learning_rate"] if dataset.sizes["learning_rate"] > 1 else []
    with style.applied():
        colours = ScaleColours(data[0]["weight_scale"].values)
        figure, columns = histories.stacked(curves, _ROWS)
        losses, gradients, heats = zip(*columns, strict=True)
        learning_curves.draw(losses, data, learning_curves.LOSS, colours)
        clips = gradient_norms.draw_norms(gradients, data, colours)
        heat = state_gradients.Heat(mapped)
        heat.draw(heats)
        for ax, panel in zip(losses, data, strict=True):
            ax.set_title(wrapped(_title(panel, several), CHARACTERS // curves.columns))
        for ax, panel in zip(heats, mapped, strict=True):
            ax.set_title(", ".join(_at(panel, ["weight_scale", *several])), fontsize=style.SMALL)
        histories.set_updates([ax for column in columns for ax in column], data)
        colours.add_bar(figure, [*losses, *gradients])
        heat.add_bar(figure, heats, dataset.sizes["seed"])
        key = style.median_key(dataset.sizes["seed"], colours.remark()) + learning_curves.chance_key()
        key += gradient_norms.key_of(clips) + heat.key()
        style.add_key(figure, key, histories.notes_on(dataset, curves))
    return figure


def numbers(dataset: xr.Dataset) -> pd.DataFrame:
    """Tabulate every curve and every point of the maps, identified by `quantity`."""
    curves, maps = _grids(dataset)
    rows = []
    for panel, mapped in zip(curves.panels, maps.panels, strict=True):
        place = {key: panel.data[key].item() for key in ("cell", "weights", "clip") if key in panel.data.coords}
        rate = panel.data["learning_rate"].item()
        for name in ("loss", "gradient_norm", "clipped_gradient_norm"):
            updates, bands = histories.bands_of(panel.data, name)
            for index, scale in enumerate(panel.data["weight_scale"].values.tolist()):
                at = {"quantity": name, **place, "learning_rate": rate, "weight_scale": scale}
                rows.append(frames.band(at, "update", updates, bands[:, index]))
        updates, decades = state_gradients.decades_of(mapped.data)
        chosen = {key: mapped.data[key].item() for key in ("learning_rate", "weight_scale")}
        at = {"quantity": "log10_state_gradient_norm", **place, **chosen}
        time, update = (part.ravel() for part in np.indices(decades.shape))
        rows.append(frames.curve(at, update=updates[update], time=time + 1, median=decades.ravel()))
    return frames.stacked(rows)

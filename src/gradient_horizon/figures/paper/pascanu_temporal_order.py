"""How many networks learn temporal order, against its length, after Pascanu, Mikolov and Bengio."""

from dataclasses import replace

import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from gradient_horizon.analysis.outcomes import share_solved
from gradient_horizon.figures import share_solved as success
from gradient_horizon.figures.kit import histories, style
from gradient_horizon.figures.kit.panels import Grid, Panel
from gradient_horizon.names import declare
from gradient_horizon.store.joining import settings_of
from gradient_horizon.store.records import ResultError

DECLARES = declare.PaperFigure(
    "pascanu_temporal_order",
    "success against length, from three initialisations, with plain descent, clipping and Ω",
    number=11,
    preset="pascanu_temporal_order",
    title=(
        "Temporal order: success against sequence length for plain gradient descent, clipping, regularisation and both"
    ),
    caption=(
        "Share of networks that solve the temporal order problem against the sequence length T, with 95 % Wilson"
        " intervals; one panel per initialisation of Pascanu, Mikolov, Bengio (2013). SGD: plain gradient descent; C:"
        " with the gradient clipped by its norm; R: with their regulariser Ω of weight 4, which keeps the gradient"
        " from vanishing; CR: with both. Points are shifted sideways where they would hide each other. The paper"
        " allowed each network up to five million updates."
    ),
    quick=(
        "updates=300",
        "record_every=100",
        "test_size=200",
        "seeds=2",
        "hidden_size=16",
        "learning_rates=[0.1]",
        "initialisation=smart_tanh",
        "steps=10,20",
        "omega=4",
    ),
)
_INITIALISATIONS = ("sigmoid", "basic_tanh", "smart_tanh")
_NAMES = {(False, False): "SGD", (True, False): "SGD-C", (False, True): "SGD-R", (True, True): "SGD-CR"}


def _ordered(dataset: xr.Dataset) -> xr.Dataset:
    """Put the initialisations in the paper's order, and turn settings that are not swept into axes of length one."""
    settings = settings_of(dataset)
    fixed = {
        key: [settings[key]]
        for key in ("initialisation", "clip", "omega")
        if key not in dataset.dims and settings.get(key) is not None
    }
    dataset = dataset.expand_dims(fixed)
    if "solved_at" not in dataset or not {"initialisation", "clip", "omega", "steps"} <= {*dataset.dims}:
        raise ResultError(
            "dataset: not a training sweep over lengths from a published initialisation;"
            " gradient-horizon run +sweeps=pascanu_temporal_order makes one"
        )
    return dataset.sel(initialisation=[name for name in _INITIALISATIONS if name in dataset["initialisation"]])


def _lines(dataset: xr.Dataset) -> list[success.Line]:
    lines = success.lines_of(dataset, "steps")
    return [replace(line, name=_NAMES[line.place["clip"] != "none", line.place["omega"] > 0]) for line in lines]


def draw(dataset: xr.Dataset) -> Figure:
    """Draw one panel per initialisation, with one line per method."""
    dataset = _ordered(dataset)
    names = dataset["initialisation"].values.tolist()
    grid = Grid([Panel(style.in_words(name), dataset.sel(initialisation=name)) for name in names], len(names))
    with style.applied():
        lines, figure = _lines(dataset), style.new_figure(style.DOUBLE, 2.6)
        axes = grid.axes(figure, success.LABELS["steps"], "success rate")
        success.draw_lines(axes, grid, lines, "steps", share_solved, dataset["steps"].values)
        bars = success.intervals(dataset.sizes["seed"])
        notes = [success.budget(dataset), *histories.chosen_note(dataset, success.CHOICES)]
        style.add_key(figure, success.key_of(lines, bars), notes)
    return figure


def numbers(dataset: xr.Dataset) -> pd.DataFrame:
    """Tabulate every point: the share and its interval."""
    dataset = _ordered(dataset)
    with style.applied():
        lines = _lines(dataset)
    rows = []
    for name in dataset["initialisation"].values.tolist():
        for line in lines:
            points = success.points_of(dataset.sel(initialisation=name), line, "steps", share_solved)
            for steps, (share, lower, upper) in points.items():
                place = {"initialisation": name, "method": line.name, "steps": steps}
                rows.append({**place, "share_solved": share, "lower": lower, "upper": upper})
    return pd.DataFrame(rows)

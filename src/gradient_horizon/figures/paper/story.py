"""Who was in the room? Accuracy against the number of words since the clue, for each cell."""

import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from gradient_horizon.analysis.outcomes import exists, has_diverged
from gradient_horizon.figures import share_solved
from gradient_horizon.figures.kit import histories, style
from gradient_horizon.figures.kit.panels import split
from gradient_horizon.names import declare
from gradient_horizon.store.records import ResultError

DECLARES = declare.PaperFigure(
    "story",
    "accuracy against distance for four cells",
    number=12,
    preset="story",
    title="To whom does Mary say hi? Accuracy against the number of words since the clue",
    caption=(
        "One of four people watches TV in a room and the others walk out of it; many words later Mary comes in, and"
        " the question is to whom she says hi. Accuracy on fresh stories after training, against the distance, the"
        " number of words from the clue to the end of the question: median (points) and 10–90 % range (bars) over"
        " seeds. Dashed: the chance level, one in four. Points are shifted sideways where they would hide each other."
    ),
    quick=(
        "updates=100",
        "record_every=50",
        "test_size=100",
        "seeds=2",
        "hidden_size=16",
        "cell=tanh,lstm",
        "distance=9,27",
    ),
)


def _checked(dataset: xr.Dataset) -> xr.Dataset:
    if "chance_error" not in dataset or not {"cell", "distance"} <= {*dataset.dims}:
        raise ResultError(
            "dataset: not a training sweep over cells and distances; gradient-horizon run +sweeps=story makes one"
        )
    return dataset


def draw(dataset: xr.Dataset) -> Figure:
    """Draw one line per cell."""
    dataset = _checked(dataset)
    grid = split(dataset, within=("cell", "distance"))
    seeds, diverged = dataset.sizes["seed"], int(has_diverged(dataset).sum())
    notes = [share_solved.budget(dataset, solved=False), *histories.chosen_note(dataset, share_solved.CHOICES)]
    if diverged:
        notes.append(f"{diverged} of {int(exists(dataset).sum())} networks diverge and are omitted.")
    with style.applied():
        lines, figure = share_solved.lines_of(dataset, "distance"), style.new_figure(style.SINGLE, 3.0)
        axes = grid.axes(figure, "distance from the clue to the answer (words)", "accuracy")
        share_solved.draw_lines(axes, grid, lines, "distance", share_solved.accuracy, dataset["distance"].values)
        bars = "one seed" if seeds == 1 else f"10–90 % range, {seeds} seeds"
        key = share_solved.key_of(lines, bars) + share_solved.draw_chance(axes, grid, "distance")
        style.add_key(figure, key, notes, 3)
    return figure


def numbers(dataset: xr.Dataset) -> pd.DataFrame:
    """Tabulate every point: the median of the accuracy, its band, and chance."""
    dataset = _checked(dataset)
    with style.applied():
        lines = share_solved.lines_of(dataset, "distance")
    rows = []
    for line in lines:
        points = share_solved.points_of(dataset, line, "distance", share_solved.accuracy)
        for distance, (accuracy, lower, upper) in points.items():
            chance = 1 - float(dataset["chance_error"].sel({**line.place, "distance": distance}))
            place = {"cell": line.place["cell"], "distance": distance}
            rows.append({**place, "accuracy": accuracy, "lower": lower, "upper": upper, "chance": chance})
    return pd.DataFrame(rows)

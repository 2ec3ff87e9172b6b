"""What the gradient horizon before the first update predicts about training."""

from itertools import pairwise

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradient_horizon.analysis.intervals import share
from gradient_horizon.analysis.outcomes import (
    best_over,
    exists,
    has_diverged,
    has_solved,
    horizon_auc,
    initial_growth,
    initial_horizon,
)
from gradient_horizon.figures import share_solved, solving_against_growth
from gradient_horizon.figures.kit import frames, style, weight_scale
from gradient_horizon.names import declare
from gradient_horizon.store.records import ResultError

DECLARES = declare.PaperFigure(
    "prediction",
    "how well the initial horizon predicts training",
    number=13,
    preset="prediction",
    title="The gradient horizon before the first update as a predictor of training",
    caption=(
        "Networks with weights from small to large. Left: the number of updates until a network (a point) solves its"
        " task, against the growth of its gradient before the first update, log(‖∂h_T/∂h_0‖_F/√n)/T. AUC: the"
        " probability that a network that solves the task has a longer initial gradient horizon (3 decades) than one"
        " that does not, with its 95 % bootstrap interval over seeds, each of which has one W⁰ at all g. Middle: the"
        " share of networks that solve the task against that horizon, in bins; the last point, set apart, is for"
        " horizons beyond T. Right: the share against the weight scale g; the edge of chaos of tanh networks is at g ="
        " 1. Bars: 95 % Wilson intervals, which in the middle treat a seed's networks at different g as independent."
    ),
    quick=(
        "updates=200",
        "record_every=20",
        "test_size=200",
        "seeds=6",
        "hidden_size=24",
        "steps=15",
        "weight_scales=[0.5,1.0,1.5]",
    ),
)
_BINS = 5
_BARS = {"color": "black", "linewidth": 0.8, "alpha": 0.7}


def networks_of(dataset: xr.Dataset) -> xr.Dataset:
    """Return the networks of the job, at the learning rate and threshold with which most solved their task."""
    if "solved_at" not in dataset or "weight_scale" not in dataset.dims or dataset.sizes["weight_scale"] < 2:
        raise ResultError(
            "dataset: not a training sweep over weight scales; gradient-horizon run +sweeps=prediction makes one"
        )
    data, _ = best_over(dataset.sortby("weight_scale"), ("learning_rate", "clip_threshold"))
    return data.transpose("weight_scale", "seed", ...)


def _shares(
    groups: dict[float, Bool[np.ndarray, "G S"]], solved: Bool[np.ndarray, "G S"], abscissa: str
) -> pd.DataFrame:
    """Return the share solved of each group of networks, by its place on the abscissa; empty groups are left out."""
    rows = []
    for place, members in groups.items():
        if members.any():
            middle, lower, upper = share(int((solved & members).sum()), int(members.sum()))
            counted = {"networks": int(members.sum()), "share_solved": middle, "lower": lower, "upper": upper}
            rows.append({abscissa: place, **counted})
    return pd.DataFrame(rows)


def shares_by_horizon(data: xr.Dataset) -> pd.DataFrame:
    """Return the share solved in bins of the initial horizon, each placed at its middle.

    Horizons beyond T are placed at T + 1.
    """
    horizon, last = initial_horizon(data), initial_steps(data)
    edges = np.linspace(0, last, _BINS + 1)
    groups = {(low + high) / 2: (horizon > low) & (horizon <= high) for low, high in pairwise(edges)}
    return _shares({**groups, last + 1.0: horizon > last}, has_solved(data).values, "initial_horizon")


def shares_by_scale(data: xr.Dataset) -> pd.DataFrame:
    """Return the share solved at each weight scale."""
    there, scale = exists(data).values, data["weight_scale"].values[:, None]
    groups = {float(value): there & (scale == value) for value in scale[:, 0]}
    return _shares(groups, has_solved(data).values, "weight_scale")


def initial_steps(data: xr.Dataset) -> int:
    """Return T."""
    return int(data["lag"].values[-1])


def _draw_shares(ax: Axes, shares: pd.DataFrame, x: Float[np.ndarray, " P"], joined: int) -> None:
    """Draw one point per group with its interval; the first `joined` are joined by a line."""
    ax.vlines(x, shares["lower"], shares["upper"], **_BARS)
    ax.plot(x[:joined], shares["share_solved"][:joined], color="black", marker="o", linewidth=0.9)
    ax.plot(x[joined:], shares["share_solved"][joined:], color="black", marker="o", linestyle="none")
    ax.set(ylim=(-0.03, 1.03), ylabel="success rate")


def draw(dataset: xr.Dataset) -> Figure:
    """Draw one point per network, and shares by initial horizon and by weight scale."""
    data = networks_of(dataset)
    with style.applied():
        figure = style.new_figure(style.DOUBLE, 2.9)
        points, middle, right = figure.subplots(1, 3, width_ratios=(1.35, 1, 1))
        colours = weight_scale.ScaleColours(data["weight_scale"].values)
        shown, off = solving_against_growth.draw_points([points], [data], colours)
        points.set(xlabel=solving_against_growth.XLABEL, ylabel=solving_against_growth.YLABEL)
        colours.add_bar(figure, [points])
        by_horizon, steps = shares_by_horizon(data), initial_steps(data)
        beyond = by_horizon["initial_horizon"].to_numpy() > steps
        _draw_shares(
            middle, by_horizon, np.where(beyond, 1.12 * steps, by_horizon["initial_horizon"]), int((~beyond).sum())
        )
        ticks = np.linspace(0, steps, 4).round().astype(int).tolist()
        middle.set_xticks([*ticks[:-1], 1.12 * steps], [*map(str, ticks[:-1]), f"> {steps}"])
        middle.set(xlim=(0, 1.2 * steps), xlabel="initial horizon (steps)")
        by_scale = shares_by_scale(data)
        _draw_shares(right, by_scale, by_scale["weight_scale"].to_numpy(), len(by_scale))
        right.set_xlabel(weight_scale.LABEL)
        weight_scale.set_axis(right, data["weight_scale"].values)
        right.set_ylabel("")
        right.tick_params(labelleft=False)
        style.add_key(
            figure,
            solving_against_growth.key_of(shown),
            [share_solved.budget(data), *solving_against_growth.zero_note(off)],
        )
    return figure


def numbers(dataset: xr.Dataset) -> pd.DataFrame:
    """Tabulate every network, every share, and the AUC, identified by `panel`."""
    data = networks_of(dataset)
    scale, seed = np.meshgrid(data["weight_scale"], data["seed"], indexing="ij")
    columns = {
        "weight_scale": scale,
        "seed": seed,
        "initial_growth": initial_growth(data),
        "initial_horizon": initial_horizon(data),
        "solved_at": np.where(has_solved(data), data["solved_at"], np.nan),
        "diverged": has_diverged(data).values,
    }
    there = exists(data).values.ravel()
    networks = pd.DataFrame({name: values.ravel()[there] for name, values in columns.items()})
    rows = [networks, shares_by_horizon(data), shares_by_scale(data)]
    panels = ["networks", "by initial horizon", "by weight scale"]
    area = horizon_auc(data)
    if area is not None:
        rows.append(pd.DataFrame([{"auc": area.estimate, "lower": area.lower, "upper": area.upper}]))
        panels.append("networks, AUC")
    return frames.stacked(table.assign(panel=panel) for panel, table in zip(panels, rows, strict=True))

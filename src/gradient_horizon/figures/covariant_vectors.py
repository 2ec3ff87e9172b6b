"""Angles between the directions that grow and those that do not, from covariant Lyapunov vectors."""

import math
from collections.abc import Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradient_horizon.figures.kit import style
from gradient_horizon.figures.kit.panels import remarks_on, split
from gradient_horizon.figures.kit.quantiles import over_seeds
from gradient_horizon.figures.kit.weight_scale import ScaleColours

ANGLE = "smallest angle between unstable and other directions"
DENSITY = "density over time (1/rad)"
_TICKS = {0: "0", math.pi / 8: "π/8", math.pi / 4: "π/4", 3 * math.pi / 8: "3π/8", math.pi / 2: "π/2"}


def densities_of(data: xr.Dataset) -> Float[np.ndarray, "3 G A"]:
    """Return the 10, 50 and 90 % quantiles of the density over seeds, by weight scale and angle.

    NaN if most networks overflow. A network without a positive exponent, or in which a direction dies, has no angle.
    """
    densities = data["angle_density"].transpose("weight_scale", "seed", "angle").values
    return over_seeds(densities, data["finite"].transpose("weight_scale", "seed").values)


def draw_densities(axes: Sequence[Axes], panels: Sequence[xr.Dataset], colours: ScaleColours) -> None:
    """Draw one panel per Axes: one line per weight scale, with bands for as many scales as stay legible."""
    top = 1.0
    for ax, data in zip(axes, panels, strict=True):
        angles = data["angle"].values
        for index, (lower, median, upper) in enumerate(np.moveaxis(densities_of(data), 1, 0)):
            if np.isnan(median).all():
                continue
            is_strong = index in colours.strong()
            if is_strong and not np.array_equal(lower, upper):
                ax.fill_between(angles, lower, upper, color=colours.of(index), alpha=0.25, linewidth=0)
            ax.plot(angles, median, color=colours.of(index), linewidth=1.2 if is_strong else 0.5)
            top = max(top, 1.04 * float(np.nanmax(upper if is_strong else median)))
    for ax in axes:
        ax.set(xlim=(0, math.pi / 2), ylim=(0, top))
        ax.set_xticks(list(_TICKS), labels=list(_TICKS.values()))


def notes_on(dataset: xr.Dataset, left_out: int = 0) -> list[str]:
    """Return notes on what a figure of angles leaves out."""
    finite = dataset["finite"].values == 1
    without = int(np.sum(np.isnan(dataset["smallest_angle"].values[finite])))
    notes = remarks_on(dataset, left_out)
    if without:
        notes.append(
            f"{without} of {int(finite.sum())} networks have no angle: no exponent is positive, or a direction dies."
        )
    return notes


def smallest_angle_over_time(dataset: xr.Dataset) -> Figure:
    """Plot the density over time of the smallest angle between unstable and other directions, by weight scale.

    Median and 10–90 % band over seeds; one panel per combination of swept settings.
    """
    dataset = dataset.sortby("weight_scale")
    grid = split(dataset)
    with style.applied():
        colours = ScaleColours(dataset["weight_scale"].values)
        figure, axes = grid.subplots(ANGLE, DENSITY)
        draw_densities(axes, [panel.data for panel in grid.panels], colours)
        colours.add_bar(figure, axes)
        key = style.median_key(dataset.sizes["seed"], colours.remark())
        style.add_key(figure, key, notes_on(dataset, grid.left_out), 1 if len(axes) == 1 else 4)
    return figure

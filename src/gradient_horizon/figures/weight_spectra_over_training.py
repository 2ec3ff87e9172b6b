"""How a network changes as it learns: the size of W, the largest Lyapunov exponent, and the saturation of its units."""

from typing import Any

import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gradient_horizon.figures.kit import histories, style
from gradient_horizon.figures.kit.weight_scale import ScaleColours

LABELS = (R"$\rho(W)$, $\Vert W\Vert_2$", R"$\lambda_1$ (1/step)", "fraction saturated")
_NORM: dict[str, Any] = {"linewidth": 0.8, "linestyle": (0, (4, 1.5))}


def evolution_of_the_network(dataset: xr.Dataset) -> Figure:
    """Plot the size of W, the largest Lyapunov exponent, and saturation against the update.

    The size is the spectral radius and the largest singular value. One column per combination of swept settings,
    coloured by weight scale: medians and 10–90 % bands over seeds. At an exponent of 0 the gradient along a trajectory
    neither grows nor decays.
    """
    dataset = dataset.sortby("weight_scale")
    grid = histories.cut_to(histories.split_at_best(dataset), len(LABELS))
    panels = [panel.data for panel in grid.panels]
    with style.applied():
        colours = ScaleColours(dataset["weight_scale"].values)
        figure, columns = histories.stacked(grid, LABELS)
        sizes, exponents, saturations = zip(*columns, strict=True)
        curves = []
        for ax, data in zip(sizes, panels, strict=True):
            updates, radius = histories.bands_of(data, "spectral_radius")
            _, norm = histories.bands_of(data, "largest_singular_value")
            histories.draw_bands(ax, updates, radius, colours)
            histories.draw_bands(ax, updates, norm, colours, banded=False, **_NORM)
            curves += [radius, norm]
        histories.set_ordinate(sizes, curves)
        curves = []
        for ax, data in zip(exponents, panels, strict=True):
            updates, bands = histories.bands_of(data, "lyapunov_exponent")
            ax.axhline(0, **style.REFERENCE)
            histories.draw_bands(ax, updates, bands, colours)
            curves.append(bands)
        histories.set_ordinate(exponents, curves)
        for ax, data in zip(saturations, panels, strict=True):
            histories.draw_bands(ax, *histories.bands_of(data, "saturation"), colours)
        top = max(0.1, saturations[0].get_ylim()[1])
        saturations[0].set_ylim(-0.03 * top, top)
        histories.set_updates([ax for axes in columns for ax in axes], panels)
        colours.add_bar(figure, [ax for axes in columns for ax in axes])
        key = style.median_key(dataset.sizes["seed"], colours.remark())
        key.append(
            (Line2D([], [], color=style.GREY, **_NORM), R"median of the largest singular value $\Vert W\Vert_2$")
        )
        style.add_key(figure, key, histories.notes_on(dataset, grid))
    return figure

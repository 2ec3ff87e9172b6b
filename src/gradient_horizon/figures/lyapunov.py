"""Lyapunov exponents: whole spectra, and the largest against the weight scale, both with theory overlaid."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from gradient_horizon.analysis.laws import exponents_at_rest
from gradient_horizon.figures.kit import style, theory, weight_scale
from gradient_horizon.figures.kit.panels import lines_of, remarks_on, split
from gradient_horizon.figures.kit.quantiles import over_seeds, thin_band, thin_curve
from gradient_horizon.figures.kit.weight_scale import ScaleColours
from gradient_horizon.store.joining import settings_of

INDEX = "index $i/n$"
SPECTRUM = R"exponent $\lambda_i$ (1/step)"
LARGEST = R"largest exponent $\lambda_1$ (1/step)"
_AT_REST: dict[str, Any] = {
    "color": "#D55E00",
    "linewidth": 0.8,
    "linestyle": (0, (4, 3)),
    "gid": "exact",
}  # not in viridis
_LIMIT: dict[str, Any] = {
    "linestyle": "none",
    "marker": "D",
    "markersize": 3,
    "markeredgecolor": "black",
    "markeredgewidth": 0.6,
}


def spectra_of(data: xr.Dataset) -> Float[np.ndarray, "3 G K"]:
    """Return the 10, 50 and 90 % quantiles of each exponent over seeds, by weight scale and index.

    NaN if most networks overflow, and beyond the state of a smaller network in a sweep over sizes.
    """
    exponents = data["lyapunov_exponent"].transpose("weight_scale", "seed", "index").values
    return over_seeds(exponents, data["finite"].transpose("weight_scale", "seed").values)


def at_rest_of(data: xr.Dataset) -> Float[np.ndarray, "G N"] | None:
    """Return the median over seeds of the exact exponents of networks at rest.

    NaN if any of the networks is not at rest or overflows. None if there is no exact law: see `laws.exponents_at_rest`.
    """
    if "log_eigenvalue_modulus" not in data:
        return None
    moduli = data["log_eigenvalue_modulus"].transpose("weight_scale", "seed", "unit").values
    moduli = moduli[..., ~np.isnan(moduli).all(axis=(0, 1))]
    exponents = exponents_at_rest(settings_of(data), moduli) if moduli.size else None
    if exponents is None:
        return None
    at_rest = data["finite"].transpose("weight_scale", "seed").values == 1
    return np.median(np.where(at_rest[..., None], exponents, np.nan), axis=1)


def draw_spectra(axes: Sequence[Axes], panels: Sequence[xr.Dataset], colours: ScaleColours) -> style.Key:
    """Draw one panel per Axes: one line per weight scale, with bands and theory for as many scales as stay legible.

    The diamond at index 0 is the largest exponent by mean field; dashed, the exact exponents of networks at rest.
    Returns the legend entry for the dashes, if there are any.
    """
    every = [spectra_of(data) for data in panels]
    finite = np.concatenate([bands[np.isfinite(bands)] for bands in every])
    bottom, top = (min(0.0, finite.min()), max(0.0, finite.max())) if finite.size else (-1.0, 1.0)
    room = 0.04 * max(top - bottom, 0.1)
    dashed = False
    for ax, data, bands in zip(axes, panels, every, strict=True):
        n = int(data["state_size"])
        # An exponent of -inf, a direction that some step maps to zero: the line drops through the bottom of the axis.
        bands = np.where(np.isneginf(bands), 2 * bottom - top - room, bands)[..., :n]
        ax.axhline(0, **style.REFERENCE)
        _draw_lines(ax, np.arange(1, bands.shape[-1] + 1) / n, bands, colours)
        alive = [index for index in sorted(colours.strong()) if not np.isnan(bands[1, index]).all()]
        rest, law = at_rest_of(data), theory.law_of(data)
        for index in alive:
            if rest is not None and not np.isnan(rest[index]).any():
                ax.plot(*thin_curve(np.arange(1, rest.shape[1] + 1) / n, rest[index]), **_AT_REST)
                dashed = True
            if law is not None:
                limit = law.log_growth(float(colours.scales[index]))
                draw_limit(ax, limit, colours.of(index))
        ax.set(xlim=(0, 1), ylim=(bottom - room, top + room))
        ax.yaxis.set_major_locator(MaxNLocator(6, steps=style.ROUND))
        ax.xaxis.set_major_locator(MaxNLocator(5, steps=style.ROUND))
    return [(Line2D([], [], **_AT_REST), "exact (eigenvalues of $W$)")] if dashed else []


def draw_limit(ax: Axes, exponent: float, color: Any) -> None:
    """Draw a diamond at index 0: the largest exponent by mean field."""
    ax.plot(0, exponent, color=color, clip_on=False, zorder=3, **_LIMIT)


def _draw_lines(ax: Axes, x: Float[np.ndarray, " K"], bands: Float[np.ndarray, "3 G K"], colours: ScaleColours) -> None:
    strong = colours.strong()
    marker = "." if len(x) == 1 else ""
    for index, (lower, median, upper) in enumerate(np.moveaxis(bands, 1, 0)):
        colour = colours.of(index)
        if index in strong and not np.array_equal(lower, upper, equal_nan=True):
            places, low, high = thin_band(x, lower, upper)
            ax.fill_between(places, low, high, color=colour, alpha=0.25, linewidth=0)
        ax.plot(*thin_curve(x, median), color=colour, linewidth=1.2 if index in strong else 0.5, marker=marker)


def limit_key(panels: Sequence[xr.Dataset]) -> style.Key:
    """Return `theory.key_of` for a law drawn as a diamond in the spectra and as a dotted line elsewhere."""
    diamond = Line2D([], [], color=style.GREY, **_LIMIT)
    return [((line, diamond), words) for line, words in theory.key_of(panels)]


def draw_largest(axes: Sequence[Axes], panels: Sequence[xr.Dataset]) -> style.Key:
    """Draw one panel per Axes: one line per cell with its band over seeds; dotted, ½ log χ of mean field.

    Returns legend entries for the lines. Exponents of -inf are not drawn.
    """
    names: style.Key = []
    for ax, data in zip(axes, panels, strict=True):
        lines, x = lines_of(data), data["weight_scale"].values
        looks = style.line_looks(len(lines))
        ax.axhline(0, **style.REFERENCE)
        for look, line in zip(looks, lines.values(), strict=True):
            bands = spectra_of(line)[..., 0]
            lower, median, upper = np.where(np.isneginf(bands), np.nan, bands)
            if line.sizes["seed"] > 1:
                weight_scale.draw_band(ax, x, lower, upper, look["color"])
            ax.plot(x, median, marker="o", markersize=2.5, linewidth=0.9, **look)
            law = theory.law_of(line)
            if law is not None:
                fine = theory.grid(x, law)
                growth = np.array([law.log_growth(scale) for scale in fine.tolist()])
                ax.plot(fine, np.where(np.isneginf(growth), np.nan, growth), **theory.look(look["color"]))
        weight_scale.set_axis(ax, x)
        ax.yaxis.set_major_locator(MaxNLocator(6, steps=style.ROUND))
        names = [(Line2D([], [], **look), name) for look, name in zip(looks, lines, strict=True) if name]
    return names


def notes_on(dataset: xr.Dataset, left_out: int = 0, *, spectra: bool = True) -> list[str]:
    """Return notes on what a figure of whole `spectra`, or of the largest exponents only, leaves out."""
    exponents = dataset["lyapunov_exponent"]
    notes = remarks_on(dataset, left_out)
    if bool(np.isneginf(exponents if spectra else exponents.isel(index=0)).any()):
        notes.append("Exponents of −∞ (directions that a step maps to zero) lie below the axis.")
    return notes


def lyapunov_spectrum(dataset: xr.Dataset) -> Figure:
    """Plot all Lyapunov exponents against their index over n, coloured by weight scale.

    Median and 10–90 % band over seeds. One panel per combination of swept settings, with theory if there is any. An
    exponent of -inf leaves the axis at the bottom. Networks that overflow are left out and counted.
    """
    dataset = dataset.sortby("weight_scale")
    grid = split(dataset)
    data = [panel.data for panel in grid.panels]
    with style.applied():
        colours = ScaleColours(dataset["weight_scale"].values)
        figure, axes = grid.subplots(INDEX, SPECTRUM)
        exact = draw_spectra(axes, data, colours)
        colours.add_bar(figure, axes)
        key = style.median_key(dataset.sizes["seed"], colours.remark()) + limit_key(data) + exact
        style.add_key(figure, key, notes_on(dataset, grid.left_out), 1 if len(axes) == 1 else 4)
    return figure


def largest_exponent_against_scale(dataset: xr.Dataset) -> Figure:
    """Plot the largest Lyapunov exponent against the weight scale g, one line per cell with its 10–90 % band.

    One panel per combination of the other swept settings. The band is over seeds; dotted, ½ log χ of mean field.
    Networks that overflow are left out and counted.
    """
    dataset = dataset.sortby("weight_scale")
    grid = split(dataset, within=("cell",))
    data = [panel.data for panel in grid.panels]
    with style.applied():
        figure, axes = grid.subplots(weight_scale.LABEL, LARGEST)
        names = draw_largest(axes, data)
        key = names + style.median_key(dataset.sizes["seed"]) + theory.key_of(data)
        notes = notes_on(dataset, grid.left_out, spectra=False)
        style.add_key(figure, key, notes, 7 if len(axes) > 1 else 2)
    return figure

"""The benchmark's two figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator
from scaling import TITLES, Curve

from gradient_horizon.figures.kit import style


def throughput(by_name: Mapping[str, Mapping[int, float]], roofline: float) -> Figure:
    """Plot GFLOP/s against N, at 2·N³ operations per network and step, below the machine's own matrix product."""
    with style.applied():
        figure = style.new_figure(style.SINGLE, 2.8)
        ax = figure.subplots()
        for look, (name, rates) in zip(style.line_looks(len(by_name)), by_name.items(), strict=True):
            ax.plot(list(rates), list(rates.values()), marker="o", label=name, **look)
        ax.axhline(roofline, label=f"the machine's product, {roofline:.0f} GFLOP/s", **style.REFERENCE)
        ax.set(xscale="log", yscale="log", xlabel="N", ylabel="GFLOP/s")
        sizes = sorted({n for rates in by_name.values() for n in rates})
        ax.set_xticks(sizes, [str(n) for n in sizes])
        ax.minorticks_off()
        style.add_key(figure, style.drawn_key(ax), columns=2)
    return figure


def scaling(curves: Sequence[Curve]) -> Figure:
    """Plot time above and memory below against each axis; dashed, the fitted power of the time."""
    with style.applied():
        figure = style.new_figure(style.DOUBLE, 3.6)
        axes = figure.subplots(2, len(curves), squeeze=False, sharex="col")
        for column, curve in zip(axes.T, curves, strict=True):
            exponent, shift = np.polyfit(np.log(curve.places), np.log(curve.median), 1)
            column[0].plot(curve.places, 1e3 * curve.median, marker="o", linestyle="none")
            fitted = 1e3 * np.exp(shift) * curve.places**exponent
            column[0].plot(curve.places, fitted, label=f"exponent {exponent:.2f}".replace("-", "−"), **style.REFERENCE)
            column[0].legend()
            column[1].plot(curve.places, curve.peak / 2**20, marker="o")
            column[0].set(xscale="log", yscale="log", ylabel="ms a network" if curve.per_network else "ms")
            column[1].set(xlabel=TITLES[curve.axis], ylabel="memory of the process, MiB")
            column[1].set_ylim(0, 1.15 * curve.peak.max() / 2**20)
            column[1].set_xticks(curve.places, [f"{place:.0f}" for place in curve.places])
            column[1].minorticks_off()
            column[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            column[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            column[0].minorticks_off()
    return figure


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write it as a PNG file."""
    return style.save(figure, stem, formats=("png",))

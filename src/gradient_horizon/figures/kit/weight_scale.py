"""Weight scales as colours and as an axis."""

from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap, ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from gradient_horizon.figures.kit import style

LABEL = "weight scale $g$"
MOST_NAMED = 8  # with more, the colour bar is continuous
MOST_STRONG = 5


def spans_decades(scales: Float[np.ndarray, " G"]) -> bool:
    """True if these weight scales are better read on a logarithmic axis."""
    return bool(scales.min() > 0 and scales.max() / scales.min() > 20)


def set_axis(ax: Axes, scales: Float[np.ndarray, " G"]) -> None:
    """Set the limits and ticks of an abscissa of weight scales."""
    first, last = float(scales.min()), float(scales.max())
    if spans_decades(scales):
        room = (last / first) ** 0.04
        ax.set_xscale("log")
        ax.set_xlim(first / room, last * room)
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        room = 0.04 * (last - first) or 0.1
        ax.set_xlim(first - room, last + room)
        ax.xaxis.set_major_locator(MaxNLocator(6, steps=style.ROUND))


def draw_band(
    ax: Axes,
    scales: Float[np.ndarray, " G"],
    lower: Float[np.ndarray, " G"],
    upper: Float[np.ndarray, " G"],
    color: Any,
) -> None:
    """Draw a band over an abscissa of weight scales; a bar if there is only one scale."""
    ax.fill_between(scales, lower, upper, color=color, alpha=0.18, linewidth=0)
    if len(scales) == 1:  # a band without width
        ax.vlines(scales, lower, upper, color=color, alpha=0.18, linewidth=4)


class ScaleColours:
    """One colour per weight scale, or per value of whatever `label` names, and the bar that explains them."""

    def __init__(self, scales: Float[np.ndarray, " G"], label: str = LABEL):
        self.scales, self._label = scales, label
        self.is_named = len(scales) <= MOST_NAMED
        # Viridis is perceptually uniform and safe for any colour vision; its palest end is lost on white paper.
        shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.92, len(scales) if self.is_named else 256))
        if self.is_named:
            self._place = BoundaryNorm(np.arange(len(scales) + 1) - 0.5, len(scales))
            self._map = ListedColormap(shades)
        else:
            kind = LogNorm if spans_decades(scales) else Normalize
            self._place = kind(float(scales.min()), float(scales.max()))
            self._map = LinearSegmentedColormap.from_list("scales", shades)

    def of(self, index: int) -> Any:
        """Return the colour of the scale with this index."""
        return self._map(self._place(index if self.is_named else self.scales[index]))

    def strong(self) -> set[int]:
        """Return the indices of the scales drawn bold: all of them, or a few that are evenly spread."""
        count = len(self.scales)
        return set(
            range(count) if self.is_named else np.linspace(0, count - 1, MOST_STRONG).round().astype(int).tolist()
        )

    def remark(self) -> str:
        """Return what a key adds to the median: the only scale, or that only bold lines have a band."""
        name = self._label.split()[-1]
        return f", {name} = {self.scales[0]:g}" if len(self.scales) == 1 else "" if self.is_named else " (bold lines)"

    def add_bar(self, figure: Figure, axes: list[Axes]) -> None:
        """Add a colour bar next to `axes`, with the bold scales marked; a single scale needs none."""
        if len(self.scales) == 1:
            return
        specs = [ax.get_subplotspec() for ax in axes]
        rows = {row for spec in specs if spec for row in spec.rowspan}
        height = figure.get_figheight() * max(
            (len(rows) / spec.get_gridspec().nrows for spec in specs if spec), default=1
        )
        aspect = max(30.0, 12 * height)
        mappable = ScalarMappable(self._place, self._map)
        bar = style.add_bar(figure, mappable, axes, label=self._label, aspect=aspect, pad=0.02)
        if self.is_named:
            bar.set_ticks(list(range(len(self.scales))), labels=[f"{scale:g}" for scale in self.scales])
            bar.minorticks_off()
            bar.ax.tick_params(length=0)
        else:
            for index in self.strong():
                bar.ax.axhline(self.scales[index], color="white", linewidth=0.8)

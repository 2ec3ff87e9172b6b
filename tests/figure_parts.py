"""What a test asks of a figure: its panels, its curves, its lines of theory, its words, and what it looks like."""

import os
from pathlib import Path

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.contour import ContourSet
from matplotlib.testing.compare import compare_images

from gradient_horizon.figures.kit import style, weight_scale

BASELINE = Path(__file__).with_name("baseline")
# Root mean square over pixels and colours, of 255. Another processor's last digits shift a line by far less than a
# pixel; one line of 100 pixels that moves by a pixel, in a figure of 170 x 130 pixels, makes about 14.
DIFFERENCE = 2.0


def assert_looks_as_approved(figure, name, folder):
    """Compare with `tests/baseline/NAME.png`, which somebody looked at; `folder` takes the picture and the difference.

    To approve of what the tests draw, run them with GRADIENT_HORIZON_BASELINE=write, and look at what they wrote.
    """
    writing = os.environ.get("GRADIENT_HORIZON_BASELINE") == "write"
    path = (BASELINE if writing else folder) / f"{name}.png"
    with style.applied():
        figure.savefig(path, dpi=50, metadata={"Software": None})
    if not writing:
        difference = compare_images(str(BASELINE / path.name), str(path), DIFFERENCE)
        assert difference is None, difference


def title_of(ax):
    return ax.get_title(loc="left")


def panels_of(figure):
    """The Axes that show data: every one but the colour bar."""
    return [ax for ax in figure.axes if ax.get_xlabel() or title_of(ax) or ax.get_ylabel() != weight_scale.LABEL]


def curves_of(ax):
    """The lines that run along lags or weight scales: not the horizontal ones for reference, not lone markers."""
    lines = [line for line in ax.lines if line.get_gid() != "theory"]
    return [line for line in lines if line.get_linestyle() not in ("None", "") and len(line.get_xdata()) > 2]


def theory_of(ax):
    """The dotted lines of theory."""
    return [line for line in ax.lines if line.get_gid() == "theory"]


def shown_in(ax):
    """The numbers of the first image of an Axes, NaN where it shows none."""
    return np.ma.filled(ax.images[0].get_array().astype(float), np.nan)


def contours_of(ax):
    return [drawn for drawn in ax.collections if isinstance(drawn, ContourSet | LineCollection)]


def words_of(figure):
    legend = figure.legends[0]
    return [text.get_text() for text in legend.get_texts()], legend.get_title().get_text()

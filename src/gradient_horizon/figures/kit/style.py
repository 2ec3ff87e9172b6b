"""The look of every figure, and how it is saved: fixed sizes, fonts and colours, and reproducible bytes."""

import io
import logging
import re
import textwrap
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.textpath import TextPath

from gradient_horizon.store import files

SINGLE, DOUBLE = 3.4, 7.0  # widths in inches of one column and of two
SMALL = 6.5  # points: remarks inside a panel
GREY = "0.4"
REFERENCE: dict[str, Any] = {"color": GREY, "linewidth": 0.6, "linestyle": (0, (4, 3))}  # lines to compare with
ROUND = (1, 2, 2.5, 5, 10)  # steps between ticks, times a power of ten

Key = list[tuple[Any, str]]  # artists (a tuple if drawn on top of each other) and their labels

SHEET = Path(__file__).with_name("gradient_horizon.mplstyle")
_WORDS = {"relu": "ReLU", "gru": "GRU", "lstm": "LSTM", "np_rnn": "np-RNN", "gaussian": "Gaussian"}
_FORMULA, _COMMAND, _MARKUP = re.compile(r"\$[^$]*\$"), re.compile(r"\\[A-Za-z]+ ?"), re.compile(r"\\[,!]|[${}_^]")
# By default matplotlib writes the time into a PDF and its own version into a PNG.
_METADATA: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "png": {"Software": None}}

# rcParams are global to the process: one figure at a time may change them.
_ALONE = threading.RLock()


@contextmanager
def applied() -> Iterator[None]:
    """Apply the package's style on top of matplotlib's defaults; the user's own settings are restored afterwards."""
    with _ALONE, matplotlib.style.context(SHEET, after_reset=True):
        yield


def new_figure(width: float = SINGLE, height: float = 2.6) -> Figure:
    """Return an empty Figure of this size in inches, independent of pyplot."""
    return Figure(figsize=(width, height))


def in_words(value: Any) -> str:
    """Return a setting or value as a label: `hard_tanh` becomes "hard tanh", `relu` becomes "ReLU", NaN "null"."""
    if value is None or value != value:
        return "null"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return _WORDS.get(text, text.replace("_", " "))


def line_looks(count: int) -> list[dict[str, Any]]:
    """Return styles for `count` lines: a colour each, dashed once the colours are used up; only within `applied`."""
    colours = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    return [
        {"color": colours[index % len(colours)], "linestyle": "-" if index < len(colours) else "--"}
        for index in range(count)
    ]


def median_key(seeds: int, more: str = "") -> Key:
    """Return the legend entry for a median with its band, or for the line of a single seed."""
    line = Line2D([], [], color=GREY)
    if seeds == 1:
        return [(line, f"one seed{more}")]
    return [((Patch(facecolor=GREY, alpha=0.3, linewidth=0), line), f"median and 10–90 % range, {seeds} seeds{more}")]


def add_bar(figure: Figure, mappable: Any, axes: Sequence[Axes], **settings: Any) -> Any:
    """Add a colour bar for `mappable` next to `axes`, without a frame."""
    bar = figure.colorbar(mappable, ax=list(axes), **settings)
    bar.outline.set_visible(False)  # type: ignore[operator]
    return bar


def drawn_key(ax: Axes) -> Key:
    """Return legend entries for everything on `ax` that has a label."""
    return list(zip(*ax.get_legend_handles_labels(), strict=True))


def _fitting_columns(figure: Figure, labels: Sequence[str], most: int) -> int:
    """Return the largest number of legend columns, at most `most`, for which the figure is wide enough."""
    style = matplotlib.rcParams
    size = style["legend.fontsize"]
    handle, between = style["legend.handlelength"] + style["legend.handletextpad"], style["legend.columnspacing"]
    widths = [size * handle + TextPath((0, 0), label, size=size).get_extents().width for label in labels]
    for columns in range(min(most, len(labels)), 1, -1):
        rows, longer = divmod(len(labels), columns)  # the first columns are longer by one
        ends = np.cumsum([rows + 1] * longer + [rows] * (columns - longer))
        wide = [max(widths[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
        if sum(wide) + size * between * (columns - 1) < 72 * figure.get_figwidth() - 2 * size:
            return columns
    return 1


def wrapped_note(note: str, width: int) -> list[str]:
    """Break a note into lines of about `width` characters, never within a formula, half of which would not be typeset.

    A formula counts as about the number of characters that it occupies when drawn.
    """
    formulas = iter(_FORMULA.findall(note))
    stand_ins = _FORMULA.sub(lambda formula: "\0" * len(_MARKUP.sub("", _COMMAND.sub("x", formula[0]))), note)
    lines = textwrap.wrap(stand_ins, width, break_long_words=False, break_on_hyphens=False)
    return [re.sub("\0+", lambda _: next(formulas), line) for line in lines]


def add_key(figure: Figure, key: Key, notes: Sequence[str] = (), columns: int = 7) -> None:
    """Add a legend below the axes, and above it, in small print, notes on what the axes do not show.

    `columns` is the maximum number of columns.
    """
    if not key and not notes:
        return
    characters = int(19 * figure.get_figwidth())
    lines = [line for note in notes for line in wrapped_note(note, characters)]
    figure.legend(
        [handle for handle, _ in key],
        [label for _, label in key],
        loc="outside lower center",
        ncols=_fitting_columns(figure, [label for _, label in key], columns),
        title="\n".join(lines) or None,
        title_fontsize=SMALL,
    )


@contextmanager
def _quiet_fonts() -> Iterator[None]:
    """Silence fontTools' messages about the dates in the fonts that ship with matplotlib."""
    logger = logging.getLogger("fontTools")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def save(figure: Figure, stem: Path, formats: Sequence[str] = ("pdf", "png")) -> list[Path]:
    """Write `figure` to `stem` with each format's extension, under a temporary name first; return the paths.

    The same figure gives the same bytes whenever it is written.
    """
    paths = [stem.with_name(f"{stem.name}.{ending}") for ending in formats]
    with applied(), _quiet_fonts():
        for path, ending in zip(paths, formats, strict=True):
            stream = io.BytesIO()
            figure.savefig(stream, format=ending, metadata=_METADATA.get(ending))
            files.write_atomically(path, stream.getvalue(), durable=False)
    return paths

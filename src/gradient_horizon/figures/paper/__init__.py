"""The figures of the paper, one per file.

A file declares its figure (`names.declare.PaperFigure`), and defines `draw` (draws a joined sweep as a Figure) and
`numbers` (returns the plotted data of the same sweep as a table, one row per point). Nothing else lists the figures.
"""

from importlib import import_module
from typing import Any

from gradient_horizon.names import declare

FIGURES = dict(sorted(declare.declared(declare.PaperFigure).items(), key=lambda figure: figure[1].number))


def listing() -> str:
    """Return the figures as lines of help text."""
    width = max(map(len, FIGURES))
    return "".join(f"  {name:<{width}}  {figure.help}\n" for name, figure in FIGURES.items())


def paper_figure(name: str) -> Any:
    """Return the module of the figure `name`; this loads matplotlib."""
    return import_module(FIGURES[name].module)

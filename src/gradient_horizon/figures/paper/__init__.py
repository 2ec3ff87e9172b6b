"""The figures of the paper, one per file.

A figure is a module of this folder that assigns a literal `DECLARATION`, whose keys are the fields of `PaperFigure`,
and defines `draw` (draws a joined sweep as a Figure) and `numbers` (returns the plotted data of the same sweep as a
table, one row per point). Nothing else lists the figures: the declarations are read from the files without importing
them, and so without matplotlib or JAX.
"""

import ast
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple


class PaperFigure(NamedTuple):
    """The declaration of a figure.

    `number`: its place in the paper. `preset`: the file under `sweeps/` that makes its data. `shows`: one line for the
    help text. `quick`: overrides for a small version of the preset.
    """

    number: int
    preset: str
    title: str
    shows: str
    caption: str
    quick: tuple[str, ...]


def figures_in(folder: Path) -> dict[str, PaperFigure]:
    """Return the declaration of every figure in `folder` by the name of its module, in the order of the paper.

    Raises `ValueError` if a module declares none, or none that is a literal.
    """
    files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
    figures = {path.stem: _declared_in(path) for path in files}
    return dict(sorted(figures.items(), key=lambda figure: figure[1].number))


def _declared_in(path: Path) -> PaperFigure:
    for statement in ast.parse(path.read_bytes()).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "DECLARATION":
            return PaperFigure(**ast.literal_eval(statement.value))
    raise ValueError(f"{path.name}: assigns no DECLARATION; allowed: a dict of {', '.join(PaperFigure._fields)}")


FIGURES = figures_in(Path(__file__).parent)


def listing() -> str:
    """Return the figures as lines of help text."""
    width = max(map(len, FIGURES))
    return "".join(f"  {name:<{width}}  {figure.shows}\n" for name, figure in FIGURES.items())


def paper_figure(name: str) -> Any:
    """Return the module of the figure `name`; this loads matplotlib."""
    return import_module(f"gradient_horizon.figures.paper.{name}")

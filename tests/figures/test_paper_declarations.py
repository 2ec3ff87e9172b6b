"""A paper figure is one file: it declares itself in a literal, and is found by being there."""

import subprocess
import sys
from pathlib import Path

import pytest

from gradient_horizon.figures import paper
from gradient_horizon.figures.paper import FIGURES, PaperFigure, figures_in, paper_figure

FOLDER = Path(paper.__file__).parent


def test_every_file_declares_a_figure():
    assert {*FIGURES} == {path.stem for path in FOLDER.glob("*.py")} - {"__init__"}
    assert [figure.number for figure in FIGURES.values()] == [*range(1, len(FIGURES) + 1)]


@pytest.mark.parametrize("name", FIGURES)
def test_a_declaration_has_words_and_its_module_draws(name):
    figure, module = FIGURES[name], paper_figure(name)
    assert figure == PaperFigure(**module.DECLARATION)
    for text in (figure.title, figure.shows, figure.caption):
        assert text == " ".join(text.split())
    assert 2 <= figure.caption.count(". ") + 1 <= 8
    assert all("=" in override for override in figure.quick)
    assert callable(module.draw)
    assert callable(module.numbers)


def declaration(number):
    fields = {"number": number, "preset": "main", "title": "A", "shows": "b", "caption": "C.", "quick": ("seeds=2",)}
    return f"import a_module_that_is_not_there\n\nDECLARATION = {fields}\n"


def test_a_new_file_is_a_new_figure_in_the_place_of_its_number(tmp_path):
    for name, number in {"last": 3, "first": 1, "middle": 2}.items():
        (tmp_path / f"{name}.py").write_text(declaration(number))
    figures = figures_in(tmp_path)
    assert [*figures] == ["first", "middle", "last"]
    assert figures["middle"] == PaperFigure(2, "main", "A", "b", "C.", ("seeds=2",))


@pytest.mark.parametrize("source", ["", "x = 1\n", "DECLARATION = dict(number=1)\n"])
def test_a_file_without_a_literal_declaration_is_refused(tmp_path, source):
    (tmp_path / "bad.py").write_text(source)
    with pytest.raises(ValueError, match=r"bad\.py|malformed"):
        figures_in(tmp_path)


def test_declarations_are_read_without_jax_and_matplotlib():
    code = (
        "import sys, gradient_horizon.figures.paper as paper; assert 'edge' in paper.FIGURES;"
        "assert 'jax' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

"""A paper figure is one file, which declares itself."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gradient_horizon.figures import paper
from gradient_horizon.figures.paper import FIGURES, paper_figure

FOLDER = Path(paper.__file__).parent


def test_every_file_declares_a_figure():
    assert {*FIGURES} == {path.stem for path in FOLDER.glob("*.py")} - {"__init__"}
    assert [figure.number for figure in FIGURES.values()] == [*range(1, len(FIGURES) + 1)]


@pytest.mark.parametrize("name", FIGURES)
def test_a_declaration_has_words_and_its_module_draws(name):
    figure, module = FIGURES[name], paper_figure(name)
    assert figure == replace(module.DECLARES, module=module.__name__)
    for text in (figure.title, figure.help, figure.caption):
        assert text == " ".join(text.split()) != ""
    assert 2 <= figure.caption.count(". ") + 1 <= 8
    assert all("=" in override for override in figure.quick)
    assert callable(module.draw)
    assert callable(module.numbers)


def test_declarations_are_read_without_jax_and_matplotlib():
    code = (
        "import sys, gradient_horizon.figures.paper as paper; assert 'edge' in paper.FIGURES;"
        "assert 'jax' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

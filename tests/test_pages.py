"""Every page under docs/questions runs as it stands: its Python blocks in order, in an empty folder."""

import re
from pathlib import Path

import jax
import matplotlib as mpl
import pytest

PAGES = sorted((Path(__file__).resolve().parents[1] / "docs" / "questions").glob("*.md"))
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.S | re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_runs_and_draws_its_picture(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    assert blocks
    program = {"__name__": "page"}
    # as in a process of the reader's own
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in blocks:
            exec(compile(block, page.name, "exec"), program)
    assert (tmp_path / f"{page.stem}.png").is_file()
    assert page.with_suffix(".png").is_file()

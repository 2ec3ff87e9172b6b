"""Every notebook runs from start to end, in short form: with small numbers in its cell of parameters."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
SHORT = {"SEEDS": 2, "STEPS": 25, "UPDATES": 8}
LONG = ("from_the_notes", "training_and_clipping")  # a minute and more: they run several sweeps
PARAMETERS = re.compile(r'(?<=# %% tags=\["parameters"\]\n)(?:[A-Z]+ = \d+\n)+')


def shortened(source: str) -> str:
    """`source` with small parameters."""
    assert len(PARAMETERS.findall(source)) == 1
    return PARAMETERS.sub(lambda cell: re.sub(r"(\w+) = \d+", lambda m: f"{m[1]} = {SHORT[m[1]]}", cell[0]), source)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in LONG else [])
        for path in sorted(FOLDER.glob("*.py"))
    ],
)
def test_it_runs(path, tmp_path):
    source = shortened(path.read_text(encoding="utf-8"))
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", source],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout

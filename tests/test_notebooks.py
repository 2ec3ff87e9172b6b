"""Every notebook runs from start to end, in short form: with small numbers in its cell of parameters.

And a user's own, which has used JAX before it imports this package, compiles a measure once.
"""

import json
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


FIRST = """
import jax, jax.numpy as jnp
compiled = []
jax.monitoring.register_event_duration_secs_listener(lambda event, seconds, **_: compiled.append(event))
total = jnp.sum(jnp.arange(5.0))
"""
IMPORT = """
import gradient_horizon as gh
for_weights, for_inputs = jax.random.split(jax.random.key(0))
weights, inputs = jax.random.normal(for_weights, (8, 8)), jax.random.normal(for_inputs, (50, 8))
h0, found, programs = jnp.zeros(8), [], []
"""
STEP = """
def step(params, h, x):
    return 0.9 * h + 0.1 * jnp.sin(params @ h + x)
"""
MEASURE = """
compiled.clear()
norms = jax.block_until_ready(gh.log_jacobian_norms(step, weights, h0, inputs, norms=("frobenius", "spectral")))
programs.append(compiled.count("/jax/core/compile/backend_compile_duration"))
found.append({name: values.tolist() for name, values in norms.items()})
"""
LAST = """
import json
print(json.dumps([programs, found]))
"""
# As a notebook does it: each cell compiled by itself, all in one namespace.
RUN = """
import sys, json
namespace = {"__name__": "__main__"}
for number, cell in enumerate(json.load(sys.stdin)):
    exec(compile(cell, f"<cell {number}>", "exec"), namespace)
"""


def test_a_notebook_that_has_used_jax_first_compiles_a_measure_once():
    """The cell that defines the step may be run again in between."""
    cells = [FIRST, IMPORT, STEP, MEASURE, MEASURE, MEASURE, STEP, MEASURE, LAST]
    set_by_the_tests = ("JAX_", "XLA_", "OPENBLAS_", "OMP_")
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN],
        input=json.dumps(cells),
        env={name: value for name, value in os.environ.items() if not name.startswith(set_by_the_tests)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    programs, (first, *others) = json.loads(ran.stdout)
    assert programs[0] > 0
    assert programs[1:] == [0, 0, 0]
    assert others == [first] * 3
    assert len(first["spectral"]) == 50

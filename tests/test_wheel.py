"""What is installed from a wheel works outside the checkout: settings and presets travel inside."""

import json
import os
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np

import gradient_horizon as gh

ROOT = Path(__file__).parents[1]
SWEEP = shlex.split(
    "run -m experiment=jacobian cell=tanh,relu weights=gaussian,orthogonal name=first weight_scales=[0.5,1.0,2.0]"
    " seeds=8 hidden_size=32 steps=100"
)


def test_a_wheel_installed_elsewhere_runs_a_sweep_in_an_empty_folder(tmp_path):
    def run(*arguments: str, folder: Path = ROOT) -> str:
        environment = {**os.environ, "PYTHONPATH": str(installed)}
        ran = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    installed, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    run("-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path))
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    for kind in ("conf", "sweeps"):
        for path in (ROOT / kind).rglob("*.yaml"):
            assert f"gradient_horizon/{path.relative_to(ROOT).as_posix()}" in inside
    run("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(installed), str(wheel))

    # PYTHONPATH goes before the checkout, which is installed beside it
    found = run("-c", "import gradient_horizon; print(gradient_horizon.__file__)", folder=empty)
    assert Path(found.strip()).is_relative_to(installed)
    said = run("-m", "gradient_horizon", *SWEEP, folder=empty)
    assert said.startswith("results/first: 4 jobs; computing 4 (96 networks)\n")
    assert "4 finished" in run("-m", "gradient_horizon", "status", "results/first", folder=empty)
    planned = run("-m", "gradient_horizon", "run", "+sweeps=main", "--dry-run", folder=empty)
    assert "would compute results/main/cell=hard_tanh" in planned.splitlines()
    dataset = gh.load(empty / "results" / "first")
    assert dataset.log_norm.dims == ("cell", "weights", "norm", "weight_scale", "seed", "lag")
    assert dataset.attrs["git_commit"] == ""  # the installed package is no checkout

    # the example plugin, from a wheel of its own
    plugin = ROOT / "examples" / "plugin"
    run("-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "plugin"), str(plugin))
    (wheel,) = (tmp_path / "plugin").glob("*.whl")
    run("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(installed), str(wheel))
    assert "mgu: value added to the bias of the gate" in run("-m", "gradient_horizon", "settings", folder=empty)
    again = run("-m", "gradient_horizon", *SWEEP, "--dry-run", folder=empty)
    assert "all 4 jobs are already finished" in again  # what a plugin declares changes no other job
    for command in (
        "run -m cell=tanh,mgu gate_bias=1.0 hidden_size=6 steps=20 seeds=2 weight_scales=[1.0] name=cells",
        "run experiment=step_norms hidden_size=6 steps=20 seeds=2 name=norms",
        "run experiment=training cell=mgu task=parity hidden_size=6 seeds=2 updates=4 test_size=10 name=task",
    ):
        run("-m", "gradient_horizon", *shlex.split(command), folder=empty)
    cells = gh.load(empty / "results" / "cells")
    assert sorted(cells.cell.values) == ["mgu", "tanh"]  # loaded where the plugin is not installed
    assert bool(np.isfinite(cells.log_norm).all())
    gated, plain = (gh.load(empty / "results" / "cells" / f"cell={cell}").attrs for cell in ("mgu", "tanh"))
    assert json.loads(gated["packages"]) == {"gradient-horizon-example 0.1.0": ["gate_bias"]}
    assert "packages" not in plain
    assert "gate_bias" not in json.loads(plain["config"])
    norms = gh.load(empty / "results" / "norms").log_norm_of_step
    assert norms.dims[-1] == "time"
    assert (empty / "results" / "norms" / "step_norms.pdf").is_file()
    assert gh.load(empty / "results" / "task").sizes["update"] == 5

"""The package is built in rooms. A room imports, at its top or inside a function, only from rooms before it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gradient_horizon

PACKAGE = Path(gradient_horizon.__file__).parent
README = Path(__file__).parents[1] / "README.md"
ROOMS = (
    *("names", "numerics", "cells", "tasks", "measures", "theory", "training", "ensembles", "settings", "store"),
    *("experiments", "analysis", "figures", "verify", "diagnosis", "commands", "__main__"),
)
COMPUTING = ROOMS[: ROOMS.index("settings")]
MODULES = {path.relative_to(PACKAGE): path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE}
MODULES[Path("__main__.py")] = PACKAGE / "__main__.py"


def imports(path: Path) -> set[str]:
    """Dotted names of everything that is imported anywhere in a file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            names |= {f"{node.module}.{name.name}" for name in node.names}
    return names


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_room_imports_only_from_rooms_before_it(module):
    room = Path(module.parts[0]).stem
    inside = {name.split(".")[1] for name in imports(MODULES[module]) if name.startswith("gradient_horizon.")}
    for used in inside - {"__version__"}:
        assert ROOMS.index(used) <= ROOMS.index(room), f"{module} imports from {used}, which comes after {room}"


def test_the_rooms_are_those_of_the_folder_and_of_the_readme():
    entries = {path.stem for path in PACKAGE.iterdir() if path.name not in ("__pycache__", "py.typed")}
    assert entries - {"__init__"} == {*ROOMS}
    table = README.read_text(encoding="utf-8").partition("| room | contents |\n|---|---|\n")[2].partition("\n\n")[0]
    assert tuple(row.split("`")[1].strip("/") for row in table.splitlines()) == ROOMS[:-1]


def test_the_computing_rooms_know_neither_settings_nor_files_nor_figures():
    for module, path in MODULES.items():
        if Path(module.parts[0]).stem in COMPUTING:
            known = {name.partition(".")[0] for name in imports(path)}
            assert not known & {"hydra", "omegaconf", "xarray", "h5py", "h5netcdf", "matplotlib"}, module


WITHOUT_JAX = """
import contextlib, io, sys
def loaded():
    return {"jax", "jaxlib", "matplotlib"} & set(sys.modules)
import gradient_horizon
assert not loaded(), "import"
from gradient_horizon.commands.parser import main
for arguments in (["--help"], ["--version"], ["run", "--help"], ["status", "--help"], ["collect", "--help"],
                  ["settings"], ["completion", "bash"], ["run", "cell=perceptron"], ["run", "steps=-1"],
                  ["run", "cell=tanh,relu"], ["run", "stepz=3"], ["status", "nowhere"], ["collect", "nowhere"],
                  ["run", "-m", "cell=tanh,relu", "--dry-run"], ["tune", "--help"], ["tune", "cell=lstm"],
                  ["tune", "cell=lstm", "forget_bias=?", "leak=?"], ["tune", "cell=tanh", "forget_bias=?"],
                  ["tune", "cell=lstm", "forget_bias=?", "steps=0"], ["tune", "cell=lstm", "hidden_size=?"],
                  ["tune", "weight_scale=?", "--kind", "gone"], ["tune", "cell=lstm,gru", "weight_scale=?"],
                  ["tune", "leak=?", "cell=leaky_tanh", "--between", "0.5", "2"]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            status = main(arguments)
        except SystemExit as stop:
            status = stop.code
    assert status == (2 if said.getvalue() else 0), (arguments, status, said.getvalue())
    assert not loaded(), (arguments, loaded())
"""


def test_importing_asking_and_refusing_need_no_jax(tmp_path):
    subprocess.run([sys.executable, "-W", "error", "-c", WITHOUT_JAX], cwd=tmp_path, check=True)
    assert not list(tmp_path.iterdir())

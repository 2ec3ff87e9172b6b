"""The package is built in floors. What a module imports, at its top or inside a function, lies below it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gradient_horizon

PACKAGE = Path(gradient_horizon.__file__).parent
# A name stands for a module or for a whole package.
FLOORS = (
    (
        *(
            "names",
            "initialisations",
            "arrays",
            "compiler",
            "activations",
            "weights",
            "runtime",
            "process",
            "fingerprint",
            "compiled",
            "derivatives",
            "orthogonal",
            "holomorphic",
            "states",
            "randomness",
            "scaling",
            "fallback",
            "extended_range",
            "wide",
            "underflow",
            "sums",
            "graded",
            "structural_rank",
            "linalg",
            "elimination",
            "lanes",
        ),
        *("task_limits", "inputs"),
    ),
    ("cells", "spectral_norm", "tasks"),
    ("rollout", "recurrence", "clipping", "horizon"),
    ("jacobian", "all_pairs", "spectra", "lyapunov", "backprop", "theory"),
    ("training",),
    ("ensemble",),
    ("files",),
    ("rules", "records", "seal", "lazy", "progress", "interrupts"),
    ("config", "launchers", "netcdf"),
    ("presets",),
    ("results", "parts", "predictions", "status", "provenance", "statistics"),
    ("outcomes",),
    ("experiments", "figures", "summary"),
    ("verify",),
    ("jobs",),
    ("sweep", "terminal"),
    ("launch", "publication", "drawing"),
    ("commands", "api"),
    ("cli",),
    ("__main__",),
)
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}
COMPUTING = range(6)
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path != PACKAGE / "__init__.py"
}


def home(module: str) -> str:
    """The module or package of the floors that `module` belongs to."""
    return module.partition(".")[0]


def imports(path: Path) -> set[str]:
    """Dotted names of everything that is imported anywhere in a file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name}: imports are absolute"
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


def own_imports(path: Path) -> set[str]:
    """The package's own modules among them, by their place in the floors."""
    inside = {name.split(".")[1] for name in imports(path) if name.startswith("gradient_horizon.")}
    return {name for name in inside if name != "__version__"}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_from_lower_floors_only(module):
    assert home(module) in FLOOR_OF, f"{module} stands on no floor: give it one here and in DESIGN.md"
    floor = FLOOR_OF[home(module)]
    for used in own_imports(MODULES[module]):
        assert used in FLOOR_OF, f"{module} imports {used}, which stands on no floor"
        allowed = FLOOR_OF[used] < floor or used == home(module) or floor == FLOOR_OF[used] == 0
        assert allowed, f"{module} (floor {floor}) imports {used} (floor {FLOOR_OF[used]})"


def test_the_ground_floor_has_no_cycle():
    left = {name: own_imports(MODULES[name]) & set(FLOORS[0]) for name in FLOORS[0] if name in MODULES}
    while left:
        free = [name for name, used in left.items() if not used & set(left)]
        assert free, f"these import each other: {', '.join(left)}"
        for name in free:
            del left[name]


def test_the_computing_floors_know_neither_settings_nor_files_nor_figures():
    for module, path in MODULES.items():
        if FLOOR_OF.get(home(module)) in COMPUTING:
            known = {name.partition(".")[0] for name in imports(path)}
            assert not known & {"hydra", "omegaconf", "xarray", "h5py", "h5netcdf", "matplotlib"}, module


WITHOUT_JAX = """
import contextlib, io, sys
def loaded():
    return {"jax", "jaxlib", "matplotlib"} & set(sys.modules)
import gradient_horizon
assert not loaded(), "import"
from gradient_horizon.cli import main
for arguments in (["--help"], ["--version"], ["run", "--help"], ["status", "--help"], ["collect", "--help"],
                  ["settings"], ["completion", "bash"], ["run", "cell=perceptron"], ["run", "steps=-1"],
                  ["run", "cell=tanh,relu"], ["run", "stepz=3"], ["status", "nowhere"], ["collect", "nowhere"],
                  ["run", "-m", "cell=tanh,relu", "--dry-run"]):
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

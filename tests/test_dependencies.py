"""Of other libraries' insides the package uses what docs/dependencies.md lists: no more, no less."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import gradient_horizon

PACKAGE = Path(gradient_horizon.__file__).parent
PAGE = Path(__file__).parents[1] / "docs" / "dependencies.md"
# Internal, experimental, or documented without a promise that it stays; so is any name with a leading underscore.
INSIDES = (
    *("jax.core", "jax.experimental", "jax.extend", "jax.interpreters", "jax.lib", "jaxlib"),
    *("xarray.core", "xarray.namedarray", "xarray.backends.api", "h5py.h5"),
    *("hydra.core", "hydra.experimental", "hydra.types", "hydra.plugins", "omegaconf.base", "omegaconf.basecontainer"),
    *("numpy.core", "pandas.core", "matplotlib.backends", "optax.transforms"),
)


def dotted(node: ast.AST) -> list[str]:
    """`["jax", "core", "Tracer"]` of the expression jax.core.Tracer; nothing of other expressions."""
    if isinstance(node, ast.Name):
        return [node.id]
    before = dotted(node.value) if isinstance(node, ast.Attribute) else []
    return [*before, node.attr] if isinstance(node, ast.Attribute) and before else []


def used(source: str) -> Iterator[str]:
    """Every imported name, and every attribute that is asked of one, by its full name."""
    tree = ast.parse(source)
    home: dict[str, str] = {}  # what the names of this source stand for
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                first = name.name.partition(".")[0]
                home[name.asname or first] = name.name if name.asname else first
                yield name.name
        elif isinstance(node, ast.ImportFrom):
            for name in node.names:
                home[name.asname or name.name] = f"{node.module}.{name.name}"
                yield f"{node.module}.{name.name}"
    for node in ast.walk(tree):
        parts = dotted(node)
        if len(parts) > 1 and parts[0] in home:
            yield ".".join([home[parts[0]], *parts[1:]])


def is_inside(name: str) -> bool:
    if name.partition(".")[0] in {"gradient_horizon", *sys.stdlib_module_names}:
        return False
    is_private = any(part.startswith("_") and not part.startswith("__") for part in name.split("."))
    return is_private or any(f"{name}.".startswith(f"{place}.") for place in INSIDES)


def insides(source: str) -> set[str]:
    """The names among them that nobody promises: of a.b, a.b.Class and a.b.Class.method, a.b.Class."""
    found = {name for name in used(source) if is_inside(name)}
    found = {re.sub(r"(\.[A-Z]\w*)\..*", r"\1", name) for name in found}
    return {name for name in found if not any(other.startswith(f"{name}.") for other in found)}


def listed() -> set[str]:
    """The names in the first column of the page's first table."""
    table = PAGE.read_text(encoding="utf-8").partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import jax\nfrom jax import lax\nx = jax.tree.map(lax.add, 1)", set()),
        ("import jax\nx = jax.core.Tracer.aval", {"jax.core.Tracer"}),
        ("def f():\n    from jax._src import core", {"jax._src.core"}),
        (
            "from xarray.core import indexing as i\nx = i.NumpyIndexingAdapter",
            {"xarray.core.indexing.NumpyIndexingAdapter"},
        ),
        ("import numpy as np\nx = np._core.umath", {"numpy._core.umath"}),
        ("import hydra._internal.utils", {"hydra._internal.utils"}),
        ("import jax\nx = jax.__version__", set()),
        ("from gradient_horizon.measures.lyapunov import _spectrum", set()),
        ("import _thread\n_thread.interrupt_main()", set()),
        ("import jaxtyping\nx = jaxtyping.Array", set()),
    ],
)
def test_insides_are_found_however_they_are_imported(source, found):
    assert insides(source) == found


def test_the_page_lists_what_is_used_of_other_libraries_insides():
    found = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        here = insides(path.read_text(encoding="utf-8"))
        assert here <= listed(), (
            f"{path.name} uses {', '.join(here - listed())}: find a public name, or list it in {PAGE}"
        )
        found |= here
    assert found == listed(), f"{', '.join(listed() - found)}: listed, but not used any more"

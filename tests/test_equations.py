"""Every function and test that docs/equations.md names exists."""

import re
from functools import reduce
from importlib import import_module
from pathlib import Path

TESTS = Path(__file__).parent
ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in (TESTS.parent / "docs" / "equations.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("|") and not line.startswith(("| symbol", "|---"))
]


def resolve(path: str) -> object:
    """What `path` names below the package: the modules on the way are imported, the rest are attributes."""
    parts = path.split(".")
    module, rest = import_module("gradient_horizon"), parts
    for place in range(1, len(parts) + 1):
        try:
            module, rest = import_module(f"gradient_horizon.{'.'.join(parts[:place])}"), parts[place:]
        except ModuleNotFoundError:
            break
    return reduce(getattr, rest, module)


def test_every_function_and_test_in_the_table_exists():
    assert len(ROWS) > 40
    for row in ROWS:
        symbol, formula, _, functions, test = row
        assert symbol, row
        assert formula, row
        for name in re.findall(r"`([^`]+)`", functions):
            resolve(name)
        assert "`" in functions, row
        file, _, function = test.strip("`").partition("::")
        assert f"def {function}(" in (TESTS / file).read_text(encoding="utf-8"), test

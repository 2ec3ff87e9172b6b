"""A run of the benchmark beside an earlier one."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rows import Row, compare, shown


def compared(screen: Console, found: Sequence[Row], path: Path, earlier: Sequence[Row]) -> int:
    """Say which rows fell since `path` was written; the exit status, 1 where any did, or where none can be compared."""
    fallen, common = compare(found, earlier)
    screen.print(f"{common} of {len(found)} rows are in {path} too; {len(fallen)} fell", markup=False)
    for row, was in fallen:
        then, here = shown(was.median, was.unit), shown(row.median, row.unit)
        screen.print(f"fell: {row.what}, {row.size}: {then} then, {here} here", markup=False)
    return 1 if fallen or not common else 0

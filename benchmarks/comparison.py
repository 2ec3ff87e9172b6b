"""Comparison of a run of the benchmark with an earlier one."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rows import Row, compare, shown


def compared(screen: Console, rows: Sequence[Row], path: Path, earlier: Sequence[Row]) -> int:
    """Print the rows that have become worse since `path` was written; return the exit status.

    The status is 1 if any row has, or if no row can be compared.
    """
    fallen, common = compare(rows, earlier)
    screen.print(f"{common} of {len(rows)} rows are in {path} too; {len(fallen)} fell", markup=False)
    for row, was in fallen:
        then, here = shown(was.median, was.unit), shown(row.median, row.unit)
        screen.print(f"fell: {row.what}, {row.size}: {then} then, {here} here", markup=False)
    return 1 if fallen or not common else 0

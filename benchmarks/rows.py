"""Rows of the benchmark's table: a measured number, its spread, and its target."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from rich.table import Table

MORE, LESS = "at least", "at most"
_LEAST_SPREAD = 0.05  # of the median: a few repeats may agree more closely by chance


@dataclass(frozen=True)
class Row:
    """The median of one number over the repeats, with its quartiles; `sense` tells which direction is better."""

    part: str
    what: str
    size: str
    median: float
    low: float
    high: float
    repeats: int
    unit: str
    sense: str
    target: float | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """The identity of a row across runs."""
        return self.part, self.what, self.size

    @property
    def verdict(self) -> str:
        """`met` or `missed`, or empty if there is no target."""
        if self.target is None:
            return ""
        met = self.median >= self.target if self.sense == MORE else self.median <= self.target
        return "met" if met else "missed"

    def fell_from(self, earlier: "Row") -> bool:
        """True if it is worse than `earlier` by more than the larger of the two spreads.

        A spread counts as at least `_LEAST_SPREAD` of the earlier median.
        """
        loss = earlier.median - self.median if self.sense == MORE else self.median - earlier.median
        spread = max(self.high - self.low, earlier.high - earlier.low, _LEAST_SPREAD * abs(earlier.median))
        return loss > spread


def row(
    part: str,
    what: str,
    size: str,
    values: Sequence[float] | np.ndarray,
    sense: str,
    target: float | None = None,
    *,
    unit: str = "×",
) -> Row:
    """Return the row of a number measured once per repeat."""
    low, median, high = (float(value) for value in np.percentile(np.asarray(values, float), (25, 50, 75)))
    return Row(part, what, size, median, low, high, len(values), unit, sense, target)


def shown(value: float, unit: str) -> str:
    """Return a number with its unit, to three digits."""
    if unit == "%":
        return f"{100 * value:.0f} %"
    text = f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.3g}"
    return f"{text} {unit}".strip() if unit != "×" else f"{text}×"


def table(rows: Iterable[Row]) -> Table:
    """Return a table of all rows, each with its target and whether it is met."""
    made = Table("what", "size", "median", "interquartile range", "target", "", title="Benchmark")
    for column in (2, 3, 4):
        made.columns[column].justify = "right"
    part = None
    for each in rows:
        if part not in (None, each.part):
            made.add_section()
        part = each.part
        target = "" if each.target is None else f"{each.sense} {shown(each.target, each.unit)}"
        spread = f"{shown(each.low, each.unit)} to {shown(each.high, each.unit)}"
        median = shown(each.median, each.unit)
        made.add_row(each.what, each.size, median, spread if each.repeats > 1 else "one run", target, each.verdict)
    return made


def write(rows: Iterable[Row], path: Path, remarks: Iterable[str] = ()) -> None:
    """Write one line per row, after the `remarks` as lines that begin with #."""
    names = [field.name for field in fields(Row)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        file.writelines(f"# {remark}\n" for remark in remarks)
        writer = csv.writer(file)
        writer.writerow([*names, "verdict"])
        for each in rows:
            writer.writerow(
                [*("" if (value := getattr(each, name)) is None else value for name in names), each.verdict]
            )


def read(path: Path) -> list[Row]:
    """Return the rows of a file written by `write`; raise `ValueError` for any other file."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    try:
        return [
            Row(
                part=line["part"],
                what=line["what"],
                size=line["size"],
                median=float(line["median"]),
                low=float(line["low"]),
                high=float(line["high"]),
                repeats=int(line["repeats"]),
                unit=line["unit"],
                sense=line["sense"],
                target=float(line["target"]) if line["target"] else None,
            )
            for line in csv.DictReader(lines)
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: holds no rows ({error}); allowed: a file that the benchmark wrote") from None


def compare(rows: Iterable[Row], earlier: Iterable[Row]) -> tuple[list[tuple[Row, Row]], int]:
    """Return each row that fell, with its earlier value, and how many rows both runs have."""
    before = {each.key: each for each in earlier}
    both = [(each, before[each.key]) for each in rows if each.key in before]
    return [(each, was) for each, was in both if each.fell_from(was)], len(both)

"""The benchmark's table and its comparison with an earlier run, on numbers that are made up."""

import csv
import io
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def rows(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return import_module("rows")


def screen() -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=200), file


@pytest.fixture
def made(rows):
    return [
        rows.row("norms", "share of the product", "N = 64", [0.6, 0.7, 0.8], rows.MORE, 0.65, unit="%"),
        rows.row("norms", "times as fast as another", "N = 64", [2.0, 2.1, 2.2], rows.MORE, 2.5),
        rows.row("sweeps", "a small job", "N = 32", [5.0, 5.5, 5.6], rows.LESS, 6, unit="s"),
        rows.row("sweeps", "importing, cold", "", [0.1], rows.LESS, unit="s"),
    ]


def test_a_row_is_the_median_between_the_quartiles_and_held_to_its_target(made):
    share = made[0]
    assert (share.low, share.median, share.high, share.repeats) == pytest.approx((0.65, 0.7, 0.75, 3))
    assert [each.verdict for each in made] == ["met", "missed", "met", ""]


def test_the_table_shows_every_row_with_its_target(rows, made):
    console, file = screen()
    console.print(rows.table(made))
    lines = [line for line in file.getvalue().splitlines() if "N = " in line or "importing" in line]
    assert len(lines) == len(made)
    for text in ("70 %", "at least 65 %", "65 % to 75 %"):
        assert text in lines[0]
    assert "2.1×" in lines[1]
    assert "missed" in lines[1]
    assert "at most 6 s" in lines[2]
    assert "one run" in lines[3]


def test_what_is_written_is_read_again(rows, made, tmp_path):
    path = tmp_path / "results" / "run.csv"
    rows.write(made, path, ["a machine, 2 cores", "versions"])
    assert rows.read(path) == made
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["# a machine, 2 cores", "# versions"]
    assert [line["verdict"] for line in csv.DictReader(lines[2:])] == ["met", "missed", "met", ""]


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "part,what,size\nnorms,share\n"])
def test_a_file_of_something_else_is_refused(rows, tmp_path, text):
    path = tmp_path / "other.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"other\.csv.*allowed"):
        rows.read(path)


@pytest.mark.parametrize(
    ("sense", "now", "fell"),
    [
        ("at least", [8.9, 9.0, 9.1], True),  # a loss of 1, a spread of 0.2, and of 0.5 for the least
        ("at least", [9.6, 9.7, 9.8], False),  # less than 5 % of the median
        ("at least", [6.0, 9.0, 12.0], False),  # its own spread is 3
        ("at least", [19.0, 20.0, 21.0], False),
        ("at most", [10.9, 11.0, 11.1], True),
        ("at most", [4.9, 5.0, 5.1], False),
    ],
)
def test_a_row_fell_where_it_is_worse_by_more_than_the_spread(rows, sense, now, fell):
    was = rows.row("part", "what", "size", [9.8, 10.0, 10.2], sense)
    found, common = rows.compare([rows.row("part", "what", "size", now, sense)], [was])
    assert common == 1
    assert [each.what for each, _ in found] == (["what"] if fell else [])


def test_rows_of_other_sizes_are_not_compared(rows, made):
    other = rows.row("norms", "share of the product", "N = 128", [0.1], rows.MORE, unit="%")
    assert rows.compare([other], made) == ([], 0)


def test_a_fall_is_named_and_ends_with_status_1(rows, made, tmp_path):
    comparison = import_module("comparison")
    console, file = screen()
    worse = [rows.row("sweeps", "a small job", "N = 32", [7.0, 7.1, 7.2], rows.LESS, 6, unit="s")]
    assert comparison.compared(console, made, tmp_path / "a.csv", made) == 0
    assert comparison.compared(console, worse, tmp_path / "a.csv", made) == 1
    assert "fell: a small job, N = 32: 5.5 s then, 7.1 s here" in file.getvalue()
    assert comparison.compared(console, worse, tmp_path / "a.csv", []) == 1


def test_shares_and_ratios_of_norms(rows, tmp_path):
    norms, bench = import_module("norms"), import_module("bench")
    run = bench.Bench(True, 3, tmp_path, print, ExitStack())
    case = {"n": 64, "networks": 32, "steps": 100, "scale": 1.0}
    # 2 · 64³ · 100 · 32 operations in 10 ms are 167.8 GFLOP/s, of 200
    taken = {(64, norms.OWN): np.array([0.01]), (64, norms.ON_DEVICES): np.array([0.5])}
    taken |= {(64, name): np.array([0.03]) for name in norms.PEERS}
    (share,) = norms.shares(run, [case], taken, 1e11, norms.ON_DEVICES)
    assert (share.median, share.target, share.verdict) == (pytest.approx(0.8389, rel=1e-4), 0.65, "met")
    assert run.throughput[norms.OWN] == {64: pytest.approx(167.8, rel=1e-3)}
    by_hand, torch_func, plain = norms.ratios([case], taken)
    assert [each.median for each in (by_hand, torch_func, plain)] == pytest.approx([3, 3, 3])
    assert [each.verdict for each in (by_hand, torch_func, plain)] == ["met", "missed", ""]


def test_a_second_call_may_take_three_times_as_long_as_inside_jit_and_a_millisecond(rows):
    calls = import_module("calls")
    for outside, verdict in ((0.0069, "met"), (0.0071, "missed")):  # 3 × 2 ms + 1 ms are allowed
        taken = {"outside": np.array([outside] * 3), "inside": np.array([0.001, 0.002, 0.009])}
        eager, jitted = calls.second_calls("rollout", 64, taken)
        assert (eager.target, eager.verdict) == (pytest.approx(7), verdict)
        assert (eager.median, jitted.median, jitted.target) == (pytest.approx(1e3 * outside), pytest.approx(2), None)


def test_calls_that_part_in_one_number_or_in_what_is_not_finite_are_not_timed(rows):
    worst = import_module("calls").worst_difference
    ours = {"0": np.array([1.0, 200.0, np.nan, -np.inf])}
    assert worst(ours, ours) == 0
    assert worst(ours, {"0": np.array([1.0, 202.0, np.nan, -np.inf])}) == pytest.approx(0.01)
    assert worst(ours, {"0": np.array([1.0, 200.0, np.nan, np.nan])}) == np.inf
    assert worst(ours, {"0": np.array([1.0, 200.0, 1.0, -np.inf])}) == np.inf
    assert worst(ours, {"0": np.array([1.0, np.nan, np.nan, -np.inf])}) == np.inf

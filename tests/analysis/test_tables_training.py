"""The tables that end a training sweep, of networks whose fate is given."""

import numpy as np
from rich.console import Console
from table_parts import rows_of
from training_results import trained

from gradient_horizon.analysis.intervals import share
from gradient_horizon.analysis.outcomes import horizon_auc
from gradient_horizon.analysis.tables.all_tables import tables
from gradient_horizon.analysis.tables.training import prediction_table, solved_table
from gradient_horizon.store.datasets import join

SOLVED = [[-1, 10, 20, -1], [10, 10, 40, -1]]
DIVERGED = [[30, -1, -1, -1], [-1, -1, -1, -1]]


def limits(solved, total):
    found = share(solved, total)
    return f"{found.lower:.2f}–{found.upper:.2f}"


def test_a_row_a_job_and_weight_scale():
    dataset = join([trained({"cell": "tanh"}, solved=SOLVED, diverged=DIVERGED), trained({"cell": "relu"})])
    assert rows_of(solved_table(dataset)) == [
        ["tanh", "0.5", "2/4", limits(2, 4), "15", "1", "0.000"],
        ["tanh", "1", "3/4", limits(3, 4), "10", "0", "0.000"],
        ["relu", "0.5", "0/4", limits(0, 4), "", "0", "0.750"],
        ["relu", "1", "0/4", limits(0, 4), "", "0", "0.750"],
    ]


def test_wilsons_limits_are_the_published_ones():
    """15 of 148: 0.0624 to 0.1605 (Newcombe 1998, Statistics in Medicine 17:857, table I)."""
    data = trained(solved=[10] * 15 + [-1] * 133, seeds=148, weight_scales=(1.0,))
    ((_, solved, interval, _, _, _),) = rows_of(solved_table(data))
    assert (solved, interval) == ("15/148", "0.06–0.16")


def test_the_best_learning_rate_has_a_row_of_its_own_scale():
    solved = np.full((2, 1, 2, 4), -1)
    solved[0, 0, 0, :2] = 10
    solved[1, 0, 1, :3] = 20
    table = solved_table(trained(solved=solved, learning_rates=(0.01, 0.1)))
    assert [row[:3] for row in rows_of(table)] == [["0.5", "0.01", "2/4"], ["1", "0.1", "3/4"]]
    assert table is not None
    assert str(table.caption).startswith("η: the value with which most of these networks solved the task (if none, the")
    (_, predicted) = tables(trained(solved=solved, learning_rates=(0.01, 0.1)))
    assert str(predicted.caption).startswith("η: the value with which most of these networks solved the task")


def caption(**networks) -> str:
    table = solved_table(trained(**networks))
    assert table is not None
    return str(table.caption)


def test_the_table_says_what_few_seeds_are_worth():
    """Of 5 against 5 Fisher's test gives 0.048 to 0 and 4, 0.17 to 0 and 3; of 3 against 3 0.1 to 0 and 3."""
    assert caption(seeds=5).endswith(
        "; 5 seeds: ±0.33 at worst; rows that differ by fewer than 4 networks may do so by chance"
    )
    assert caption(seeds=3).endswith("; 3 seeds: ±0.37 at worst; any two rows may differ by chance")
    assert caption(seeds=1, weight_scales=(1.0,)).endswith("; 1 seed: ±0.40 at worst")
    assert "seed" in caption(seeds=20)
    assert "seed" not in caption(seeds=21)


def test_the_row_of_fewest_seeds_decides():
    table = solved_table(join([trained({"cell": "tanh"}, seeds=5), trained({"cell": "relu"}, seeds=8)]))
    assert table is not None
    assert "5 seeds: ±0.33" in str(table.caption)


def test_a_threshold_that_makes_no_difference_is_not_named():
    (row, _) = rows_of(solved_table(trained(clip="none", clip_thresholds=(1.0, 10.0))))
    assert row[:3] == ["0.5", "", "0/4"]


def test_at_most_five_weight_scales_are_shown_with_both_ends():
    data = trained(weight_scales=np.linspace(0.5, 2.5, 21).round(1).tolist())
    assert [row[0] for row in rows_of(solved_table(data))] == ["0.5", "1", "1.5", "2", "2.5"]


def test_the_initial_horizon_as_a_predictor():
    tanh = trained({"cell": "tanh"}, weight_scales=(0.1, 0.9), steps=20, solved=[[-1, -1, 10, -1], [10, -1, 10, 10]])
    dataset = join([tanh, trained({"cell": "relu"}, weight_scales=(0.1, 0.9), steps=20)])
    area = horizon_auc(tanh)
    assert area is not None
    found = rows_of(prediction_table(dataset))
    assert found == [["tanh", "4/8", f"{area.estimate:.2f}", f"{area.lower:.2f}–{area.upper:.2f}"]]


def test_nothing_is_predicted_where_all_are_alike():
    assert prediction_table(trained(solved=10)) is None
    assert [str(table.title)[:8] for table in tables(trained(solved=10))] == ["Networks"]
    assert len(tables(trained(solved=SOLVED))) == 2


def test_the_tables_fit_an_ordinary_terminal():
    jobs = [trained({"cell": cell, "clip": "pseudocode"}, solved=SOLVED) for cell in ("hard_tanh", "relu")]
    for table in tables(join(jobs)):
        assert Console(width=200).measure(table).maximum <= 80

"""The closing table, of gradients that grow by a known factor a step."""

import json
import math

import numpy as np
import pytest
import xarray as xr
from rich.console import Console
from table_parts import rows_of

from gradient_horizon.analysis.tables.all_tables import tables
from gradient_horizon.analysis.tables.exponents import lyapunov_table
from gradient_horizon.analysis.tables.horizons import horizon_table, recheck_lines, truncation_table
from gradient_horizon.measures.horizon import horizon_of
from gradient_horizon.names import HORIZON_KINDS
from gradient_horizon.store.datasets import join
from gradient_horizon.theory import mean_field

SCALES = [0.5, 1.0, 1.5, 2.0]
STATE_SIZE = 9
SEEDS = 3


def growth(scale: float, neutral: float) -> float:
    """Log growth a step, a straight line through the neutral scale."""
    return 0.3 * (scale - neutral)


def horizon(scale: float, neutral: float, lags: int) -> tuple[int, str]:
    rate = growth(scale, neutral)
    first = int(3 * np.log(10) / abs(rate)) + 1
    return (first, "vanished" if rate < 0 else "exploded") if first <= lags else (lags + 1, "beyond")


def geometric(cell: str, neutral: float, lags: int, seeds: int = SEEDS, **attributes) -> xr.Dataset:
    """Of each seed the neutral scale is its own, `neutral` that of the median one."""
    lag, network = np.arange(1, lags + 1), ("weight_scale", "seed")
    own = [neutral + 0.05 * (seed - seeds // 2) for seed in range(seeds)]
    norm = np.array([[growth(scale, middle) * lag for middle in own] for scale in SCALES]) + 0.5 * np.log(STATE_SIZE)
    known = [[horizon(scale, middle, lags) for middle in own] for scale in SCALES]
    return xr.Dataset(
        {
            "log_norm": (("norm", *network, "lag"), norm[None]),
            "horizon": (network, np.array([[float(value) for value, _ in row] for row in known])),
            "horizon_kind": (network, np.array([[kind for _, kind in row] for row in known], "U9")),
            "state_size": ((), STATE_SIZE),
        },
        coords={"norm": ["frobenius"], "weight_scale": SCALES, "seed": range(seeds), "lag": lag},
        attrs={"swept": json.dumps({"cell": cell}), "config": json.dumps({"cell": cell}), **attributes},
    )


def rows(dataset: xr.Dataset) -> list[list[str]]:
    """The table's cells: the swept settings, the neutral scale, horizons at 0.5, 1 and 2, non-finite networks."""
    return rows_of(horizon_table(dataset))


def test_a_row_a_job_with_its_own_neutral_scale_and_horizons():
    found = rows(join([geometric("tanh", 1.2, 400), geometric("relu", 1.75, 50)]))
    assert found == [
        ["tanh", "1.200", f"{horizon(0.5, 1.2, 400)[0]} vanished", "116 vanished", "29 exploded", "0"],
        ["relu", "1.750", f"{horizon(0.5, 1.75, 50)[0]} vanished", "31 vanished", "> 50", "0"],
    ]


@pytest.mark.parametrize(("neutral", "side"), [(3.0, "> 2"), (0.2, "< 0.5")])
def test_no_neutral_scale_inside_the_range_says_on_which_side(neutral, side):
    (row,) = rows(join([geometric("tanh", neutral, 100)]))
    assert row[1] == side


def test_a_gradient_that_only_stops_exploding_has_no_neutral_scale():
    dataset = geometric("tanh", 1.2, 100)
    dataset["log_norm"] = -dataset.log_norm + np.log(STATE_SIZE)
    (row,) = rows(join([dataset]))
    assert row[1] == "none in 0.5..2"


def test_half_of_the_seeds_overflowed_is_no_median_of_the_rest():
    """Above g = 1 two of three networks overflow: the median explodes there, though the third vanishes."""
    dataset = geometric("tanh", 3.0, 100)
    lost = {"weight_scale": slice(2, None), "seed": slice(1, None)}
    dataset.log_norm[{"norm": 0, **lost}] = np.nan
    dataset.horizon[lost] = np.nan
    dataset.horizon_kind[lost] = "nonfinite"
    (row,) = rows(join([dataset]))
    assert row[1] == "1.500"
    assert row[4:] == ["? exploded", "4"]


@pytest.mark.parametrize("norms", [("spectral",), ("frobenius", "spectral"), ("spectral", "frobenius")])
def test_a_scaled_identity_is_neutral_at_one_by_either_norm(norms):
    n, steps, scales = 64, 20, [0.5, 1.0, 1.5]
    growth = np.log(scales)[:, None] * np.arange(1, steps + 1)
    by_norm = {"spectral": growth, "frobenius": growth + 0.5 * np.log(n)}
    values = np.stack([by_norm[norm][:, None] for norm in norms])
    horizon, kind = horizon_of(by_norm["frobenius"], n)
    network = ("weight_scale", "seed")
    dataset = xr.Dataset(
        {
            "log_norm": (("norm", *network, "lag"), values),
            "horizon": (network, horizon[:, None]),
            "horizon_kind": (network, np.array(HORIZON_KINDS)[kind][:, None]),
            "state_size": ((), n),
        },
        coords={"norm": list(norms), "weight_scale": scales, "seed": [0], "lag": np.arange(1, steps + 1)},
        attrs={"swept": "{}"},
    )
    assert rows(dataset)[0][0] == "1.000"


@pytest.mark.parametrize(
    ("networks", "expected"),
    [
        ([(10, "vanished"), (20, "vanished"), (101, "beyond"), (101, "beyond")], "20 vanished to > 100"),
        ([(5, "vanished"), (6, "vanished"), (50, "exploded"), (101, "beyond"), (101, "beyond")], "50 exploded"),
        ([(9, "vanished"), (3, "exploded"), (12, "vanished"), (7, "exploded")], "7 exploded to 9 vanished"),
        ([(9, "vanished"), (3, "vanished"), (12, "vanished"), (7, "vanished")], "7 vanished"),
        ([(9, "exploded"), (3, "exploded"), (np.nan, "nonfinite")], "3–9 exploded"),
        ([(9, "exploded"), (np.nan, "nonfinite"), (np.nan, "nonfinite")], "? exploded"),
    ],
)
def test_the_median_of_seeds_that_differ(networks, expected):
    dataset = geometric("tanh", 1.2, 100, seeds=len(networks))
    horizons, kinds = zip(*networks, strict=True)
    dataset.horizon[1], dataset.horizon_kind[1] = np.array(horizons, float), np.array(kinds)
    (row,) = rows(join([dataset]))
    assert row[3] == expected
    table = horizon_table(join([dataset]))
    assert table is not None
    caption = str(table.caption)
    assert (" to " in expected or "–" in expected) == ("lies between" in caption)
    assert ("?" in expected) == ("overflow" in caption)


def test_networks_that_are_not_finite_are_counted_and_explode_at_an_unknown_lag():
    dataset = geometric("tanh", 1.2, 400)
    for scale, seeds in ((2.0, slice(None)), (0.5, slice(0, 1))):
        at = {"weight_scale": SCALES.index(scale), "seed": seeds}
        dataset.horizon[at] = np.nan
        dataset.horizon_kind[at] = "nonfinite"
        dataset.log_norm[{"norm": 0, **at}] = np.nan
    (row,) = rows(join([dataset]))
    # at 0.5 the other two, of neutral scales 1.2 and 1.25, have horizons of 33 and 31; the lost one may lie anywhere
    assert row == ["tanh", "1.200", "31–33 vanished", "116 vanished", "? exploded", "4"]


def test_a_point_that_no_job_measured_has_no_row():
    jobs = [geometric("tanh", 1.2, 100), geometric("relu", 1.6, 100)]
    for job, weights in zip(jobs, ("gaussian", "orthogonal"), strict=True):
        swept = {**json.loads(job.attrs["swept"]), "weights": weights}
        job.attrs.update(swept=json.dumps(swept), config=json.dumps(swept))
    assert [row[:3] for row in rows(join(jobs))] == [["tanh", "gaussian", "1.200"], ["relu", "orthogonal", "1.600"]]


def test_the_table_fits_an_ordinary_terminal():
    table = horizon_table(join([geometric("hard_tanh", 3.0, 10)]))
    assert table is not None
    assert Console(width=80).measure(table).maximum <= 80


def test_a_result_without_horizons_has_no_table():
    assert horizon_table(geometric("tanh", 1.2, 10).drop_vars("horizon")) is None


def test_what_was_measured_again_is_told_with_its_largest_difference():
    checked = geometric("tanh", 1.2, 10, recheck_difference=3.2e-7, recheck_networks=16)
    (line,) = recheck_lines(join([checked, geometric("relu", 1.2, 10)]))
    assert line.startswith("cell=tanh: ")
    assert "jacrev: 3.2e-07 (16 networks" in line
    assert recheck_lines(join([geometric("relu", 1.2, 10)])) == []


@pytest.mark.parametrize(("neutral", "lags"), [(1.2, 400), (1.75, 50)])
def test_the_known_horizons_are_those_of_the_definition(neutral, lags):
    dataset = geometric("tanh", neutral, lags)
    found, _ = horizon_of(dataset.log_norm[0].values, STATE_SIZE)
    np.testing.assert_array_equal(found, dataset.horizon)


def exponents(swept: dict, scales: list[float] = SCALES, seeds: int = 5, **settings) -> xr.Dataset:
    """The largest exponent is log g plus the seed's own offset, from -0.2 to 0.2; so is D_KY - 3.25."""
    network = ("weight_scale", "seed")
    with np.errstate(divide="ignore"):
        largest = np.log(scales)[:, None] + (offsets := np.linspace(-0.2, 0.2, seeds))
    plain = {"weights": "gaussian", "hidden_size": 8, "inputs": "none", "bias_scale": 0.0}
    return xr.Dataset(
        {
            "lyapunov_exponent": ((*network, "index"), np.stack([largest, largest - 1], axis=-1)),
            "kaplan_yorke_dimension": (network, np.broadcast_to(3.25 + offsets, largest.shape).copy()),
            "entropy_rate": (network, np.broadcast_to(0.125 + offsets / 10, largest.shape).copy()),
            "sum_rule_error": (network, np.linspace(1e-7, 9e-7, largest.size).reshape(largest.shape)),
            "state_size": ((), 8),
        },
        coords={"weight_scale": scales, "seed": range(seeds), "index": [1, 2]},
        attrs={"swept": json.dumps(swept), "config": json.dumps({**plain, **settings, **swept})},
    )


def lyapunov_rows(dataset: xr.Dataset) -> list[list[str]]:
    return rows_of(lyapunov_table(dataset))


def test_a_row_a_job_and_weight_scale_beside_its_theory():
    dataset = join([exponents({"cell": cell}) for cell in ("tanh", "gru")])
    found = lyapunov_rows(dataset)
    assert len(found) == 2 * len(SCALES)
    theory = f"{mean_field('tanh', 2.0).log_growth:.3f}"
    assert found[3] == ["tanh", "2", "0.693±0.160", theory, "3.2", "0.12", "9e-07"]
    assert found[7] == ["gru", "2", "0.693±0.160", "", "3.2", "0.12", "9e-07"]
    assert found[1][2] == "0.000±0.160"


def test_at_most_five_weight_scales_are_shown_with_both_ends():
    found = lyapunov_rows(join([exponents({"cell": "tanh"}, np.linspace(0.5, 2.5, 21).round(1).tolist())]))
    assert [row[1] for row in found] == ["0.5", "1", "1.5", "2", "2.5"]


def test_exponents_that_are_not_numbers_are_named():
    dataset = exponents({"cell": "relu"}, [0.0, 1.0, 2.0])
    dataset.lyapunov_exponent[1] = np.nan
    dataset.kaplan_yorke_dimension[1] = np.nan
    dataset.entropy_rate[1] = np.nan
    dataset.sum_rule_error[:] = np.nan
    dataset.lyapunov_exponent[2, 1:] = np.nan
    zero, lost, one = lyapunov_rows(join([dataset]))
    assert zero[2:] == ["-inf", "-inf", "3.2", "0.12", ""]
    assert lost[2:] == ["nonfinite", "-0.347", "", "", ""]
    assert one[2] == "0.493"  # a single network has no spread


def test_the_table_of_exponents_fits_an_ordinary_terminal():
    (table,) = tables(join([exponents({"cell": "hard_tanh", "weights": "gaussian"})]))
    assert Console(width=200).measure(table).maximum <= 80


def test_truncation_lengths_are_those_of_the_rates():
    """β = e^growth, so K = ⌈log 0.01 / growth⌉ of the median seed; what grows has none; 15 lags reach to 16."""
    found = rows_of(truncation_table(join([geometric("tanh", 1.2, 400), geometric("relu", 1.75, 15)])))
    lengths = {(g, c): math.ceil(math.log(0.01) / growth(g, c)) for g in (0.5, 1.0) for c in (1.2, 1.75)}
    assert found == [
        ["tanh", f"{lengths[0.5, 1.2]}", f"{lengths[1.0, 1.2]}", "never"],
        ["relu", f"{lengths[0.5, 1.75]}", "> 16", "never"],
    ]
    assert lengths[1.0, 1.75] == 21
    assert truncation_table(geometric("tanh", 1.2, 3)) is None
    assert truncation_table(geometric("tanh", 1.2, 10).drop_vars("horizon")) is None


def test_each_result_has_its_own_table():
    found = tables(geometric("tanh", 1.2, 10))
    assert [str(table.title)[:16] for table in found] == ["Gradient horizon", "Steps of backpro"]
    assert tables(geometric("tanh", 1.2, 10).drop_vars("horizon")) == []

"""The figures and the table of transient growth show the numbers that they are given, and say what they leave out."""

import math

import numpy as np
from experiment_results import NETWORK, labelled, offsets
from figure_parts import curves_of, panels_of, words_of
from table_parts import rows_of

from gradient_horizon import Parallelisable, figures
from gradient_horizon.analysis.tables import transient_table
from gradient_horizon.figures.transient import share_parallelisable, shares_of
from gradient_horizon.store import datasets

SCALES = (0.5, 1.0, 2.0)


def job(swept=None, weight_scales=SCALES, seeds=5, change=None, factor=1.0, **settings):
    """λ₁ = log g, overshoot `factor` · e^g at lag 8 g for the median seed; 0.01, 0.1, 1 more for each off it."""
    g = np.asarray(weight_scales, float)[:, None]
    off = np.broadcast_to(offsets(seeds), (len(g), seeds))
    exponent = np.log(g) + 0.01 * off
    verdict = np.where(exponent < -0.1, int(Parallelisable.YES), int(Parallelisable.NO))
    verdict = np.where(np.abs(exponent) <= 0.015, int(Parallelisable.UNDECIDED), verdict)
    values = {
        "log_overshoot": math.log(factor) + g + 0.1 * off,
        "log_overshoot_bound": math.log(factor) + g + 0.1 * off + 0.5,
        "overshoot_lag": (8 * g + off).astype(int),
        "log_peak": 0.5 * g + 0.1 * off,
        "peak_lag": (4 * g + off).astype(int),
        "largest_exponent": exponent,
        "largest_exponent_error": np.full_like(exponent, 0.005),
        "parallelisable": verdict.astype(np.int8),
        "henrici_of_w": 0.7 + 0.01 * off,
        "henrici_mean": 0.6 + 0.01 * off,
        "henrici_max": 0.65 + 0.01 * off,
    }
    if change is not None:
        change(values)
    variables = {name: (NETWORK, value) for name, value in values.items()}
    found = labelled("transient", variables, {}, swept or {}, list(weight_scales), seeds, **settings)
    return found.assign(finite=(NETWORK, ~np.isnan(values["largest_exponent"])))


def test_the_quick_look_shows_medians_and_shares():
    figure = figures.quick_look(job())
    overshoot, lag, departure, share = panels_of(figure)
    measured, peak = (line.get_ydata() for line in curves_of(overshoot))
    np.testing.assert_allclose(measured, np.array(SCALES) / math.log(10))
    np.testing.assert_allclose(peak, 0.5 * np.array(SCALES) / math.log(10))
    np.testing.assert_allclose(curves_of(lag)[0].get_ydata(), 8 * np.array(SCALES))
    np.testing.assert_allclose([line.get_ydata()[0] for line in curves_of(departure)], [0.7, 0.6])
    assert len(share.collections) == 3
    assert any("parallelisable" in word for word in words_of(figure)[0])


def test_the_key_has_the_colour_of_the_only_band():
    figure = share_parallelisable(job())
    (ax,) = panels_of(figure)
    (patch,) = (patch for legend in figure.legends for patch in legend.get_patches())
    assert patch.get_facecolor() == tuple(np.asarray(ax.collections[0].get_facecolor())[0])


def test_shares_count_networks_with_a_finite_state():
    def overflow(values):
        values["largest_exponent"][2, :2] = np.nan

    shares = shares_of(job(change=overflow))
    # at g = 1, exponents of 0.02 · (-1, 1) are decided as not below -0.1, and the three near 0 are open
    np.testing.assert_allclose(shares[Parallelisable.YES], [1, 0, 0])
    np.testing.assert_allclose(shares[Parallelisable.UNDECIDED], [0, 0.6, 0])
    np.testing.assert_allclose(shares[Parallelisable.NO], [0, 0.4, 1])


def test_a_sweep_has_a_line_for_every_cell():
    dataset = datasets.join([job({"cell": cell}, factor=factor) for cell, factor in (("tanh", 1.0), ("relu", 10.0))])
    drawn = figures.sweep_figures(dataset)
    assert set(drawn) == {"overshoot", "parallelisable"}
    (ax,) = panels_of(drawn["overshoot"])
    tanh, relu = (line.get_ydata() for line in curves_of(ax))
    np.testing.assert_allclose(tanh, np.array(SCALES) / math.log(10))
    np.testing.assert_allclose(relu, tanh + 1)
    (ax,) = panels_of(drawn["parallelisable"])
    np.testing.assert_allclose(curves_of(ax)[0].get_ydata(), [1, 0, 0])


def test_what_is_left_out_is_said(tmp_path):
    def forget(values):
        values["log_overshoot"][0, 0] = np.inf
        values["largest_exponent"][0, 0] = -np.inf
        values["largest_exponent"][1, 0] = np.nan

    figure = figures.quick_look(job(change=forget))
    (legend,) = figure.legends
    words = legend.get_title().get_text().replace("\n", " ")
    assert "1 of 15 networks overflow" in words
    assert "1 networks forget everything" in words
    for dataset in (job(weight_scales=(0.7,)), job(seeds=1)):
        figures.save(figures.quick_look(dataset), tmp_path / "one", ("png",))


def test_the_table_has_medians_and_counts():
    table = rows_of(transient_table(job()))
    assert [row[0] for row in table] == ["0.5", "1", "2"]
    assert table[1] == ["1", f"{math.e:.2f}", "8", "0.000±0.016", "0.70", "0/3/2"]
    assert [row[-1] for row in table] == ["5/0/0", "0/3/2", "0/0/5"]
    assert transient_table(job().drop_vars("log_overshoot")) is None

"""Figures draw the numbers they are given, say what they leave out, and leave the user's matplotlib alone."""

import dataclasses
import itertools
import json
import logging
import math
import subprocess
import sys
import threading
import time
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import xarray as xr
from figure_parts import assert_looks_as_approved, curves_of, panels_of, title_of, words_of
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from training_results import trained

from gradient_horizon import experiments, figures, names
from gradient_horizon.analysis import tables
from gradient_horizon.cells import activations
from gradient_horizon.figures.activations import activations as activations_figure
from gradient_horizon.figures.activations import tanh_derivatives
from gradient_horizon.figures.horizon import horizons_of
from gradient_horizon.figures.kit import panels, quantiles, style, theory, weight_scale
from gradient_horizon.measures.horizon import horizon_of
from gradient_horizon.settings.schema import FIELDS
from gradient_horizon.settings.validation import checked
from gradient_horizon.store import datasets

N = 16


def job(swept=None, weight_scales=(0.5, 1.0, 2.0), seeds=9, steps=60, change=None, **settings):
    """A result as the experiment labels it, from a random walk of known drift; `change` alters its log norms."""
    swept = swept or {}
    config = checked(
        {"hidden_size": N, "weight_scales": list(weight_scales), "seeds": seeds, "steps": steps, **settings, **swept}
    )
    rng = np.random.default_rng([*json.dumps(swept).encode()])  # no two jobs of a sweep are alike
    growth = np.log(np.maximum(weight_scales, 1e-3))[:, None, None]
    walk = (growth + 0.3 * rng.standard_normal((len(weight_scales), seeds, steps))).cumsum(axis=-1)
    log_norm = walk + 0.5 * np.log(N)
    if change is not None:
        change(log_norm)
    horizon, kind = horizon_of(log_norm, N, config.horizon_threshold)
    network = ("weight_scale", "seed")
    return xr.Dataset(
        {
            "log_norm": (("norm", *network, "lag"), log_norm[None]),
            "horizon": (network, horizon),
            "horizon_kind": (network, np.array(names.HORIZON_KINDS)[kind]),
            "state_size": ((), N),
            "finite": (network, ~np.isnan(log_norm).any(axis=-1)),
        },
        coords={
            "norm": ["frobenius"],
            "weight_scale": list(weight_scales),
            "seed": np.arange(seeds),
            "lag": np.arange(1, steps + 1),
        },
        attrs={
            "experiment": "jacobian",
            "swept": json.dumps(swept),
            "config": json.dumps(dataclasses.asdict(config)),
        },
    )


def sweep(over, **settings):
    points = itertools.product(*over.values())
    return datasets.join([job(dict(zip(over, point, strict=True)), **settings) for point in points])


def decades(dataset):
    return dataset["log_norm"].isel(norm=0).values / math.log(10) - 0.5 * math.log10(N)


class TestBands:
    @given(
        arrays(np.float64, array_shapes(min_dims=2, max_dims=3, max_side=7), elements=st.floats(-1e6, 1e6)),
        st.floats(0, 1),
    )
    def test_finite_values_have_numpys_quantiles(self, values, level):
        expected = np.quantile(values, level, axis=-1)
        np.testing.assert_allclose(quantiles.quantiles(values, (level,))[0], expected, rtol=1e-9, atol=1e-9)

    def test_missing_values_are_left_out(self):
        values = np.array([[1.0, np.nan, 3.0, 10.0], [np.nan] * 4])
        found = quantiles.quantiles(values)
        np.testing.assert_allclose(found[:, 0], np.nanquantile(values[0], (0.1, 0.5, 0.9)))
        assert np.isnan(found[:, 1]).all()

    def test_exact_zeros_stay_minus_infinity_and_overflow_is_missing(self):
        lower, median, upper = quantiles.quantiles(np.array([-np.inf, -np.inf, -np.inf, 2.0, 3.0]))
        assert (lower, median) == (-np.inf, -np.inf)
        assert upper == pytest.approx(2.6)
        assert quantiles.quantiles(np.array([-np.inf, 2.0]), (0.5,)) == -np.inf
        assert quantiles.quantiles(np.array([1.0, 2.0, np.inf]), (0.5,)) == 1.5

    def test_quantiles_along_another_axis(self):
        values = np.random.default_rng(0).standard_normal((3, 8, 5))
        np.testing.assert_allclose(quantiles.quantiles(values, axis=1), np.quantile(values, quantiles.LEVELS, axis=1))

    def test_a_short_curve_is_kept_whole(self):
        x, y = np.arange(500), np.random.default_rng(0).standard_normal(500)
        np.testing.assert_array_equal(quantiles.thin_curve(x, y), (x, y))

    def test_a_long_curve_keeps_its_spikes_and_ends(self):
        x, y = np.arange(1, 100_001), np.zeros(100_000)
        y[[12_345, 77_777]] = 5.0, -7.0
        y[50_000:50_500] = np.nan
        some_x, some_y = quantiles.thin_curve(x, y)
        assert len(some_x) <= quantiles.MOST_POINTS
        assert (np.diff(some_x) > 0).all()
        assert {12_346, 77_778, 1, 100_000} <= set(some_x.tolist())
        np.testing.assert_array_equal(some_y, y[some_x - 1])

    def test_a_thinned_band_holds_the_whole_band(self):
        rng = np.random.default_rng(1)
        x, middle = np.arange(10_000), rng.standard_normal(10_000).cumsum()
        some_x, low, high = quantiles.thin_band(x, middle - 1, middle + 1)
        assert len(some_x) <= quantiles.MOST_POINTS
        stretch = np.searchsorted(some_x, x, side="right") - 1
        assert (low[stretch] <= middle - 1).all()
        assert (high[stretch] >= middle + 1).all()

    def test_a_majority_is_counted_among_what_was_measured(self):
        lost = np.array([[True, True, False, False], [True, True, False, False]])
        measured = np.array([[True, True, True, True], [True, True, True, False]])
        assert quantiles.is_majority(lost, measured).tolist() == [False, True]


class TestNormAgainstLag:
    def test_lines_are_medians_and_bands_are_quantiles_over_seeds(self):
        dataset = job()
        (ax,) = panels_of(figures.norm_against_lag(dataset))
        expected = np.quantile(decades(dataset), (0.1, 0.5, 0.9), axis=1)
        lines = curves_of(ax)
        assert len(lines) == 3
        for index, (line, band) in enumerate(zip(lines, ax.collections, strict=True)):
            np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 61))
            np.testing.assert_allclose(line.get_ydata(), np.median(decades(dataset)[index], axis=0), rtol=1e-12)
            corners = band.get_paths()[0].vertices
            for lag in (1, 30, 60):
                edges = corners[corners[:, 0] == lag, 1]
                np.testing.assert_allclose((edges.min(), edges.max()), expected[[0, 2], index, lag - 1], rtol=1e-12)

    def test_thresholds_are_dashed_and_within_the_axis(self):
        (ax,) = panels_of(figures.norm_against_lag(job(horizon_threshold=4.5)))
        level = [line.get_ydata() for line in ax.lines if len(line.get_xdata()) == 2 and line.get_gid() != "theory"]
        heights = sorted(float(first) for first, _ in level)
        assert heights == [-4.5, 4.5]
        bottom, top = ax.get_ylim()
        assert bottom < -4.5 < 4.5 < top

    def test_a_panel_a_cell_and_the_weights_in_rows(self):
        dataset = sweep({"cell": ["tanh", "relu", "hard_tanh"], "weights": ["gaussian", "orthogonal"]})
        figure = figures.norm_against_lag(dataset)
        assert [title_of(ax) for ax in panels_of(figure)] == [
            *("tanh, Gaussian", "ReLU, Gaussian", "hard tanh, Gaussian"),
            *("tanh, orthogonal", "ReLU, orthogonal", "hard tanh, orthogonal"),
        ]
        for ax, (weights, cell) in zip(
            panels_of(figure), itertools.product(["gaussian", "orthogonal"], ["tanh", "relu", "hard_tanh"]), strict=True
        ):
            median = np.median(decades(dataset.sel(cell=cell, weights=weights)), axis=1)
            np.testing.assert_allclose([line.get_ydata() for line in curves_of(ax)], median, rtol=1e-12)

    def test_a_page_of_panels_looks_as_approved(self, tmp_path):
        dataset = sweep({"cell": ["tanh", "relu"], "weights": ["gaussian", "orthogonal"]})
        assert_looks_as_approved(figures.norm_against_lag(dataset), "panels", tmp_path)

    def test_missing_jobs_have_no_panel(self):
        jobs = [job({"cell": cell, "hidden_size": N + k}) for k, cell in enumerate(["tanh", "relu", "erf"])]
        titles = [title_of(ax) for ax in panels_of(figures.norm_against_lag(datasets.join(jobs)))]
        assert titles == ["tanh, hidden size 16", "ReLU, hidden size 17", "erf, hidden size 18"]

    def test_more_panels_than_a_page_holds_are_counted(self):
        dataset = sweep({"bias_scale": [k / 100 for k in range(30)]}, seeds=2, steps=5)
        figure = figures.norm_against_lag(dataset)
        assert len(panels_of(figure)) == panels.MOST_PANELS
        assert "6 more panels" in words_of(figure)[1]

    def test_a_shorter_job_ends_at_its_own_last_lag(self):
        dataset = datasets.join([job({"steps": steps}, steps=steps) for steps in (20, 60)])
        assert [ax.get_xlim() for ax in panels_of(figures.norm_against_lag(dataset))] == [(0, 20), (0, 60)]

    def test_gradients_that_are_exactly_zero_leave_through_the_bottom(self):
        def kill(log_norm):
            log_norm[0, :, 10:] = -np.inf
            log_norm[1, :2, 10:] = -np.inf

        (ax,) = panels_of(figures.norm_against_lag(job(change=kill)))
        dead, alive, _ = (line.get_ydata() for line in curves_of(ax))
        assert (dead[10:] < ax.get_ylim()[0]).all()
        assert (dead[:10] > ax.get_ylim()[0]).all()
        assert np.isfinite(ax.get_ylim()).all()
        assert (alive > ax.get_ylim()[0]).all()

    def test_networks_that_overflow_are_left_out_and_counted(self, tmp_path):
        def lose(log_norm):
            log_norm[0, :3] = np.nan
            log_norm[2, :5] = np.nan  # the majority of nine

        dataset = job(change=lose)
        figure = figures.norm_against_lag(dataset)
        (ax,) = panels_of(figure)
        first, _, third = (line.get_ydata() for line in curves_of(ax))
        np.testing.assert_allclose(first, np.median(decades(dataset)[0, 3:], axis=0), rtol=1e-12)
        assert np.isnan(third).all()
        assert words_of(figure)[1].startswith("8 of 27 networks overflow and are omitted")
        figures.save(figure, tmp_path / "lost", ("png",))

    def test_nothing_finite_at_all_still_draws(self, tmp_path):
        dataset = job(change=lambda log_norm: log_norm.fill(np.nan))
        figures.save(figures.quick_look(dataset), tmp_path / "nothing", ("png",))
        assert set(figures.sweep_figures(dataset)) == {"norm_against_lag", "horizon"}

    def test_one_seed_has_a_line_and_no_band(self):
        figure = figures.norm_against_lag(job(seeds=1))
        (ax,) = panels_of(figure)
        assert len(curves_of(ax)) == 3
        assert not ax.collections
        assert words_of(figure)[0][0] == "one seed"

    def test_many_scales_have_all_their_lines_and_a_few_bands(self):
        dataset = job(weight_scales=np.linspace(0.5, 2.1, 33).round(2).tolist(), steps=20)
        figure = figures.norm_against_lag(dataset)
        (ax,) = panels_of(figure)
        assert len(curves_of(ax)) == 33
        assert len(ax.collections) == weight_scale.MOST_STRONG
        assert len(figure.axes) == 2
        colours = [to_hex(line.get_color()) for line in curves_of(ax)]
        assert len(set(colours)) == 33

    def test_long_jobs_are_thinned(self):
        (ax,) = panels_of(figures.norm_against_lag(job(steps=3000, seeds=2)))
        assert max(len(line.get_xdata()) for line in curves_of(ax)) <= quantiles.MOST_POINTS

    def test_labels_follow_what_is_drawn(self):
        dataset = job()
        label = panels_of(figures.norm_against_lag(dataset))[0].get_ylabel()
        assert "h_T" in label
        assert label.endswith(R"\Vert_F\,/\sqrt{n}$")
        dataset = dataset.drop_vars("state_size")
        (ax,) = panels_of(figures.norm_against_lag(dataset))
        assert ax.get_ylabel().endswith(R"\Vert_F$")
        raw = dataset["log_norm"].isel(norm=0, weight_scale=0).median("seed").values / math.log(10)
        np.testing.assert_allclose(curves_of(ax)[0].get_ydata(), raw, rtol=1e-12)

    def test_other_norms_and_the_other_anchor(self):
        dataset = job().assign_coords(norm=["spectral"]).rename(log_norm="log_norm_from_start")
        dataset = dataset.drop_vars(["horizon", "horizon_kind"])
        figure = figures.quick_look(dataset)
        label = panels_of(figure)[0].get_ylabel()
        assert R"\partial h_0" in label
        assert label.endswith(R"\Vert_2$")
        assert set(figures.sweep_figures(dataset)) == {"norm_against_lag"}


class TestHorizon:
    def test_lines_are_medians_of_the_horizon(self):
        dataset = sweep({"cell": ["tanh", "relu"]}, weight_scales=[0.5, 0.6, 2.0], steps=100)
        (ax,) = panels_of(figures.horizon_against_scale(dataset))
        for line, cell in zip(curves_of(ax), ["tanh", "relu"], strict=True):
            expected = np.median(dataset["horizon"].sel(cell=cell), axis=1)
            np.testing.assert_allclose(line.get_ydata(), expected)
        assert ax.get_yscale() == "log"

    def test_a_horizon_beyond_the_measurement_is_drawn_at_its_end(self):
        dataset = job(weight_scales=[0.1, 1.0, 10.0], change=lambda log_norm: log_norm.__setitem__(1, 0.5 * np.log(N)))
        figure = figures.horizon_against_scale(dataset)
        (ax,) = panels_of(figure)
        marks = {line.get_marker(): line for line in ax.lines if line.get_marker() == "^"}
        assert marks["^"].get_xdata().tolist() == [1.0]
        assert marks["^"].get_ydata().tolist() == [61.0]
        assert [text.get_text() for text in ax.texts] == ["beyond T = 60"]
        assert ax.get_ylim()[1] > 61

    def test_kinds_differ_in_their_markers(self):
        dataset = job(weight_scales=[0.1, 10.0])
        _, kinds = horizons_of(dataset)
        assert kinds == ["vanished", "exploded"]
        figure = figures.horizon_against_scale(dataset)
        (ax,) = panels_of(figure)
        filled, open_ = (line for line in ax.lines if line.get_marker() == "o" and len(line.get_xdata()))
        assert (filled.get_xdata().tolist(), open_.get_xdata().tolist()) == ([0.1], [10.0])
        assert filled.get_markerfacecolor() != open_.get_markerfacecolor()
        words = [
            "vanished",
            "exploded",
            "median and 10–90 % range, 9 seeds",
            R"mean field, $N \to \infty$ (here $N$ = 16)",
        ]
        assert words_of(figure)[0] == words

    def test_networks_that_overflow_explode_at_an_unknown_lag(self):
        def lose(log_norm):
            log_norm[0, :2] = np.nan
            log_norm[1, :5] = np.nan

        dataset = job(change=lose)
        figure = figures.horizon_against_scale(dataset)
        line = curves_of(panels_of(figure)[0])[0].get_ydata()
        # of nine networks the fifth, two of which are before all others: the third of those that are known
        assert line[0] == np.sort(dataset["horizon"][0, 2:])[2]
        assert np.isnan(line[1])
        assert words_of(figure)[1].startswith("7 of 27 networks overflow: they explode at an unknown lag.")
        bands, kinds = horizons_of(dataset)
        assert np.isnan(bands[[0, 2], 0]).all()  # more than a tenth
        assert kinds[1] == ""

    def test_the_median_is_one_network_with_its_kind(self):
        """Two vanish early, one explodes, two reach beyond T: the median explodes, and its band ends at T + 1."""
        dataset = job(weight_scales=[1.0], seeds=5)
        dataset["horizon"][0] = [5, 61, 50, 6, 61]
        dataset["horizon_kind"][0] = ["vanished", "beyond", "exploded", "vanished", "beyond"]
        bands, kinds = horizons_of(dataset)
        assert bands[:, 0].tolist() == [5, 50, 61]
        assert kinds == ["exploded"]
        bands, kinds = horizons_of(dataset.isel(seed=[0, 1, 3, 4]))  # between 6 and beyond T: the lower
        assert bands[:, 0].tolist() == [5, 6, 61]
        assert kinds == ["vanished"]

    def test_each_panel_has_its_own_end(self):
        dataset = datasets.join(
            [job({"steps": steps, "cell": cell}, steps=steps) for steps in (20, 60) for cell in ("tanh", "relu")]
        )
        axes = panels_of(figures.horizon_against_scale(dataset))
        assert [ax.texts[0].get_text() for ax in axes] == ["beyond T = 20", "beyond T = 60"]
        assert axes[0].get_ylim() == axes[1].get_ylim()

    def test_a_missing_job_leaves_the_other_cells_their_colours(self):
        pairs = [("tanh", "gaussian"), ("relu", "gaussian"), ("relu", "orthogonal")]
        dataset = datasets.join([job({"cell": cell, "weights": weights}) for cell, weights in pairs])
        axes = panels_of(figures.horizon_against_scale(dataset))
        relu = [curves_of(ax)[1].get_color() for ax in axes]
        assert relu[0] == relu[1] != curves_of(axes[0])[0].get_color()

    def test_more_cells_than_colours_are_told_apart(self):
        with style.applied():
            looks = style.line_looks(9)
        assert len({(look["color"], look["linestyle"]) for look in looks}) == 9

    def test_scales_over_decades_have_a_logarithmic_axis(self):
        (ax,) = panels_of(figures.horizon_against_scale(job(weight_scales=[0.1, 1.0, 10.0])))
        assert ax.get_xscale() == "log"
        (ax,) = panels_of(figures.horizon_against_scale(job(weight_scales=[0.0, 1.0, 10.0])))
        assert ax.get_xscale() == "linear"


class TestOneJob:
    def test_the_quick_look_shows_norms_and_horizon(self):
        dataset = job({"cell": "relu"}, weight_scales=[2.0, 0.5, 1.0])
        left, right = panels_of(figures.quick_look(dataset))
        assert title_of(left) == "ReLU"
        assert len(curves_of(left)) == 3
        assert curves_of(right)[0].get_xdata().tolist() == [0.5, 1.0, 2.0]

    @pytest.mark.parametrize("experiment", names.EXPERIMENTS)
    def test_real_results_have_figures(self, experiment, tmp_path):
        config = checked(
            {
                "experiment": experiment,
                "hidden_size": 6,
                "steps": 15,
                "seeds": 3,
                "weight_scales": [0.5, 1.5],
                **({"updates": 4, "test_size": 50} if experiment == "training" else {}),
                **({"inputs": "noise"} if experiment == "input_gradients" else {}),
            }
        )
        # (another bias is the same programs, another size is not)
        over, values = ("hidden_size", (5, 6)) if experiment in ("notes", "lyapunov") else ("bias_scale", (0.0, 0.1))
        jobs = []
        for swept in ({over: value} for value in values):
            dataset = experiments.measure(dataclasses.replace(config, **swept), lambda _: None)
            settings = json.dumps(dataclasses.asdict(config) | swept)
            dataset.attrs.update(experiment=experiment, swept=json.dumps(swept), config=settings)
            # or a dimension would be taken for the setting once that is swept; `join` tells `solved_below` apart
            assert not {*map(str, dataset.dims), *map(str, dataset.coords)} & set(FIELDS)
            assert set(dataset.data_vars) & set(FIELDS) == ({"solved_below"} if experiment == "training" else set())
            figures.save(figures.quick_look(dataset), tmp_path / "quick_look", ("png",))
            jobs.append(dataset)
        drawn = figures.sweep_figures(datasets.join(jobs))
        assert all(isinstance(figure, Figure) for figure in drawn.values())
        expected = {
            "jacobian": {"norm_against_lag", "horizon"},
            "lyapunov": {"lyapunov_spectrum", "largest_exponent"},
            "covariant": {"smallest_angle", "lyapunov_spectrum"},
            "pairs": {"pairs"},
            "singular_values": {"singular_values"},
            "nodes": {"nodes"},
            "input_gradients": {"input_gradients"},
            "transient": {"overshoot", "parallelisable"},
            "fixed_points": {"fixed_points", "multistability"},
            "notes": {"norm_growth_and_decay", "activations", "tanh_derivative_in_float32"},
            "training": {
                *("loss", "error", "gradient_norm", "state_gradient", "network"),
                *("solved", "accuracy", "prediction"),
            },
        }
        assert set(drawn) == expected[experiment]

    @pytest.mark.parametrize(
        ("experiment", "key", "value", "fixed"),
        [
            ("jacobian", "input_size", 4, {"inputs": "noise"}),
            ("lyapunov", "exponents", 2, {}),
            ("training", "record_every", 2, {}),
            ("training", "solved_below", 0.2, {}),
            ("training", "initialisation", "basic_tanh", {}),
        ],
    )
    def test_a_sweep_with_null_among_its_values_has_tables_and_figures(self, experiment, key, value, fixed, tmp_path):
        """And the panel of each job has the law of that job alone."""
        small = {"hidden_size": 20, "steps": 10, "seeds": 2, "weight_scales": [0.5, 1.5], **fixed}
        alone = {}
        for at in (value, None):
            if experiment == "training":
                alone[at] = trained({key: at}, **fixed)
                continue
            config = checked({"experiment": experiment, **small, key: at})
            dataset = experiments.measure(config, lambda _: None)
            settings, swept = json.dumps(dataclasses.asdict(config)), json.dumps({key: at})
            alone[at] = dataset.assign_attrs(experiment=experiment, config=settings, swept=swept)
        joined = datasets.join([*alone.values()])
        rows = [table for table in tables.tables(joined) if table.rows]
        cells = {str(cell) for table in rows for cell in table.columns[0].cells}
        assert cells == {f"{value}", "null"} if rows else experiment == "training"
        found = panels.split(joined).panels
        words = {f"{style.in_words(key)} {style.in_words(at)}" for at in alone}
        assert {panel.title for panel in found} == words
        laws = [theory.law_of(panel.data) for panel in found]
        in_order = [alone[at] for at in (value, None)]
        assert laws == [theory.law_of(dataset) for dataset in in_order]
        for name, figure in figures.sweep_figures(joined).items():
            figures.save(figure, tmp_path / name, ("png",))


def notes_dataset(**settings):
    values = {"hidden_size": 3, "batch_size": 2, "steps": 20, "seeds": [3], "weight_scales": [1.0, 0.5], **settings}
    dataset = experiments.measure(checked({"experiment": "notes", **values}), lambda _: None)
    dataset.attrs.update(experiment="notes", swept="{}")
    return dataset


class TestNotes:
    def test_growth_and_decay_as_the_notes_plot_them(self):
        dataset = notes_dataset()
        figure = figures.norm_growth_and_decay(dataset)
        grows, decays, grows_long, decays_long = figure.axes
        assert [title_of(grows), title_of(decays)] == ["$W_h$", "0.5 $W_h$"]
        for ax, scale in ((grows, 1.0), (decays, 0.5)):
            norm = dataset["norm"].sel(weight_scale=scale).values[0]
            np.testing.assert_allclose(ax.lines[0].get_ydata(), norm, rtol=1e-12)
        for ax, scale in ((grows_long, 1.0), (decays_long, 0.5)):
            _, logs, law, *_ = ax.lines
            np.testing.assert_allclose(
                logs.get_ydata(), dataset["log_norm"].sel(weight_scale=scale).values[0] / math.log(10), rtol=1e-12
            )
            slope = np.diff(law.get_ydata()) / np.diff(law.get_xdata())
            radius = dataset["spectral_radius"].sel(weight_scale=scale).item()
            np.testing.assert_allclose(slope, np.log10(radius), rtol=1e-9)
            # Which is what the series itself does in the long run.
            assert (logs.get_ydata()[-1] - logs.get_ydata()[99]) / 300 == pytest.approx(np.log10(radius), abs=1e-3)

    def test_float32_is_drawn_until_it_gives_out(self):
        dataset = notes_dataset()
        _, _, grows, decays = figures.norm_growth_and_decay(dataset).axes
        for ax, scale, result in ((grows, 1.0, "∞"), (decays, 0.5, "0")):
            single = dataset["norm_float32"].sel(weight_scale=scale).values[0]
            alive = int(np.flatnonzero(np.isinf(single) | (single == 0))[0])
            drawn = ax.lines[0].get_ydata()
            np.testing.assert_array_equal(np.isfinite(drawn), np.arange(len(drawn)) < alive)
            assert ax.texts[0].get_text() == f"float32 gives {result}\nfrom step {alive + 1} on"

    def test_many_factors_and_seeds(self, tmp_path):
        dataset = notes_dataset(weight_scales=[0.1 * k for k in range(1, 8)], seeds=4, steps=80)
        figure = figures.norm_growth_and_decay(dataset)
        assert len(figure.axes) == 2 * panels.MOST_COLUMNS
        assert words_of(figure)[1] == "3 more panels are not shown."
        assert "median and 10–90 % range, 4 seeds" in words_of(figure)[0]
        figures.save(figure, tmp_path / "many", ("png",))


class TestActivations:
    def test_every_activation_has_a_panel_with_its_steepest_slope(self):
        figure = activations_figure()
        assert len(figure.axes) == len(activations.ACTIVATIONS)
        assert title_of(figure.axes[0]) == "tanh"
        for ax in figure.axes:
            (name,) = [name for name in activations.ACTIVATIONS if style.in_words(name) == title_of(ax)]
            reference, _, derivative = (np.asarray(line.get_ydata()) for line in ax.lines)
            assert np.nanmax(derivative) == pytest.approx(activations.ACTIVATIONS[name].steepest, rel=1e-6)
            assert reference[0] == activations.ACTIVATIONS[name].steepest

    def test_jumps_are_not_joined(self):
        (ax,) = [ax for ax in activations_figure().axes if title_of(ax) == "ReLU"]
        y = ax.lines[2].get_ydata()
        assert np.nanmax(np.abs(np.diff(y))) == 0

    def test_the_trap_of_float32(self):
        x = np.array([1.0, 5.0, 12.0, 20.0])
        values = tanh_derivatives(x)
        np.testing.assert_allclose(values["exact"], 1 / np.cosh(x) ** 2, rtol=1e-12)
        np.testing.assert_allclose(values["this package"], values["exact"], rtol=1e-5)
        assert (values["1 − tanh²"][2:] == 0).all()

    def test_lost_derivatives_leave_the_axis(self):
        left, right = figures.tanh_derivative_in_float32().axes
        lines = {line.get_label(): line for line in left.lines}
        x, y = lines["1 − tanh²"].get_data()
        assert (y[x > 10] < left.get_ylim()[0]).all()
        assert (lines["this package"].get_ydata() > left.get_ylim()[0]).all()
        assert right.get_ylim()[0] < 0


class TestNotesBelow:
    @given(
        st.lists(
            st.sampled_from(["word", "a", "longer-words", R"$\eta$", R"$\log(\Vert h_T \Vert_F / \sqrt{n}) \, / \, T$"])
        ),
        st.integers(5, 60),
    )
    def test_lines_break_between_words_and_not_within_formulas(self, words, width):
        lines = style.wrapped_note(" ".join(words), width)
        assert " ".join(lines) == " ".join(words)
        assert all(line.count("$") % 2 == 0 for line in lines)

    def test_a_formula_is_as_long_as_it_is_drawn(self):
        note = R"up to $\Vert\partial h_T/\partial h_0\Vert_F$ in size"
        assert style.wrapped_note(note, 24) == [note]  # ‖∂hT/∂h0‖F
        assert style.wrapped_note(note, 20) == [note.removesuffix(" size"), "size"]


class TestFiles:
    def test_two_saves_give_identical_bytes(self, tmp_path):
        dataset = job()
        first = figures.save(figures.quick_look(dataset), tmp_path / "one.a")
        time.sleep(1.1)  # past the second that a time stamp would hold
        second = figures.save(figures.quick_look(dataset), tmp_path / "two.b")
        assert [path.name for path in (*first, *second)] == ["one.a.pdf", "one.a.png", "two.b.pdf", "two.b.png"]
        assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
        assert sorted(tmp_path.iterdir()) == sorted((*first, *second))

    def test_a_paper_can_use_them(self, tmp_path):
        pdf, png = figures.save(figures.norm_against_lag(job()), tmp_path / "norms")
        assert b"/Type3" not in pdf.read_bytes()
        assert b"CreationDate" not in pdf.read_bytes()
        assert int.from_bytes(png.read_bytes()[16:20], "big") == round(200 * style.SINGLE)

    @pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
    def test_a_figure_is_written_nowhere_else(self, tmp_path, link):
        kept = tmp_path / "kept"
        kept.write_bytes(b"kept")
        link(tmp_path / "norms.png", kept)
        if link is Path.symlink_to:
            with pytest.raises(OSError, match=r"norms.png is a link; allowed: a regular file, or nothing$"):
                figures.save(figures.norm_against_lag(job()), tmp_path / "norms", ("png",))
        else:
            figures.save(figures.norm_against_lag(job()), tmp_path / "norms", ("png",))
            assert (tmp_path / "norms.png").read_bytes() != b"kept"
        assert kept.read_bytes() == b"kept"

    def test_a_failed_save_leaves_what_stood(self, tmp_path):
        (path,) = figures.save(figures.quick_look(job()), tmp_path / "kept", ("png",))
        before = path.read_bytes()
        broken = Figure()
        broken.savefig = lambda *_, **__: (_ for _ in ()).throw(OSError("disk full"))
        with pytest.raises(OSError, match="disk full"):
            figures.save(broken, tmp_path / "kept", ("png",))
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]

    def test_saving_says_nothing(self, tmp_path, caplog):
        with caplog.at_level(logging.DEBUG, "fontTools"):
            level = logging.getLogger("fontTools").level
            figures.save(figures.norm_against_lag(job()), tmp_path / "quiet", ("pdf",))
            assert logging.getLogger("fontTools").level == level
        assert not [record for record in caplog.records if record.name.startswith("fontTools")]


class TestStyle:
    def test_the_users_settings_are_neither_used_nor_touched(self, tmp_path):
        dataset = job()
        (plain,) = figures.save(figures.quick_look(dataset), tmp_path / "plain", ("png",))
        with matplotlib.rc_context(
            {"axes.facecolor": "black", "font.size": 30, "lines.linewidth": 9, "savefig.dpi": 10}
        ):
            before = dict(matplotlib.rcParams)
            (mine,) = figures.save(figures.quick_look(dataset), tmp_path / "mine", ("png",))
            assert dict(matplotlib.rcParams) == before
        assert mine.read_bytes() == plain.read_bytes()

    def test_threads_draw_the_same(self, tmp_path):
        dataset = job(seeds=2, steps=10)
        before = dict(matplotlib.rcParams)
        (alone,) = figures.save(figures.quick_look(dataset), tmp_path / "alone", ("png",))

        def draw(name):
            figures.save(figures.quick_look(dataset), tmp_path / name, ("png",))

        threads = [threading.Thread(target=draw, args=(f"thread{k}",)) for k in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert dict(matplotlib.rcParams) == before
        assert {path.read_bytes() for path in tmp_path.glob("thread*.png")} == {alone.read_bytes()}

    def test_importing_the_package_loads_no_matplotlib_and_drawing_no_pyplot(self):
        code = (
            "import sys, gradient_horizon.figures as figures; assert 'matplotlib' not in sys.modules;"
            "assert 'quick_look' in dir(figures); figures.quick_look;"
            "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules and 'jax' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code], check=True)

    def test_an_unknown_name_is_an_attribute_error(self):
        with pytest.raises(AttributeError, match="figures attribute draw"):
            _ = figures.draw

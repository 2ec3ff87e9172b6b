"""The figures of lyapunov, pairs, nodes and input_gradients draw the numbers given, and say what they leave out."""

import math

import numpy as np
import pytest
from experiment_results import NETWORK, N, labelled, lyapunov_job, offsets, singular_values_job
from figure_parts import contours_of, curves_of, panels_of, shown_in, theory_of, title_of, words_of

from gradient_horizon import figures
from gradient_horizon.figures import all_pairs, nodes
from gradient_horizon.figures.kit import panels, weight_scale
from gradient_horizon.store import datasets
from gradient_horizon.theory import mean_field


def dashed_of(ax):
    """The exact exponents."""
    return [line for line in ax.lines if line.get_gid() == "exact"]


def coloured_of(ax):
    return [line for line in curves_of(ax) if line.get_gid() != "exact"]


def diamonds_of(ax):
    return [line for line in ax.lines if line.get_marker() == "D"]


class TestSpectrum:
    def test_lines_are_medians_and_bands_are_quantiles(self):
        dataset = lyapunov_job()
        (ax,) = panels_of(figures.lyapunov_spectrum(dataset))
        expected = np.quantile(dataset["lyapunov_exponent"], (0.1, 0.5, 0.9), axis=1)
        for index, (line, band) in enumerate(zip(coloured_of(ax), ax.collections, strict=True)):
            np.testing.assert_allclose(line.get_xdata(), np.arange(1, N + 1) / N)
            np.testing.assert_allclose(line.get_ydata(), expected[1, index])
            corners = band.get_paths()[0].vertices
            edges = corners[corners[:, 0] == 1 / N, 1]
            np.testing.assert_allclose((edges.min(), edges.max()), expected[[0, 2], index, 0])

    def test_mean_field_stands_at_index_zero(self):
        figure = figures.lyapunov_spectrum(lyapunov_job())
        found = [(line.get_xdata()[0], line.get_ydata()[0]) for line in diamonds_of(panels_of(figure)[0])]
        assert found == [(0, mean_field("tanh", scale).log_growth) for scale in (0.5, 1.0, 2.0)]
        assert any(word.startswith("mean field") for word in words_of(figure)[0])

    def test_networks_at_rest_have_their_exact_spectrum_dashed(self):
        dataset = lyapunov_job()
        figure = figures.lyapunov_spectrum(dataset)
        exact = dashed_of(panels_of(figure)[0])
        assert len(exact) == 2  # at g = 2 the radius is 1.9
        for line, index in zip(exact, (0, 1), strict=True):
            np.testing.assert_allclose(line.get_ydata(), np.median(dataset["log_eigenvalue_modulus"][index], axis=0))
        assert words_of(figure)[0][-1] == "exact (eigenvalues of $W$)"

    @pytest.mark.parametrize("settings", [{"cell": "relu"}, {"bias_scale": 0.1}, {"inputs": "noise"}])
    def test_others_have_none(self, settings):
        figure = figures.lyapunov_spectrum(lyapunov_job(**settings))
        assert not dashed_of(panels_of(figure)[0])
        assert not [word for word in words_of(figure)[0] if "eigenvalues" in word]

    def test_gates_have_neither(self):
        dataset = lyapunov_job(cell="gru").drop_vars(["log_eigenvalue_modulus", "unit"])
        (ax,) = panels_of(figures.lyapunov_spectrum(dataset))
        assert not diamonds_of(ax)
        assert not dashed_of(ax)

    def test_singular_directions_fall_through_the_bottom(self):
        dataset = lyapunov_job(
            change=lambda exponents: exponents.__setitem__((0, slice(None), slice(4, None)), -np.inf)
        )
        figure = figures.lyapunov_spectrum(dataset)
        (ax,) = panels_of(figure)
        bottom = ax.get_ylim()[0]
        first = coloured_of(ax)[0].get_ydata()
        assert np.isfinite(ax.get_ylim()).all()
        assert (first[4:] < bottom).all()
        assert (first[:4] > bottom).all()
        assert "below the axis" in words_of(figure)[1].replace("\n", " ")

    def test_networks_that_overflow_are_left_out_and_counted(self):
        def lose(exponents):
            exponents[0, :2] = np.nan
            exponents[2, :3] = np.nan

        dataset = lyapunov_job(change=lose)
        figure = figures.lyapunov_spectrum(dataset)
        (ax,) = panels_of(figure)
        first, _, third = (line.get_ydata() for line in coloured_of(ax))
        np.testing.assert_allclose(first, np.median(dataset["lyapunov_exponent"][0, 2:], axis=0))
        assert np.isnan(third).all()
        assert len(diamonds_of(ax)) == 2
        assert words_of(figure)[1].startswith("5 of 15 networks overflow and are omitted")

    def test_every_size_ends_at_one(self):
        jobs = [lyapunov_job({"hidden_size": n}, n=n) for n in (4, 8)]
        axes = panels_of(figures.lyapunov_spectrum(datasets.join(jobs)))
        for ax, n in zip(axes, (4, 8), strict=True):
            np.testing.assert_allclose(coloured_of(ax)[0].get_xdata(), np.arange(1, n + 1) / n)
            np.testing.assert_allclose(dashed_of(ax)[0].get_xdata(), np.arange(1, n + 1) / n)

    def test_the_first_few_exponents_keep_their_place(self):
        dataset = lyapunov_job().isel(index=slice(0, 3))
        (ax,) = panels_of(figures.lyapunov_spectrum(dataset))
        np.testing.assert_allclose(coloured_of(ax)[0].get_xdata(), [1 / 8, 2 / 8, 3 / 8])

    @pytest.mark.parametrize("settings", [{"seeds": 1}, {"weight_scales": [1.5]}, {"n": 1}])
    def test_one_of_anything_still_draws(self, settings, tmp_path):
        dataset = lyapunov_job(**settings)
        figures.save(figures.quick_look(dataset), tmp_path / "one", ("png",))
        for figure in figures.sweep_figures(dataset).values():
            figures.save(figure, tmp_path / "one", ("png",))

    def test_nothing_finite_still_draws(self, tmp_path):
        dataset = lyapunov_job(change=lambda exponents: exponents.fill(np.nan))
        figures.save(figures.quick_look(dataset), tmp_path / "nothing", ("png",))
        assert set(figures.sweep_figures(dataset)) == {"lyapunov_spectrum", "largest_exponent"}


class TestLargest:
    def test_a_line_a_cell_with_its_band_and_mean_field(self):
        dataset = datasets.join([lyapunov_job({"cell": cell}) for cell in ("tanh", "relu", "leaky_tanh")])
        figure = figures.largest_exponent_against_scale(dataset)
        (ax,) = panels_of(figure)
        measured = [line for line in curves_of(ax) if line.get_marker() == "o"]
        for line, cell in zip(measured, ("tanh", "relu", "leaky_tanh"), strict=True):
            values = dataset["lyapunov_exponent"].sel(cell=cell).isel(index=0)
            np.testing.assert_allclose(line.get_ydata(), np.median(values, axis=1))
        assert len(theory_of(ax)) == 2
        for line, cell in zip(theory_of(ax), ("tanh", "relu"), strict=True):
            expected = [mean_field(cell, float(scale)).log_growth for scale in line.get_xdata()]
            np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-12)
        assert words_of(figure)[0][:3] == ["tanh", "ReLU", "leaky tanh"]

    def test_no_growth_at_all_is_not_drawn_but_said(self, tmp_path):
        def kill(exponents):
            exponents[0] = -np.inf

        dataset = lyapunov_job(weight_scales=(0.0, 1.0, 2.0), change=kill)
        figure = figures.largest_exponent_against_scale(dataset)
        (ax,) = panels_of(figure)
        assert np.isfinite(ax.get_ylim()).all()
        assert np.isnan(curves_of(ax)[0].get_ydata()[0])
        assert "−∞" in words_of(figure)[1]
        figures.save(figure, tmp_path / "zero", ("png",))

    def test_the_quick_look_shows_both(self):
        left, right = panels_of(figures.quick_look(lyapunov_job({"cell": "erf"})))
        assert title_of(left) == "erf"
        assert left.get_xlabel() == "index $i/n$"
        assert right.get_xlabel() == weight_scale.LABEL


def lag_panels_of(figure):
    return [ax for ax in figure.axes if title_of(ax)]


class TestSingularValues:
    def test_lines_are_medians_per_step(self):
        figure = figures.growth_of_every_direction(singular_values_job())
        for ax, scale in zip(lag_panels_of(figure), (0.5, 1.5), strict=True):
            assert title_of(ax) == f"$g$ = {scale:g}"
            for line in coloured_of(ax):
                np.testing.assert_allclose(line.get_xdata(), np.arange(1, N + 1) / N)
                np.testing.assert_allclose(line.get_ydata(), np.log(scale) - np.arange(1, N + 1) / N)
            (diamond,) = diamonds_of(ax)
            assert diamond.get_ydata()[0] == mean_field("tanh", scale).log_growth

    def test_exact_zeros_leave_at_the_bottom_and_lost_networks_are_counted(self, tmp_path):
        def change(logs):
            logs[0, :, 1:, 5:] = -np.inf
            logs[1, :2] = np.nan

        dataset = singular_values_job(change=change)
        dataset["finite"][1, :2] = False
        figure = figures.growth_of_every_direction(dataset)
        dead, lost = lag_panels_of(figure)
        for line in coloured_of(dead)[1:]:
            assert (line.get_ydata()[5:] < dead.get_ylim()[0]).all()
        assert all(np.isnan(line.get_ydata()).all() for line in coloured_of(lost))
        assert words_of(figure)[1].startswith("2 of 6 networks")
        figures.save(figure, tmp_path / "dead", ("png",))

    def test_a_row_a_setting_and_the_lags_of_each_job(self):
        jobs = [singular_values_job({"steps": steps}, lags=lags) for steps, lags in ((3, (1, 3)), (10, (1, 5, 10)))]
        axes = lag_panels_of(figures.growth_of_every_direction(datasets.join(jobs)))
        assert len(axes) == 4
        drawn = [[not np.isnan(line.get_ydata()).all() for line in coloured_of(ax)] for ax in axes[::2]]
        assert drawn == [[True, True, False, False], [True, False, True, True]]

    @pytest.mark.parametrize("settings", [{"seeds": 1}, {"lags": (4,)}, {"weight_scales": (1.0,)}, {"cell": "gru"}])
    def test_one_of_anything_still_draws(self, settings, tmp_path):
        figures.save(figures.quick_look(singular_values_job(**settings)), tmp_path / "one", ("png",))


T = 12


def pairs_job(swept=None, weight_scales=(0.5, 1.5), seeds=3, steps=T, change=None, **settings):
    """log10 of the norm over √n: the lag times (g - 1), exactly for the median seed."""
    late, early = np.arange(1, steps + 1), np.arange(steps)
    lag = late[:, None] - early[None, :]
    growth = np.asarray(weight_scales)[:, None] - 1 + 0.1 * offsets(seeds)
    log_norm = growth[..., None, None] * lag * math.log(10.0) + 0.5 * math.log(N)
    log_norm[..., lag < 1] = np.nan
    if change is not None:
        change(log_norm)
    variables = {"log_norm_of_pair": ((*NETWORK, "late", "early"), log_norm)}
    rows = {"late": late, "early": early}
    return labelled("pairs", variables, rows, swept or {}, list(weight_scales), seeds, steps=steps, **settings)


class TestPairs:
    def test_heat_maps_are_medians_over_seeds(self):
        figure = figures.reach_of_every_pair(pairs_job())
        axes = panels_of(figure)[:2]
        lag = np.arange(1, T + 1)[:, None] - np.arange(T)[None, :]
        for ax, scale in zip(axes, (0.5, 1.5), strict=True):
            assert title_of(ax) == f"$g$ = {scale:g}"
            np.testing.assert_allclose(shown_in(ax), np.where(lag > 0, (scale - 1) * lag, np.nan), atol=1e-12)
            assert tuple(ax.images[0].get_extent()) == (-0.5, T - 0.5, 0.5, T + 0.5)

    def test_colours_are_centred_on_no_change_and_end_at_twice_the_threshold(self):
        image = panels_of(figures.reach_of_every_pair(pairs_job(weight_scales=(0.1, 1.0))))[0].images[0]
        assert image.get_clim() == (-6, 6)
        image = panels_of(figures.reach_of_every_pair(pairs_job(weight_scales=(0.9, 1.0))))[0].images[0]
        assert image.get_clim() == pytest.approx((-1.2, 1.2))

    def test_the_contour_runs_where_the_threshold_is_passed(self):
        figure = figures.reach_of_every_pair(pairs_job())
        for ax in panels_of(figure)[:2]:
            (contour,) = contours_of(ax)
            corners = np.concatenate([path.vertices for path in contour.get_paths()])
            np.testing.assert_allclose(
                corners[:, 1] - corners[:, 0], 6.0, atol=1e-9
            )  # 3 decades at half a decade a step
        assert words_of(figure)[0] == ["horizon threshold (±3 decades)"]

    def test_no_contour_where_no_gradient_gets_that_far(self):
        figure = figures.reach_of_every_pair(pairs_job(weight_scales=(0.9, 1.1)))
        assert not [contour for ax in panels_of(figure)[:2] for contour in contours_of(ax)]
        assert not figure.legends

    def test_exact_zeros_and_missing_values_have_their_own_colours(self):
        def change(log_norm):
            log_norm[0, :, 8:, :3] = -np.inf
            log_norm[1, :, 5, 2] = np.nan

        figure = figures.reach_of_every_pair(pairs_job(change=change))
        dead, lost = panels_of(figure)[:2]
        zero = np.zeros((T, T), bool)
        zero[8:, :3] = True
        np.testing.assert_array_equal(np.ma.filled(dead.images[1].get_array().astype(float), np.nan) == 1, zero)
        assert np.isnan(shown_in(dead)[zero]).all()
        missing = np.zeros((T, T), bool)
        missing[5, 2] = True
        np.testing.assert_array_equal(np.ma.filled(lost.images[1].get_array().astype(float), np.nan) == 1, missing)
        assert words_of(figure)[0] == ["horizon threshold (±3 decades)", "exactly zero", "no value"]

    def test_many_scales_are_thinned_and_counted(self):
        dataset = pairs_job(weight_scales=np.linspace(0.5, 1.5, 11).round(2).tolist(), steps=5)
        figure = figures.reach_of_every_pair(dataset)
        titles = [title_of(ax) for ax in panels_of(figure) if title_of(ax)]
        assert len(titles) == all_pairs.MOST_ALONE
        assert (titles[0], titles[-1]) == ("$g$ = 0.5", "$g$ = 1.5")
        assert "3 more panels" in words_of(figure)[1]

    def test_a_row_a_setting(self):
        dataset = datasets.join([pairs_job({"cell": cell}) for cell in ("tanh", "relu")])
        titles = [title_of(ax) for ax in panels_of(figures.reach_of_every_pair(dataset)) if title_of(ax)]
        assert titles == ["tanh, $g$ = 0.5", "tanh, $g$ = 1.5", "ReLU, $g$ = 0.5", "ReLU, $g$ = 1.5"]

    def test_shorter_jobs_keep_their_own_triangle(self):
        dataset = datasets.join([pairs_job({"steps": steps}, steps=steps) for steps in (6, 12)])
        axes = [ax for ax in panels_of(figures.reach_of_every_pair(dataset)) if title_of(ax)]
        assert [shown_in(ax).shape[0] for ax in axes] == [6, 6, 12, 12]

    @pytest.mark.parametrize("settings", [{"seeds": 1}, {"steps": 1}, {"weight_scales": (1.0,)}])
    def test_one_of_anything_still_draws(self, settings, tmp_path):
        figures.save(figures.quick_look(pairs_job(**settings)), tmp_path / "one", ("png",))

    @pytest.mark.parametrize("value", [np.nan, -np.inf])
    def test_nothing_finite_still_draws(self, value, tmp_path):
        def lose(log_norm):
            log_norm[~np.isnan(log_norm)] = value

        figure = figures.quick_look(pairs_job(change=lose))
        assert words_of(figure)[0] == ["no value" if np.isnan(value) else "exactly zero"]
        figures.save(figure, tmp_path / "nothing", ("png",))


def nodes_job(swept=None, weight_scales=(0.5, 2.0), seeds=5, steps=20, change=None, **settings):
    rng = np.random.default_rng(2)
    growth = 0.1 * rng.standard_normal((len(weight_scales), seeds, 2, steps))
    growth += np.array([-0.2, 0.1])[:, None]
    if change is not None:
        change(growth)
    variables = {"log_growth": ((*NETWORK, "node", "lag"), growth)}
    rows = {"node": np.array(["activation", "matrix"]), "lag": np.arange(1, steps + 1)}
    return labelled("nodes", variables, rows, swept or {}, list(weight_scales), seeds, steps=steps, **settings)


class TestNodes:
    def test_lines_are_medians_of_the_growth_up_to_each_lag(self):
        dataset = nodes_job()
        figure = figures.growth_by_node(dataset)
        for ax, growth in zip(panels_of(figure), dataset["log_growth"].values, strict=True):
            each = growth.cumsum(axis=-1) / math.log(10)
            total, activation, matrix = (line.get_ydata() for line in curves_of(ax))
            np.testing.assert_allclose(activation, np.median(each[:, 0], axis=0))
            np.testing.assert_allclose(matrix, np.median(each[:, 1], axis=0))
            np.testing.assert_allclose(total, np.median(each.sum(axis=1), axis=0))
        assert words_of(figure)[0][:3] == ["sum", "activation", "matrix"]

    def test_the_sum_has_mean_field_beside_it(self):
        for ax, scale in zip(panels_of(figures.growth_by_node(nodes_job())), (0.5, 2.0), strict=True):
            (line,) = theory_of(ax)
            expected = 20 * mean_field("tanh", scale).log_growth / math.log(10)
            np.testing.assert_allclose(line.get_ydata(), (0, expected))

    def test_a_gradient_that_a_node_kills_leaves_through_the_bottom(self):
        def kill(growth):
            growth[0, :, 0, 7] = -np.inf
            growth[0, :, :, 8:] = 0

        dataset = nodes_job(change=kill)
        ax = panels_of(figures.growth_by_node(dataset))[0]
        total, activation, matrix = (line.get_ydata() for line in curves_of(ax))
        bottom = ax.get_ylim()[0]
        assert np.isfinite(bottom)
        assert (total[7:] < bottom).all()
        assert (activation[7:] < bottom).all()
        assert (total[:7] > bottom).all()
        assert (matrix > bottom).all()

    def test_networks_that_overflow_are_left_out_and_counted(self):
        dataset = nodes_job(
            change=lambda growth: growth.__setitem__((1, slice(0, 4), slice(None), slice(3, None)), np.nan)
        )
        dataset["finite"][1, :4] = False
        figure = figures.growth_by_node(dataset)
        assert np.isnan(curves_of(panels_of(figure)[1])[0].get_ydata()).all()
        assert words_of(figure)[1].startswith("4 of 10 networks")

    def test_a_few_scales_and_a_row_a_setting(self):
        many = np.linspace(0.5, 2.0, 7).tolist()
        dataset = datasets.join([nodes_job({"cell": cell}, weight_scales=many) for cell in ("tanh", "relu")])
        figure = figures.growth_by_node(dataset)
        assert len(panels_of(figure)) == 2 * panels.MOST_COLUMNS
        assert "6 more panels" in words_of(figure)[1]

    @pytest.mark.parametrize("settings", [{"seeds": 1}, {"steps": 1}, {"weight_scales": (1.0,)}])
    def test_one_of_anything_still_draws(self, settings, tmp_path):
        figures.save(figures.quick_look(nodes_job(**settings)), tmp_path / "one", ("png",))

    def test_nothing_finite_still_draws(self, tmp_path):
        figure = figures.quick_look(nodes_job(change=lambda growth: growth.fill(np.nan)))
        figures.save(figure, tmp_path / "nothing", ("png",))

    def test_the_last_name_is_the_sum(self):
        growth = nodes.growth_of(nodes_job().isel(weight_scale=0))
        assert list(growth) == [nodes.SUM, "activation", "matrix"]


def inputs_job(swept=None, weight_scales=(0.5, 2.0), seeds=5, steps=20, change=None, **settings):
    logs = 0.1 * np.random.default_rng(3).standard_normal((len(weight_scales), seeds, steps))
    logs += np.log(np.array(weight_scales))[:, None, None] * np.arange(steps)
    if change is not None:
        change(logs)
    variables, rows = {"log_input_gradient": ((*NETWORK, "lag"), logs)}, {"lag": np.arange(steps)}
    settings = {"inputs": "noise", "steps": steps, **settings}
    return labelled("input_gradients", variables, rows, swept or {}, list(weight_scales), seeds, **settings)


class TestInputGradients:
    def test_lines_are_medians_in_decades_from_lag_zero(self):
        dataset = inputs_job()
        (ax,) = panels_of(figures.reach_of_inputs(dataset))
        for line, logs in zip(curves_of(ax), dataset["log_input_gradient"].values, strict=True):
            np.testing.assert_array_equal(line.get_xdata(), np.arange(20))
            np.testing.assert_allclose(line.get_ydata(), np.median(logs, axis=0) / math.log(10))
        assert len(ax.collections) == 2

    def test_a_gradient_of_exactly_zero_leaves_through_the_bottom(self):
        def kill(logs):
            logs[0, :, 9:] = -np.inf

        figure = figures.reach_of_inputs(inputs_job(change=kill))
        (ax,) = panels_of(figure)
        bottom = ax.get_ylim()[0]
        assert np.isfinite(bottom)
        height = curves_of(ax)[0].get_ydata()
        assert (height[9:] < bottom).all()
        assert (height[:9] > bottom).all()

    def test_networks_that_overflow_are_left_out_and_counted(self):
        dataset = inputs_job(change=lambda logs: logs.__setitem__((1, slice(0, 4)), np.nan))
        dataset["finite"][1, :4] = False
        figure = figures.reach_of_inputs(dataset)
        assert np.isnan(curves_of(panels_of(figure)[0])[1].get_ydata()).all()
        assert words_of(figure)[1].startswith("4 of 10 networks")

    @pytest.mark.parametrize("settings", [{"seeds": 1}, {"steps": 1}, {"weight_scales": (1.0,)}])
    def test_one_of_anything_still_draws(self, settings, tmp_path):
        figures.save(figures.quick_look(inputs_job(**settings)), tmp_path / "one", ("png",))


def fixed_points_job(swept=None, weight_scales=(0.5, 1.5, 2.5), seeds=5, change=None, **settings):
    """2k + 1 points of which k + 1 are stable at the k-th scale, more by `offsets`."""
    place = np.arange(len(weight_scales))[:, None]
    counts = {
        "fixed_point_count": 2 * place + 3 + offsets(seeds),
        "stable_count": np.maximum(place + offsets(seeds), 0),
        "undecided_count": np.zeros((len(weight_scales), seeds), int),
    }
    if change is not None:
        change(counts)
    variables = {name: (NETWORK, values) for name, values in counts.items()}
    return labelled("fixed_points", variables, {}, swept or {}, list(weight_scales), seeds, **settings)


class TestFixedPoints:
    def test_lines_are_medians_and_shares(self):
        dataset = fixed_points_job()
        (ax,) = panels_of(figures.fixed_points_against_scale(dataset))
        every, stable = (line.get_ydata() for line in curves_of(ax))
        np.testing.assert_allclose(every, np.median(dataset["fixed_point_count"], axis=1))
        np.testing.assert_allclose(stable, np.median(dataset["stable_count"], axis=1))
        assert [band.get_hatch() is None for band in ax.collections] == [True, False]  # told apart without colour
        (ax,) = panels_of(figures.multistability_against_scale(dataset))
        np.testing.assert_allclose(curves_of(ax)[0].get_ydata(), np.mean(dataset["stable_count"] >= 2, axis=1))

    def test_a_line_a_cell(self):
        dataset = datasets.join([fixed_points_job({"cell": cell}) for cell in ("tanh", "relu")])
        figure = figures.multistability_against_scale(dataset)
        assert words_of(figure)[0][:2] == ["tanh", "ReLU"]

    def test_what_is_not_decided_is_said(self):
        def undecided(counts):
            counts["undecided_count"][0, :2] = 1

        notes = words_of(figures.quick_look(fixed_points_job(change=undecided)))[1].replace("\n", " ")
        assert "2 networks have points whose stability is not decided" in notes
        assert "not found" in notes

    @pytest.mark.parametrize("settings", [{"seeds": 1}, {"weight_scales": [1.5]}])
    def test_one_of_anything_still_draws(self, settings, tmp_path):
        dataset = fixed_points_job(**settings)
        figures.save(figures.quick_look(dataset), tmp_path / "one", ("png",))
        for figure in figures.sweep_figures(dataset).values():
            figures.save(figure, tmp_path / "one", ("png",))

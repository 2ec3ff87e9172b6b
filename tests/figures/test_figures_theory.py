"""Theory over measurement in the figures of norms and horizons, and the spectral norm beside Frobenius."""

import json
import math

import numpy as np
import pytest
import xarray as xr
from figure_parts import curves_of, panels_of, theory_of, words_of
from matplotlib.colors import to_rgb
from test_figures import N, job, sweep

from gradient_horizon import figures
from gradient_horizon.figures.kit import style, theory, weight_scale
from gradient_horizon.theory import mean_field, mean_field_horizon


class TestNorms:
    def test_dotted_lines_have_the_slope_of_mean_field(self):
        figure = figures.norm_against_lag(job(weight_scales=[0.5, 1.0, 2.0]))
        (ax,) = panels_of(figure)
        for line, scale in zip(theory_of(ax), (0.5, 1.0, 2.0), strict=True):
            assert tuple(line.get_xdata()) == (0, 60)
            expected = mean_field("tanh", scale).log_growth / math.log(10) * 60
            np.testing.assert_allclose(line.get_ydata(), (0, expected), rtol=1e-12, atol=1e-12)
        assert words_of(figure)[0][-1] == R"mean field, $N \to \infty$ (here $N$ = 16)"

    def test_theory_is_inside_the_axis(self):
        (ax,) = panels_of(figures.norm_against_lag(job(weight_scales=[0.01], steps=90)))
        (line,) = theory_of(ax)
        assert ax.get_ylim()[0] < line.get_ydata()[1]

    def test_each_panel_has_the_law_of_its_own_settings(self):
        dataset = sweep({"cell": ["tanh", "gru", "linear"], "weights": ["gaussian", "orthogonal"]}, weight_scales=[1.5])
        figure = figures.norm_against_lag(dataset)
        found = [[line.get_ydata()[1] / 60 * math.log(10) for line in theory_of(ax)] for ax in panels_of(figure)]
        tanh = mean_field("tanh", 1.5).log_growth
        order = [("linear", "gaussian"), ("tanh", "gaussian"), ("gru", "gaussian")]
        expected = {("linear", "gaussian"): [math.log(1.5)], ("tanh", "gaussian"): [tanh]}
        assert [pytest.approx(values) for values in found[:3]] == [expected.get(place, []) for place in order]
        assert found[3:] == [[pytest.approx(math.log(1.5))], [], []]
        assert words_of(figure)[0][-1].endswith("or exact")

    def test_an_exact_law_is_called_exact(self):
        figure = figures.norm_against_lag(job(cell="linear", weights="identity"))
        assert words_of(figure)[0][-1] == "exact"

    def test_gates_have_no_theory_and_no_word_of_it(self):
        figure = figures.norm_against_lag(job(cell="lstm"))
        assert not theory_of(panels_of(figure)[0])
        assert not [word for word in words_of(figure)[0] if "field" in word]

    def test_no_theory_where_nothing_was_measured_or_nothing_grows(self):
        dataset = job(weight_scales=[0.0, 1.0, 2.0], change=lambda log_norm: log_norm.__setitem__(2, np.nan))
        (ax,) = panels_of(figures.norm_against_lag(dataset))
        assert len(theory_of(ax)) == 1  # of g = 1; at 0 the logarithm is -inf

    def test_only_strong_scales_have_theory(self):
        (ax,) = panels_of(figures.norm_against_lag(job(weight_scales=np.linspace(0.5, 2.1, 33).round(2).tolist())))
        assert len(theory_of(ax)) == weight_scale.MOST_STRONG

    def test_other_products_have_no_theory(self):
        dataset = job().rename(log_norm="log_norm_from_start").drop_vars(["horizon", "horizon_kind"])
        assert not theory_of(panels_of(figures.norm_against_lag(dataset))[0])


class TestSpectralBeside:
    def both(self, **settings):
        dataset = job(**settings)
        spectral = dataset["log_norm"].isel(norm=[0]).assign_coords(norm=["spectral"]) - 0.3
        return xr.merge([dataset, spectral.to_dataset(name="log_norm")], join="outer", compat="no_conflicts")

    def test_the_quick_look_shows_its_median_dashed(self):
        dataset = self.both()
        figure = figures.quick_look(dataset.assign_attrs(job().attrs))
        left = panels_of(figure)[0]
        assert left.get_ylabel().endswith(R"\Vert_F\,/\sqrt{n}$")
        spectral = np.median(dataset["log_norm"].sel(norm="spectral"), axis=1) / math.log(10)
        drawn = curves_of(left)[3:]
        np.testing.assert_allclose([line.get_ydata() for line in drawn], spectral, rtol=1e-12)
        assert [line.is_dashed() for line in curves_of(left)] == [False] * 3 + [True] * 3
        assert R"spectral norm, $\Vert\cdot\Vert_2$" in words_of(figure)[0]

    def test_the_sweeps_figure_stays_with_frobenius(self):
        dataset = self.both().assign_attrs(job().attrs)
        figure = figures.sweep_figures(dataset)["norm_against_lag"]
        assert len(curves_of(panels_of(figure)[0])) == 3
        assert not [word for word in words_of(figure)[0] if "spectral" in word]

    def test_not_among_many_scales(self):
        many = np.linspace(0.5, 2.0, 9).tolist()
        dataset = self.both(weight_scales=many).assign_attrs(job(weight_scales=many).attrs)
        figure = figures.quick_look(dataset)
        assert len(curves_of(panels_of(figure)[0])) == 9
        assert not [word for word in words_of(figure)[0] if "spectral" in word]


class TestHorizon:
    def test_dotted_is_the_horizon_of_mean_field(self):
        figure = figures.horizon_against_scale(job(weight_scales=[0.5, 1.0, 2.0], horizon_threshold=2.0))
        (line,) = theory_of(panels_of(figure)[0])
        for scale, horizon in zip(*line.get_data(), strict=True):
            expected = mean_field_horizon("tanh", float(scale), threshold=2.0)
            assert horizon == min(expected, 1e9)
        assert 1.0 in line.get_xdata()  # the edge itself
        assert words_of(figure)[0][-1].startswith("mean field")

    def test_each_line_has_its_own_law_in_a_shade_of_its_colour(self):
        dataset = sweep({"cell": ["tanh", "leaky_tanh", "relu"]})
        (ax,) = panels_of(figures.horizon_against_scale(dataset))
        tanh, relu = theory_of(ax)
        assert np.argmax(tanh.get_ydata()) < np.argmax(relu.get_ydata())
        for line, curve in ((tanh, curves_of(ax)[0]), (relu, curves_of(ax)[1])):
            measured = to_rgb(curve.get_color())
            assert line.get_color() == pytest.approx([0.55 * part for part in measured])

    def test_one_scale_has_one_point(self):
        (ax,) = panels_of(figures.horizon_against_scale(job(weight_scales=[1.5])))
        (line,) = theory_of(ax)
        assert line.get_xdata().tolist() == [1.5]


class TestLaws:
    def test_a_size_that_is_swept_is_not_named_in_the_key(self):
        dataset = sweep({"hidden_size": [16, 32]})
        assert words_of(figures.norm_against_lag(dataset))[0][-1] == R"mean field, $N \to \infty$"

    def test_a_swept_setting_is_read_from_its_place(self):
        dataset = sweep({"bias_scale": [0.0, 0.5]})
        laws = [theory.law_of(dataset.sel(bias_scale=bias)) for bias in (0.0, 0.5)]
        assert [law.bias_scale for law in laws if law] == [0.0, 0.5]

    def test_a_result_without_settings_has_no_law(self):
        dataset = job()
        dataset.attrs = {"swept": json.dumps({}), "experiment": "jacobian"}
        assert theory.law_of(dataset) is None
        assert not theory_of(panels_of(figures.norm_against_lag(dataset))[0])


class TestKey:
    @pytest.mark.parametrize("cells", [["tanh"], ["tanh", "leaky_tanh", "gru", "lstm"]])
    def test_the_key_is_no_wider_than_the_figure(self, cells):
        dataset = sweep({"cell": cells})
        for figure in figures.sweep_figures(dataset).values():
            with style.applied():
                figure.draw_without_rendering()
                box = figure.legends[0].get_window_extent()
            assert box.x0 >= 0
            assert box.x1 <= figure.bbox.x1

    def test_the_size_in_the_key_is_the_networks_own(self):
        assert f"$N$ = {N}" in words_of(figures.quick_look(job()))[0][-1]

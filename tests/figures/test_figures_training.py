"""The figures of training draw the numbers that they are given, and say what they leave out."""

import numpy as np
import pytest
from figure_parts import curves_of, panels_of, title_of, words_of
from matplotlib.colors import to_hex
from training_results import SPREAD, trained

from gradient_horizon import figures, names
from gradient_horizon.analysis import outcomes
from gradient_horizon.analysis.intervals import share
from gradient_horizon.figures import share_solved, state_gradients
from gradient_horizon.figures.kit import histories, weight_scale
from gradient_horizon.settings import validation
from gradient_horizon.store import datasets

SOLVED = [[-1, 10, 20, -1], [10, 10, 40, -1]]
TITLES = ["tanh, clip none", "ReLU, clip none", "tanh, clip book", "ReLU, clip book"]
UPDATES = [0, 10, 20, 30, 40]


def values_of(data, name):
    """By weight scale, seed and update, of a job with one learning rate and clip threshold."""
    return data[name].isel(learning_rate=0, clip_threshold=0).values


def comparison(**settings):
    """tanh and ReLU, each without clipping and with it; clipping lets most of the tanh networks solve the task."""
    fates = {("tanh", "book"): SOLVED, ("relu", "book"): 20}
    return datasets.join(
        [
            trained({"cell": cell, "clip": clip}, solved=fates.get((cell, clip), -1), **settings)
            for cell in ("tanh", "relu")
            for clip in ("none", "book")
        ]
    )


def dashed_at(ax):
    """Heights of the horizontal lines of reference."""
    return [line.get_ydata()[0] for line in ax.lines if len(line.get_xdata()) == 2]


class TestHistories:
    def test_bands_are_quantiles_over_seeds(self):
        data = trained(seeds=9)
        updates, bands = histories.bands_of(data.isel(learning_rate=0, clip_threshold=0), "loss")
        assert updates.tolist() == UPDATES
        np.testing.assert_allclose(bands, np.quantile(values_of(data, "loss"), (0.1, 0.5, 0.9), axis=1), rtol=1e-12)

    def test_before_the_first_update_there_is_no_gradient(self):
        data = trained().isel(learning_rate=0, clip_threshold=0)
        assert histories.bands_of(data, "gradient_norm")[0].tolist() == UPDATES[1:]

    def test_networks_that_diverge_are_left_out_and_no_median_stands_for_a_minority(self):
        data = trained(diverged=[[20, -1, -1, -1], [30, 10, 10, -1]])
        _, bands = histories.bands_of(data.isel(learning_rate=0, clip_threshold=0), "loss")
        loss = values_of(data, "loss")
        np.testing.assert_allclose(bands[1, 0, :2], np.median(loss[0, :, :2], axis=0))
        np.testing.assert_allclose(bands[1, 0, 2:], np.median(loss[0, 1:, 2:], axis=0))
        np.testing.assert_allclose(bands[1, 1, :3], np.nanmedian(loss[1, :, :3], axis=0))
        assert np.isnan(bands[:, 1, 3:]).all()

    def test_networks_that_are_followed_no_further_keep_their_last_value(self):
        data = trained(solved=[[10, 10, 10, -1], [10, 10, 10, 20]], diverged=[[-1, -1, -1, 20], [-1] * 4])
        for place in range(3):
            data["loss"][..., place, 2:] = np.nan
        data["loss"][..., 1, 3, 3:] = np.nan
        updates, bands = histories.bands_of(data.isel(learning_rate=0, clip_threshold=0), "loss")
        assert updates.tolist() == UPDATES  # to the end, though nothing is recorded at 30 and 40
        loss = values_of(data, "loss")
        np.testing.assert_allclose(bands[1, 0, 2:], np.median(loss[0, :3, 1]))
        np.testing.assert_allclose(bands[1, 1, 2:], np.median([*loss[1, :3, 1], loss[1, 3, 2]]))

    def test_a_job_keeps_its_own_updates_in_a_sweep(self):
        dataset = datasets.join([trained({"updates": last}, updates=last, record_every=None) for last in (40, 60)])
        found = [
            histories.bands_of(dataset.sel(updates=updates).isel(learning_rate=0, clip_threshold=0), "loss")[0].tolist()
            for updates in (40, 60)
        ]
        assert found == [[*range(0, 41, 2)], [*range(0, 61, 3)]]

    def test_only_a_few_bands_overlap(self):
        (ax,) = panels_of(figures.loss_against_update(trained(weight_scales=(0.5, 0.7, 0.9, 1.1, 1.3))))
        assert len(curves_of(ax)) == 5
        assert len(ax.collections) == 3


class TestLearning:
    @pytest.mark.parametrize(("name", "chance"), [("loss", 1.5), ("error", 0.75)])
    def test_medians_by_weight_scale_with_chance(self, name, chance):
        dataset = comparison()
        figure = getattr(figures, f"{name}_against_update")(dataset)
        axes = panels_of(figure)
        points = [(cell, clip) for clip in ("none", "book") for cell in ("tanh", "relu")]
        assert [title_of(ax) for ax in axes] == TITLES
        for ax, (cell, clip) in zip(axes, points, strict=True):
            data = dataset.sel({"cell": cell, "clip": clip})
            expected = np.median(values_of(data, name), axis=1)
            for line, median in zip(curves_of(ax), expected, strict=True):
                assert line.get_xdata().tolist() == UPDATES
                np.testing.assert_allclose(line.get_ydata(), median)
            assert dashed_at(ax) == [chance]
        assert words_of(figure)[0] == ["median and 10–90 % range, 4 seeds", "chance"]

    def test_tasks_have_their_own_chance_and_their_own_axis(self):
        chances = {"adding": (0.04, 0.85), "temporal_order": (1.4, 0.75)}
        dataset = datasets.join([trained({"task": task}, chance=chance) for task, chance in chances.items()])
        axes = panels_of(figures.loss_against_update(dataset))
        assert [title_of(ax) for ax in axes] == ["adding", "temporal order"]
        assert [dashed_at(ax) for ax in axes] == [[0.04], [1.4]]
        for ax, (low, _) in zip(axes, chances.values(), strict=True):
            assert ax.get_ylim()[0] < low < ax.get_ylim()[1]

    def test_a_loss_over_few_decades_is_linear_and_one_over_many_logarithmic(self):
        data = trained()
        data["loss"][:] = 1.5
        assert panels_of(figures.loss_against_update(data))[0].get_yscale() == "linear"
        data["loss"][..., -1] = 1e-4
        assert panels_of(figures.loss_against_update(data))[0].get_yscale() == "log"

    def test_of_several_learning_rates_the_best_is_drawn_and_named(self):
        solved = np.array([[[[-1] * 4]], [[SOLVED[1]]]])
        data = trained(solved=solved, learning_rates=(0.01, 0.1), weight_scales=(1.0,))
        figure = figures.error_against_update(data)
        (ax,) = panels_of(figure)
        assert title_of(ax) == R"$\eta$ = 0.1"
        median = np.median(data["error"].sel(learning_rate=0.1).values[0, 0], axis=0)
        np.testing.assert_allclose(curves_of(ax)[0].get_ydata(), median)
        assert R"learning rate $\eta$ with which most networks solved" in words_of(figure)[1].replace("\n", " ")

    def test_networks_that_diverge_are_counted(self):
        figure = figures.loss_against_update(trained(diverged=[[20, -1, -1, -1], [30, 10, 10, -1]]))
        assert words_of(figure)[1].startswith("4 of 8 networks diverge")

    def test_networks_that_are_not_followed_are_told_of(self):
        notes = words_of(figures.loss_against_update(trained(until_solved=True)))[1]
        assert "keep their last values" in notes.replace("\n", " ")


class TestGradientNorms:
    def test_before_and_after_clipping_and_the_share_clipped(self):
        dataset = comparison()
        dataset["clipped_gradient_norm"].loc[{"clip": "none"}] = dataset["gradient_norm"].sel(clip="none")
        figure = figures.gradient_norm_against_update(dataset)
        axes = panels_of(figure)
        above = [ax for ax in axes if title_of(ax)]
        below = [ax for ax in axes if not title_of(ax)]
        assert [title_of(ax) for ax in above] == TITLES
        assert [len(curves_of(ax)) for ax in above] == [2, 2, 4, 4]
        data = dataset.sel({"cell": "tanh", "clip": "book"})
        drawn = {
            "gradient_norm": curves_of(above[2])[:2],
            "clipped_gradient_norm": curves_of(above[2])[2:],
            "clip_fraction": curves_of(below[2]),
        }
        for name, lines in drawn.items():
            for line, median in zip(lines, np.median(values_of(data, name)[..., 1:], axis=1), strict=True):
                np.testing.assert_allclose(line.get_ydata(), median, err_msg=name)
        assert words_of(figure)[0] == ["median and 10–90 % range, 4 seeds", "median after clipping"]

    def test_nothing_is_said_of_clipping_where_there_is_none(self):
        data = trained(clip="none")
        data["clipped_gradient_norm"] = data["gradient_norm"]
        assert words_of(figures.gradient_norm_against_update(data))[0] == ["median and 10–90 % range, 4 seeds"]

    def test_columns_go_on_below(self):
        dataset = datasets.join([trained({"bias_scale": k / 10}, seeds=1, weight_scales=(1.0,)) for k in range(6)])
        figure = figures.gradient_norm_against_update(dataset)
        titles = [title_of(ax) for ax in panels_of(figure) if title_of(ax)]
        assert sorted(titles) == [f"bias scale {k / 10:g}" for k in range(6)]
        assert len(panels_of(figure)) == 12

    def test_more_columns_than_a_page_holds_are_counted(self):
        dataset = datasets.join([trained({"bias_scale": k / 10}, seeds=1, weight_scales=(1.0,)) for k in range(18)])
        assert "2 more panels" in words_of(figures.gradient_norm_against_update(dataset))[1]
        figure = figures.evolution_of_the_network(dataset)
        assert "10 more panels" in words_of(figure)[1]
        assert len(panels_of(figure)) == 8 * 3


class TestStateGradients:
    def test_the_map_is_the_median_over_seeds_at_the_best_weight_scale(self):
        data = trained(solved=SOLVED)
        figure = figures.state_gradient_over_training(data)
        (ax,) = [ax for ax in panels_of(figure) if ax.get_xlabel()]
        assert title_of(ax) == "$g$ = 1"  # three of four, against two
        decades = np.median(values_of(data, "log_state_gradient_norm")[1], axis=0) / np.log(10)
        np.testing.assert_allclose(np.ma.filled(ax.collections[0].get_array(), np.nan), decades.T)
        np.testing.assert_allclose(ax.get_ylim(), (0.5, 12.5))
        assert ax.get_xlim()[0] < 0 < 40 < ax.get_xlim()[1]
        assert "weight scale $g$ with which most networks solved" in words_of(figure)[1].replace("\n", " ")

    def test_an_exact_zero_and_a_majority_that_diverged_have_colours_of_their_own(self):
        data = trained(diverged=[30, 30, 30, -1], weight_scales=(1.0,))
        data["log_state_gradient_norm"][..., :2, :3] = -np.inf
        figure = figures.state_gradient_over_training(data)
        heat, zero, missing = panels_of(figure)[0].collections
        expected = np.zeros((12, 5), bool)
        expected[:3, :2] = True
        np.testing.assert_array_equal(np.ma.filled(zero.get_array(), np.nan) == 1, expected)
        expected[:] = False
        expected[:, 3:] = True
        np.testing.assert_array_equal(np.ma.filled(missing.get_array(), np.nan) == 1, expected)
        assert np.isfinite(heat.get_clim()).all()
        assert words_of(figure)[0] == ["exactly zero", "most networks have diverged"]

    def test_colours_end_so_many_decades_below_the_largest(self):
        data = trained(weight_scales=(1.0,), seeds=1)
        data["log_state_gradient_norm"][:] = np.linspace(-40, 2, 12) * np.log(10)
        mesh = panels_of(figures.state_gradient_over_training(data))[0].collections[0]
        assert mesh.get_clim() == pytest.approx((2 - state_gradients.DECADES, 2))

    def test_shorter_jobs_keep_their_own_times(self):
        dataset = datasets.join([trained({"steps": steps}, steps=steps) for steps in (12, 20)])
        axes = [ax for ax in panels_of(figures.state_gradient_over_training(dataset)) if ax.get_xlabel()]
        assert [ax.get_ylim()[1] for ax in axes] == [12.5, 20.5]

    def test_tasks_keep_their_own_times(self):
        lengths = {
            task: validation.checked({"experiment": "training", "task": task}).steps for task in ("adding", "story")
        }
        dataset = datasets.join([trained({"task": task}, steps=None) for task in lengths])
        axes = [ax for ax in panels_of(figures.state_gradient_over_training(dataset)) if ax.get_xlabel()]
        assert lengths["adding"] != lengths["story"]
        assert [ax.get_ylim()[1] for ax in axes] == [steps + 0.5 for steps in lengths.values()]


class TestEvolution:
    def test_the_network_against_the_update(self):
        data = trained()
        sizes, exponent, saturation = panels_of(figures.evolution_of_the_network(data))
        drawn = {
            "spectral_radius": curves_of(sizes)[:2],
            "largest_singular_value": curves_of(sizes)[2:],
            "lyapunov_exponent": curves_of(exponent),
            "saturation": curves_of(saturation),
        }
        for name, lines in drawn.items():
            for line, median in zip(lines, np.median(values_of(data, name), axis=1), strict=True):
                np.testing.assert_allclose(line.get_ydata(), median, err_msg=name)
        assert dashed_at(exponent) == [0]


def along(ax):
    """The lines with markers: of a figure of success one a method, of the prediction one a kind and weight scale."""
    return [line for line in ax.lines if line.get_marker() not in ("None", "")]


def bars_of(ax):
    """Ends of the intervals, by line."""
    return [[segment[:, 1].tolist() for segment in bars.get_segments()] for bars in ax.collections]


class TestSuccess:
    @pytest.mark.parametrize(
        ("over", "settings", "expected"),
        [
            ({"cell": ["tanh", "relu"]}, {}, "weight_scale"),
            ({"cell": ["tanh", "relu"]}, {"weight_scales": (1.0,), "learning_rates": (0.1, 1.0)}, "learning_rate"),
            ({"steps": [20, 50], "clip": ["none", "book"]}, {}, "steps"),
            ({"omega": [0.0, 2.0], "hidden_size": [8, 16]}, {}, "hidden_size"),
            ({"omega": [0.0, 2.0]}, {"weight_scales": (1.0,)}, "omega"),
            ({"clip": ["none", "book"]}, {"weight_scales": (1.0,)}, "weight_scale"),
        ],
    )
    def test_what_is_swept_numerically_is_the_abscissa(self, over, settings, expected):
        (first, values), *more = over.items()
        jobs = [trained({first: value, **{key: other[0] for key, other in more}}, **settings) for value in values]
        jobs += [trained({first: values[0], **{key: other[1] for key, other in more}}, **settings)] if more else []
        assert share_solved.abscissa_of(datasets.join(jobs)) == expected

    def test_shares_with_wilsons_intervals_one_line_a_method(self):
        figure = figures.share_solved_against(comparison())
        (ax,) = panels_of(figure)
        assert ax.get_xlabel() == weight_scale.LABEL
        counts = [(0, 0), (2, 3), (0, 0), (4, 4)]
        for line, bars, solved in zip(along(ax), bars_of(ax), counts, strict=True):
            np.testing.assert_allclose(line.get_xdata(), [0.5, 1.0], atol=0.02)
            np.testing.assert_allclose(line.get_ydata(), np.divide(solved, 4))
            np.testing.assert_allclose(bars, [share(k, 4)[1:] for k in solved])
        colours = [to_hex(line.get_color()) for line in along(ax)]
        assert colours[0] == colours[1] != colours[2] == colours[3]
        assert len({line.get_marker() for line in along(ax)}) == 2
        words, notes = words_of(figure)
        assert words == [
            *("tanh, clip none", "tanh, clip book", "ReLU, clip none", "ReLU, clip book"),
            "95 % Wilson interval, 4 seeds",
        ]
        said = "Solved: error below 0.01 on fresh sequences within 40 updates of 20 sequences each."
        assert notes.replace("\n", " ") == said

    def test_success_against_length_one_panel_an_initialisation(self):
        counts = {("gaussian", 20): 2, ("gaussian", 50): 1, ("orthogonal", 20): 4, ("orthogonal", 50): 3}
        jobs = []
        for (weights, steps), count in counts.items():
            for clip, solved in (("none", 0), ("pascanu", count)):
                swept = {"weights": weights, "clip": clip, "steps": steps}
                fates = [10] * solved + [-1] * (4 - solved)
                jobs.append(trained(swept, solved=fates, steps=steps, weight_scales=(1.0,)))
        axes = panels_of(figures.share_solved_against(datasets.join(jobs)))
        assert [title_of(ax) for ax in axes] == ["Gaussian", "orthogonal"]
        assert axes[0].get_xlabel() == "sequence length $T$ (steps)"
        for ax, solved in zip(axes, ((2, 1), (4, 3)), strict=True):
            plain, clipped = along(ax)
            assert plain.get_ydata().tolist() == [0, 0]
            np.testing.assert_allclose(clipped.get_ydata(), np.divide(solved, 4))

    def test_a_missing_job_has_no_point(self):
        pairs = [("tanh", 20), ("tanh", 50), ("relu", 50)]
        jobs = [trained({"cell": cell, "steps": steps}, steps=steps, weight_scales=(1.0,)) for cell, steps in pairs]
        (ax,) = panels_of(figures.share_solved_against(datasets.join(jobs)))
        assert [len(line.get_xdata()) for line in along(ax)] == [2, 1]

    def test_accuracy_against_distance_with_chance(self):
        errors = {("tanh", 9): [0.1, 0.2, 0.3, 0.4], ("tanh", 15): 0.75, ("lstm", 9): 0.0, ("lstm", 15): 0.5}
        jobs = []
        for (cell, distance), error in errors.items():
            data = trained({"cell": cell, "distance": distance}, task="story", steps=40, weight_scales=(1.0,))
            data["error"][..., -1] = error
            jobs.append(data)
        figure = figures.accuracy_against(datasets.join(jobs))
        (ax,) = panels_of(figure)
        assert ax.get_xlabel() == "distance (words)"
        tanh, lstm = along(ax)
        np.testing.assert_allclose(tanh.get_ydata(), [0.75, 0.25])
        np.testing.assert_allclose(lstm.get_ydata(), [1.0, 0.5])
        np.testing.assert_allclose(sorted(bars_of(ax)[0][0]), np.quantile([0.6, 0.7, 0.8, 0.9], (0.1, 0.9)))
        (chance,) = [line for line in ax.lines if line not in (tanh, lstm)]
        np.testing.assert_allclose(chance.get_ydata(), 0.25)
        assert words_of(figure)[0] == ["tanh", "LSTM", "10–90 % range, 4 seeds", "chance"]

    def test_accuracy_leaves_out_what_diverged(self):
        data = trained(solved=[[10, -1, -1, -1]], diverged=[[-1, 20, 20, 20]], weight_scales=(1.0,))
        figure = figures.accuracy_against(data)
        assert along(panels_of(figure)[0])[0].get_ydata().tolist() == [1.0]
        assert "3 of 4 networks diverge and are omitted" in words_of(figure)[1].replace("\n", " ")

    def test_the_best_of_what_is_not_drawn(self):
        solved = np.full((2, 1, 2, 4), -1)
        solved[0, 0, 0, :1] = 10
        solved[1, 0, 1, :3] = 10
        fates = {20: solved, 50: -1}
        jobs = [
            trained({"steps": steps}, steps=steps, solved=fate, learning_rates=(0.01, 0.1))
            for steps, fate in fates.items()
        ]
        figure = figures.share_solved_against(datasets.join(jobs))
        assert along(panels_of(figure)[0])[0].get_ydata().tolist() == [0.75, 0.0]
        assert R"weight scale $g$ and learning rate $\eta$ with which most" in words_of(figure)[1].replace("\n", " ")

    def test_success_against_length_one_panel_a_clip_threshold(self):
        """With 3, 1 and 4 of 4 networks that solve it at the first length and 2, 0 and 1 at the second."""
        thresholds, counts = (0.1, 1.0, 10.0), {20: (3, 1, 4), 50: (2, 0, 1)}
        axes = {"clip_thresholds": thresholds, "weight_scales": (1.0,)}
        jobs = []
        for steps, solving in counts.items():
            solved = [[[10] * count + [-1] * (4 - count)] for count in solving]
            for clip, fates in (("none", -1), ("book", solved)):
                jobs.append(trained({"clip": clip, "steps": steps}, solved=fates, **axes))
        figure = figures.share_solved_against(datasets.join(jobs))
        panels = panels_of(figure)
        assert [title_of(ax) for ax in panels] == ["$c$ = 0.1", "$c$ = 1", "$c$ = 10"]
        for ax, solving in zip(panels, zip(*counts.values(), strict=True), strict=True):
            plain, clipped = along(ax)
            assert plain.get_ydata().tolist() == [0, 0]
            np.testing.assert_allclose(clipped.get_ydata(), np.divide(solving, 4))
        said = words_of(figure)[1].replace("\n", " ")
        assert "Unclipped networks are the same at every clip threshold" in said
        assert "selected on these same networks" not in said

    def test_thresholds_stand_in_rows_of_the_other_settings(self):
        """Counted where a page cannot hold them, and with the best of what else a job varies."""
        thresholds = tuple(2.0**k for k in range(5))
        axes = {"clip_thresholds": thresholds, "weight_scales": (1.0,), "learning_rates": (0.01, 0.1), "clip": "book"}
        jobs = []
        for number, weights in enumerate(names.WEIGHTS):
            for steps in (20, 50):
                fates = np.full((2, 5, 1, 4), -1)
                fates[1, number % 5] = 10
                jobs.append(trained({"weights": weights, "steps": steps}, solved=fates, **axes))
        figure = figures.share_solved_against(datasets.join(jobs))
        panels = panels_of(figure)
        left_out = 5 * len(names.WEIGHTS) - len(panels)
        assert [title_of(ax).replace("\n", " ") for ax in panels[:2]] == ["Gaussian, $c$ = 1", "Gaussian, $c$ = 2"]
        for place, ax in enumerate(panels):
            number, index = divmod(place, 5)
            assert along(ax)[0].get_ydata().tolist() == [float(number % 5 == index)] * 2
        said = words_of(figure)[1].replace("\n", " ")
        assert f"{left_out} more panels are not shown." in said
        assert R"Shown at the learning rate $\eta$ with which most networks solved their task" in said


class TestSolvedMap:
    def test_counts_at_each_rate_and_threshold(self):
        solved = np.full((3, 2, 1, 4), -1)
        solved[1, 0, 0, :3] = 10
        solved[2, 1, 0, :] = 10
        axes = {"learning_rates": (0.01, 0.1, 1.0), "clip_thresholds": (1.0, 10.0), "weight_scales": (1.0,)}
        figure = figures.solved_map(trained(solved=solved, **axes))
        (ax,) = panels_of(figure)
        np.testing.assert_allclose(ax.collections[0].get_array(), [[0, 0.75, 0], [0, 0, 1]])
        assert [text.get_text() for text in ax.texts] == ["0/4", "3/4", "0/4", "0/4", "0/4", "4/4"]
        assert [label.get_text() for label in ax.get_xticklabels()] == ["0.01", "0.1", "1"]
        assert [label.get_text() for label in ax.get_yticklabels()] == ["1", "10"]
        assert "within 40 updates" in words_of(figure)[1].replace("\n", " ")

    def test_weight_scales_take_the_place_of_a_single_threshold(self):
        (ax,) = panels_of(figures.solved_map(trained(learning_rates=(0.01, 0.1))))
        assert "learning rate" in ax.get_xlabel()
        assert ax.get_ylabel() == weight_scale.LABEL

    def test_two_axes_are_needed(self):
        with pytest.raises(ValueError, match="single learning rate, clip threshold or weight scale; allowed: several"):
            figures.solved_map(trained())


class TestPrediction:
    def test_each_network_stands_at_its_growth_and_the_update_at_which_it_solved_the_task(self):
        data = trained(solved=SOLVED, diverged=[[30, -1, -1, -1], [-1] * 4])
        figure = figures.solving_against_initial_growth(data)
        (ax,) = panels_of(figure)
        found = {
            (line.get_marker(), round(float(x), 6)): float(y)
            for line in along(ax)
            for x, y in zip(*line.get_data(), strict=True)
        }
        growth = np.log((0.5, 1.0))[:, None] + SPREAD * np.arange(4)
        fates = zip(growth.ravel(), np.ravel(SOLVED), strict=True)
        expected = {("o", round(float(x), 6)): y for x, y in fates if y >= 0}
        for place, y in found.items():
            if place in expected:
                assert y == expected.pop(place)
            else:
                assert y > 40
        assert not expected
        assert len(found) == 8
        assert [mark for mark, _ in found].count("x") == 1
        area = outcomes.horizon_auc(data)
        assert area is not None
        assert ax.texts[0].get_text() == f"AUC {area.estimate:.2f} ({area.lower:.2f} to {area.upper:.2f})"
        assert words_of(figure)[0] == ["solved", "not solved", "diverged"]
        assert "3 decades" in words_of(figure)[1].replace("\n", " ")

    @pytest.mark.parametrize(
        ("solved", "words"),
        [
            (
                (10, 10),
                "Shown at the weight scale $g$ with which most networks solved their task, selected on these"
                " same networks.",
            ),
            (
                (10, -1),
                "Shown at the weight scale $g$ with which most networks solved their task (if none did, with the"
                " lowest mean final error), selected on these same networks.",
            ),
            (
                (-1, -1),
                "No network solved its task: shown at the weight scale $g$ with the lowest mean final error, selected"
                " on these same networks.",
            ),
        ],
    )
    def test_what_was_chosen_is_said_with_why(self, solved, words):
        cells = zip(("tanh", "relu"), solved, strict=True)
        data = datasets.join([trained({"cell": cell}, solved=at) for cell, at in cells])
        assert histories.chosen_note(data, ["weight_scale"]) == [words]
        assert histories.chosen_note(data, ["learning_rate"]) == []

    @pytest.mark.parametrize(("solved", "words"), [(-1, "none solved"), (10, "all solved")])
    def test_no_area_where_all_are_alike(self, solved, words):
        (ax,) = panels_of(figures.solving_against_initial_growth(trained(solved=solved)))
        assert [text.get_text() for text in ax.texts] == [words]

    def test_a_gradient_that_is_exactly_zero_stands_at_the_end(self):
        data = trained(solved=SOLVED)
        data["log_norm"][0, 0, 0, 0, 0] = -np.inf
        figure = figures.solving_against_initial_growth(data)
        (ax,) = panels_of(figure)
        assert np.isfinite(ax.get_xlim()).all()
        assert "1 network with a gradient of exactly zero is drawn at the left edge." in words_of(figure)[1].replace(
            "\n", " "
        )
        assert min(line.get_xdata().min() for line in along(ax)) == pytest.approx(np.log(0.5) + SPREAD)


class TestAll:
    def test_a_sweep_has_what_it_varies(self):
        expected = {"loss", "error", "gradient_norm", "state_gradient", "network", "solved", "accuracy", "prediction"}
        assert set(figures.sweep_figures(comparison())) == expected
        assert set(figures.sweep_figures(trained(learning_rates=(0.01, 0.1)))) == expected | {"solved_map"}

    def test_the_quick_look_shows_loss_error_gradient_norm_and_heat_map(self):
        data = trained({"cell": "tanh", "clip": "book"}, solved=SOLVED)
        loss, error, gradient, heat = panels_of(figures.quick_look(data))[:4]
        assert title_of(loss) == "tanh, clip book"
        for ax, name, first in ((loss, "loss", 0), (error, "error", 0), (gradient, "gradient_norm", 1)):
            median = np.median(values_of(data, name)[..., first:], axis=1)
            np.testing.assert_allclose([line.get_ydata() for line in curves_of(ax)[:2]], median)
        assert title_of(heat) == "$g$ = 1"
        assert heat.get_ylabel() == state_gradients.TIME

    @pytest.mark.parametrize(
        "settings",
        [
            {"seeds": 1, "weight_scales": (1.0,)},
            {"updates": 1, "record_every": 1, "solved": 0},
            {"diverged": 10, "until_solved": True},
            {"weight_scales": (0.0, 1.0)},
        ],
    )
    def test_one_of_anything_and_nothing_finite_still_draw(self, settings, tmp_path):
        with np.errstate(divide="ignore"):
            data = trained(**settings)
        every = {"quick_look": figures.quick_look(data), **figures.sweep_figures(data)}
        for name, figure in every.items():
            figures.save(figure, tmp_path / name, ("png",))

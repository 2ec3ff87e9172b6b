"""The paper's figures: what they draw, and that their numbers are those that are drawn."""

# matplotlib declares the data of its artists as anything that can become an array.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false

import dataclasses
import itertools
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from figure_parts import assert_looks_as_approved, contours_of, curves_of, shown_in, theory_of, title_of
from training_results import trained

from gradient_horizon import experiments
from gradient_horizon.analysis.intervals import share
from gradient_horizon.figures.paper import (
    edge,
    gates,
    main_training,
    notes,
    pascanu_temporal_order,
    prediction,
    story,
    thresholds,
    triangle,
)
from gradient_horizon.settings.validation import checked
from gradient_horizon.store import datasets


def measured(**settings):
    """A result of one job, measured here."""
    dataset = experiments.measure(checked(settings), lambda _: None)
    return dataset.assign_attrs(experiment=settings["experiment"], swept="{}")


def curves(frame, *keys) -> dict[Any, pd.DataFrame]:
    """The points of each curve of a table, in order, by the values of `keys`."""
    return dict(iter(frame.groupby([*keys], sort=False)))


@pytest.fixture(scope="module")
def of_notes():
    return measured(experiment="notes", hidden_size=3, batch_size=2, steps=20, seeds=[3], weight_scales=[1.0, 0.5])


class TestNotes:
    def test_the_series_are_drawn_and_where_float32_fails_is_marked(self, of_notes):
        table, figure = notes.numbers(of_notes), notes.draw(of_notes)
        of_factors = {title_of(ax): ax for ax in figure.axes if "multiplied" in title_of(ax)}
        for title, panel in {"multiplied by $W_h$": "1 W_h", "multiplied by 0.5 $W_h$": "0.5 W_h"}.items():
            expected = table[(table.panel == panel) & (table.curve == "norm")]
            np.testing.assert_allclose(of_factors[title].lines[0].get_data(), (expected.x, expected.y))
        logarithms = [ax for ax in figure.axes if title_of(ax) == "its logarithm"]
        # the largest float32 is 3e38, and of its squares the smallest positive one is 1e-45
        assert [ax.texts[0].get_text().split()[2] for ax in logarithms] == ["∞", "0"]

    def test_the_numbers_are_the_notes_own(self, of_notes):
        found = curves(notes.numbers(of_notes), "panel", "curve")
        matrix, gradient, expected = np.random.RandomState(3).randn(3, 3), np.ones((2, 3)), []
        for _ in range(20):
            gradient = gradient @ matrix.T
            expected.append(np.sqrt(np.sum(gradient**2)) / 2)
        np.testing.assert_allclose(found["1 W_h", "norm"].y, expected, rtol=1e-12)
        law = found["0.5 W_h", "log10 norm, law"]
        slope = np.log10(0.5 * np.abs(np.linalg.eigvals(matrix)).max())
        np.testing.assert_allclose(np.diff(law.y), slope, rtol=1e-9)
        tanh = found["tanh", "derivative"]
        np.testing.assert_allclose(tanh.y, np.cosh(tanh.x) ** -2.0, rtol=1e-6)

    def test_another_result_is_refused(self, of_notes):
        with pytest.raises(ValueError, match=r"gradient-horizon run \+sweeps=notes"):
            notes.draw(of_notes.isel(weight_scale=[0]))


def job(name, log_norm, swept, **settings):
    """A result of norms as its experiment labels it; `log_norm` by weight scale, seed and lag, or pair of times."""
    config = checked({"seeds": log_norm.shape[1], **settings, **swept})
    dims = {"log_norm": ("lag",), "log_norm_of_pair": ("late", "early")}[name]
    network, times = ("weight_scale", "seed"), np.arange(1, config.steps + 1)
    places = {"lag": times, "late": times, "early": times - 1}
    variable = ((*network, *dims), log_norm)
    if name == "log_norm":
        variable = (("norm", *network, *dims), log_norm[None])
    return xr.Dataset(
        {
            name: variable,
            "finite": (network, np.ones(log_norm.shape[:2], bool)),
            "state_size": ((), config.hidden_size),
        },
        coords={
            **({"norm": ["frobenius"]} if name == "log_norm" else {}),
            "weight_scale": config.weight_scales,
            "seed": config.seeds,
            **{dim: places[dim] for dim in dims},
        },
        attrs={
            "experiment": config.experiment,
            "swept": json.dumps(swept),
            "config": json.dumps(dataclasses.asdict(config)),
        },
    )


SPREAD = np.linspace(-0.01, 0.01, 11)[:, None]  # of the growth, from seed to seed


def growing(rates, steps):
    """log(‖M‖_F/√n) by weight scale, seed and lag: rate times lag, with `SPREAD`."""
    return (np.asarray(rates)[:, None, None] + SPREAD) * np.arange(1, steps + 1)


class TestEdge:
    SCALES = sorted([*edge.MULTIPLES, *(float(f"{2**0.5 * multiple:.9g}") for multiple in edge.MULTIPLES)])

    @pytest.fixture(scope="class")
    @classmethod
    def dataset(cls):
        logs = growing(np.log(cls.SCALES), 40) + 0.5 * np.log(64)
        return datasets.join(
            [job("log_norm", logs, {"cell": cell}, weight_scales=cls.SCALES, steps=40) for cell in ("tanh", "relu")]
        )

    def test_it_looks_as_approved(self, dataset, tmp_path):
        assert_looks_as_approved(edge.draw(dataset), "edge", tmp_path)

    def test_each_cell_is_shown_at_multiples_of_its_own_edge(self, dataset):
        found = curves(edge.numbers(dataset), "cell", "multiple_of_the_edge")
        assert [*found] == [(cell, multiple) for cell in ("tanh", "relu") for multiple in edge.MULTIPLES]
        for (cell, multiple), curve in found.items():
            scale = multiple * {"tanh": 1, "relu": 2**0.5}[cell]
            for name, spread in {"lower": -0.008, "median": 0.0, "upper": 0.008}.items():
                expected = (np.log(scale) + spread) * curve.lag / np.log(10)
                np.testing.assert_allclose(curve[name], expected, atol=1e-6)
            if cell == "relu" or multiple <= 1:  # χ = g²/2, and below the edge of tanh g²
                np.testing.assert_allclose(curve.mean_field, np.log10(multiple) * curve.lag, atol=1e-12)
            else:
                assert 0 < curve.mean_field.iloc[0] < np.log10(multiple)

    def test_a_result_without_the_edge_is_refused(self, dataset):
        for part in (dataset.isel(weight_scale=slice(4)), dataset.isel(cell=0), dataset.drop_vars("log_norm")):
            with pytest.raises(ValueError, match=r"gradient-horizon run \+sweeps=edge"):
                edge.draw(part)


class TestTriangle:
    SCALES = (0.8, 1.0, 2.5)

    @pytest.fixture(scope="class")
    @classmethod
    def dataset(cls):
        lag = np.arange(1, 41)[:, None] - np.arange(40)
        rates = (np.log(cls.SCALES)[:, None] + SPREAD[:, 0])[..., None, None]
        logs = np.where(lag > 0, 0.5 * np.log(64) + rates * lag, np.nan)
        return job("log_norm_of_pair", logs, {}, experiment="pairs", weight_scales=list(cls.SCALES), steps=40)

    def test_each_triangle_shows_its_pairs_and_where_they_pass_the_threshold(self, dataset):
        figure = triangle.draw(dataset)
        below, edge_of_chaos, above = (ax for ax in figure.axes if title_of(ax))
        titles = ["$g$ = 0.8, below the edge", "$g$ = 1, the edge", "$g$ = 2.5, above the edge"]
        assert [title_of(ax) for ax in (below, edge_of_chaos, above)] == titles
        for ax, scale in zip((below, edge_of_chaos, above), self.SCALES, strict=True):
            lag = np.arange(1, 41)[:, None] - np.arange(40)
            np.testing.assert_allclose(shown_in(ax), np.where(lag > 0, np.log10(scale) * lag, np.nan), atol=1e-12)
        for ax, scale in ((below, 0.8), (above, 2.5)):
            (contour,) = contours_of(ax)
            corners = np.concatenate([path.vertices for path in contour.get_paths()])
            np.testing.assert_allclose(corners[:, 1] - corners[:, 0], 3 / abs(np.log10(scale)), atol=1e-6)
        assert not contours_of(edge_of_chaos)

    def test_every_pair_is_a_row(self, dataset):
        found = curves(triangle.numbers(dataset), "weight_scale")
        assert [key for (key,) in found] == [*self.SCALES]
        for (scale,), pairs in found.items():
            assert len(pairs) == 40 * 41 / 2
            np.testing.assert_allclose(pairs["median"], np.log10(scale) * (pairs.late - pairs.early), atol=1e-12)
        horizons = [pairs.mean_field_horizon.iloc[0] for pairs in found.values()]
        assert horizons[0] == pytest.approx(3 / -np.log10(0.8))  # χ = g² below the edge
        assert horizons[1] == np.inf
        assert horizons[2] > 3 / np.log10(2.5)

    def test_another_result_is_refused(self, dataset):
        with pytest.raises(ValueError, match=r"gradient-horizon run \+sweeps=triangle"):
            triangle.draw(dataset.drop_vars("log_norm_of_pair"))


class TestGates:
    CELLS, BIASES, SCALES = ("tanh", "gru", "lstm"), (0.0, 2.0), (0.5, 2.0)

    @classmethod
    def rate(cls, cell, bias):
        """A growth for each cell, and for the LSTM one that falls short of its forget line by a tenth."""
        return np.log(1 / (1 + np.exp(-bias))) - 0.1 if cell == "lstm" else -0.05 * (1 + cls.CELLS.index(cell))

    @pytest.fixture(scope="class")
    @classmethod
    def dataset(cls):
        jobs = []
        for cell in cls.CELLS:
            for bias in cls.BIASES:
                size = 64 * (2 if cell == "lstm" else 1)
                logs = growing(cls.rate(cell, bias) + np.log(cls.SCALES) / 10, 20) + 0.5 * np.log(size)
                swept = {"cell": cell, "forget_bias": bias}
                data = job("log_norm", logs, swept, weight_scales=list(cls.SCALES), steps=20)
                jobs.append(data.assign(state_size=((), size)))
        return datasets.join(jobs)

    def test_cells_are_drawn_above_and_forget_biases_below(self, dataset):
        axes = [ax for ax in gates.draw(dataset).axes if ax.lines]
        assert [title_of(ax) for ax in axes] == ["$g$ = 0.5", "$g$ = 2", "", ""]
        rows = ([(cell, 0.0) for cell in self.CELLS], [("lstm", bias) for bias in self.BIASES])
        for ax, (row, scale) in zip(axes, itertools.product(rows, self.SCALES), strict=True):
            expected = [20 * (self.rate(*at) + np.log(scale) / 10) / np.log(10) for at in row]
            np.testing.assert_allclose([line.get_ydata()[-1] for line in curves_of(ax)], expected, atol=1e-12)
        for ax in axes[2:]:
            forgets = [-20 * np.log10(1 + np.exp(-bias)) for bias in self.BIASES]
            np.testing.assert_allclose([line.get_ydata()[-1] for line in theory_of(ax)], forgets)

    def test_cells_without_a_forget_bias_and_the_lstm_with_several(self, dataset):
        found = curves(gates.numbers(dataset), "row", "cell", "forget_bias", "weight_scale")
        expected = [("cells", cell, 0.0) for cell in self.CELLS] + [("forget bias", "lstm", b) for b in self.BIASES]
        assert [*found] == [(*key, scale) for key in expected for scale in self.SCALES]
        for (row, cell, bias, scale), curve in found.items():
            growth = (self.rate(cell, bias) + np.log(scale) / 10) / np.log(10)
            np.testing.assert_allclose(curve["median"], growth * curve.lag, atol=1e-12)
            if row == "forget bias":
                np.testing.assert_allclose(curve.forget_line, -np.log10(1 + np.exp(-bias)) * curve.lag)
            else:
                assert curve.forget_line.isna().all()

    def test_another_result_is_refused(self, dataset):
        with pytest.raises(ValueError, match=r"gradient-horizon run \+sweeps=gates"):
            gates.draw(dataset.isel(forget_bias=0))


def comparison(cells=("tanh", "relu"), clips=("none", "book"), **settings):
    """Training of each cell with each rule; of the clipped tanh networks most solve the task, at g = 1."""
    fates = {("tanh", "book"): [[-1, 10, 20, -1], [10, 10, 40, -1]]}
    return datasets.join(
        [
            trained({"cell": cell, "clip": clip}, solved=fates.get((cell, clip), -1), **settings)
            for cell in cells
            for clip in clips
        ]
    )


class TestMainTraining:
    def test_each_column_shows_the_medians_of_its_networks(self):
        dataset = comparison()
        axes = main_training.draw(dataset).axes
        titles = ["tanh, not clipped", "ReLU, not clipped", "tanh, clipped", "ReLU, clipped"]
        losses = {title_of(ax): ax for ax in axes if title_of(ax) in titles}
        assert [*losses] == titles
        for title, ax in losses.items():
            cell, clip = title.split(", ")
            data = dataset.sel(cell=cell.lower(), clip="none" if clip == "not clipped" else "book").squeeze()
            medians = [line.get_ydata() for line in curves_of(ax)]
            np.testing.assert_allclose(medians, data.loss.median("seed"))
        # of the clipped tanh networks three of four solve the task at g = 1 and two at 0.5; none of the others do
        maps = [title_of(ax) for ax in axes if title_of(ax).startswith("$g$")]
        assert maps == ["$g$ = 0.5", "$g$ = 0.5", "$g$ = 1", "$g$ = 0.5"]

    def test_the_numbers_are_medians_over_seeds(self):
        dataset = comparison()
        found = curves(main_training.numbers(dataset), "quantity", "cell", "clip", "weight_scale")
        data = dataset.sel(cell="tanh", clip="book").isel(learning_rate=0, clip_threshold=0)
        for name in ("loss", "gradient_norm", "clipped_gradient_norm"):
            for scale in (0.5, 1.0):
                curve = found[name, "tanh", "book", scale]
                recorded = data[name].sel(weight_scale=scale, update=curve["update"].to_numpy())
                expected = recorded.quantile([0.1, 0.5, 0.9], "seed")
                np.testing.assert_allclose(curve[["lower", "median", "upper"]].T, expected, err_msg=name)
        (best,) = [key for key in found if key[:3] == ("log10_state_gradient_norm", "tanh", "book")]
        assert best[-1] == 1.0  # three of four solve the task there, two of four at 0.5
        decades = data["log_state_gradient_norm"].sel(weight_scale=1.0).median("seed") / np.log(10)
        points = found[best]
        where = {"time": xr.DataArray(points.time), "update": xr.DataArray(points["update"])}
        np.testing.assert_allclose(points["median"], decades.sel(where))

    def test_ensembles_have_columns_of_their_own_at_their_own_learning_rates(self):
        fates = {("relu", "identity"): [[[[-1, -1]]], [[[10, -1]]]], ("tanh", "gaussian"): [[[[10, 10]]], [[[-1, 10]]]]}
        given = {"learning_rates": (0.001, 0.1), "weight_scales": (1.0,), "seeds": 2}
        jobs = [
            trained({"cell": cell, "clip": clip, "weights": weights}, solved=fates.get((cell, weights), -1), **given)
            for cell in ("tanh", "relu")
            for clip in ("none", "book")
            for weights in ("gaussian", "identity")
        ]
        dataset = datasets.join(jobs)
        titles = [title_of(ax).replace("\n", " ") for ax in main_training.draw(dataset).axes]
        assert "tanh, Gaussian, not clipped, $\\eta$ = 0.001" in titles
        assert "ReLU, identity, clipped, $\\eta$ = 0.1" in titles
        assert titles.count("$g$ = 1, $\\eta$ = 0.1") == sum("clipped, $\\eta$ = 0.1" in title for title in titles)
        found = curves(main_training.numbers(dataset), "quantity", "cell", "weights", "clip", "learning_rate")
        assert len(found) == 4 * len(jobs)
        curve = found["loss", "relu", "identity", "book", 0.1]
        data = dataset.loss.sel(cell="relu", weights="identity", clip="book", learning_rate=0.1).squeeze()
        np.testing.assert_allclose(curve["median"], data.sel(update=curve["update"].to_numpy()).median("seed"))

    def test_another_result_is_refused(self):
        with pytest.raises(ValueError, match=r"gradient-horizon run \+sweeps=main_training"):
            main_training.draw(comparison().isel(clip=0))


class TestThresholds:
    RATES, THRESHOLDS = (0.01, 0.1), (0.1, 1.0)
    SOLVED = np.array([[[-1, 10, 20, 20], [-1, -1, 20, 30]], [[10, 10, 10, 10], [-1, -1, 20, -1]]])[:, :, None]

    @classmethod
    def dataset(cls):
        given = {"learning_rates": cls.RATES, "clip_thresholds": cls.THRESHOLDS, "weight_scales": (1.0,)}
        diverged = np.array([[20, 30, -1, -1], [-1] * 4])[:, None, None]
        none = trained({"clip": "none"}, solved=-1, diverged=diverged, **given)
        return datasets.join([none, trained({"clip": "book"}, solved=cls.SOLVED, **given)])

    def test_the_maps_show_counts_and_medians_with_a_star_where_networks_diverge(self):
        left, right = thresholds.draw(self.dataset()).axes
        assert [text.get_text() for text in left.texts] == ["3/4", "2/4", "0/4*", "4/4", "1/4", "0/4"]
        assert [text.get_text() for text in right.texts] == ["20", "–", "–", "10", "–", "–"]
        np.testing.assert_allclose(left.collections[0].get_array(), [[0.75, 0.5, 0], [1, 0.25, 0]])

    def test_success_and_speed_of_every_pair(self):
        found = thresholds.numbers(self.dataset()).set_index(["learning_rate", "clip_threshold"])
        assert found.solved.to_dict() == {
            (0.01, "0.1"): 3, (0.01, "1"): 2, (0.01, "none"): 0, (0.1, "0.1"): 4, (0.1, "1"): 1, (0.1, "none"): 0,
        }  # fmt: skip
        assert found.networks.eq(4).all()
        assert found.diverged.tolist() == [0, 0, 2, 0, 0, 0]
        # -1 counts as the slowest: of 10, 20, 20 and never half solve it by 20, of 20, 30 and never twice only later
        np.testing.assert_array_equal(found.median_update, [20, np.nan, np.nan, 10, np.nan, np.nan])

    def test_another_result_is_refused(self):
        for dataset in (trained(), self.dataset().sel(clip=["none"])):
            with pytest.raises(ValueError, match=r"gradient-horizon run \+sweeps=thresholds"):
                thresholds.draw(dataset)


class TestPascanu:
    @staticmethod
    def dataset():
        """Of four seeds as many solve it as the number of remedies says, one fewer at the greater length."""

        def job(initialisation, clip, omega, steps):
            number = 1 + (clip != "none") + 2 * (omega > 0) - (steps == 24)
            swept = {"initialisation": initialisation, "clip": clip, "omega": omega}
            data = trained(swept, steps=steps, solved=[10] * number + [-1] * (4 - number), weight_scales=(1.0,))
            return data.assign_attrs(swept=json.dumps({**swept, "steps": steps}))

        grid = itertools.product(("basic_tanh", "sigmoid"), ("none", "pascanu"), (0.0, 4.0), (12, 24))
        return datasets.join([job(*point) for point in grid])

    def test_each_method_is_a_line_of_shares_with_its_interval(self):
        axes = pascanu_temporal_order.draw(self.dataset()).axes
        assert [title_of(ax) for ax in axes] == ["sigmoid", "basic tanh"]
        for ax in axes:
            plain, regularised, clipped, both = (line.get_ydata().tolist() for line in ax.lines)
            assert [plain, clipped, regularised, both] == [[(k + 1) / 4, k / 4] for k in range(4)]
            (shortest, _) = ax.collections[0].get_segments()
            np.testing.assert_allclose(shortest[:, 1], share(1, 4)[1:])

    def test_the_methods_have_the_papers_names(self):
        table = pascanu_temporal_order.numbers(self.dataset())
        found = curves(table, "initialisation", "method")
        assert [*dict.fromkeys(table.initialisation)] == ["sigmoid", "basic_tanh"]
        for index, method in enumerate(("SGD", "SGD-C", "SGD-R", "SGD-CR")):
            assert found["sigmoid", method].share_solved.tolist() == [(index + 1) / 4, index / 4]
        assert (table.lower <= table.share_solved).all()
        assert (table.upper >= table.share_solved).all()

    def test_what_is_not_swept_is_one_panel_or_one_method(self):
        def job(steps, solved):
            return trained({"steps": steps}, initialisation="smart_tanh", omega=4.0, clip="none", solved=solved)

        table = pascanu_temporal_order.numbers(datasets.join([job(12, 10), job(24, -1)]))
        assert [*table.initialisation] == ["smart_tanh"] * 2
        assert [*table.method] == ["SGD-R"] * 2
        assert [*table.share_solved] == [1, 0]

    def test_another_result_is_refused(self):
        with pytest.raises(ValueError, match=r"gradient-horizon run \+sweeps=pascanu_temporal_order"):
            pascanu_temporal_order.draw(trained())


class TestStory:
    @staticmethod
    def dataset():
        """Of four networks so many answer well as the cell and the distance say; the others stay at chance."""
        return datasets.join(
            [
                trained(
                    {"cell": cell, "distance": distance},
                    task="story",
                    steps=60,
                    solved=[10] * n + [-1] * (4 - n),
                    weight_scales=(1.0,),
                )
                for cell, counts in {"tanh": (3, 0), "lstm": (4, 4)}.items()
                for distance, n in zip((9, 27), counts, strict=True)
            ]
        )

    def test_each_cell_is_a_line_beside_chance(self):
        (ax,) = story.draw(self.dataset()).axes
        tanh, lstm, chance = (line.get_ydata().tolist() for line in ax.lines)
        assert (tanh, lstm) == ([1.0, 0.25], [1.0, 1.0])
        assert chance == [0.25, 0.25]

    def test_medians_and_chance(self):
        table = story.numbers(self.dataset())
        assert table[["cell", "distance", "accuracy", "chance"]].to_numpy().tolist() == [
            ["tanh", 9, 1.0, 0.25], ["tanh", 27, 0.25, 0.25], ["lstm", 9, 1.0, 0.25], ["lstm", 27, 1.0, 0.25],
        ]  # fmt: skip

    def test_another_result_is_refused(self):
        with pytest.raises(ValueError, match=r"gradient-horizon run \+sweeps=story"):
            story.draw(trained())


class TestPrediction:
    SCALES = (0.3, 0.5, 0.8, 1.0)

    @classmethod
    def dataset(cls):
        """Growth log g + 0.01 seed, per step; the networks that lose fewer than 3 decades in 20 steps solve it."""
        solved = [[-1] * 4, [-1] * 4, [10, -1, 20, 20], [40, 10, 10, 10]]
        return trained(steps=20, weight_scales=cls.SCALES, solved=solved)

    def test_networks_and_shares_are_drawn(self):
        points, by_horizon, by_scale, *_ = prediction.draw(self.dataset()).axes
        solved_at = sorted(
            float(y) for line in points.lines if line.get_marker() == "o" for y in line.get_ydata() if y <= 40
        )
        assert solved_at == [10, 10, 10, 10, 20, 20, 40]
        assert points.texts[0].get_text().startswith("AUC 0.94 ")  # (8 + 1/2) / 9
        assert by_scale.lines[0].get_ydata().tolist() == [0, 0, 0.75, 1]
        assert by_horizon.lines[1].get_ydata().tolist() == [7 / 8]
        assert [label.get_text() for label in by_horizon.get_xticklabels()][-1] == "> 20"

    def test_every_network_and_the_shares(self):
        table = prediction.numbers(self.dataset())
        networks = table[table.panel == "networks"]
        growth = np.log(np.repeat(self.SCALES, 4)) + 0.01 * np.tile(np.arange(4), 4)
        np.testing.assert_allclose(networks.initial_growth, growth)
        with np.errstate(divide="ignore"):
            first = np.floor(3 * np.log(10) / np.abs(growth)) + 1
        np.testing.assert_array_equal(networks.initial_horizon, np.minimum(first, 21))
        by_scale = table[table.panel == "by weight scale"]
        assert by_scale.share_solved.tolist() == [0, 0, 0.75, 1]
        by_horizon = table[table.panel == "by initial horizon"]
        assert by_horizon.networks.sum() == 16
        assert by_horizon.initial_horizon.iloc[-1] == 21
        assert by_horizon.share_solved.iloc[-1] == 7 / 8
        # of 7 that solve it, all at the end, and 9 that do not, 8 of which have a shorter horizon and one the same
        assert table[table.panel == "networks, AUC"].auc.item() == pytest.approx((8 + 0.5) / 9)

    def test_another_result_is_refused(self):
        with pytest.raises(ValueError, match=r"gradient-horizon run \+sweeps=prediction"):
            prediction.draw(trained(weight_scales=(1.0,)))

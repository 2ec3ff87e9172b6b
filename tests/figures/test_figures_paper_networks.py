"""The paper's figures of networks at rest and in chaos: what they plot is what was measured, beside its theory."""

# matplotlib declares the data of its artists as anything that can become an array.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false

from typing import Any

import numpy as np
import pandas as pd
import pytest
from experiment_results import jacobian_job, lyapunov_job, offsets, singular_values_job
from figure_parts import curves_of, theory_of, title_of

from gradient_horizon import theory
from gradient_horizon.figures.paper import isometry, phase, reach, spectra
from gradient_horizon.store import datasets

SPREAD = np.linspace(-0.01, 0.01, 11)  # from seed to seed; its 10 % and 90 % quantiles are ∓0.008


def curves(frame, *keys) -> dict[Any, pd.DataFrame]:
    """The points of each curve of a table, in order, by the values of `keys`."""
    return dict(iter(frame.groupby([*keys], sort=False)))


class TestPhase:
    SCALES = np.linspace(0.5, 3.0, 26).round(2).tolist()

    @pytest.fixture(scope="class")
    @classmethod
    def dataset(cls):
        """Networks that do what mean field says, with a spread."""

        def job(bias):
            growth = [theory.mean_field("tanh", scale, bias).log_growth for scale in cls.SCALES]

            def change(exponents):
                exponents[..., 0] = np.add.outer(growth, SPREAD)

            return lyapunov_job({"bias_scale": bias}, cls.SCALES, len(SPREAD), change)

        return datasets.join([job(bias) for bias in (0.0, 0.25, 0.5, 1.0)])

    def test_the_map_and_the_cuts_are_drawn(self, dataset):
        heat, cuts, *_ = phase.draw(dataset).axes
        growth = [
            [theory.mean_field("tanh", g, bias).log_growth for g in self.SCALES] for bias in (0.0, 0.25, 0.5, 1.0)
        ]
        np.testing.assert_allclose(heat.collections[0].get_array(), growth, atol=1e-12)
        medians = [line.get_ydata() for line in curves_of(cuts)]
        np.testing.assert_allclose(medians, growth, atol=1e-12)
        (circles,) = [line for line in heat.lines if line.get_marker() == "o"]
        np.testing.assert_allclose(circles.get_ydata(), [0.0, 0.25, 0.5, 1.0])
        assert len(theory_of(cuts)) == 4

    def test_numbers_are_quantiles_and_theory(self, dataset):
        found = curves(phase.numbers(dataset), "curve", "bias_scale")
        for bias in (0.0, 0.25, 0.5, 1.0):
            measured = found["measured", bias]
            expected = [theory.mean_field("tanh", scale, bias).log_growth for scale in self.SCALES]
            np.testing.assert_allclose(measured["median"], expected, atol=1e-12)
            np.testing.assert_allclose(measured["upper"] - measured["lower"], 0.016, atol=1e-12)
            law = found["mean field", bias]
            assert law.growth.iloc[-1] == theory.mean_field("tanh", 3.0, bias).log_growth

    def test_the_measured_edge_lies_on_the_critical_line(self, dataset):
        found = curves(phase.numbers(dataset), "curve")
        line = found["critical line",]
        for bias, scale in zip(line.bias_scale[::50], line.weight_scale[::50], strict=True):
            assert theory.mean_field("tanh", scale, bias).chi == pytest.approx(1, abs=1e-7)
        for bias, scale in found["measured crossing",][["bias_scale", "weight_scale"]].values:
            # between two scales 0.1 apart the growth bends by less than a tenth of its change
            assert scale == pytest.approx(theory.critical_line("tanh", bias), abs=0.01)

    def test_another_result_is_refused(self, dataset):
        with pytest.raises(ValueError, match=r"gradient-horizon run \+sweeps=phase"):
            phase.draw(dataset.isel(bias_scale=0))


class TestReach:
    SCALES = (0.7, 0.9, 1.0, 1.2, 1.5, 2.0)

    @pytest.fixture(scope="class")
    @classmethod
    def dataset(cls):
        """Of growth that differs from mean field's by 1/N, with a spread that falls as 1/N."""
        law = np.array([theory.mean_field("tanh", scale).log_growth for scale in cls.SCALES])
        jobs = []
        for n in (16, 64, 256):
            growth = (law - 1 / n)[:, None] + 30 / n * SPREAD
            jobs.append(jacobian_job({"hidden_size": n}, growth, cls.SCALES, 200))
        return datasets.join(jobs)

    def test_horizons_are_drawn_against_the_scale_and_the_size(self, dataset):
        against_scale, against_size, *_ = reach.draw(dataset).axes
        measured = [line for line in against_scale.lines if len(line.get_xdata()) == len(self.SCALES)]
        for n, line in zip((16, 64, 256), (line for line in measured if line.get_linestyle() == "-"), strict=True):
            decades = np.array([theory.mean_field("tanh", g).log_growth - 1 / n for g in self.SCALES]) / np.log(10)
            np.testing.assert_array_equal(line.get_ydata(), np.minimum(np.floor(3 / np.abs(decades)) + 1, 201))
        assert [text.get_text() for text in against_scale.texts] == ["beyond T = 200"]
        predicted = [line.get_ydata()[0] for line in theory_of(against_size)]
        assert predicted == [theory.mean_field_horizon("tanh", g) for g in (0.7, 0.9, 1.2, 1.5, 2.0)]

    def test_numbers_are_horizons_and_their_prediction(self, dataset):
        found = curves(reach.numbers(dataset), "curve")
        for row in found["measured",].to_dict("records"):
            n, scale, median = row["hidden_size"], row["weight_scale"], row["median"]
            decades = (theory.mean_field("tanh", scale).log_growth - 1 / n) / np.log(10)
            assert median == min(np.floor(3 / abs(decades)) + 1, 201)
            assert row["kind"] == ("beyond" if median == 201 else "vanished" if decades < 0 else "exploded")
            assert row["lower"] <= median <= row["upper"]
        law = found["mean field",]
        for scale, horizon in law[["weight_scale", "horizon"]].values[::20]:
            assert horizon == theory.mean_field_horizon("tanh", scale)
        assert np.isinf(law.set_index("weight_scale").horizon[1.0])

    def test_another_result_is_refused(self, dataset):
        with pytest.raises(ValueError, match=r"gradient-horizon run \+sweeps=reach"):
            reach.draw(dataset.isel(hidden_size=0))


class TestIsometry:
    N, LAGS, SEEDS = 60, (1, 2, 5, 20), 5

    @pytest.fixture(scope="class")
    @classmethod
    def logs(cls):
        """Of powers of Gaussian matrices, and of tanh networks that lose a tenth of a decade a step."""
        rng = np.random.default_rng(0)
        powers = np.empty((cls.SEEDS, len(cls.LAGS), cls.N))
        for seed in range(cls.SEEDS):
            w = rng.normal(0, cls.N**-0.5, (cls.N, cls.N))
            for place, lag in enumerate(cls.LAGS):
                powers[seed, place] = np.log(np.linalg.svd(np.linalg.matrix_power(w, lag), compute_uv=False))
        lost = -0.1 * np.log(10) * np.array(cls.LAGS)[:, None]
        zeros = np.zeros_like(powers)
        uneven = 1 + 0.02 * offsets(cls.SEEDS)[:, None, None]
        return {
            ("linear", "gaussian"): powers,
            ("linear", "orthogonal"): zeros,
            ("tanh", "gaussian"): powers + uneven * lost,
            ("tanh", "orthogonal"): zeros + uneven * lost,
        }

    @pytest.fixture(scope="class")
    @classmethod
    def dataset(cls, logs):
        jobs = [
            singular_values_job({"cell": cell, "weights": weights}, (1.0,), cls.SEEDS, cls.LAGS, values=values[None])
            for (cell, weights), values in logs.items()
        ]
        return datasets.join(jobs)

    def test_singular_values_and_the_share_that_is_kept_are_drawn(self, dataset, logs):
        axes = [ax for ax in isometry.draw(dataset).axes if title_of(ax)]
        places = [
            ("linear", "gaussian"),
            ("linear", "orthogonal"),
            None,
            ("tanh", "gaussian"),
            ("tanh", "orthogonal"),
            None,
        ]
        for ax, at in zip(axes, places, strict=True):
            if at is None:
                continue
            drawn = [line.get_ydata() for line in curves_of(ax)]
            np.testing.assert_allclose(drawn, np.median(logs[at], axis=0) / np.log(10), atol=1e-12)
        shares = {line.get_ydata()[-1] for line in axes[5].lines if line.get_marker() == "o"}
        assert min(shares) == 0  # orthogonal tanh networks at lag 20

    def test_numbers_are_quantiles_and_shares(self, dataset, logs):
        found = curves(isometry.numbers(dataset), "curve", "cell", "weights")
        for at, values in logs.items():
            decades = values / np.log(10)
            drawn = found["log10 singular value", *at]
            assert drawn.lag.tolist() == np.repeat(self.LAGS, self.N).tolist()
            np.testing.assert_allclose(drawn["median"], np.median(decades, axis=0).ravel(), atol=1e-12)
            shares = (np.abs(decades) <= 1).mean(axis=-1)
            np.testing.assert_allclose(found["share kept", *at]["median"], np.median(shares, axis=0), atol=1e-12)
        # a tenth of a decade a step: within a decade up to lag 5, beyond at 20
        assert found["share kept", "tanh", "orthogonal"]["median"].tolist() == [1, 1, 1, 0]

    def test_the_law_of_one_step_is_the_quarter_circle(self, dataset):
        found = curves(isometry.numbers(dataset), "curve", "weights")
        assert found["share kept, law", "gaussian"].lag.tolist() == [1, 2, 5]  # below √60
        # interpolated between points 0.016 apart in log σ: off by 0.016²/8 times the second derivative, 0.06
        below = lambda s: (s * np.sqrt(4 - s * s) + 4 * np.arcsin(s / 2)) / (2 * np.pi)  # noqa: E731
        assert found["share kept, law", "gaussian"].law.iloc[0] == pytest.approx(1 - below(0.1), abs=3e-6)
        assert found["share kept, law", "orthogonal"].law.tolist() == [1, 1, 1, 1]

    def test_another_result_is_refused(self, dataset):
        with pytest.raises(ValueError, match=r"gradient-horizon run \+sweeps=isometry"):
            isometry.draw(dataset.isel(cell=0))


class TestSpectra:
    SCALES = (0.8, 1.5, 3.0, 6.0, 12.0)

    @pytest.fixture(scope="class")
    @classmethod
    def dataset(cls):
        return datasets.join([lyapunov_job({"hidden_size": n}, cls.SCALES, 5, n=n) for n in (8, 16)])

    def test_spectra_and_their_summaries_are_drawn(self, dataset):
        spectrum, largest, dimension, entropy, *_ = spectra.draw(dataset).axes
        assert title_of(spectrum) == "(a) $N$ = 16"
        exponents = dataset.lyapunov_exponent.sel(hidden_size=16)
        drawn = [
            line.get_ydata() for line in spectrum.lines if len(line.get_xdata()) == 16 and line.get_gid() != "exact"
        ]
        np.testing.assert_allclose(drawn, np.median(exponents, axis=1))
        of_sizes = [line.get_ydata() for line in largest.lines if line.get_marker() == "o"]
        np.testing.assert_allclose(of_sizes, np.median(dataset.lyapunov_exponent.isel(index=0), axis=-1))
        for ax, median in ((dimension, 2.5), (entropy, 0.25)):
            np.testing.assert_allclose([line.get_ydata()[0] for line in ax.lines], [median / 8, median / 16])

    def test_numbers_are_quantiles_over_n(self, dataset):
        found = curves(spectra.numbers(dataset), "curve", "hidden_size")
        for n in (8, 16):
            data = dataset.sel(hidden_size=n)
            largest = np.quantile(data.lyapunov_exponent.isel(index=0), (0.1, 0.5, 0.9), axis=1)
            np.testing.assert_allclose(found["largest exponent", n][["lower", "median", "upper"]].T, largest)
            # of the offsets -2 to 2 the 10 % quantile lies 0.4 of the way from the first to the second
            spread = np.array([-1.6, 0.0, 1.6])
            dimension, entropy = (found[f"{name} over N", n] for name in ("dimension", "entropy rate"))
            for table, expected in ((dimension, 2.5 + 0.2 * spread), (entropy, 0.25 + 0.02 * spread)):
                np.testing.assert_allclose(table[["lower", "median", "upper"]], [expected / n] * len(self.SCALES))
        whole = found["spectrum", 16]
        np.testing.assert_allclose(
            whole["median"], np.median(dataset.sel(hidden_size=16).lyapunov_exponent, axis=1).ravel()
        )
        # at g = 0.8 the eigenvalues have moduli up to 0.76: at rest; at 1.5 no longer
        rest = found["spectrum at rest", 16]
        np.testing.assert_allclose(rest.exact, np.log(0.8 * np.linspace(0.95, 0.1, 16)))

    def test_another_result_is_refused(self, dataset):
        with pytest.raises(ValueError, match=r"gradient-horizon run \+sweeps=spectra"):
            spectra.draw(dataset.isel(hidden_size=0))

"""Which law holds for which settings, and that it is the one of `theory`."""

import dataclasses
import math

import numpy as np
import pytest

from gradient_horizon import theory
from gradient_horizon.analysis.laws import exponents_at_rest, law_for
from gradient_horizon.settings.schema import Config
from gradient_horizon.settings.validation import checked


def settings(**changed):
    return dataclasses.asdict(checked(changed))


PLAIN = ("linear", "tanh", "relu", "hard_tanh", "erf", "sigmoid")


class TestPrediction:
    @pytest.mark.parametrize("cell", PLAIN)
    @pytest.mark.parametrize("scale", [0.3, 1.0, 2.5])
    def test_a_plain_gaussian_network_grows_as_mean_field_says(self, cell, scale):
        law = law_for(settings(cell=cell, bias_scale=0.2))
        assert law is not None
        assert not law.is_exact
        assert law.log_growth(scale) == theory.mean_field(cell, scale, 0.2).log_growth
        assert law.horizon(scale, 2.5) == theory.mean_field_horizon(cell, scale, 0.2, threshold=2.5)
        assert law.edge() == theory.critical_line(cell, 0.2)

    def test_noise_drives_with_the_variance_of_its_input(self):
        law = law_for(settings(inputs="noise", input_scale=0.5, noise_scale=3.0, hidden_size=32))
        assert law is not None
        assert law.log_growth(1.5) == theory.mean_field("tanh", 1.5, 0.0, 2.25).log_growth

    def test_input_scales_mean_nothing_without_inputs(self):
        assert law_for(settings(input_scale=7.0, noise_scale=2.0)) == law_for(settings())

    def test_unit_normal_weights_are_gaussian_ones_of_a_larger_scale(self):
        law = law_for(settings(weights="unit_normal", hidden_size=25))
        assert law is not None
        assert law.log_growth(0.4) == theory.mean_field("tanh", 2.0).log_growth
        assert law.edge() == pytest.approx(0.2)

    @pytest.mark.parametrize("weights", ["orthogonal", "identity"])
    def test_a_linear_network_with_orthogonal_weights_is_exact(self, weights):
        law = law_for(settings(cell="linear", weights=weights, bias_scale=1.0, inputs="digits"))
        assert law is not None
        assert law.is_exact
        assert law.log_growth(1.7) == pytest.approx(math.log(1.7), rel=1e-14)
        assert law.horizon(1.0, 3.0) == math.inf

    @pytest.mark.parametrize(
        "changed",
        [
            {"cell": "gru"},
            {"cell": "lstm"},
            {"cell": "leaky_tanh"},
            {"weights": "orthogonal"},
            {"weights": "np_rnn"},
            {"cell": "relu", "weights": "identity"},
            {"cell": "linear", "weights": "sparse"},
            {"inputs": "digits"},
            {"inputs": "noise", "input_size": 1},
            {"inputs": "noise", "hidden_size": 8},
        ],
    )
    def test_no_closed_form_no_prediction(self, changed):
        assert law_for(settings(**changed)) is None

    def test_the_growth_of_linear_and_relu_does_not_ask_for_the_input(self):
        for cell, chi in (("linear", 4.0), ("relu", 2.0)):
            law = law_for(settings(cell=cell, inputs="digits", bias_scale=0.3))
            assert law is not None
            assert law.log_growth(2.0) == pytest.approx(0.5 * math.log(chi), rel=1e-14)

    @pytest.mark.parametrize("missing", ["hidden_size", "inputs", "bias_scale", "input_size", "input_scale"])
    def test_jobs_that_differ_in_what_decides_have_no_law_in_common(self, missing):
        known = settings(inputs="noise", weights="unit_normal")
        assert law_for(known) is not None
        assert law_for({key: value for key, value in known.items() if key != missing}) is None

    def test_unknown_settings_have_no_prediction(self):
        assert law_for({}) is None
        assert exponents_at_rest({}, np.zeros((1, 2))) is None

    def test_every_cell_and_ensemble_is_decided(self):
        from gradient_horizon import names

        for cell in names.CELLS:
            for weights in names.WEIGHTS:
                law_for(dataclasses.asdict(Config()) | {"cell": cell, "weights": weights})


class TestAtRest:
    MODULI = np.log([[0.8, 0.5, 0.1], [1.1, 0.3, 0.2]])

    def test_tanh_at_rest_has_the_eigenvalues_and_others_have_none(self):
        found = exponents_at_rest(settings(), self.MODULI)
        assert found is not None
        np.testing.assert_allclose(found[0], self.MODULI[0], rtol=1e-14)
        assert np.isnan(found[1]).all()

    def test_the_slope_of_erf_counts(self):
        found = exponents_at_rest(settings(cell="erf"), self.MODULI)
        assert found is not None
        np.testing.assert_allclose(found[0], self.MODULI[0] + math.log(2 / math.sqrt(math.pi)), rtol=1e-12)

    def test_a_linear_network_needs_no_rest(self):
        found = exponents_at_rest(settings(cell="linear", bias_scale=1.0, inputs="noise"), self.MODULI)
        np.testing.assert_array_equal(found, self.MODULI)

    @pytest.mark.parametrize(
        "changed", [{"cell": "relu"}, {"cell": "sigmoid"}, {"bias_scale": 0.1}, {"inputs": "noise"}]
    )
    def test_a_network_that_is_driven_or_kinked_does_not_rest(self, changed):
        assert exponents_at_rest(settings(**changed), self.MODULI) is None

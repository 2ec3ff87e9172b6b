"""The paper's figures: they look as approved on small fixed data, and their numbers are those that are drawn."""

import numpy as np
import pytest
from figure_parts import assert_looks_as_approved

from gradient_horizon import experiments
from gradient_horizon.config import checked
from gradient_horizon.figures.paper import notes


def measured(**settings):
    """A result of one job, measured here."""
    dataset = experiments.measure(checked(settings), lambda _: None)
    return dataset.assign_attrs(experiment=settings["experiment"], swept="{}")


def curves(frame, *keys):
    """The points of each curve of a table, in order, by the values of `keys`."""
    return dict(iter(frame.groupby([*keys], sort=False)))


@pytest.fixture(scope="module")
def of_notes():
    return measured(experiment="notes", hidden_size=3, batch_size=2, steps=20, seeds=[3], weight_scales=[1.0, 0.5])


class TestNotes:
    def test_it_looks_as_approved(self, of_notes, tmp_path):
        assert_looks_as_approved(notes.draw(of_notes), "notes", tmp_path)

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

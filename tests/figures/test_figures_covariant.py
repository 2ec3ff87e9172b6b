"""The figure of angles between covariant vectors draws the numbers that it is given, and says what it leaves out."""

import math

import numpy as np
from experiment_results import NETWORK, N, labelled
from figure_parts import curves_of, panels_of, words_of

from gradient_horizon import figures
from gradient_horizon.figures import covariant_vectors
from gradient_horizon.store import datasets

ANGLES = (np.arange(5) + 0.5) * math.pi / 10


def covariant_job(swept=None, weight_scales=(0.5, 1.5, 3.0), seeds=3, change=None, **settings):
    """Densities of a hump that moves with g; without an angle at the first weight scale."""
    rng = np.random.default_rng(2)
    densities = rng.uniform(0.1, 2, (len(weight_scales), seeds, len(ANGLES)))
    densities[0] = np.nan
    if change is not None:
        change(densities)
    exponents = np.log(weight_scales)[:, None, None] - np.linspace(0, 1, N) + np.zeros((1, seeds, 1))
    variables = {
        "lyapunov_exponent": ((*NETWORK, "index"), exponents),
        "smallest_angle": (NETWORK, np.where(np.isnan(densities[..., 0]), np.nan, 0.1)),
        "angle_density": ((*NETWORK, "angle"), densities),
    }
    coordinates = {"index": np.arange(1, N + 1), "angle": ANGLES}
    return labelled("covariant", variables, coordinates, swept or {}, list(weight_scales), seeds, **settings)


def test_lines_are_medians_and_bands_are_quantiles():
    dataset = covariant_job()
    figure = figures.smallest_angle_over_time(dataset)
    (ax,) = panels_of(figure)
    expected = np.quantile(dataset["angle_density"][1:], (0.1, 0.5, 0.9), axis=1)
    assert len(curves_of(ax)) == len(ax.collections) == 2
    for index, (line, band) in enumerate(zip(curves_of(ax), ax.collections, strict=True)):
        np.testing.assert_allclose(line.get_xdata(), ANGLES)
        np.testing.assert_allclose(line.get_ydata(), expected[1, index])
        corners = band.get_paths()[0].vertices
        edges = corners[np.isclose(corners[:, 0], ANGLES[0]), 1]
        np.testing.assert_allclose((edges.min(), edges.max()), expected[[0, 2], index, 0])
    assert ax.get_ylim()[1] >= expected[2].max()
    assert "3 of 9 networks have no angle" in words_of(figure)[1].replace("\n", " ")


def test_the_quick_look_shows_the_spectrum_beside_it(tmp_path):
    dataset = covariant_job()
    figure = figures.quick_look(dataset)
    left, right = panels_of(figure)
    assert len(curves_of(left)) == 3
    assert len(curves_of(right)) == 2
    assert right.get_xlabel() == covariant_vectors.ANGLE
    figures.save(figure, tmp_path / "quick", ("png",))


def test_one_of_anything_and_nothing_still_draws(tmp_path):
    for number, dataset in enumerate(
        [
            covariant_job(seeds=1),
            covariant_job(weight_scales=(2.0,)),
            covariant_job(change=lambda densities: densities.fill(np.nan)),
            datasets.join([covariant_job({"cell": cell}) for cell in ("tanh", "relu")]),
        ]
    ):
        for name, figure in figures.sweep_figures(dataset).items():
            figures.save(figure, tmp_path / f"{name}{number}", ("png",))
        assert set(figures.sweep_figures(dataset)) == {"smallest_angle", "lyapunov_spectrum"}

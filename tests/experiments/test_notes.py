"""The study notes' experiment against the notes' own NumPy loop."""

import numpy as np
import pytest
import xarray as xr

from gradient_horizon.experiments.notes import LONG, measure
from gradient_horizon.settings import validation


def by_the_notes(N: int, H: int, T: int, seed: int, scale: float) -> np.ndarray:
    """The notes' listing, as it stands there."""
    np.random.seed(seed)  # noqa: NPY002
    Wh = np.random.randn(H, H) * scale  # noqa: NPY002
    dh = np.ones((N, H))
    norm_list = []
    for _ in range(T):
        dh = np.matmul(dh, Wh.T)
        norm_list.append(np.sqrt(np.sum(dh**2)) / N)
    return np.array(norm_list)


def measured(N: int, H: int, T: int, seed: int, scale: float) -> xr.Dataset:
    values = {"batch_size": N, "hidden_size": H, "steps": T, "seeds": [seed], "weight_scales": [scale]}
    dataset = measure(validation.checked({"experiment": "notes", **values}), lambda _: None)
    return dataset.isel(seed=0, weight_scale=0)


@pytest.mark.parametrize(
    ("N", "H", "T", "seed", "scale"),
    [
        (2, 3, 20, 3, 1.0),  # the notes' growing series
        (2, 3, 20, 3, 0.5),  # and their decaying one
        (1, 1, 30, 0, 0.7),
        (5, 7, 100, 11, 0.3),
        (3, 64, 250, 4, 0.125),
        (2, 3, 600, 3, 0.5),
        (2, 40, 500, 8, 1.0),  # NumPy's own overflows on the way
        (4, 2, 1500, 5, 0.1),  # and here it falls to 0
    ],
)
def test_the_series_are_those_of_numpy(N, H, T, seed, scale):
    dataset = measured(N, H, T, seed, scale)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        expected = by_the_notes(N, H, T, seed, scale)
    tolerance = 1e-12 * max(1, T / 20)
    finite = np.isfinite(expected)
    # Below 1.5e-154 the squares are subnormal: NumPy's have lost their digits, XLA's are 0.
    exact = finite & (expected > 1e-153)
    assert exact[:20].all()
    np.testing.assert_allclose(dataset.norm.values[exact], expected[exact], rtol=tolerance)
    assert (dataset.norm.values[finite & ~exact] < 1e-152).all()
    log_norm = dataset.log_norm.values[:T]
    np.testing.assert_allclose(log_norm[exact], np.log(expected[exact]), atol=tolerance, rtol=tolerance)
    assert np.isfinite(dataset.log_norm).all()


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_float32_loses_within_400_steps_what_logarithms_keep(scale):
    dataset = measured(2, 3, 20, 3, scale)
    assert dataset.sizes["long_step"] == LONG == 400
    last = float(dataset.norm_float32[-1])
    assert last == 0 if scale == 0.5 else not np.isfinite(last)
    assert np.isfinite(dataset.log_norm).all()


@pytest.mark.parametrize(("H", "seed", "scale"), [(3, 3, 1.0), (3, 3, 0.5), (12, 1, 0.2)])
def test_the_slope_is_the_log_of_the_spectral_radius(H, seed, scale):
    steps = 4000
    dataset = measured(2, H, steps, seed, scale)
    matrix = np.random.RandomState(seed).randn(H, H) * scale
    radius = np.abs(np.linalg.eigvals(matrix)).max()
    assert float(dataset.spectral_radius) == pytest.approx(radius, rel=1e-13)
    assert float(dataset.largest_singular_value) == pytest.approx(np.linalg.norm(matrix, 2), rel=1e-13)
    early, late = dataset.log_norm.values[[steps // 2 - 1, -1]]
    # Gelfand: the difference to the line is bounded, by the condition of the eigenvectors
    bound = 2 * np.log(np.linalg.cond(np.linalg.eig(matrix).eigenvectors) * H)
    assert (late - early) / (steps // 2) == pytest.approx(np.log(radius), abs=bound / (steps // 2))

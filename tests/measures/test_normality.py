"""Departure from normality and Kreiss constants against closed forms, the definition in NumPy, and mpmath."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

import gradient_horizon as gh

EPS = float(np.finfo(np.float64).eps)
N = 6


def gaussian(n=N, seed=0, count=None):
    shape = (n, n) if count is None else (count, n, n)
    return np.random.default_rng(seed).standard_normal(shape) / np.sqrt(n)


def orthogonal(n=N, seed=0):
    return np.linalg.qr(gaussian(n, seed))[0]


def by_definition(matrix, digits=40):
    """√(‖A‖_F² - Σ|λ|²) in `digits` digits, where the difference loses nothing that matters."""
    with mpmath.workdps(digits):
        exact = mpmath.matrix(matrix.tolist())
        values = mpmath.eig(exact, left=False, right=False)
        square = sum(abs(entry) ** 2 for entry in exact) - sum(abs(value) ** 2 for value in values)
        return float(mpmath.sqrt(max(square, 0)))


class TestHenrici:
    @pytest.mark.parametrize("seed", range(3))
    def test_it_is_its_definition(self, seed):
        """Backward stable: off by n eps ‖A‖_F, times the condition of the eigenvalues, here below 100."""
        matrix = gaussian(seed=seed)
        found = gh.henrici_departure(matrix)
        size = float(np.linalg.norm(matrix))
        assert float(found.absolute) == pytest.approx(by_definition(matrix), abs=100 * N * EPS * size)
        assert float(found.relative) == pytest.approx(float(found.absolute) / size, rel=4 * EPS)

    @pytest.mark.parametrize(
        "matrix",
        [
            1.7 * orthogonal(),
            orthogonal() @ np.diag(np.linspace(-1, 1, N)) @ orthogonal().T,
            np.roll(np.eye(N), 1, axis=1) + 0.3 * np.eye(N),
            gaussian() - gaussian().T,
            np.kron(np.diag([1.0, 2.0, 0.5]), [[0.6, -0.8], [0.8, 0.6]]),
        ],
        ids=["orthogonal", "symmetric", "circulant", "antisymmetric", "rotations"],
    )
    def test_a_normal_matrix_departs_by_no_more_than_rounding(self, matrix):
        """n² eps ‖A‖_F allows for LAPACK and for rounding of the matrix itself; the difference would leave √eps."""
        found = gh.henrici_departure(matrix)
        assert float(found.absolute) <= N**2 * EPS * np.linalg.norm(matrix)

    @pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_a_triangular_matrix_departs_by_its_upper_part(self, size, dtype):
        matrix = (size * (np.triu(gaussian(seed=3), 1) + np.diag(np.linspace(0.1, 0.9, N)))).astype(dtype)
        found = gh.henrici_departure(matrix)
        upper = np.linalg.norm(np.triu(matrix, 1).astype(np.float64) / size) * size
        assert found.absolute.dtype == dtype
        assert float(found.absolute) == pytest.approx(upper, rel=4 * N * float(np.finfo(dtype).eps))

    def test_a_complex_matrix_and_its_real_pairs(self):
        """The real form of a complex matrix has twice the squares of both."""
        matrix = gaussian(3, 1) + 1j * gaussian(3, 2)
        pairs = np.block([[matrix.real, -matrix.imag], [matrix.imag, matrix.real]])
        found, of_pairs = gh.henrici_departure(matrix), gh.henrici_departure(pairs)
        values = np.linalg.eigvals(matrix)
        expected = np.sqrt(np.linalg.norm(matrix) ** 2 - np.sum(np.abs(values) ** 2))
        assert float(found.absolute) == pytest.approx(expected, abs=1e-13)
        assert float(of_pairs.absolute) == pytest.approx(2**0.5 * expected, abs=1e-13)
        assert float(of_pairs.relative) == pytest.approx(float(found.relative), abs=1e-13)

    def test_extremes(self):
        nilpotent, zero = gh.henrici_departure(np.eye(N, k=1)), gh.henrici_departure(np.zeros((N, N)))
        assert float(nilpotent.absolute) == pytest.approx((N - 1) ** 0.5, rel=4 * EPS)
        assert float(nilpotent.relative) == 1
        assert float(zero.absolute) == float(zero.relative) == 0
        bad = gh.henrici_departure(np.full((N, N), np.inf))
        assert np.isnan(bad.absolute)
        assert np.isnan(bad.relative)

    def test_a_batch_equals_its_members_and_derivatives_are_nan(self):
        batch = jnp.asarray(gaussian(count=3))
        together = jax.jit(jax.vmap(gh.henrici_departure))(batch)
        alone = [gh.henrici_departure(matrix) for matrix in batch]
        np.testing.assert_array_equal(together.absolute, [one.absolute for one in alone])
        slope = jax.grad(lambda matrix: gh.henrici_departure(matrix).absolute)(batch[0])
        assert np.isnan(slope).all()

    @pytest.mark.parametrize("measure", [gh.henrici_departure, gh.kreiss_lower_bound])
    @pytest.mark.parametrize("shape", [(2, 3), (4,), (2, 2, 2), (0, 0)])
    def test_what_is_not_square_is_refused(self, measure, shape):
        with pytest.raises(ValueError, match=r"matrix: shape \(.*\); allowed: "):
            measure(np.zeros(shape))


def kreiss_of_block(diagonal, above):
    """K of [[a, b], [0, a]], 0 < a < 1: the largest over z > 1 of the resolvent's norm in closed form."""

    def negative(distance):
        gap = 1 + distance - diagonal
        ratio = above / gap
        return -distance / gap * (ratio / 2 + np.sqrt(1 + ratio**2 / 4))

    found = minimize_scalar(negative, bounds=(0, 20), method="bounded", options={"xatol": 1e-12})
    return max(-found.fun, 1.0)


def power_norms(matrix, steps):
    power, norms = np.eye(len(matrix)), [1.0]
    for _ in range(steps):
        power = matrix @ power
        norms.append(float(np.linalg.norm(power, 2)))
    return np.array(norms)


class TestKreiss:
    @pytest.mark.parametrize(("diagonal", "above"), [(0.5, 3.0), (0.9, 1.0), (0.99, 0.5), (0.2, 0.1)])
    def test_a_jordan_block(self, diagonal, above):
        """The search stops within 1e-6 of the stationary point, where K has no slope: 1e-8 of it, and never above."""
        expected = kreiss_of_block(diagonal, above)
        found = gh.kreiss_lower_bound(np.array([[diagonal, above], [0.0, diagonal]]))
        assert float(found.bound) <= expected * (1 + 1e-12)
        assert float(found.bound) == pytest.approx(expected, rel=1e-6)

    @pytest.mark.parametrize("matrix", [orthogonal(2), orthogonal(2) @ np.diag([0.9, -0.3]) @ orthogonal(2).T])
    def test_of_a_normal_matrix_it_is_one(self, matrix):
        found = gh.kreiss_lower_bound(matrix)
        assert float(found.bound) == 1
        assert np.isinf(found.at)

    @pytest.mark.parametrize("seed", range(4))
    def test_it_bounds_the_powers_from_both_sides(self, seed):
        matrix = gaussian(seed=seed)
        matrix *= 0.95 / np.abs(np.linalg.eigvals(matrix)).max()
        largest = power_norms(matrix, 300).max()
        found = gh.kreiss_lower_bound(matrix)
        assert 1 <= float(found.bound) <= largest <= np.e * N * float(found.bound)
        assert float(found.spectral_radius) == pytest.approx(0.95, rel=1e-10)

    def test_its_place_reproduces_it_and_a_dense_grid_finds_no_more(self):
        matrix = 0.9 * np.diag(np.ones(N - 1), 1) + 0.6 * np.eye(N) + 0.2 * np.eye(N, k=-2)
        matrix *= 0.97 / np.abs(np.linalg.eigvals(matrix)).max()
        found = gh.kreiss_lower_bound(matrix)

        def at(z):
            return (abs(z) - 1) / np.linalg.svd(z * np.eye(N) - matrix, compute_uv=False)[-1]

        assert float(found.bound) == pytest.approx(at(complex(found.at)), rel=1e-9)
        radii, angles = 1 + np.geomspace(1e-3, 4, 60), np.linspace(0, np.pi, 121)
        dense = max(at(radius * np.exp(1j * angle)) for radius in radii for angle in angles)
        assert float(found.bound) >= dense * (1 - 1e-9)

    def test_rounding_never_raises_it_above_k(self):
        """In float32 as in float64, where the peak is flat, and for a matrix whose K is infinite."""
        matrix = np.array([[0.9, 1.0], [0.0, 0.9]])
        single = gh.kreiss_lower_bound(matrix.astype(np.float32))
        assert float(single.bound) <= kreiss_of_block(0.9, 1.0) * (1 + 1e-6)
        assert float(single.bound) == pytest.approx(kreiss_of_block(0.9, 1.0), rel=1e-4)
        unstable = gh.kreiss_lower_bound(np.diag([1.5, 0.1]))
        assert 10 < float(unstable.bound) < 1 / (2 * EPS)
        assert float(unstable.spectral_radius) == pytest.approx(1.5)
        assert np.isnan(gh.kreiss_lower_bound(np.full((2, 2), np.nan)).bound)

    def test_of_one_number_it_is_infinite_only_where_k_is(self):
        """K of a single number a is 1 for |a| ≤ 1 and infinite beyond; z = 1.5 is met exactly in float32."""
        stable, unstable = (gh.kreiss_lower_bound(np.full((1, 1), a, np.float32)).bound for a in (0.9, 1.5))
        assert float(stable) == 1
        assert float(unstable) > 1e5

    def test_a_complex_matrix_is_searched_in_the_whole_plane(self):
        """A rotation of the plane turns z with it."""
        matrix = np.array([[0.5, 3.0], [0.0, 0.5]])
        found = gh.kreiss_lower_bound(matrix * np.exp(-1j))
        assert float(found.bound) == pytest.approx(kreiss_of_block(0.5, 3.0), rel=1e-6)
        assert np.angle(complex(found.at)) == pytest.approx(-1, abs=1e-2)

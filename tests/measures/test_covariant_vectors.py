"""Covariant vectors against their definition: eigenvectors of cycles, the inverse map, and the Jacobians themselves."""

import logging
from functools import partial

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from quick_programs import compiled
from scipy.linalg import subspace_angles

from gradient_horizon import covariant_lyapunov_vectors, lyapunov_exponents, make_cell
from gradient_horizon.measures.covariant_vectors import CovariantVectors
from gradient_horizon.measures.trajectory import rollout
from gradient_horizon.numerics import lapack
from gradient_horizon.numerics.angles import angle

N, T, CYCLE = 4, 360, 3
EPS32, EPS64 = float(np.finfo(np.float32).eps), float(np.finfo(np.float64).eps)


def product(_, h, x):
    return x @ h


@partial(compiled, static_argnames=("steps", "count", "transient", "backward_transient"))
def of_products(xs, **settings):
    """Of h ← x h, as one compiled program for factors of one shape."""
    return covariant_lyapunov_vectors(product, None, jnp.zeros(xs.shape[1], xs.dtype), xs, **settings)


def cycle(moduli=(1.8, 1.1, 0.7, 0.3), seed=0):
    """Three random factors whose product has the cubes of `moduli`, and -1 in one place, as eigenvalues."""
    rng = np.random.default_rng(seed)
    n = len(moduli)
    first, second, vectors = rng.standard_normal((3, n, n))
    signs = np.where(np.arange(n) == 1, -1, 1)
    whole = vectors @ np.diag(signs * np.array(moduli) ** CYCLE) @ np.linalg.inv(vectors)
    return np.array([first, second, whole @ np.linalg.inv(second @ first)])


def between(ones, others):
    """Angles between the lines along the last but one axis."""
    inner = np.sum(ones * others, axis=-2, keepdims=True)
    outside = others - inner * ones
    return np.arctan2(np.linalg.norm(outside, axis=-2), np.abs(inner[..., 0, :]))


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-2, keepdims=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_in_a_cycle_they_are_the_eigenvectors_of_its_product(dtype):
    factors = cycle().astype(dtype).astype(float)
    found = of_products(jnp.asarray(np.tile(factors, (T // CYCLE, 1, 1)), dtype))
    worst = 0.0
    for phase in range(CYCLE):
        turned = np.roll(factors, -phase, axis=0)
        values, exact = np.linalg.eig(turned[2] @ turned[1] @ turned[0])
        order = np.argsort(-np.abs(values))
        np.testing.assert_allclose(found.exponents, np.log(np.abs(values[order])) / CYCLE, atol=1e-6)
        at = np.asarray(found.time) % CYCLE == phase
        gaps = between(np.real(exact[:, order])[None], np.asarray(found.vectors, float)[at])
        worst = max(worst, gaps.max(), float(np.linalg.cond(exact)) * EPS64)
    # e^{-(λ_2 - λ_3) 90} = 2e-18 is left of the starts, and eig itself rounds by eps times its condition, below 1e4
    assert worst < (1e-11 if dtype == "float64" else 2 * EPS32)
    assert found.vectors.dtype == found.rates.dtype == found.covariance_error.dtype == dtype
    assert found.vectors.shape == (T // 2, N, N)
    np.testing.assert_allclose(np.linalg.norm(np.asarray(found.vectors, float), axis=1), 1, atol=4 * EPS32)
    assert max(map(float, (found.forward_error.max(), found.backward_error.max()))) < 1e-7


def test_the_inverse_map_has_the_same_vectors_in_reverse_order():
    """The definition of v_i: it grows at λ_i forwards and at -λ_i backwards."""
    factors = np.array([3, 1, 0.3, 0.1])[:, None] * np.random.default_rng(3).standard_normal((T, N, N))
    there = of_products(jnp.asarray(factors))
    back = of_products(jnp.asarray(np.linalg.inv(factors)[::-1]))
    # h_t there is h_{T - t} back
    gaps = between(np.asarray(there.vectors)[1:], np.asarray(back.vectors)[:0:-1, :, ::-1])
    assert np.asarray(there.time)[1] == T - np.asarray(back.time)[-1]
    # what is left of the starts and ends, and rounding: n eps κ(J), which directions that almost meet amplify
    left = sum(float(part.max()) for one in (there, back) for part in (one.forward_error, one.backward_error))
    assert left < 1e-10
    assert gaps.max() < 10 * left + 1e3 * N * EPS64 * np.linalg.cond(factors).max() < 1e-5
    np.testing.assert_allclose(there.rates, -np.asarray(back.rates)[::-1, ::-1], atol=1e-6)


def driven(dtype="float64", scale=1.7, n=6, steps=T):
    cell = make_cell("tanh", n, 2)
    key = jax.random.key(1)
    params = cell.init(key, scale, dtype=jnp.dtype(dtype))
    xs = jnp.asarray(np.random.default_rng(2).standard_normal((steps, 2)), dtype)
    return cell, params, cell.initial_state(key, dtype=jnp.dtype(dtype)), xs


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_each_step_carries_them_into_the_next(dtype):
    """Under Jacobians that change from step to step, formed by `jax.jacfwd` and applied in NumPy."""
    cell, params, h0, xs = driven(dtype)
    found = jax.jit(lambda *arguments: covariant_lyapunov_vectors(cell.step, *arguments))(params, h0, xs)
    states = rollout(cell.step, params, h0, xs).states
    factors = jax.jit(jax.vmap(lambda h, x: jax.jacfwd(lambda h: cell.step(params, h, x))(h)))(states[:-1], xs)
    factors = np.asarray(factors, float)[np.asarray(found.time)]
    vectors = np.asarray(found.vectors, float)
    images = factors @ vectors
    gaps = between(unit(images[:-1]), vectors[1:])
    # v rounds by eps / 2 per entry when it leaves, and J by a few eps, as much as J v is smaller than J
    loss = np.linalg.norm(factors, axis=(1, 2))[:-1, None] / np.linalg.norm(images[:-1], axis=1)
    eps = EPS32 if dtype == "float32" else EPS64
    assert (gaps < 8 * 6 * eps * (1 + loss)).all()
    assert gaps.max() < (1e-6 if dtype == "float64" else 1e-3)
    np.testing.assert_allclose(found.rates, np.log(np.linalg.norm(images, axis=1)), atol=8 * 6 * eps * loss.max() + eps)
    assert float(found.covariance_error.max()) < 8 * 6 * EPS64 * loss.max()
    np.testing.assert_allclose(found.exponents, np.asarray(found.rates, float).mean(axis=0), atol=1e-6)


def test_means_of_rates_are_the_exponents_of_a_qr():
    """Σ_t rate_i = Σ_t log R_ii + log c_ii(0) - log c_ii(L), c_ii the sine between v_i and the span of those before."""
    cell, params, h0, xs = driven()
    start, counted = 90, 179

    @jax.jit
    def measure(params, h0, xs):
        vectors = covariant_lyapunov_vectors(cell.step, params, h0, xs)
        early = jax.tree.map(lambda leaf: leaf[: start + counted], xs)
        return vectors, lyapunov_exponents(cell.step, params, h0, early, transient=start)

    found, spectrum = measure(params, h0, xs)
    assert found.time[0] == start
    assert len(found.time) == counted + 1
    sines = np.abs(np.diagonal(np.linalg.qr(np.asarray(found.vectors))[1], axis1=1, axis2=2))
    telescoped = np.log(sines[0] / sines[-1]) / counted
    expected = np.asarray(spectrum.exponents) + telescoped
    # both sum `counted` logs that each round by eps times the condition of one factor, below 1e5
    np.testing.assert_allclose(np.asarray(found.rates)[:-1].mean(axis=0), expected, atol=1e-10)
    assert np.abs(telescoped).max() > 1e-4  # the identity is not that of two equal numbers


def test_the_vectors_of_a_fixed_matrix_and_a_pair_that_has_none(caplog):
    turn = np.array([[np.cos(1.0), -np.sin(1.0)], [np.sin(1.0), np.cos(1.0)]])
    blocks = np.zeros((N, N))
    blocks[0, 0], blocks[1:3, 1:3], blocks[3, 3] = 1.5, 0.9 * turn, 0.4
    basis = np.random.default_rng(5).standard_normal((N, N))
    matrix = basis @ blocks @ np.linalg.inv(basis)
    with caplog.at_level(logging.WARNING):
        found = covariant_lyapunov_vectors(product, None, jnp.zeros(N), jnp.asarray(np.broadcast_to(matrix, (T, N, N))))
    assert "vectors [2, 3]" in caplog.text
    vectors = np.asarray(found.vectors)
    assert between(unit(basis)[:, [0, 3]], vectors[..., [0, 3]]).max() < 1e-11
    plane = [subspace_angles(at[:, 1:3], basis[:, 1:3]).max() for at in vectors]
    assert max(plane) < 1e-11
    np.testing.assert_allclose(
        found.exponents, np.log([1.5, 0.9, 0.9, 0.4]), atol=2 * np.log(np.linalg.cond(basis)) / len(vectors)
    )
    forward, backward = np.asarray(found.forward_error), np.asarray(found.backward_error)
    assert min(forward[1], backward[2]) > 0.01
    assert max(forward[[0, 2, 3]].max(), backward[[0, 1, 3]].max()) < 1e-7
    assert float(found.covariance_error.max()) < 1e-13


def test_without_transients_the_errors_are_large():
    xs = jnp.asarray(np.random.default_rng(3).standard_normal((T, N, N)))
    found = of_products(xs, transient=0, backward_transient=0)
    assert (np.asarray(found.forward_error)[:-1] > 0.3).all()
    assert (np.asarray(found.backward_error)[1:] > 0.05).all()
    assert float(found.covariance_error.max()) < 1e-10


def test_the_first_few_are_the_first_of_all():
    xs = jnp.asarray(np.random.default_rng(3).standard_normal((T, N, N)))
    every, few = of_products(xs), of_products(xs, count=2)
    assert few.vectors.shape == (T // 2, N, 2)
    assert between(np.asarray(every.vectors)[..., :2], np.asarray(few.vectors)).max() < 1e-10
    np.testing.assert_allclose(few.rates, every.rates[:, :2], atol=1e-9)


class TestDirectionsThatDie:
    def test_those_of_dead_units_are_nan_and_the_others_right(self):
        """Row 2 of every third factor is zero, so the last vector is gone; the others are those of the cycle."""
        factors = cycle()
        factors[1, 2] = 0
        found = of_products(jnp.asarray(np.tile(factors, (T // CYCLE, 1, 1))))
        vectors = np.asarray(found.vectors)
        assert np.isnan(vectors[..., 3]).all()
        for part in (found.rates, found.exponents, found.forward_error, found.backward_error, found.covariance_error):
            np.testing.assert_array_equal(np.isnan(np.asarray(part)), np.broadcast_to([0, 0, 0, 1], part.shape))
        values, exact = np.linalg.eig(factors[2] @ factors[1] @ factors[0])
        order = np.argsort(-np.abs(values))[:3]
        assert np.abs(np.imag(values[order])).max() == 0
        at = np.asarray(found.time) % CYCLE == 0
        assert between(np.real(exact[:, order])[None], vectors[at][..., :3]).max() < 1e-9

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_a_matrix_of_lower_rank(self, dtype):
        rng = np.random.default_rng(6)
        matrix = (rng.integers(-9, 9, (N, 2)) @ rng.integers(-9, 9, (2, N))).astype(float)  # exact in either dtype
        found = of_products(jnp.asarray(np.broadcast_to(matrix, (T, N, N)), dtype))
        assert np.isnan(found.vectors[..., 2:]).all()
        assert np.isfinite(found.vectors[..., :2]).all()

    def test_a_single_singular_step_is_enough(self):
        """A column of zeros leaves no zero pivot, only rounding."""
        factors = np.random.default_rng(7).standard_normal((T, N, N))
        factors[200, :, 1] = factors[200, :, 0]
        found = of_products(jnp.asarray(factors))
        assert np.isnan(found.vectors[..., 3]).all()
        assert np.isfinite(found.vectors[..., :3]).all()

    def test_a_state_that_is_not_finite(self):
        factors = np.random.default_rng(7).standard_normal((T, N, N))
        factors[300, 0, 0] = np.inf
        with jax.debug_nans(False):
            found = of_products(jnp.asarray(factors))
        assert all(np.isnan(part).all() for part in found if part.dtype != np.int32)


def test_slopes_far_below_rounding_are_kept():
    """diag(1, 1, 1e-18, 1e-30) A: the rows are graded, and the last eigenvector is resolved all the same."""
    random = np.random.default_rng(8).standard_normal((N, N)).astype(np.float32)
    matrix = np.array([1, 1, 1e-18, 1e-30], np.float32)[:, None] * random
    with mpmath.workdps(80):
        values, vectors = mpmath.eig(mpmath.matrix(matrix.astype(float).tolist()))
        order = sorted(range(N), key=lambda i: -abs(values[i]))
        exact = np.array([[float(mpmath.re(vectors[row, i])) for i in order] for row in range(N)])
        logs = np.array([float(mpmath.log(abs(values[i]))) for i in order])
        assert all(abs(mpmath.im(value)) < 1e-60 for value in values)
    found = of_products(jnp.asarray(np.broadcast_to(matrix, (T, N, N))))
    np.testing.assert_allclose(found.exponents, logs, atol=1e-5)
    assert between(unit(exact)[None], np.asarray(found.vectors, float)).max() < 1e-5


class TestTransformations:
    def test_many_networks_at_once(self):
        xs = jnp.asarray(np.random.default_rng(9).standard_normal((3, 60, N, N)))
        every = jax.jit(jax.vmap(lambda xs: covariant_lyapunov_vectors(product, None, jnp.zeros(N), xs)))(xs)
        for number in range(3):
            alone = of_products(xs[number])
            np.testing.assert_allclose(every.rates[number], alone.rates, atol=1e-9)
            assert between(np.asarray(alone.vectors), np.asarray(every.vectors[number])).max() < 1e-9
        rows = np.asarray(every.vectors)
        cosines = np.abs(np.einsum("blni,blnj->blij", rows, rows))
        np.testing.assert_allclose(np.cos(every.angles), cosines, atol=1e-12)
        for network in range(len(rows)):
            alone = jax.tree.map(lambda part, network=network: part[network], every)
            np.testing.assert_allclose(every.smallest_angle()[network], alone.smallest_angle(), atol=1e-12)
            np.testing.assert_allclose(every.smallest_angle(1)[network], alone.smallest_angle(1), atol=1e-12)

    @pytest.mark.parametrize("differentiate", [jax.grad, jax.jacfwd])
    def test_no_derivative(self, differentiate):
        def mean_rate(matrix):
            return covariant_lyapunov_vectors(lambda p, h, _: p @ h, matrix, jnp.zeros(2), steps=8).exponents[0]

        with pytest.raises(TypeError, match="covariant_lyapunov_vectors: has no derivative; lyapunov_exponents can"):
            differentiate(mean_rate)(jnp.asarray([[0.5, 0.2], [0.1, 0.9]]))

    def test_a_state_of_two_parts_with_a_counter(self):
        """v follows the order of the raveled state, and a counter takes no part."""

        def step(params, state, x):
            fast, slow, count = state
            return 0.5 * fast + x[0] * slow, 1.1 * slow + x[1] * fast[::-1], count + 1

        state = jnp.zeros(2), jnp.zeros(2), jnp.int32(0)
        xs = jnp.asarray(np.random.default_rng(10).standard_normal((60, 2)))
        factors = np.zeros((60, 4, 4))
        factors[:, :2, :2], factors[:, 2:, 2:] = 0.5 * np.eye(2), 1.1 * np.eye(2)
        factors[:, :2, 2:] = np.asarray(xs)[:, 0, None, None] * np.eye(2)
        factors[:, 2:, :2] = np.asarray(xs)[:, 1, None, None] * np.eye(2)[::-1]
        found, expected = covariant_lyapunov_vectors(step, None, state, xs), of_products(jnp.asarray(factors))
        np.testing.assert_allclose(found.rates, expected.rates, atol=1e-12)
        assert between(np.asarray(expected.vectors), np.asarray(found.vectors)).max() < 1e-12


def test_a_complex_step_without_a_conjugate_is_refused_and_one_with_it_is_not():
    h0 = jnp.zeros(2, jnp.complex128)
    with pytest.raises(ValueError, match=r"h0: complex, and the step is holomorphic, .*; allowed: a real state"):
        covariant_lyapunov_vectors(lambda p, h, _: 1.2j * h, None, h0, steps=8)
    found = covariant_lyapunov_vectors(
        lambda p, h, _: jnp.asarray([0.9, 0.5], complex) * h + 0.3 * jnp.conj(h), None, h0, steps=200
    )
    # the real part grows by a + 0.3, the imaginary part by a - 0.3
    np.testing.assert_allclose(found.exponents, np.log([1.2, 0.8, 0.6, 0.2]), atol=1e-12)
    assert between(np.eye(4)[:, [0, 2, 1, 3]][None], np.asarray(found.vectors)).max() < 1e-5


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"count": 0}, "count: 0; allowed: from 1 to 3, the size of the state"),
        ({"count": 4}, "count: 4; allowed: from 1 to 3, the size of the state"),
        ({"transient": 10}, "transient: 10; allowed: from 0 to 9, one less than the number of steps"),
        ({"transient": -1}, "transient: -1; allowed: from 0 to 9"),
        ({"transient": 6, "backward_transient": 4}, "backward_transient: 4; allowed: from 0 to 3, one less than"),
        ({"backward_transient": -1}, "backward_transient: -1; allowed: from 0 to 7"),
        ({"steps": 11}, "steps: 11, but xs holds 10"),
    ],
)
def test_wrong_settings(settings, said):
    with pytest.raises(ValueError, match=said):
        covariant_lyapunov_vectors(product, None, jnp.zeros(3), jnp.ones((10, 3, 3)), **settings)


class TestAngles:
    def result(self, vectors, exponents=None):
        exponents = jnp.zeros(vectors.shape[2]) if exponents is None else jnp.asarray(exponents)
        none = jnp.zeros(vectors.shape[2])
        return CovariantVectors(jnp.asarray(vectors), none[None], exponents, jnp.arange(len(vectors)), none, none, none)

    def test_of_pairs(self):
        vectors = unit(np.random.default_rng(11).standard_normal((5, 6, 4)))
        angles = np.asarray(self.result(vectors).angles)
        inner = np.abs(np.einsum("tni,tnj->tij", vectors, vectors))
        off = ~np.eye(4, dtype=bool)
        np.testing.assert_allclose(angles[:, off], np.arccos(inner[:, off]), atol=1e-12)
        np.testing.assert_array_equal(angles[:, ~off], 0)

    def test_small_ones_keep_their_digits(self):
        small = 1e-12
        pair = np.array([[1.0, 0.0], [np.cos(small), np.sin(small)]])
        assert float(angle(*jnp.asarray(pair))) == pytest.approx(small, rel=1e-9)
        assert float(angle(jnp.asarray(pair[0]), -jnp.asarray(pair[1]))) == pytest.approx(small, rel=1e-9)
        found = self.result(pair.T[None]).smallest_angle(1)
        assert float(found[0]) == pytest.approx(small, rel=1e-3)  # the QR rounds by eps = 2e-16 = 2e-4 of 1e-12

    def test_of_subspaces(self):
        vectors = unit(np.random.default_rng(12).standard_normal((5, 6, 4)))
        result = self.result(vectors, [0.5, 0.1, -0.1, -2.0])
        at = jax.jit(result.smallest_angle)
        for dimension in (1, 2, 3):
            expected = [subspace_angles(one[:, :dimension], one[:, dimension:]).min() for one in vectors]
            np.testing.assert_allclose(at(jnp.int32(dimension)), expected, atol=1e-12)
        np.testing.assert_array_equal(result.smallest_angle(), at(jnp.int32(2)))
        assert np.isnan(at(jnp.int32(0))).all()
        assert np.isnan(at(jnp.int32(4))).all()

    def test_of_subspaces_that_meet(self):
        vectors = np.random.default_rng(13).standard_normal((1, 5, 4))
        vectors[..., 3] = vectors[..., 0] - 2 * vectors[..., 1]
        assert float(self.result(unit(vectors)).smallest_angle(2)[0]) < 1e-14


def test_the_sweep_must_not_be_turned_around(monkeypatch):
    """What the tests above rest on: a sweep through the transposes is noticed."""
    monkeypatch.setattr(lapack, "solve_upper_triangular", lambda r, c: jnp.linalg.solve(r.T, c))
    found = covariant_lyapunov_vectors(
        product, None, jnp.zeros(N), jnp.asarray(np.random.default_rng(3).standard_normal((80, N, N)))
    )
    assert float(found.covariance_error.max()) > 0.1

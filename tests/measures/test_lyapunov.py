"""Laws of Lyapunov spectra. Where a limit is meant, the tolerance is the law's own 1/T; identities hold to rounding."""

import logging
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick_programs import compiled
from scipy.special import digamma

from gradient_horizon import make_cell
from gradient_horizon.cells import VanillaCell
from gradient_horizon.cells.vanilla import plain_cell
from gradient_horizon.ensembles import blocks
from gradient_horizon.measures.largest_exponent import largest_lyapunov_exponent
from gradient_horizon.measures.lyapunov import (
    entropy_rate,
    kaplan_yorke_dimension,
    lyapunov_exponents,
)
from gradient_horizon.measures.trajectory import rollout


def linear(matrix, h, x):
    return (matrix if x is None else x) @ h


@partial(compiled, static_argnames=("steps", "transient", "count", "every"))
def spectrum(matrix, h0, xs=None, **settings):
    """Of h ← W h, or h ← x h, as one compiled program for matrices of one shape."""
    return lyapunov_exponents(linear, matrix, h0, xs, **settings)


def gaussian(n, seed=0, scale=1.0, shape=()):
    return np.random.default_rng(seed).standard_normal((*shape, n, n)) * scale / np.sqrt(n)


def network(name, n, scale, dtype=jnp.float64, seed=1, weights="gaussian", bias=0.0):
    cell = make_cell(name, n)
    key = jax.random.key(seed)
    return cell, cell.init(key, scale, weights, bias_scale=bias, dtype=dtype), cell.initial_state(key, dtype=dtype)


def by_sorted_qr(jacobians):
    """The reference: a QR at every step in float64, rows sorted by norm, from an unrelated start."""
    n = jacobians.shape[1]
    basis = np.linalg.qr(gaussian(n, 99))[0]
    logs = np.zeros(n)
    for jacobian in jacobians:
        stretched = jacobian @ basis
        order = np.argsort(-np.linalg.norm(stretched, axis=1))
        q, r = np.linalg.qr(stretched[order])
        basis = np.empty_like(q)
        basis[order] = q
        logs += np.log(np.abs(np.diag(r)))
    return np.sort(logs / len(jacobians))[::-1]


@pytest.mark.parametrize(("n", "seed"), [(3, 0), (8, 1), (15, 2)])
def test_a_fixed_matrix_has_the_logs_of_its_eigenvalues_moduli(n, seed):
    matrix, transient, counted = gaussian(n, seed), 500, 4000
    found = spectrum(jnp.asarray(matrix), jnp.zeros(n), steps=transient + counted, transient=transient)
    eigenvalues, vectors = np.linalg.eig(matrix)
    expected = np.sort(np.log(np.abs(eigenvalues)))[::-1]
    # log R_ii over T steps and T log|λ_i| differ by at most log κ(V), V the eigenvectors
    np.testing.assert_allclose(found.exponents, expected, atol=np.log(np.linalg.cond(vectors)) / counted)
    assert float(found.sum_rule_error) < 1e-13


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("float64", 2e-14)])
def test_orthogonal_matrices_stretch_every_direction_by_g(dtype, tolerance):
    _, params, _ = network("linear", 24, 1.3, jnp.dtype(dtype), weights="orthogonal")
    found = spectrum(params.recurrent, jnp.zeros(24, dtype), steps=300)
    np.testing.assert_allclose(found.exponents, np.log(1.3), atol=tolerance)
    np.testing.assert_allclose(found.standard_error, 0, atol=tolerance)
    assert found.exponents.dtype == found.sum_rule_error.dtype == dtype
    assert float(found.kaplan_yorke_dimension) == 24
    assert float(found.entropy_rate) == pytest.approx(24 * np.log(1.3), abs=24 * tolerance)


def turn(angle, scale):
    return scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


@pytest.mark.parametrize(
    "matrix",
    [
        np.diag([1.3, 0.7]),
        np.diag(np.geomspace(1e-3, 3.0, 8)),
        np.triu(np.full((4, 4), 0.3), 1) + np.diag([1.3, 0.8, 0.6, 0.5]),
        turn(0.7, 1.3),
    ],
    ids=["diagonal", "diagonal8", "triangular", "rotation"],
)
def test_a_million_steps_do_not_drift(matrix):
    matrix = matrix.astype(np.float32)
    n = len(matrix)
    found = spectrum(jnp.asarray(matrix), jnp.zeros(n, jnp.float32), steps=1_001_000, transient=1000)
    exact = np.sort(np.log(np.abs(np.linalg.eigvals(matrix.astype(np.float64)))))[::-1]
    # each pivot rounds by eps / 2, and the exponent itself where it leaves
    np.testing.assert_allclose(found.exponents, exact, rtol=1.2e-7, atol=1e-7)
    # one step's rounding over 10⁵ steps of a block: nothing is left of the sum's own
    assert np.all(np.asarray(found.standard_error) < 1e-8)
    # the difference of two means, each of which is rounded to a float
    assert float(found.sum_rule_error) < 1e-7 + 1.2e-7 * np.mean(np.abs(exact))


def test_the_largest_exponent_does_not_drift_either():
    steps = 300_000
    xs = jnp.asarray(np.tile(np.array([[1.7, 0.9], [0.4, 1.6]], np.float32), (steps // 2, 1)))
    step, h = (lambda p, h, x: x * h), jnp.zeros(2, jnp.float32)
    for transient in (0, steps - 100):
        found = jax.jit(
            lambda xs, transient=transient: largest_lyapunov_exponent(
                step, None, h, rollout(step, None, h, xs), xs, transient
            )
        )(xs)
        exact = np.log(np.array([0.9, 1.6], np.float32).astype(np.float64)).mean()
        # the other entry has its share of the first few norms: log √2 at most
        assert float(found) == pytest.approx(exact, abs=1e-7 if transient else 1e-5)


S = 2.0**-10
HAND_OVER = {
    "two": [([S, 1.0], 40), ([1.0, S], 60)],
    "three": [([S, 1.0, 1.0], 40), ([1.0, S, 1.0], 60), ([1.0, 1.0, S], 90)],
    "grows": [([2.0, 1.0], 150), ([0.5, 1.0], 200)],
    "back": [([2.0**-20, 1.0], 30), ([2.0**20, 1.0], 40)],
}


@pytest.mark.parametrize(("name", "dtype"), [*((name, "float32") for name in HAND_OVER), ("two", "float64")])
def test_what_decays_and_grows_at_different_times_is_not_lost(name, dtype):
    xs = np.concatenate([np.tile(np.array(row, dtype), (steps, 1)) for row, steps in HAND_OVER[name]])
    n = xs.shape[1]
    exact = np.sort(np.log2(xs.astype(np.float64)).sum(0))[::-1] * np.log(2) / len(xs)
    step, h = (lambda p, h, x: x * h), jnp.zeros(n, dtype)
    for count in range(1, n + 1):
        found = jax.jit(lambda xs, count=count: lyapunov_exponents(step, None, h, xs, count=count))(xs)
        # the random start has a volume of its own
        np.testing.assert_allclose(found.exponents, exact[:count], atol=3 / len(xs))
    largest = jax.jit(lambda xs: largest_lyapunov_exponent(step, None, h, rollout(step, None, h, xs), xs))(xs)
    assert float(largest) == pytest.approx(exact[0], abs=3 / len(xs))


def test_a_shift_register_forgets():
    shift, h = np.eye(8, k=1), jnp.zeros(8)
    found = spectrum(jnp.asarray(shift), h, steps=20)
    assert np.all(np.asarray(found.exponents) == -np.inf)
    step = linear
    largest = jax.jit(lambda w: largest_lyapunov_exponent(step, w, h, rollout(step, w, h, steps=20)))
    assert float(largest(shift)) == -np.inf


@pytest.mark.parametrize(("n", "g"), [(6, 1.0), (20, 1.7)])
def test_fresh_gaussian_matrices_follow_newman(n, g):
    steps = 4000
    xs = jnp.asarray(gaussian(n, 5, g, (steps,)))
    found = spectrum(None, jnp.zeros(n), xs, transient=100)
    rank = np.arange(1, n + 1)
    expected = np.log(g) + 0.5 * (np.log(2) + digamma((n - rank + 1) / 2)) - 0.5 * np.log(n)
    error = np.asarray(found.standard_error)
    # ten blocks: a t distribution of 9 degrees, whose two-sided level at 6.5 is 1e-4
    assert np.all(np.abs(np.asarray(found.exponents) - expected) < 6.5 * error)
    # each log R_ii is half the log of a chi-square: its variance is trigamma / 4, at most π² / 8 a step
    assert np.all(error < 3 * np.sqrt(np.pi**2 / 8 / steps))


@pytest.mark.parametrize("w", [0.6, 1.5, 2.5])
def test_one_tanh_unit(w):
    found = lyapunov_exponents(lambda p, h, x: jnp.tanh(p * h), w, jnp.array([0.3]), steps=1000, transient=400)
    fixed = 0.0 if w < 1 else 0.9
    for _ in range(500):
        fixed = np.tanh(w * fixed)
    # the state's distance to its fixed point falls by this exponent at each step, to nothing after 400
    assert float(found.exponents[0]) == pytest.approx(np.log(w * (1 - fixed**2)), abs=1e-10)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("n", "by_elimination"), [(16, True), (64, False)])
def test_sum_rule(n, by_elimination, dtype):
    cell = plain_cell("tanh", n, 0)
    log_det = None if by_elimination else cell.log_abs_det

    @jax.jit
    @jax.vmap
    def measure(g):
        _, params, h = network("tanh", n, g, jnp.dtype(dtype))
        return lyapunov_exponents(cell.step, params, h, steps=100, transient=20, log_det=log_det)

    found = measure(jnp.array([0.8, 1.5, 3.0, 10.0], dtype))
    assert np.all(np.isfinite(found.exponents))
    # each pivot rounds by some √n eps κ(W) / n of its row; the logs themselves by eps Σ|λ| / n
    assert np.all(np.asarray(found.sum_rule_error) < 100 * np.sqrt(n) * np.finfo(dtype).eps)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 5e-3), ("float64", 1e-10)])
@pytest.mark.parametrize("g", [1.5, 10.0])
def test_every_exponent_is_that_of_a_sorted_qr(g, dtype, tolerance):
    n, steps = 48, 200
    cell, params, h = network("tanh", n, g, jnp.float32)
    assert isinstance(cell, VanillaCell)
    states = rollout(cell.step, params, h, steps=steps).states[:-1]
    slopes = np.asarray(cell.activation.derivative(jax.vmap(lambda h: cell.preactivation(params, h))(states)))
    jacobians = (slopes[:, :, None] * np.asarray(params.recurrent)[None]).astype(np.float64)
    found = spectrum(None, jnp.zeros(n, dtype), jnp.asarray(jacobians, dtype))
    # unrelated starts differ by their volumes, of which each exponent keeps log n / T or so
    start = 4 * np.log(n) / steps
    np.testing.assert_allclose(found.exponents, by_sorted_qr(jacobians), atol=start)
    aligned = spectrum(None, jnp.zeros(n), jnp.asarray(jacobians))
    np.testing.assert_allclose(found.exponents, aligned.exponents, atol=tolerance)


@pytest.mark.parametrize("every", [2, 3])
def test_rarer_elimination_changes_nothing_where_steps_are_well_conditioned(every):
    n = 8
    xs = jnp.asarray(gaussian(n, 3, 1.0, (101,)) + np.eye(n)[None])
    one = spectrum(None, jnp.zeros(n), xs, transient=10)
    other = spectrum(None, jnp.zeros(n), xs, transient=10, every=every)
    np.testing.assert_allclose(one.exponents, other.exponents, atol=1e-10)
    np.testing.assert_allclose(one.standard_error, other.standard_error, atol=1e-10)


def test_the_first_few_are_the_whole_spectrums_first():
    n, count = 20, 6
    xs = jnp.asarray(gaussian(n, 7, 1.4, (400,)))
    whole = spectrum(None, jnp.zeros(n), xs)
    few = spectrum(None, jnp.zeros(n), xs, count=count)
    np.testing.assert_allclose(few.exponents, whole.exponents[:count], atol=1e-11)
    assert few.exponents.shape == few.standard_error.shape == (count,)
    assert np.isnan(few.sum_rule_error)


def test_dead_units_are_minus_infinity_and_leave_the_others():
    masks = np.ones((50, 5))
    masks[20, 3] = 0
    xs = jnp.asarray(0.5 * masks[:, :, None] * np.eye(5))
    found = spectrum(None, jnp.zeros(5), xs)
    # the projection takes its share of every volume once; after it nothing but the halving is left
    assert np.all(np.isfinite(found.exponents[:4]) & (found.exponents[:4] <= np.log(0.5) + 1e-13))
    assert found.exponents[4] == -np.inf
    assert np.isnan(found.standard_error[4])
    assert np.isnan(found.sum_rule_error)
    assert float(found.kaplan_yorke_dimension) == 0
    assert float(found.entropy_rate) == 0
    early = spectrum(None, jnp.zeros(5), xs, transient=30)
    np.testing.assert_allclose(early.exponents[:4], np.log(0.5), atol=1e-13)
    assert early.exponents[4] == -np.inf


def test_a_relu_network_never_gives_nan():
    cell, params, h = network("relu", 16, 1.4)
    found = lyapunov_exponents(cell.step, params, h, steps=60)
    assert not np.any(np.isnan(found.exponents))
    assert 0 < np.sum(np.isfinite(found.exponents)) < 16
    assert float(found.entropy_rate) >= 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_of_low_rank_leave_as_many_exponents(dtype):
    rng = np.random.default_rng(3)
    matrix = rng.standard_normal((12, 3)) @ rng.standard_normal((3, 12)) / 6
    found = spectrum(jnp.asarray(matrix, dtype), jnp.zeros(12, dtype), steps=200)
    assert np.sum(np.isfinite(found.exponents)) == 3
    assert np.isnan(found.sum_rule_error)


def test_a_state_that_is_not_finite_gives_nan():
    found = spectrum(jnp.eye(2) * 1e30, jnp.ones(2), steps=20)
    assert np.all(np.isnan(found.exponents))
    assert np.isnan(found.kaplan_yorke_dimension)
    assert np.isnan(found.entropy_rate)


def test_a_pytree_state_is_raveled():
    matrix = jnp.asarray(gaussian(5, 2))

    def step(p, h, x):
        joined = p @ jnp.concatenate([h["a"], h["b"]])
        return {"a": joined[:2], "b": joined[2:]}

    pair = lyapunov_exponents(step, matrix, {"a": jnp.zeros(2), "b": jnp.zeros(3)}, steps=50)
    np.testing.assert_allclose(pair.exponents, spectrum(matrix, jnp.zeros(5), steps=50).exponents, atol=1e-14)


@pytest.mark.parametrize(
    ("exponents", "n", "dimension", "entropy"),
    [
        ([-0.1, -0.2], 2, 0.0, 0.0),
        ([0.9, 0.0, -14.5], 3, 2 + 0.9 / 14.5, 0.9),  # Lorenz's attractor
        ([0.5, 0.1, -0.2], 3, 3.0, 0.6),
        ([0.5, -np.inf], 2, 1.0, 0.5),
        ([0.5, 0.2], 4, np.nan, np.nan),
        ([0.5, -0.2], 4, np.nan, 0.5),
        ([0.5, -0.8], 4, 1 + 0.5 / 0.8, 0.5),
    ],
)
def test_dimension_and_entropy(exponents, n, dimension, entropy):
    assert float(kaplan_yorke_dimension(jnp.array(exponents), n)) == pytest.approx(dimension, nan_ok=True)
    assert float(entropy_rate(jnp.array(exponents), n)) == pytest.approx(entropy, nan_ok=True)


def test_a_cell_with_a_leak_has_no_closed_determinant():
    cell, params, h = network("leaky_tanh", 12, 1.5)
    assert isinstance(cell, VanillaCell)
    with pytest.raises(ValueError, match=r"leak: 0\.5; allowed: 1"):
        cell.log_abs_det(params, h)
    assert float(lyapunov_exponents(cell.step, params, h, steps=50).sum_rule_error) < 1e-13


def test_vmap_equals_a_loop():
    cell = make_cell("tanh", 10)

    def measure(seed):
        key = jax.random.key(seed)
        params = cell.init(key, 2.0, dtype=jnp.float64)
        return lyapunov_exponents(cell.step, params, cell.initial_state(key, dtype=jnp.float64), steps=30)

    seeds = np.arange(3)
    together, alone = jax.jit(jax.vmap(measure))(seeds), jax.jit(measure)
    for i in seeds:
        for one, many in zip(alone(i), together, strict=True):
            # chaos: rounding of one step grows by e^λ a step, λ about 0.2 here
            np.testing.assert_allclose(many[i], one, atol=1e-9)


def test_blocks_on_two_devices():
    cell = make_cell("tanh", 24)

    def measure(seed, _):
        key = jax.random.key(seed)
        return lyapunov_exponents(cell.step, cell.init(key, 1.5), cell.initial_state(key), steps=40)

    program = blocks.Program(measure)
    for _ in range(9):
        jax.block_until_ready(program(np.arange(16, dtype=np.uint32), None))
    found = program(np.arange(16, dtype=np.uint32), None)
    assert found.exponents.shape == (16, 24)
    assert np.all(np.asarray(found.sum_rule_error) < 1e-4)


def test_a_broken_sum_rule_is_told(caplog):
    cell, params, h = network("tanh", 16, 3.0, jnp.float32)
    with caplog.at_level(logging.WARNING):
        lyapunov_exponents(cell.step, params, h, steps=60)
        assert not caplog.records
        found = lyapunov_exponents(cell.step, params, h, steps=60, every=20)
    assert float(found.sum_rule_error) > 1e-2  # inf, where a direction was lost altogether
    assert "sum rule broken" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"transient": 9}, "transient: 9; allowed: from 0 to 8"),
        ({"transient": -1}, "transient: -1; allowed"),
        ({"count": 0}, "count: 0; allowed: from 1 to 2"),
        ({"count": 3}, "count: 3; allowed: from 1 to 2"),
        ({"every": 0}, "every: 0; allowed: a whole number of at least 1"),
        ({"steps": 0}, "steps: 0; allowed"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        lyapunov_exponents(linear, jnp.eye(2), jnp.ones(2), **{"steps": 9, **settings})


def test_a_step_that_changes_its_state_is_refused():
    with pytest.raises(ValueError, match=r"step: returns a state of \(3,\)"):
        lyapunov_exponents(lambda p, h, x: jnp.zeros(3), None, jnp.ones(2), steps=9)

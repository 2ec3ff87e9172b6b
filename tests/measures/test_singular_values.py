"""Singular values of long products against several hundred digits, exact cases and the laws they obey."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from gradient_horizon import log_jacobian_norms
from gradient_horizon.cells.vanilla import plain_cell
from gradient_horizon.ensembles import blocks as ensemble
from gradient_horizon.measures.singular_values import log_singular_values, log_singular_values_at_lags
from gradient_horizon.measures.trajectory import rollout


@jax.jit
def of_product(factors):
    return log_singular_values(lambda _, h, x: x @ h, None, jnp.zeros(factors.shape[1], factors.dtype), factors)


def spectrum(factors, dtype="float64"):
    return np.asarray(of_product(jnp.asarray(factors, dtype)))


def exact(factors):
    """The product formed with 700 digits."""
    with mpmath.workdps(700):
        product = mpmath.eye(factors.shape[1])
        for factor in factors:
            product = mpmath.matrix(factor.tolist()) * product
        return np.array([float(mpmath.log(value)) for value in mpmath.svd_r(product, compute_uv=False)])


def orthogonal(rng, n):
    return np.linalg.qr(rng.standard_normal((n, n)))[0]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-11), ("float32", 5e-3)])
def test_orthogonal_and_diagonal_factors(dtype, tolerance):
    rng = np.random.default_rng(0)
    n, steps = 12, 200
    total = np.linspace(345, -346, n)  # σ_1 / σ_N is 1e300
    total[5] = total[4] - 0.005  # neighbours within 1 %
    bases = [orthogonal(rng, n) for _ in range(steps + 1)]
    logs = 0.5 * rng.standard_normal((steps, n))
    logs += (total - logs.sum(0))[None] / steps
    factors = [bases[t + 1] @ np.diag(np.exp(logs[t])) @ bases[t].T for t in range(steps)]
    # each factor is off by n eps of its largest value, its smallest some e^5 below, over 200 steps
    found = spectrum(np.array(factors), dtype)
    np.testing.assert_allclose(found, np.sort(total)[::-1], atol=tolerance)
    if dtype == "float64":
        np.testing.assert_allclose(found, exact(np.array(factors)), atol=tolerance)


@pytest.mark.parametrize(("n", "steps"), [(3, 300), (5, 100), (4, 1)])
def test_gaussian_factors_against_many_digits(n, steps):
    factors = np.random.default_rng(n).standard_normal((steps, n, n))
    np.testing.assert_allclose(spectrum(factors), exact(factors), atol=1e-11)


def test_rows_of_very_different_size_against_many_digits():
    rng = np.random.default_rng(8)
    rows = np.exp(-15 * rng.random((60, 6)))  # saturated units
    factors = rows[:, :, None] * rng.standard_normal((60, 6, 6))
    np.testing.assert_allclose(spectrum(factors), exact(factors), atol=1e-10)


@pytest.mark.parametrize("matrix", [[[1.0, 1.0], [0.0, 2.0]], [[1.0, 0.0], [1.0, 2.0]], [[1.0, 1.0], [0.0, 1.0]]])
def test_powers_of_a_triangular_matrix(matrix):
    factors = np.tile(np.array(matrix), (300, 1, 1))
    np.testing.assert_allclose(spectrum(factors), exact(factors), atol=1e-10)


def test_a_diagonal_product_is_exact():
    factors = np.tile(np.diag([1e-3, 1.0, 1e3, 1.0]), (500, 1, 1))
    expected = 500 * np.log([1e3, 1.0, 1.0, 1e-3])
    np.testing.assert_allclose(spectrum(factors), expected, rtol=1e-13, atol=1e-10)


def test_zeros_are_minus_infinity():
    factors = np.tile(np.diag([0.5, 0.25, 1.0]), (9, 1, 1))
    factors[4, 1, 1] = 0
    found = spectrum(factors)
    np.testing.assert_allclose(found[:2], [0.0, 9 * np.log(0.5)], atol=1e-12)
    assert found[2] == -np.inf
    factors[4] = 0
    assert np.all(spectrum(factors) == -np.inf)


def lags_of(matrix, lags, dtype="float64"):
    matrix = jnp.asarray(matrix, dtype)
    start = jnp.zeros(len(matrix), dtype)
    found = log_singular_values_at_lags(lambda p, h, x: p @ h, matrix, start, steps=lags[-1], lags=lags)
    return np.asarray(found)


def test_a_shift_register_keeps_what_it_has_not_shifted_out():
    lags = (1, 3, 7, 8, 12)
    for lag, logs in zip(lags, lags_of(np.eye(8, k=1), lags, "float32"), strict=True):
        kept = max(8 - lag, 0)
        np.testing.assert_allclose(logs[:kept], 0, atol=1e-14)
        assert np.all(logs[kept:] == -np.inf)


def test_blocks_that_map_onto_each_other_once():
    rng = np.random.default_rng(0)
    blocks = np.kron(np.eye(3, k=1), np.ones((2, 2))) * rng.standard_normal((6, 6))
    found = lags_of(blocks, (1, 2, 3, 4))
    for lag, logs in enumerate(found[:2], 1):
        exact_values = np.linalg.svd(np.linalg.matrix_power(blocks, lag), compute_uv=False)
        np.testing.assert_allclose(logs[: 6 - 2 * lag], np.log(exact_values[: 6 - 2 * lag]), atol=1e-12)
        assert np.all(logs[6 - 2 * lag :] == -np.inf)
    assert np.all(found[2:] == -np.inf)


@pytest.mark.parametrize("kind", ["diagonal", "permutation", "dense", "blocks", "columns"])
def test_units_that_die_and_come_back(kind):
    rng = np.random.default_rng(4)
    n, steps = 6, 12
    alive = np.ones((steps, n))
    alive[3, 0] = alive[5, 4] = alive[9, 1] = alive[9, 0] = 0
    base = {
        "diagonal": np.diag(rng.uniform(0.5, 2, n)),
        "permutation": np.eye(n)[np.roll(np.arange(n), 1)],
        "dense": rng.standard_normal((n, n)),
        "blocks": np.kron(np.eye(2), np.ones((3, 3))) * rng.standard_normal((n, n)),
        "columns": rng.standard_normal((n, n)),
    }[kind]
    masked = alive[:, None, :] if kind == "columns" else alive[:, :, None]
    factors = base * masked
    product = np.linalg.multi_dot(factors[::-1])
    values = np.linalg.svd(product, compute_uv=False)
    rank = np.linalg.matrix_rank(product)
    assert 0 < rank < n
    found = spectrum(factors)
    assert np.sum(np.isfinite(found)) == rank
    assert np.all(found[rank:] == -np.inf)
    np.testing.assert_allclose(found[:rank], np.log(values[:rank]), atol=1e-9)


S = 2.0**-10
HAND_OVER = {
    "shrinks": np.array([[S, 1.0]] * 40 + [[1.0, S]] * 20),
    "grows": np.array([[2.0, 1.0]] * 150 + [[0.5, 1.0]] * 200),
    "in turn": np.array(([[S, 1.0, 1.0]] * 50 + [[1.0, S, 1.0]] * 30 + [[1.0, 1.0, S]] * 70) * 3),
    "long": np.array(([[0.5, 2.0]] * 2500 + [[2.0, 0.25]] * 2500) * 2),
}


@pytest.mark.parametrize(("name", "dtype"), [*((name, "float32") for name in HAND_OVER), ("in turn", "float64")])
def test_parts_that_grow_and_decay_at_different_times(name, dtype):
    xs = HAND_OVER[name]
    length, n = xs.shape
    lags = tuple(sorted({1, length // 3, length // 2, 2 * length // 3, length}))
    found = log_singular_values_at_lags(
        lambda _, h, x: x * h, None, jnp.zeros(n, dtype), jnp.asarray(xs, dtype), lags=lags
    )
    expected = [np.sort(np.log2(xs[-lag:]).sum(0))[::-1] * np.log(2) for lag in lags]
    np.testing.assert_allclose(found, expected, rtol=2 * np.finfo(dtype).eps, atol=1e-12)


@pytest.mark.parametrize(
    ("where", "dtype"),
    [("around each", "float32"), ("around each", "float64"), ("last", "float32"), ("first", "float64")],
)
def test_behind_a_mixing_matrix_they_are_right_or_nan(where, dtype):
    rng = np.random.default_rng(6)
    xs = HAND_OVER["in turn"][:150]
    turned, factors = orthogonal(rng, 3), np.array([np.diag(x) for x in xs])
    if where == "around each":
        factors = turned @ factors @ turned.T
    elif where == "last":
        factors[-1] = turned @ factors[-1]
    else:
        factors[0] = factors[0] @ turned
    factors = factors.astype(dtype)
    found, expected = spectrum(factors, dtype), exact(factors)
    right = np.abs(found - expected) < 1e-2
    assert np.all(right | np.isnan(found))
    assert where != "last" or np.all(right)


@pytest.mark.parametrize(("kind", "seeds"), [("triangular", (0, 1, 17, 26, 43, 85)), ("blocks", (0, 1, 16, 53))])
def test_gains_that_change_and_mix_leave_no_wrong_value(kind, seeds):
    """A unit's gain is another power of two from time to time; rounding above a value may stand in its place."""
    n, steps, known = 6, 30, []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        begins = np.array([0, *np.sort(rng.integers(1, steps, 3))])
        reach = 12 if kind == "triangular" else 6
        bits = rng.uniform(-reach, reach, (4, n))[np.searchsorted(begins, np.arange(steps), side="right") - 1]
        mix = rng.standard_normal((steps, n, n))
        if kind == "triangular":
            factors = np.triu(mix, 1) / 8 + 2.0 ** bits[:, :, None] * np.eye(n)
        else:
            factors = 2.0 ** bits[:, :, None] * np.kron(np.eye(3), np.ones((2, 2))) * mix
        found, expected = spectrum(factors), exact(factors)
        assert np.all(np.isnan(found) | (np.abs(found - expected) < 1e-3))
        known.append(np.isfinite(found))
    assert 0 < np.mean(known) < 1


def test_equal_entries_mixed_by_hadamards_matrix_are_never_wrong():
    hadamard = np.array([[1, 1], [1, -1]]) / 2
    factors = np.array([2 * hadamard @ np.diag(x) @ hadamard for x in HAND_OVER["shrinks"]])  # every entry exact
    for dtype in ("float32", "float64"):
        found = spectrum(factors, dtype)
        assert np.all(np.isnan(found) | (np.abs(found - exact(factors)) < 1e-2))


def test_a_factor_that_is_singular_to_rounding_leaves_the_others_right():
    rng = np.random.default_rng(7)
    factors = rng.standard_normal((10, 5, 5))
    factors[4, :, 4] = factors[4, :, 3] * 3  # no structure: rank 4 but for rounding
    found, expected = spectrum(factors), exact(factors)
    np.testing.assert_allclose(found[:4], expected[:4], atol=1e-10)
    assert np.isnan(found[4])


@pytest.mark.parametrize("g", [0.9, 3.0])
def test_sum_rule_and_largest(g):
    n, steps = 24, 150
    cell = plain_cell("tanh", n, 0)
    key = jax.random.key(3)
    params, h = cell.init(key, g, dtype=jnp.float64), cell.initial_state(key, dtype=jnp.float64)
    trajectory = rollout(cell.step, params, h, steps=steps)

    @jax.jit
    def measure(params, h, trajectory):
        largest = log_jacobian_norms(cell.step, params, h, steps=steps, norms=("spectral",), trajectory=trajectory)
        logs = jax.vmap(lambda h: cell.log_abs_det(params, h))(trajectory.states[:-1])
        jacobians = jax.vmap(lambda h: jax.jacfwd(cell.step, argnums=1)(params, h, None))(trajectory.states[:-1])
        return largest["spectral"][-1], jnp.sum(logs), of_product(jacobians)

    largest, total, found = (np.asarray(values) for values in measure(params, h, trajectory))
    # n steps logs, each right to n eps κ(W), κ(W) some hundreds
    assert abs(found.sum() - total) < 1e-14 * 1000 * steps
    assert found[0] == pytest.approx(float(largest), abs=1e-11)
    assert np.all(np.diff(found) <= 0)


def test_blocks_on_two_devices_equal_a_loop():
    factors = np.random.default_rng(1).standard_normal((8, 40, 7, 7))

    def measure(one, _):
        return log_singular_values(lambda _, h, x: x @ h, None, jnp.zeros(7), one)

    found = np.asarray(ensemble.Program(measure)(factors, None))
    for i in (0, 7):
        np.testing.assert_allclose(found[i], spectrum(factors[i]), atol=1e-11)


def test_lags_are_products_of_the_last_factors():
    factors = np.random.default_rng(2).standard_normal((9, 4, 4))
    step, start = (lambda _, h, x: x @ h), jnp.zeros(4)
    found = log_singular_values_at_lags(step, None, start, jnp.asarray(factors), lags=(1, 3, 9))
    for logs, lag in zip(np.asarray(found), (1, 3, 9), strict=True):
        np.testing.assert_allclose(logs, exact(factors[-lag:]), atol=1e-11)


def test_a_lag_is_nan_where_its_product_touches_a_state_that_is_not_finite():
    def step(_, h, x):
        return jnp.where(h > 1e300, 1.0, h) * x  # overflows at the second step, and recovers

    found = log_singular_values_at_lags(
        step, None, jnp.ones(2), jnp.array([1e200, 1e200, 1.0, 1.0, 1.0])[:, None], lags=(1, 2, 3, 4, 5)
    )
    assert np.isnan(found).all(axis=1).tolist() == [False, False, True, True, True]


def test_a_state_that_is_not_finite_gives_nan():
    found = log_singular_values(lambda p, h, x: h * 1e200, None, jnp.ones(2), steps=4)
    assert np.all(np.isnan(found))


def test_wrong_settings_are_refused():
    for lags in ((), (0, 1), (2, 1), (1, 1), (1, 5)):
        with pytest.raises(ValueError, match=r"lags: .* allowed: whole numbers from 1 to T = 4, ascending"):
            log_singular_values_at_lags(lambda p, h, x: h, None, jnp.ones(2), steps=4, lags=lags)
    with pytest.raises(ValueError, match="steps: 0; allowed"):
        log_singular_values(lambda p, h, x: h, None, jnp.ones(2), steps=0)
    with pytest.raises(ValueError, match=r"step: returns a state of \(3,\)"):
        log_singular_values(lambda p, h, x: jnp.zeros(3), None, jnp.ones(2), steps=3)

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from gradient_horizon import log_jacobian_norms, make_cell
from gradient_horizon.measures.all_pairs import log_jacobian_norms_all_pairs
from gradient_horizon.measures.trajectory import Trajectory, rollout

KEY = jax.random.key(4)


def triangle_and_runs(step, params, h, xs, steps):
    """The whole triangle; and, along the same states, runs of `steps` steps from any start: (pairs, run(start)).

    (A chaotic network's states, computed again, would part ways.) `xs` and the trajectory go on to twice `steps`.
    """
    states = jax.jit(lambda: rollout(step, params, h, xs, steps=2 * steps).states)()
    early = None if xs is None else xs[:steps]

    @jax.jit
    def run(start):
        ahead = Trajectory(lax.dynamic_slice_in_dim(states, start, steps + 1))
        window = None if xs is None else lax.dynamic_slice_in_dim(xs, start, steps)
        return log_jacobian_norms(step, params, h, window, steps=steps, anchor="start", trajectory=ahead)["frobenius"]

    whole = Trajectory(states[: steps + 1])
    found = np.asarray(log_jacobian_norms_all_pairs(step, params, h, early, steps=steps, trajectory=whole))
    return found, run


@pytest.mark.parametrize(("steps", "n"), [(1, 3), (17, 4), (50, 8)])
@pytest.mark.parametrize("name", ["tanh", "leaky_tanh"])
def test_every_pair_agrees_with_its_separate_run(name, steps, n):
    cell = make_cell(name, n, 1)
    params, h = cell.init(KEY, 1.2, dtype=jnp.float64), cell.initial_state(KEY, dtype=jnp.float64)
    xs = jax.random.normal(KEY, (2 * steps, 1), jnp.float64)
    found, run = triangle_and_runs(cell.step, params, h, xs, steps)
    for start in range(0, steps, 1 + steps // 20):
        # the inner product of Gram matrices keeps four digits at worst: 1e-12 against 1e-16 and the sum of n² terms
        tolerance = 1e-4 if name == "tanh" else 1e-5
        np.testing.assert_allclose(found[start:, start], run(start)[: steps - start], rtol=0, atol=tolerance)
    assert np.all(np.isnan(found[np.triu_indices(steps, 1)]))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-9)])
def test_a_triangle_of_the_size_that_its_cost_is_stated_for(dtype, tolerance):
    steps = 200
    cell = make_cell("tanh", 64)
    params, h = cell.init(KEY, 1.2, dtype=jnp.dtype(dtype)), cell.initial_state(KEY, dtype=jnp.dtype(dtype))
    found, run = triangle_and_runs(cell.step, params, h, None, steps)
    for start in range(0, steps, 10):
        np.testing.assert_allclose(found[start:, start], run(start)[: steps - start], rtol=0, atol=tolerance)


def test_orthogonal_products_are_exact():
    cell = make_cell("linear", 6)
    params = cell.init(KEY, 0.7, "orthogonal", dtype=jnp.float64)
    found = np.asarray(log_jacobian_norms_all_pairs(cell.step, params, jnp.zeros(6), steps=40))
    t, s = np.tril_indices(40)
    np.testing.assert_allclose(found[t, s], 0.5 * np.log(6) + (t + 1 - s) * np.log(0.7), atol=1e-12)


def test_zero_is_a_value_and_bad_states_are_nan():
    xs = np.ones(40, np.float32)
    xs[20] = 0.0
    found = np.asarray(
        log_jacobian_norms_all_pairs(lambda _, h, x: h * x, None, jnp.ones(2, jnp.float32), jnp.asarray(xs))
    )
    t, s = np.tril_indices(40)
    zero = (s <= 20) & (t >= 20)
    assert np.all(found[t, s][zero] == -np.inf)
    np.testing.assert_allclose(found[t, s][~zero], 0.5 * np.log(2), atol=1e-12)
    xs[20] = np.inf
    found = np.asarray(
        log_jacobian_norms_all_pairs(lambda _, h, x: h * x, None, jnp.ones(2, jnp.float32), jnp.asarray(xs))
    )
    assert np.all(np.isnan(found[t, s][t >= 20]))
    assert np.all(np.isfinite(found[t, s][t < 20]))


def gates(length=32):
    """Units that never meet and grow at different times: the factors of each, powers of two."""
    small = 2.0**-10
    return {
        "hand over": np.array([[small, 1]] * (length * 2 // 3) + [[1, small]] * (length - length * 2 // 3)),
        "grow and decay": np.array([[2.0**9, 1]] * (length // 2) + [[2.0**-9, 1]] * (length - length // 2)),
        "die": np.array([[1, small, 1]] * (length // 2) + [[0, 1, 1 / 2]] * (length - length // 2)),
    }


def exact_triangle(factors):
    """½ log Σ_i Π x_i² of every pair, from sums of whole exponents."""
    with np.errstate(divide="ignore"):
        sums = np.zeros((len(factors), len(factors)))
        for s in range(len(factors)):
            logs = np.cumsum(np.log2(factors[s:]), axis=0)
            sums[s:, s] = 0.5 * np.logaddexp2.reduce(2 * logs, axis=1) * np.log(2)
    return sums


def diagonal(_, h, x):
    return x * h


jitted_all_pairs = jax.jit(log_jacobian_norms_all_pairs, static_argnums=0)


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", ["hand over", "grow and decay", "die"])
def test_units_that_grow_and_decay_at_different_times(case, dtype, jitted):
    measure = jitted_all_pairs if jitted else log_jacobian_norms_all_pairs
    factors = gates()[case][:, [0, 1, -1]]  # the last of two units twice: one size, one program
    for order in (factors, factors[::-1]):
        start = jnp.zeros(order.shape[1], dtype)
        found = np.asarray(measure(diagonal, None, start, jnp.asarray(order, dtype)))
        t, s = np.tril_indices(len(order))
        np.testing.assert_allclose(found[t, s], exact_triangle(order)[t, s], rtol=1e-14, atol=1e-14)
        assert np.all(np.isnan(found[np.triu_indices(len(order), 1)]))


@pytest.mark.parametrize("reverse", [False, True])
def test_a_unit_that_grows_for_long_and_then_decays(reverse):
    factors = np.ones((350, 2))
    factors[:150, 0], factors[150:, 0] = 2, 0.5
    factors = factors[::-1] if reverse else factors
    found = log_jacobian_norms_all_pairs(diagonal, None, jnp.zeros(2, jnp.float32), jnp.asarray(factors, jnp.float32))
    t, s = np.tril_indices(350)
    np.testing.assert_allclose(np.asarray(found)[t, s], exact_triangle(factors)[t, s], rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("at", [0, 16, 31])
def test_a_step_that_mixes_units_that_grow_and_decay_at_different_times(at, dtype):
    # M = D R E with diagonal D, E: ‖M‖² = Σ_ij (d_i r_ij e_j)²; of other pairs the one diagonal
    mixing = np.array([[0.5, 3.0], [-1.25, 0.75]])
    factors = gates()["hand over"]

    def step(_, h, x):
        gate, mixes = x
        return jnp.where(mixes, jnp.matmul(jnp.asarray(mixing, h.dtype), h, precision="highest"), gate * h)

    inputs = (jnp.asarray(factors, dtype), jnp.arange(32) == at)
    found = np.asarray(log_jacobian_norms_all_pairs(step, None, jnp.zeros(2, dtype), inputs))
    logs = np.log2(factors)
    logs[at] = 0
    for s in range(32):
        for t in range(s, 32):
            early, late = logs[s : min(at, t + 1)].sum(axis=0), logs[max(at, s) : t + 1].sum(axis=0)
            if s <= at <= t:
                terms = late[:, None] + np.log2(np.abs(mixing)) + early[None, :]
            else:
                terms = logs[s : t + 1].sum(axis=0)
            expected = 0.5 * np.log(2) * np.logaddexp2.reduce(2 * terms.ravel())
            # the mantissas are those of R, exact: only the squares and the log round
            assert found[t, s] == pytest.approx(expected, rel=1e-14, abs=1e-14), (t, s)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_shift_register_is_exactly_zero_when_all_has_left_it(dtype):
    cells = 8
    found = np.asarray(
        log_jacobian_norms_all_pairs(
            lambda _, h, x: jnp.concatenate([jnp.zeros(1, h.dtype), x * h[:-1]]),
            None,
            jnp.zeros(cells, dtype),
            jnp.full(32, 2.0**-30, dtype),
        )
    )
    t, s = np.tril_indices(32)
    lag = t + 1 - s
    with np.errstate(divide="ignore"):
        expected = 0.5 * np.log(np.maximum(cells - lag, 0)) - 30 * lag * np.log(2)
    np.testing.assert_allclose(found[t, s], expected, rtol=1e-14)


def test_blocks_that_never_meet_have_the_norm_of_both():
    # two rotations, each with its own size, as float32: ‖·‖² = 2 a² + 2 b²
    sizes = gates()["grow and decay"]

    def step(_, h, x):
        turned = jnp.stack([-h[1], h[0], -h[3], h[2]])
        return jnp.repeat(x, 2) * turned

    found = np.asarray(log_jacobian_norms_all_pairs(step, None, jnp.zeros(4, jnp.float32), jnp.float32(sizes)))
    t, s = np.tril_indices(32)
    np.testing.assert_allclose(found[t, s], exact_triangle(sizes)[t, s] + 0.5 * np.log(2), rtol=1e-14, atol=1e-14)


def test_parts_that_cancel_are_nan_and_never_minus_infinity():
    # Products of ones and alternating signs: (1, 1) (1, -1)ᵀ = 0 by cancellation of terms that are not zero.
    matrices = np.zeros((16, 2, 2), np.float32)
    matrices[:] = np.eye(2)
    matrices[7], matrices[8] = [[1, 0], [-1 - 2.0**-20, 0]], [[1, 1], [0, 0]]
    found = log_jacobian_norms_all_pairs(lambda _, h, x: x @ h, None, jnp.zeros(2, jnp.float32), jnp.asarray(matrices))
    # its exact value is log 2^-20, far above the rounding of float32 but not above that of squares
    assert np.all(np.isnan(found[8:, :8]))

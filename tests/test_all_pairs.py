import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from gradient_horizon import log_jacobian_norms, make_cell
from gradient_horizon.all_pairs import log_jacobian_norms_all_pairs
from gradient_horizon.rollout import Trajectory, rollout

KEY = jax.random.key(4)


@pytest.mark.parametrize(("steps", "n"), [(1, 3), (15, 4), (8, 4), (17, 4), (50, 8), (129, 8)])
@pytest.mark.parametrize("name", ["tanh", "leaky_tanh"])
def test_every_pair_agrees_with_its_separate_run(name, steps, n):
    cell = make_cell(name, n, 1)
    params, h = cell.init(KEY, 1.2, dtype=jnp.float64), cell.initial_state(KEY, dtype=jnp.float64)
    xs = jax.random.normal(KEY, (steps, 1), jnp.float64)
    found = np.asarray(log_jacobian_norms_all_pairs(cell.step, params, h, xs))
    run = jax.jit(lambda xs: log_jacobian_norms(cell.step, params, h, xs)["frobenius"])
    for t in {1, steps // 2, steps - 1, steps} - {0}:
        # the inner product of Gram matrices keeps four digits at worst: 1e-12 against 1e-16 and the sum of n² terms
        np.testing.assert_allclose(found[t - 1, :t][::-1], run(xs[:t]), atol=1e-4 if name == "tanh" else 1e-5)
    assert np.all(np.isnan(found[np.triu_indices(steps, 1)]))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-9)])
def test_the_whole_triangle_agrees_with_separate_runs(dtype, tolerance):
    steps, n = 200, 64
    cell = make_cell("tanh", n)
    params, h = cell.init(KEY, 1.2, dtype=jnp.dtype(dtype)), cell.initial_state(KEY, dtype=jnp.dtype(dtype))
    states = rollout(cell.step, params, h, steps=2 * steps).states

    @jax.jit
    def run(start):  # along the same states: a chaotic network's would part ways
        ahead = Trajectory(lax.dynamic_slice_in_dim(states, start, steps + 1))
        return log_jacobian_norms(cell.step, params, h, steps=steps, anchor="start", trajectory=ahead)["frobenius"]

    whole = Trajectory(states[: steps + 1])
    found = np.asarray(log_jacobian_norms_all_pairs(cell.step, params, h, steps=steps, trajectory=whole))
    for start in range(steps):
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

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from gradient_horizon import log_jacobian_norms, make_cell
from gradient_horizon.all_pairs import log_jacobian_norms_all_pairs
from gradient_horizon.rollout import Trajectory, rollout

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


@pytest.mark.parametrize(("steps", "n"), [(1, 3), (15, 4), (8, 4), (17, 4), (50, 8), (129, 8)])
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

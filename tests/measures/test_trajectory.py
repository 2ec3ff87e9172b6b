import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradient_horizon import make_cell
from gradient_horizon.measures.states import flatten_step
from gradient_horizon.measures.trajectory import rollout
from gradient_horizon.numerics.derivatives import jvp_columns, vjp_rows

KEY = jax.random.key(2)


def test_states_are_those_of_a_loop():
    cell = make_cell("tanh", 5, 2)
    params, h = cell.init(KEY, 1.5, dtype=jnp.float64), cell.initial_state(KEY, dtype=jnp.float64)
    xs = jax.random.normal(KEY, (7, 2), jnp.float64)
    found = rollout(cell.step, params, h, xs)
    expected = [h]
    for x in xs:
        expected.append(cell.step(params, expected[-1], x))
    np.testing.assert_allclose(found.states, jnp.stack(expected), rtol=1e-14)
    assert bool(found.finite.all())
    assert int(found.first_bad_step) == -1


def test_the_first_bad_step_is_found():
    xs = jnp.array([1.0, 1e30, 1e30, 1.0], jnp.float32)
    found = rollout(lambda _, h, x: h * x, None, jnp.ones(2, jnp.float32), xs)
    assert int(found.first_bad_step) == 3


def test_push_and_pull_multiply_by_the_jacobian_of_a_pytree_state():
    def step(params, h, x):
        return {"a": jnp.tanh(params @ h["b"]) * h["a"], "b": h["b"] + jnp.sum(h["a"]) * x}

    h = {"a": jnp.array([0.2, -0.4]), "b": jnp.array([0.5, 0.1])}
    params, x = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.float64(0.3)
    flat_step, layout = flatten_step(step, h)
    flat, _ = layout.pack(h)
    jacobian = jax.jacrev(flat_step, argnums=1)(params, flat, x)
    matrix = jax.random.normal(KEY, (4, 3), jnp.float64)
    np.testing.assert_allclose(jvp_columns(flat_step, params, flat, x, matrix), jacobian @ matrix, atol=1e-14)
    np.testing.assert_allclose(vjp_rows(flat_step, params, flat, x, matrix.T), matrix.T @ jacobian, atol=1e-14)


@pytest.mark.parametrize(
    ("xs", "steps", "message"),
    [
        (None, None, "steps: None, and xs is None"),
        (None, 0, "steps: 0; allowed: a whole number of at least 1"),
        (jnp.ones((3, 1)), 4, "steps: 4, but xs holds 3"),
        ((jnp.ones(3), jnp.ones(4)), None, r"xs: leading axes \[3, 4\] differ"),
    ],
)
def test_wrong_lengths_are_refused(xs, steps, message):
    with pytest.raises(ValueError, match=message):
        rollout(lambda p, h, x: h, None, jnp.ones(2), xs, steps=steps)


def test_a_step_that_changes_the_state_is_refused():
    with pytest.raises(ValueError, match=r"step: returns a state of \(1,\) float64, but h0 is \(2,\) float64"):
        rollout(lambda p, h, x: h[:1], None, jnp.ones(2, jnp.float64), steps=3)
    with pytest.raises(ValueError, match=r"h0: dtypes \['int64'\]; allowed: float32 and complex64, or float64"):
        rollout(lambda p, h, x: h, None, jnp.ones(2, jnp.int64), steps=3)

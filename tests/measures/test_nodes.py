"""The split of a gradient's log growth over the nodes of a step."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from gradient_horizon import log_jacobian_norms, make_cell, names, node_split
from gradient_horizon.measures.nodes import log_state_gradient_norms
from gradient_horizon.measures.trajectory import Trajectory

KEY = jax.random.key(6)
EPS = float(np.finfo(np.float32).eps)
WHOLE = tuple(name for name in names.VANILLA_CELLS if name != "leaky_tanh")


def network(name, n=12, d=2, scale=1.4, steps=20, dtype=jnp.float64, weights="gaussian", bias=0.3):
    cell = make_cell(name, n, d)
    params = cell.init(KEY, scale, weights, bias_scale=bias, dtype=dtype)
    xs = jax.random.normal(KEY, (steps, d), jnp.float32).astype(dtype) if d else None
    return cell, params, cell.initial_state(KEY, dtype=dtype), xs


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", WHOLE)
def test_nodes_and_steps_sum_to_the_gradient_of_the_whole_rollout(name, dtype):
    steps = 20
    cell, params, h0, xs = network(name, steps=steps, dtype=jnp.dtype(dtype))
    assert xs is not None
    gradient = jnp.linspace(-1, 2, h0.size, dtype=h0.dtype)

    @jax.jit
    def measure(params, h0, xs):
        def loss(nudges):
            def advance(h, inputs):
                x, nudge = inputs
                return cell.step(params, h, x) + nudge, None

            return gradient @ lax.scan(advance, h0 + nudges[0], (xs, nudges[1:]))[0]

        split = node_split(cell, params, h0, xs, gradient=gradient)
        return split, jax.grad(loss)(jnp.zeros((steps + 1, h0.size), h0.dtype))

    split, reached = measure(params, h0, xs)
    assert set(split) == {"activation", "matrix"}
    assert all(added.shape == (steps,) and added.dtype == dtype for added in split.values())
    reached = np.asarray(reached, np.float64)
    logs = np.log(np.linalg.norm(reached, axis=1))[::-1]
    total = np.cumsum(split["activation"] + split["matrix"])
    # a step rounds by some √n eps, times the cancellation of a vector in a random matrix
    np.testing.assert_allclose(total, logs[1:] - logs[0], atol=30 * steps * np.finfo(dtype).eps)


def test_each_node_adds_its_own_part():
    cell, params, h0, xs = network("tanh", steps=4)
    assert xs is not None
    split = node_split(cell, params, h0, xs)
    states = [np.asarray(h0)]
    w, u, b = np.asarray(params.recurrent), np.asarray(params.input), np.asarray(params.bias)
    for x in np.asarray(xs):
        states.append(np.tanh(w @ states[-1] + u @ x + b))
    v = np.ones(h0.size)
    for k in range(4):
        passed = v * (1 - states[4 - k] ** 2)
        back = w.T @ passed
        norms = [np.linalg.norm(vector) for vector in (v, passed, back)]
        assert float(split["activation"][k]) == pytest.approx(np.log(norms[1] / norms[0]), abs=1e-13)
        assert float(split["matrix"][k]) == pytest.approx(np.log(norms[2] / norms[1]), abs=1e-13)
        v = back


@pytest.mark.parametrize(("scale", "dtype"), [(0.3, "float32"), (1.7, "float64")])
def test_an_orthogonal_matrix_adds_log_g_at_every_step(scale, dtype):
    steps = 1000
    for name in ("linear", "tanh"):
        cell, params, _, _ = network(name, 16, 0, scale, dtype=jnp.dtype(dtype), weights="orthogonal", bias=0.0)
        h0 = cell.initial_state(None if name == "linear" else KEY, dtype=jnp.dtype(dtype))  # linear states overflow
        split = node_split(cell, params, h0, steps=steps)
        tolerance = 10 * np.sqrt(16) * np.finfo(dtype).eps  # Q is orthogonal to √n eps
        np.testing.assert_allclose(split["matrix"], np.log(scale), atol=tolerance)
        if name == "linear":
            assert not np.any(np.asarray(split["activation"]))
        else:
            assert np.all(np.asarray(split["activation"]) <= tolerance)


def test_one_unit_splits_as_its_jacobian_does():
    cell, params, h0, _ = network("tanh", 1, 0, 0.9, bias=0.2)
    split = node_split(cell, params, h0, steps=300)
    whole = log_jacobian_norms(cell.step, params, h0, steps=300)["frobenius"]
    np.testing.assert_allclose(np.cumsum(split["activation"] + split["matrix"]), whole, atol=1e-12)
    np.testing.assert_allclose(split["matrix"], np.log(np.abs(params.recurrent[0, 0])), atol=1e-15)


@pytest.mark.parametrize("gradient", [None, jnp.array([1e-30, 0, 0, 1e-32], jnp.float32)])
def test_only_the_direction_of_the_gradient_matters(gradient):
    cell, params, h0, _ = network("tanh", 4, 0, dtype=jnp.float32)
    gradient = jnp.ones(4, jnp.float32) if gradient is None else gradient
    one = node_split(cell, params, h0, steps=10, gradient=gradient)
    other = node_split(cell, params, h0, steps=10, gradient=gradient * jnp.float32(2.0**90))
    for node, added in one.items():
        np.testing.assert_array_equal(added, other[node])


def test_a_dead_network_adds_minus_infinity_once_and_never_nan():
    cell, params, h0, _ = network("relu", 5, 0, 0.5, bias=0.0)
    dead = type(params)(params.recurrent, params.input, params.bias - 10.0)
    split = node_split(cell, dead, h0, steps=6)
    np.testing.assert_array_equal(split["activation"], [-np.inf, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(split["matrix"], np.zeros(6))
    silent = type(params)(0 * params.recurrent, params.input, params.bias + 1.0)
    split = node_split(cell, silent, h0, steps=3)
    np.testing.assert_array_equal(split["activation"], np.zeros(3))
    np.testing.assert_array_equal(split["matrix"], [-np.inf, 0, 0])


def test_states_that_overflow_give_nan_from_there_on():
    cell = make_cell("linear", 2, 2)
    params = cell.init(KEY, 1.0)
    xs = jnp.zeros((5, 2), jnp.float32).at[1].set(jnp.inf)
    for added in node_split(cell, params, cell.initial_state(), xs).values():
        assert np.all(np.isnan(added))  # the last state is among them
    for added in node_split(cell, params, cell.initial_state(), xs[:1]).values():
        assert np.all(np.isfinite(added))


def test_networks_are_batched():
    cell = make_cell("tanh", 6)

    def split(seed):
        key = jax.random.key(seed)
        return node_split(cell, cell.init(key, 1.2), cell.initial_state(key), steps=8)

    seeds = jnp.arange(3, dtype=jnp.uint32)
    alone, together = jax.jit(split), jax.jit(jax.vmap(split))(seeds)
    for k, seed in enumerate(seeds):
        for node, added in alone(seed).items():
            np.testing.assert_allclose(together[node][k], added, atol=30 * 8 * EPS)


@pytest.mark.parametrize("name", ["leaky_tanh", "gru", "lstm"])
def test_cells_with_a_second_path_are_refused(name):
    cell = make_cell(name, 3)
    with pytest.raises(ValueError, match=rf"cell: '{name}' .*; allowed: linear, tanh, relu, hard_tanh, erf, sigmoid$"):
        node_split(cell, cell.init(KEY), cell.initial_state(), steps=2)


def test_a_gradient_that_does_not_fit_is_refused():
    cell = make_cell("tanh", 3)
    for gradient in (jnp.ones(2, jnp.float32), jnp.ones(3, jnp.float64)):
        with pytest.raises(ValueError, match=r"gradient: .*; allowed: \(3,\) float32"):
            node_split(cell, cell.init(KEY), cell.initial_state(), steps=2, gradient=gradient)


def gates(steps=60):
    small = 2.0**-10
    return {
        "hand over": np.array([[small, 1]] * (steps * 2 // 3) + [[1, small]] * (steps - steps * 2 // 3)),
        "grow and decay": np.array([[2.0**5, 1]] * (steps // 2) + [[2.0**-5, 1]] * (steps - steps // 2)),
        "die": np.array([[1, small, 1]] * (steps // 2) + [[0, 1, 1 / 2]] * (steps - steps // 2)),
        "die late": np.array([[0, 1]] + [[1, small]] * (steps - 1)),
    }


def of_units(factors, read):
    start = jnp.zeros(factors.shape[1], factors.dtype)
    still = Trajectory(jnp.zeros((len(factors) + 1, factors.shape[1]), factors.dtype))
    return log_state_gradient_norms(lambda _, h, x: x * h, None, start, still, factors, read)


of_units_jitted = jax.jit(of_units)


def state_gradients(factors, read, dtype, *, jitted):
    """`log_state_gradient_norms` of units that never meet, each multiplied by its factor at every step."""
    measure = of_units_jitted if jitted else of_units
    return measure(jnp.asarray(factors, dtype), jnp.asarray(read, dtype))


def exact_state_gradients(factors, read):
    """The log norms by fractions: ∂L/∂h_t = read_t + x_t+1 ∂L/∂h_t+1, entry by entry."""
    steps, n = factors.shape
    gradient, logs = [Fraction(0)] * n, []
    for t in reversed(range(steps)):
        gradient = [Fraction(float(own)) + part for own, part in zip(read[t], gradient, strict=True)]
        square = sum(part * part for part in gradient)
        size = square.numerator.bit_length() - square.denominator.bit_length()
        mantissa = float(square / Fraction(2) ** size)
        logs.append(0.5 * (math.log(mantissa) + size * math.log(2)) if square else -math.inf)
        gradient = [Fraction(float(x)) * part for x, part in zip(factors[t], gradient, strict=True)]
    return np.array(logs[::-1])


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", ["hand over", "grow and decay", "die", "die late"])
def test_gradients_whose_entries_grow_and_decay_at_different_times(case, dtype, jitted):
    factors = gates()[case][:, [0, 1, -1]]  # the last of two units twice: one size, one program
    at_end = np.zeros_like(factors)
    at_end[-1] = 1
    twice = at_end.copy()
    twice[30, 0] = 3 * 2.0**-100  # read beside a gradient that may be far larger or smaller
    for order in (factors, factors[::-1]):
        for read in (at_end, twice):
            found = state_gradients(order, read, dtype, jitted=jitted)
            expected = exact_state_gradients(order, read)
            # a norm's mantissa rounds by some eps, and log and the product with log 2 by that of the result
            eps = float(np.finfo(dtype).eps)
            np.testing.assert_allclose(found, expected, rtol=4 * eps, atol=8 * eps)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_read_far_below_the_rest_is_all_that_is_left(dtype):
    far = 2.0**-100 if dtype == "float32" else 2.0**-1000
    factors, read = np.ones((4, 2)), np.zeros((4, 2))
    factors[1, 0] = 0
    read[3] = [1 / far, far]
    found = state_gradients(factors, read, dtype, jitted=False)
    size = float(-np.log(far))
    np.testing.assert_allclose(found, [-size, size, size, size], rtol=4 * float(np.finfo(dtype).eps))


def test_derivatives_of_state_gradients_are_right_or_nan():
    read = jnp.zeros((60, 2), jnp.float64).at[-1].set(1.0)
    far = jnp.asarray(gates()["hand over"][::-1].copy(), jnp.float64)
    near = jnp.full((60, 2), 0.75, jnp.float64)

    def total(factors):
        still = Trajectory(jnp.zeros((61, 2), jnp.float64))
        logs = log_state_gradient_norms(lambda p, h, i: p[i] * h, factors, still.states[0], still, jnp.arange(60), read)
        return logs[0]

    for transformed in (jax.grad, jax.jacfwd):
        measure = jax.jit(transformed(total))
        # both units weigh the same: d log‖v‖ / dx = ½ / x at every step but the first, which is not passed
        np.testing.assert_allclose(measure(near)[1:], 0.5 / 0.75, rtol=1e-12)
        found, expected = np.asarray(measure(far))[1:], exact_slopes(far)[1:]
        assert np.all(np.isnan(found) | np.isclose(found, expected, rtol=1e-12))


def exact_slopes(factors):
    """d log‖v‖ / dx_t,i = (share of unit i in ‖v‖²) / x_t,i."""
    logs = np.log2(np.asarray(factors))[1:].sum(axis=0)
    share = np.exp2(2 * (logs - logs.max()))
    return share / share.sum() / np.asarray(factors)


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nodes_of_units_that_die_after_others_have_grown(dtype, jitted):
    # relu units that are shut by their inputs at times; W = diag(2^bits, 1, 2^-bits) never mixes them
    steps, bits = 40, 40 if dtype == "float32" else 300
    cell = make_cell("relu", 3, 3)
    params = cell.init(KEY, 1.0, dtype=jnp.dtype(dtype))
    sizes = np.array([bits, 0, -bits])
    params = type(params)(jnp.diag(jnp.asarray(2.0**sizes, dtype)), jnp.eye(3, dtype=dtype), jnp.zeros(3, dtype))
    open_until = np.array([20, 30, 0])  # on the way back unit 0 is shut below step 20, unit 1 below step 30
    xs = np.where(np.arange(steps)[:, None] >= open_until[None, :], 1.0, -1.0)
    states = Trajectory(jnp.zeros((steps + 1, 3), dtype))

    def measure(params, xs):
        return node_split(cell, params, jnp.zeros(3, dtype), xs, trajectory=states)

    split = (jax.jit(measure) if jitted else measure)(params, jnp.asarray(xs, dtype))
    logs = np.zeros(3)
    for k in range(steps):
        before = np.logaddexp2.reduce(2 * logs)
        logs = np.where(xs[steps - 1 - k] > 0, logs, -np.inf)
        between = np.logaddexp2.reduce(2 * logs)
        logs = logs + sizes
        after = np.logaddexp2.reduce(2 * logs)
        tolerance = 4 * float(np.finfo(dtype).eps)
        assert split["activation"][k] == pytest.approx(
            0.5 * np.log(2) * (between - before), rel=tolerance, abs=tolerance
        )
        assert split["matrix"][k] == pytest.approx(0.5 * np.log(2) * (after - between), rel=tolerance, abs=tolerance)

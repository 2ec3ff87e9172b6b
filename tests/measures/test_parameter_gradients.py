"""Gradients of a loss, split by steps, against automatic differentiation with parameters of each step's own."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cell_families import FAMILIES, any_of
from jax import lax
from jax.flatten_util import ravel_pytree
from quick_programs import compiled

from gradient_horizon import log_parameter_gradients, log_parameter_sensitivity, log_state_gradients, make_cell

KEY = jax.random.key(7)
STEPS, D = 6, 2
EPS = float(np.finfo(float).eps)


def log_norms(leaf, axis=0):
    """Log norms of the entries along the first axis."""
    with np.errstate(divide="ignore"):
        return np.log(np.linalg.norm(np.asarray(leaf).reshape(len(leaf), -1), axis=1))


def together(leaves):
    with np.errstate(divide="ignore"):
        return 0.5 * np.log(sum(np.exp(2 * log_norms(leaf)) for leaf in leaves))


@pytest.mark.parametrize("family", FAMILIES)
def test_oracle_parameters_of_their_own_at_every_step(family):
    cells, step = any_of(family, 4, D)
    xs = jax.random.normal(KEY, (STEPS, D), jnp.float64)

    def loss(states):
        values = ravel_pytree(states)[0]
        return jnp.sum(jnp.sin(values)) + jnp.sum(jax.tree.leaves(states)[0][-1] ** 3)

    @compiled
    def measure(place, params, h):
        def of_params(params, h, x):
            return step((place, params), h, x)

        def whole(params_of, nudges):
            def advance(h, inputs):
                params, nudge, x = inputs
                h = jax.tree.map(jnp.add, of_params(params, h, x), nudge)
                return h, h

            return lax.scan(advance, h, (params_of, nudges, xs))[1]

        params_of = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (STEPS, *leaf.shape)), params)
        nudges = jax.tree.map(lambda leaf: jnp.zeros((STEPS, *leaf.shape), leaf.dtype), h)
        by_hand = jax.grad(lambda *arguments: loss(whole(*arguments)), argnums=(0, 1))(params_of, nudges)

        leaves, structure = jax.tree.flatten(params)

        def states(leaves):
            params = jax.tree.unflatten(structure, leaves)
            alike = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (STEPS, *leaf.shape)), params)
            return jax.vmap(lambda h: ravel_pytree(h)[0])(whole(alike, nudges))

        found = (
            log_parameter_gradients(of_params, params, h, xs, loss),
            log_state_gradients(of_params, params, h, xs, loss),
            log_parameter_sensitivity(of_params, params, h, xs),
        )
        return found, by_hand, jax.jacrev(states)(leaves)

    for place, cell in enumerate(cells.values()):
        params = cell.init(KEY, 1.2, bias_scale=0.2, dtype=jnp.float64)
        found, (by_params, by_states), sensitivity = measure(place, params, cell.initial_state(KEY, dtype=jnp.float64))
        split, of_states, sensed = found
        # a step rounds by some √n eps, and vectors cancel by ≲ n
        close = {"atol": 30 * STEPS * EPS, "rtol": 0}
        leaves = jax.tree.leaves(by_params)
        assert jax.tree.structure(split.by_leaf) == jax.tree.structure(params)
        for measured, leaf in zip(jax.tree.leaves(split.by_leaf), leaves, strict=True):
            np.testing.assert_allclose(measured, log_norms(leaf), **close)
        np.testing.assert_allclose(split.log_norm, together(leaves), **close)
        # the law: the sum over steps is the gradient of the whole
        sums = [np.asarray(leaf).sum(axis=0) for leaf in leaves]
        for measured, leaf in zip(jax.tree.leaves(split.by_leaf_of_sum), sums, strict=True):
            np.testing.assert_allclose(measured, log_norms(leaf[None])[0], **close)
        np.testing.assert_allclose(split.log_norm_of_sum, together([leaf[None] for leaf in sums])[0], **close)
        np.testing.assert_allclose(of_states, together(jax.tree.leaves(by_states)), **close)
        for measured, leaf in zip(jax.tree.leaves(sensed.by_leaf), sensitivity, strict=True):
            np.testing.assert_allclose(measured, log_norms(leaf), **close)
        np.testing.assert_allclose(sensed.log_norm, together(sensitivity), **close)


def linear(w, h, x):
    return w * h + x


@pytest.mark.parametrize(("dtype", "rate"), [("float32", 0.25), ("float64", 0.01), ("float32", 1.0)])
def test_a_linear_unit_by_fractions_over_a_thousand_steps(dtype, rate):
    """h_t = λ h_{t-1} + 1: c_t = λ^(T-t) h_{t-1}, and dh_t/dλ = Σ_k k λ^(k-1) over k < t (h_0 = 0)."""
    steps = 1000
    w, h0, xs = jnp.asarray(rate, dtype), jnp.zeros((), dtype), jnp.ones(steps, dtype)
    found = log_parameter_gradients(linear, w, h0, xs, lambda states: states[-1])
    sensed = log_parameter_sensitivity(linear, w, h0, xs)
    exact = Fraction(float(w))
    state, slope, states, slopes = Fraction(0), Fraction(0), [], []
    for _ in range(steps if rate == 1 else 60):  # by then both have settled to 16 digits
        slope = state + exact * slope
        states.append(float(state))
        state = 1 + exact * state
        slopes.append(float(slope))
    states, slopes = (np.pad(series, (0, steps - len(series)), "edge") for series in (states, slopes))
    eps = float(np.finfo(dtype).eps)
    with np.errstate(divide="ignore"):
        expected = np.log(states) + np.arange(steps - 1, -1, -1) * math.log(float(exact))
        # the state rounds by eps / (1 - λ), a power by eps a step; sums of 1000 equal terms by their number
        rtol, atol = 4 * eps, (4 if rate < 1 else steps) * eps
        np.testing.assert_allclose(found.log_norm, expected, rtol=rtol, atol=atol)
        np.testing.assert_allclose(sensed.log_norm, np.log(slopes), rtol=rtol, atol=atol)
    np.testing.assert_allclose(found.log_norm_of_sum, np.log(slopes[-1]), rtol=rtol, atol=atol)
    assert found.log_norm[0] == -np.inf  # h_0 = 0: the first step shows nothing of λ
    if rate < 1:
        assert found.log_norm[1] < -1000


def test_entries_that_grow_and_decay_at_different_times():
    """Two units that hand over to each other, far beyond the range of floats, seen through a gain of each."""
    small = 2.0**-10
    factors = np.array([[small, 1.0]] * 40 + [[1.0, small]] * 20)

    def step(gain, h, x):  # the state stays at 1; its derivatives are those of gain · x · h
        product = gain * x * h
        return lax.stop_gradient(h) + (product - lax.stop_gradient(product))

    ones, xs = jnp.ones(2, jnp.float32), jnp.asarray(factors, jnp.float32)
    found = log_parameter_gradients(step, ones, ones, xs, lambda states: jnp.sum(states[-1]))
    sensed = log_parameter_sensitivity(step, ones, ones, xs)
    later = np.cumsum(np.log2(factors)[::-1], axis=0)[::-1]  # of all factors from step t on
    half = 0.5 * math.log(2)
    np.testing.assert_allclose(found.log_norm, half * np.logaddexp2.reduce(2 * later, axis=1), rtol=1e-6, atol=1e-6)
    summed = np.logaddexp2.reduce(later, axis=0)
    np.testing.assert_allclose(found.log_norm_of_sum, half * np.logaddexp2.reduce(2 * summed), rtol=1e-6)
    # S_t is diagonal, S_t = x_t (S_{t-1} + 1); in powers of two, and a sum of a few of them
    slopes, slope = [], np.zeros(2)
    for factor in factors:
        slope = factor * (slope + 1)
        slopes.append(np.log(np.linalg.norm(slope)))
    np.testing.assert_allclose(sensed.log_norm, slopes, rtol=1e-6, atol=1e-6)


def test_what_is_not_used_is_exactly_zero_and_what_cannot_be_differentiated_is_none():
    params = {"count": jnp.int32(2), "idle": jnp.ones(3, jnp.float32), "w": jnp.ones((), jnp.float32)}
    xs = jnp.ones(4, jnp.float32)

    def step(params, h, x):
        return params["w"] * h + x

    h0 = jnp.ones((), jnp.float32)
    found = log_parameter_gradients(step, params, h0, xs, lambda states: states[1] * 2)
    assert found.by_leaf["count"] is None
    np.testing.assert_array_equal(found.by_leaf["idle"], [-np.inf] * 4)
    np.testing.assert_allclose(found.by_leaf["w"], [np.log(2), np.log(4), -np.inf, -np.inf], rtol=1e-6)
    sensed = log_parameter_sensitivity(step, params, h0, xs)
    assert sensed.by_leaf["count"] is None
    np.testing.assert_array_equal(sensed.by_leaf["idle"], [-np.inf] * 4)
    np.testing.assert_allclose(sensed.by_leaf["w"], np.log([1, 3, 6, 10]), rtol=1e-6)


def test_networks_are_batched():
    cell = make_cell("tanh", 3, D)
    xs, h0 = jax.random.normal(KEY, (STEPS, D), jnp.float64), jnp.ones(3, jnp.float64)
    params = cell.init(KEY, 1.2, dtype=jnp.float64)

    def measure(w):
        own = type(params)(w, params.input, params.bias)
        split = log_parameter_gradients(cell.step, own, h0, xs, lambda h: jnp.sum(h[-1] ** 2))
        return jnp.append(split.log_norm, split.log_norm_of_sum)

    ws = jax.random.normal(KEY, (2, 3, 3), jnp.float64) / 2
    found = jax.jit(jax.vmap(measure))(ws)
    for k, w in enumerate(ws):
        np.testing.assert_allclose(found[k], measure(w), atol=1e-13)


@pytest.mark.parametrize("measure", [log_parameter_gradients, log_state_gradients])
def test_losses_that_are_no_number_and_parameters_without_floats_are_refused(measure):
    cell = make_cell("tanh", 3)
    arguments = cell.step, cell.init(KEY), cell.initial_state(KEY), None
    with pytest.raises(ValueError, match=r"loss: returns float32 of shape \(4, 3\); allowed: one real number"):
        measure(*arguments, lambda states: states, steps=4)
    with pytest.raises(ValueError, match=r"loss: returns int32 of shape \(\); allowed"):
        measure(*arguments, lambda states: jnp.int32(1), steps=4)


@pytest.mark.parametrize("measure", [log_parameter_gradients, log_parameter_sensitivity])
def test_parameters_without_floats_are_refused(measure):
    loss = (lambda states: states[-1],) if measure is log_parameter_gradients else ()
    with pytest.raises(ValueError, match=r"params: holds no floats or complex numbers; allowed: a pytree with some"):
        measure(lambda p, h, x: h + x, jnp.int32(1), jnp.float32(0), jnp.ones(3, jnp.float32), *loss)


def test_states_that_are_not_finite_are_flagged():
    xs = jnp.zeros(5, jnp.float32).at[2].set(jnp.inf)
    w, h0 = jnp.float32(0.5), jnp.float32(1)
    found = log_parameter_gradients(linear, w, h0, xs, lambda states: states[-1])
    assert np.all(np.isnan(found.log_norm))
    assert np.isnan(found.log_norm_of_sum)
    sensed = log_parameter_sensitivity(linear, w, h0, xs).log_norm
    np.testing.assert_array_equal(np.isnan(sensed), [False, False, True, True, True])

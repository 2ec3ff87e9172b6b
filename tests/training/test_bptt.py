"""The recurrence with its own backward pass against `jax.grad` through a scan of the cell's step."""

import itertools
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from gradient_horizon import make_cell, names
from gradient_horizon.cells.vanilla import VanillaCell, affine
from gradient_horizon.training.bptt import no_perturbations, preactivations, states_with_bptt

N, T, B, D = 5, 7, 3, 2


def setting(name, dtype="float64"):
    cell = make_cell(name, N, D, forget_bias=0.5)
    key = jax.random.key(1)
    params = cell.init(key, 1.1, bias_scale=0.3, dtype=dtype)
    h0 = jax.vmap(lambda k: cell.initial_state(k, dtype=dtype))(jax.random.split(key, B))
    return cell, params, jax.random.normal(key, (T, B, D), dtype), h0, no_perturbations(cell.affine_maps(params), h0, T)


def by_step(cell, params, xs, h0, perturbations):
    """Each step from its parts: the cells' own `step` has no place for an addition to a_t."""

    def advance(h, inputs):
        x, perturbation = inputs
        a = ()
        for place, (part, added) in enumerate(zip(cell.affine_maps(params), perturbation.preactivations, strict=True)):
            a = (*a, cell.gated_input(place, a, h) @ part.recurrent.T + affine(x, part.input, part.bias) + added)
        h = jax.tree.map(jnp.add, cell.new_state(a, h), perturbation.states)
        return h, h

    return lax.scan(advance, h0, (xs, perturbations))[1]


def by_bptt(last, cell, params, xs, h0, perturbations):
    return states_with_bptt(cell, last, cell.affine_maps(params), xs, h0, perturbations)


@pytest.mark.parametrize(
    ("name", "last"), [*zip(names.CELLS, itertools.cycle((1, 4, T)), strict=False), ("tanh", 1), ("tanh", T)]
)
def test_states_and_every_derivative_are_those_of_the_step(name, last):
    cell, *arguments = setting(name)
    target = jax.random.normal(jax.random.key(2), (last, B, cell.state_size), jnp.float64)

    def value(states_of, *arguments):
        states = jnp.concatenate(jax.tree.leaves(states_of(cell, *arguments)), axis=-1)[-last:]
        return jnp.sum(jnp.sin(states) * target), states

    found, reference = (
        jax.jit(jax.value_and_grad(lambda *a, f=f: value(f, *a), argnums=(0, 1, 2, 3), has_aux=True))(*arguments)
        for f in (partial(by_bptt, last), by_step)
    )
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(reference), strict=True):
        # T steps of products with norms of order 1, N terms each
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-13)


def test_a_leak_is_seen_whatever_the_name_of_the_cell():
    cell, *arguments = setting("tanh")
    assert isinstance(cell, VanillaCell)
    leaky = replace(cell, leak=0.3)
    found, expected = (np.asarray(f(leaky, *arguments)) for f in (partial(by_bptt, T), by_step))
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", names.CELLS)
def test_the_step_put_together_from_its_parts(name):
    cell, params, xs, h0, perturbations = setting(name)
    a = preactivations(cell, cell.affine_maps(params), xs, h0)
    _, states = lax.scan(lambda h, x: 2 * (jax.vmap(cell.step, in_axes=(None, 0, 0))(params, h, x),), h0, xs)
    for ours, theirs in zip(
        jax.tree.leaves(by_step(cell, params, xs, h0, perturbations)), jax.tree.leaves(states), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-13, atol=1e-14)
    before = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest[:-1]]), h0, states)
    for ours, theirs in zip(jax.tree.leaves(cell.new_state(a, before)), jax.tree.leaves(states), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-13, atol=1e-14)
    assert cell.relative_slopes(a).max() <= 1
    assert cell.relative_slopes(a).min() >= 0
    assert (cell.relative_slopes(a).min() == 0) == (name in ("relu", "hard_tanh"))

"""Cells that share their parameters' structure, behind one step: one compiled program measures each of them.

And the reference that all of them are held to: automatic differentiation of the whole rollout.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from gradient_horizon import make_cell, names

FAMILIES = {"vanilla": names.VANILLA_CELLS, "gru": ("gru",), "lstm": ("lstm",)}


def any_of(family, hidden_size, input_size=0):
    """The family's cells by name, and a step whose first argument is (which of them, its parameters)."""
    cells = {name: make_cell(name, hidden_size, input_size) for name in FAMILIES[family]}

    def step(chosen, h, x):
        place, params = chosen
        return lax.switch(place, [cell.step for cell in cells.values()], params, h, x)

    return cells, step


def whole_rollout(step, params, h, xs):
    """∂h_t/∂h_s for all t and s, (T + 1, n, T + 1, n), by a nudge added to every state at once."""
    flat, unravel = ravel_pytree(h)

    def states(nudges):
        def advance(state, inputs):
            x, nudge = inputs
            state = ravel_pytree(step(params, unravel(state), x))[0] + nudge
            return state, state

        first = flat + nudges[0]
        return jnp.concatenate([first[None], lax.scan(advance, first, (xs, nudges[1:]))[1]])

    return jax.jacrev(states)(jnp.zeros((len(xs) + 1, flat.size), flat.dtype))

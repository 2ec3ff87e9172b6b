"""The states of one network on many sequences, with a backward pass of its own.

`lax.scan` under `jax.grad` adds up dL/dW step by step, an (N, N) array each time. Here the products U x_t + b are taken
for all steps at once before the scan, and the scan back keeps δ_t = ∂L/∂a_t alone, from which dL/dW = Σ_t δ_t v_tᵀ is
one matrix product over all steps and sequences: backpropagation through time (Werbos 1990) as it is written by hand.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gradient_horizon.arrays import Factors, PyTree
from gradient_horizon.cells import Cell


def _advance(cell: Cell, transposed: Factors, h: PyTree, drives: Factors) -> tuple[PyTree, Factors]:
    a: Factors = ()
    for place, (matrix, drive) in enumerate(zip(transposed, drives, strict=True)):
        a = (*a, jnp.matmul(cell.operand(place, a, h), matrix) + drive)
    return cell.respond(a, h), a


def _forward(cell: Cell, matrices: Factors, drives: Factors, h0: PyTree) -> tuple[PyTree, Factors]:
    # A matrix that stands the right way round in memory is multiplied a third faster; XLA would fold `.T` away.
    transposed = lax.optimization_barrier(tuple(matrix.T for matrix in matrices))

    def advance(h, drive):
        after, a = _advance(cell, transposed, h, drive)
        return after, (after, a)

    return lax.scan(advance, h0, drives)[1]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def recur(cell: Cell, matrices: Factors, drives: Factors, h0: PyTree, taps: PyTree) -> PyTree:
    """h_1 .. h_T of a batch of B sequences: leaves of shape (T, B, N).

    **Arguments:**

    - `matrices`, `drives`: `cell.matrices(params)`, and `cell.drives(params, xs)` with leading axes (T, B).
    - `h0`: leaves of shape (B, N).
    - `taps`: zeros of the shape of the result. The derivative with respect to them is ∂L/∂h_t, through every later
      step; where it is not asked for, they cost nothing.
    """
    return _forward(cell, matrices, drives, h0)[0]


def preactivations(cell: Cell, matrices: Factors, drives: Factors, h0: PyTree) -> Factors:
    """a_1 .. a_T of a batch of B sequences, for the arguments of `recur`: leaves of shape (T, B, ...)."""
    return _forward(cell, matrices, drives, h0)[1]


def _recur_forward(cell, matrices, drives, h0, taps):
    states, a = _forward(cell, matrices, drives, h0)
    return states, (matrices, h0, states, a)


def _before(h0: PyTree, states: PyTree) -> PyTree:
    return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest[:-1]]), h0, states)


def _add(a: PyTree, b: PyTree) -> PyTree:
    return jax.tree.map(jnp.add, a, b)


def _recur_backward(cell: Cell, residuals: Any, cotangents: PyTree):
    matrices, h0, states, a = residuals
    before = _before(h0, states)

    def retreat(gradient, inputs):
        """From ∂L/∂h_t, but for what L reads of h_t itself, to the same one step earlier."""
        read, a, h = inputs
        gradient = _add(gradient, read)
        deltas, earlier = jax.vjp(cell.respond, a, h)[1](gradient)
        for place in reversed(range(len(matrices))):
            pulled = jnp.matmul(deltas[place], matrices[place])
            more, through = jax.vjp(partial(cell.operand, place), a[:place], h)[1](pulled)
            deltas = (*_add(deltas[:place], more), *deltas[place:])
            earlier = _add(earlier, through)
        return earlier, (deltas, gradient)

    zeros = jax.tree.map(jnp.zeros_like, h0)
    first, (deltas, gradients) = lax.scan(retreat, zeros, (cotangents, a, before), reverse=True)
    weights = tuple(
        jnp.einsum("tbi,tbj->ij", delta, cell.operand(place, a[:place], before)) for place, delta in enumerate(deltas)
    )
    return weights, deltas, first, gradients


recur.defvjp(_recur_forward, _recur_backward)

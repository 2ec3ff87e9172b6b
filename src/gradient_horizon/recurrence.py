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
from jaxtyping import Array, Float

from gradient_horizon.arrays import Factors, PyTree
from gradient_horizon.cells import Cell


def _advance(cell: Cell, transposed: Factors, h: PyTree, drives: Factors) -> tuple[PyTree, Factors]:
    a: Factors = ()
    for place, (matrix, drive) in enumerate(zip(transposed, drives, strict=True)):
        a = (*a, jnp.matmul(cell.operand(place, a, h), matrix) + drive)
    return cell.respond(a, h), a


def _forward(cell: Cell, matrices: Factors, drives: Factors, h0: PyTree) -> tuple[PyTree, tuple[PyTree, Factors]]:
    """h_T; and for every step the state before it and its pre-activations."""
    # A matrix that stands the right way round in memory is multiplied a third faster; XLA would fold `.T` away.
    transposed = lax.optimization_barrier(tuple(matrix.T for matrix in matrices))

    def advance(h, drive):
        after, a = _advance(cell, transposed, h, drive)
        return after, (h, a)

    return lax.scan(advance, h0, drives)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def recur(cell: Cell, last: int, matrices: Factors, drives: Factors, h0: PyTree, taps: PyTree) -> PyTree:
    """The `last` states of h_1 .. h_T of a batch of B sequences: leaves of shape (`last`, B, N).

    **Arguments:**

    - `last`: from 1 to T.
    - `matrices`, `drives`: `cell.matrices(params)`, and `cell.drives(params, xs)` with leading axes (T, B).
    - `h0`: leaves of shape (B, N).
    - `taps`: zeros of shape (T, B, N). The derivative with respect to them is ∂L/∂h_t, through every later
      step; where it is not asked for, they cost nothing.
    """
    return _recur_forward(cell, last, matrices, drives, h0, taps)[0]


def preactivations(cell: Cell, matrices: Factors, drives: Factors, h0: PyTree) -> Factors:
    """a_1 .. a_T of a batch of B sequences, for the arguments of `recur`: leaves of shape (T, B, ...)."""
    return _forward(cell, matrices, drives, h0)[1][1]


def _recur_forward(cell, last, matrices, drives, h0, taps):
    end, (before, a) = _forward(cell, matrices, drives, h0)
    states = jax.tree.map(lambda h, final: jnp.concatenate([h[len(h) - last + 1 :], final[None]]), before, end)
    return states, (matrices, before, a)


def _add(a: PyTree, b: PyTree) -> PyTree:
    return jax.tree.map(jnp.add, a, b)


def _recur_backward(cell: Cell, last: int, residuals: Any, cotangents: PyTree):
    matrices, before, a = residuals

    def retreat(gradient, a, h):
        """From ∂L/∂h_t to ∂L/∂a_t, and to what ∂L/∂h_{t-1} has of it."""
        deltas, earlier = jax.vjp(cell.respond, a, h)[1](gradient)
        for place in reversed(range(len(matrices))):
            pulled = jnp.matmul(deltas[place], matrices[place])
            more, through = jax.vjp(partial(cell.operand, place), a[:place], h)[1](pulled)
            deltas = (*_add(deltas[:place], more), *deltas[place:])
            earlier = _add(earlier, through)
        return earlier, deltas

    def unread(gradient, inputs):
        earlier, deltas = retreat(gradient, *inputs)
        return earlier, (deltas, gradient)

    def read(gradient, inputs):
        """Where L reads of the state before the step too."""
        reads, *inputs = inputs
        earlier, deltas = retreat(gradient, *inputs)
        return _add(earlier, reads), (deltas, gradient)

    gradient = jax.tree.map(lambda leaf: leaf[-1], cotangents)
    split = len(jax.tree.leaves(before)[0]) - last + 1  # the steps up to here are those before which nothing is read
    parts = []
    if last > 1:
        reads, *inputs = jax.tree.map(lambda leaf: leaf[:-1], cotangents), *_steps((a, before), split, None)
        gradient, part = lax.scan(read, gradient, (reads, *inputs), reverse=True)
        parts = [part]
    gradient, part = lax.scan(unread, gradient, _steps((a, before), 0, split), reverse=True)
    deltas, gradients = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), part, *parts) if parts else part
    weights = tuple(
        jnp.matmul(_rows(delta).T, _rows(cell.operand(place, a[:place], before))) for place, delta in enumerate(deltas)
    )
    return weights, deltas, gradient, gradients


def _rows(leaf: Float[Array, "T B M"]) -> Float[Array, "TB M"]:
    return leaf.reshape(-1, leaf.shape[-1])


def _steps(tree: PyTree, first: int, end: int | None) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[first:end], tree)


recur.defvjp(_recur_forward, _recur_backward)

"""The states of one network on many sequences, with a custom backward pass if the cell is a `TrainableCell`.

`lax.scan` under `jax.grad` accumulates dL/dW step by step, an (N, N) array each time. Here the backward scan keeps only
δ_t = ∂L/∂a_t. The derivatives with respect to W, U and b, Σ_t δ_t (v_t, x_t, 1)ᵀ, are then one matrix product over all
steps and sequences, as in hand-written backpropagation through time (Werbos 1990).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from gradient_horizon.cells.cell import Cell, TrainableCell
from gradient_horizon.cells.vanilla import Affine
from gradient_horizon.numerics.arrays import Factors, PyTree

AffineMaps = tuple[Affine, ...]  # `cell.affine_maps(params)`


class Perturbations(NamedTuple):
    """Zeros that are added to every h_t and every a_t so that their cotangents can be read; leaves (T, B, ...).

    The derivatives of L with respect to them are ∂L/∂h_t and ∂L/∂a_t, through every later step. They cost nothing
    unless they are used.
    """

    states: Any
    preactivations: Factors


def no_perturbations(maps: AffineMaps, h0: PyTree, steps: int) -> Perturbations:
    """Create the zeros for `states_with_bptt`."""
    size = len(jax.tree.leaves(h0)[0])
    return Perturbations(
        jax.tree.map(lambda h: jnp.zeros((steps, *h.shape), h.dtype), h0),
        tuple(jnp.zeros((steps, size, len(part.bias)), part.bias.dtype) for part in maps),
    )


def _widened(matrix: Float[Array, "N M"]) -> Float[Array, "N _"]:
    """`matrix` padded with zero columns: at N = 50, rows of 64 (whole vectors of 16) cut a product's time to 3/4."""
    return jnp.pad(matrix, ((0, 0), (0, -matrix.shape[1] % 16)))


def _product(rows: Float[Array, "B N"], widened: Float[Array, "N _"], width: int) -> Float[Array, "B _"]:
    return jnp.matmul(rows, widened)[..., :width]


def _forward(
    cell: TrainableCell, maps: AffineMaps, xs: Float[Array, "T B D"], h0: PyTree
) -> tuple[PyTree, tuple[PyTree, Factors]]:
    """h_T; and, for every step, the state before it and its pre-activations."""
    # The product is a third faster if the matrix is transposed in memory; without the barrier XLA would fold `.T` away.
    # (U x_t + b for all steps at once would be so large a product that XLA spreads it over the threads of all cores.)
    recurrent, driving = lax.optimization_barrier(
        (
            tuple(_widened(part.recurrent.T) for part in maps),
            tuple(_widened(jnp.concatenate([part.input.T, part.bias[None]])) for part in maps),
        )
    )
    keeps_states = cell.reads_state  # otherwise recomputing the states is faster than storing them

    def advance(h, entries):
        a: Factors = ()
        for place, (matrix, inputs, part) in enumerate(zip(recurrent, driving, maps, strict=True)):
            width = len(part.bias)
            a = (*a, _product(cell.gated_input(place, a, h), matrix, width) + _product(entries, inputs, width))
        return cell.new_state(a, h), (h if keeps_states else None, a)

    end, (before, a) = lax.scan(advance, h0, _with_one(xs))
    if not keeps_states:
        before = jnp.concatenate([h0[None], cell.new_state(a, h0)[:-1]])
    return end, (before, a)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def states_with_bptt(
    cell: TrainableCell,
    last: int,
    maps: AffineMaps,
    xs: Float[Array, "T B D"],
    h0: PyTree,
    perturbations: Perturbations,
) -> PyTree:
    """The last `last` of the states h_1 .. h_T for a batch of B sequences: leaves of shape (`last`, B, N).

    **Arguments:**

    - `cell`: its numbers (a leak) may be traced; derivatives with respect to them are NaN.
    - `last`: from 1 to T.
    - `maps`: `cell.affine_maps(params)`.
    - `h0`: leaves of shape (B, N).
    - `perturbations`: the result of `no_perturbations`.
    """
    return _bptt_forward(cell, last, maps, xs, h0, perturbations)[0]


def states_by_step(cell: Cell, last: int, params: PyTree, xs: Float[Array, "T B D"], h0: PyTree) -> PyTree:
    """The same states by a scan of the cell's step, which JAX differentiates: slower, but it needs only a `Cell`.

    `params` are the cell's own.
    """

    def advance(h, x):
        h = jax.vmap(cell.step, in_axes=(None, 0, 0))(params, h, x)
        return h, h

    return _steps(lax.scan(advance, h0, xs)[1], -last, None)


def preactivations(cell: TrainableCell, maps: AffineMaps, xs: Float[Array, "T B D"], h0: PyTree) -> Factors:
    """a_1 .. a_T for a batch of B sequences, arguments as in `states_with_bptt`: leaves of shape (T, B, ...)."""
    return _forward(cell, maps, xs, h0)[1][1]


def _bptt_forward(cell, last, maps, xs, h0, perturbations):
    end, (before, a) = _forward(cell, maps, xs, h0)
    states = jax.tree.map(lambda h, final: jnp.concatenate([h[len(h) - last + 1 :], final[None]]), before, end)
    return states, (cell, maps, xs, before, a)


def _add(a: PyTree, b: PyTree) -> PyTree:
    return jax.tree.map(jnp.add, a, b)


def _bptt_backward(last: int, residuals: Any, cotangents: PyTree):
    cell, maps, xs, before, a = residuals
    matrices = lax.optimization_barrier(tuple(_widened(part.recurrent) for part in maps))

    def retreat(gradient, a, h):
        """From ∂L/∂h_t to its contribution to ∂L/∂h_{t-1}, and to ∂L/∂a_t."""
        deltas, earlier = jax.vjp(cell.new_state, a, h)[1](gradient)
        for place in reversed(range(len(maps))):
            pulled = _product(deltas[place], matrices[place], maps[place].recurrent.shape[-1])
            more, through = jax.vjp(partial(cell.gated_input, place), a[:place], h)[1](pulled)
            deltas = (*_add(deltas[:place], more), *deltas[place:])
            earlier = _add(earlier, through)
        return earlier, deltas

    def unread(gradient, inputs):
        earlier, deltas = retreat(gradient, *inputs)
        return earlier, (deltas, gradient)

    def read(gradient, inputs):
        """Go back through a step whose previous state is also read by L."""
        reads, *inputs = inputs
        earlier, deltas = retreat(gradient, *inputs)
        return _add(earlier, reads), (deltas, gradient)

    gradient = jax.tree.map(lambda leaf: leaf[-1], cotangents)
    split = len(xs) - last + 1  # up to this step, L does not read the state before the step
    parts = []
    if last > 1:
        reads, *inputs = jax.tree.map(lambda leaf: leaf[:-1], cotangents), *_steps((a, before), split, None)
        gradient, part = lax.scan(read, gradient, (reads, *inputs), reverse=True)
        parts = [part]
    gradient, part = lax.scan(unread, gradient, _steps((a, before), 0, split), reverse=True)
    deltas, gradients = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), part, *parts) if parts else part
    by_maps = tuple(
        _by_parameters(delta, cell.gated_input(place, a[:place], before), xs) for place, delta in enumerate(deltas)
    )
    by_xs = sum(jnp.matmul(delta, part.input) for delta, part in zip(deltas, maps, strict=True))
    by_cell = jax.tree.map(lambda number: jnp.full_like(number, jnp.nan), cell)
    return by_cell, by_maps, by_xs, gradient, Perturbations(gradients, deltas)


def _by_parameters(deltas: Float[Array, "T B M"], inputs: Float[Array, "T B N"], xs: Float[Array, "T B D"]) -> Affine:
    """The derivatives with respect to W, U and b, as one product.

    Three products of such long and narrow arrays take twice as long. Without the barrier XLA would transpose the rows
    first, which takes as long as the product itself.
    """
    sides = jnp.concatenate([inputs, _with_one(xs)], axis=-1)
    whole = jnp.matmul(lax.optimization_barrier(_rows(deltas)).T, _rows(sides))
    n = inputs.shape[-1]
    return Affine(whole[:, :n], whole[:, n:-1], whole[:, -1])


def _with_one(xs: Float[Array, "T B D"]) -> Float[Array, "T B D+1"]:
    return jnp.concatenate([xs, jnp.ones_like(xs, shape=(*xs.shape[:-1], 1))], axis=-1)


def _rows(leaf: Float[Array, "T B M"]) -> Float[Array, "TB M"]:
    return leaf.reshape(-1, leaf.shape[-1])


def _steps(tree: PyTree, first: int, end: int | None) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[first:end], tree)


states_with_bptt.defvjp(_bptt_forward, _bptt_backward)

"""A trajectory of a one-step map, and the step linearised at each of its states.

The state may be any pytree of floating arrays; Jacobians are those of the state raveled into one vector of size n
(the leaves in pytree order).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from gradient_horizon.arrays import PyTree, Step
from gradient_horizon.compiled import compiled_once
from gradient_horizon.runtime import unroll
from gradient_horizon.scaling import normalise

FlatStep = Callable[[PyTree, Float[Array, " n"], PyTree], Float[Array, " n"]]


class Trajectory(NamedTuple):
    """h_0 .. h_T, raveled: `states[t]` is h_t, shape (T + 1, n)."""

    states: Array

    @property
    def length(self) -> int:
        """T."""
        return self.states.shape[0] - 1

    @property
    def finite(self) -> Bool[Array, " times"]:
        """Whether each state is finite."""
        return jnp.all(jnp.isfinite(self.states), axis=1)

    @property
    def first_bad_step(self) -> Int[Array, ""]:
        """The first t whose h_t is not finite, or -1."""
        bad = ~self.finite
        return jnp.where(jnp.any(bad), jnp.argmax(bad), -1).astype(jnp.int32)


def ever(flags: Bool[Array, " times"]) -> Bool[Array, " times"]:
    """Whether each flag or one before it is set. (As one operation: outside `jax.jit` that compiles once.)"""
    return lax.cummax(flags.astype(jnp.int32)) > 0


def sequence_length(xs: PyTree, steps: int | None) -> int:
    """T, from the leading axis of `xs` or from `steps`; `ValueError` where neither or both disagree."""
    lengths = {jnp.shape(leaf)[0] if jnp.ndim(leaf) else 0 for leaf in jax.tree.leaves(xs)}
    if len(lengths) > 1:
        raise ValueError(f"xs: leading axes {sorted(lengths)} differ; allowed: one length T for every leaf")
    if not lengths and steps is None:
        raise ValueError("steps: None, and xs is None; give one of them")
    length = lengths.pop() if lengths else steps
    if steps is not None and steps != length:
        raise ValueError(f"steps: {steps}, but xs holds {length}; leave steps out or make them equal")
    if length is None or length < 1:
        raise ValueError(f"steps: {length}; allowed: a whole number of at least 1")
    return length


def flatten_step(step: Step, h: PyTree) -> tuple[FlatStep, Float[Array, " n"]]:
    """`step` on raveled states, and `h` raveled. `ValueError` unless all leaves share one floating dtype."""
    dtypes = {jnp.result_type(leaf).name for leaf in jax.tree.leaves(h)}
    if len(dtypes) != 1 or not dtypes <= {"float32", "float64"}:
        raise ValueError(f"h0: dtypes {sorted(dtypes)}; allowed: one of float32, float64 for every leaf")
    flat, unravel = ravel_pytree(h)

    def flat_step(params: PyTree, vector: Float[Array, " n"], x: PyTree) -> Float[Array, " n"]:
        result, _ = ravel_pytree(step(params, unravel(vector), x))
        if result.shape != vector.shape or result.dtype != vector.dtype:
            raise ValueError(
                f"step: returns a state of {result.shape} {result.dtype}, but h0 is {vector.shape} {vector.dtype};"
                " allowed: the same"
            )
        return result

    return flat_step, flat


@compiled_once
def rollout(
    step: Step, params: PyTree, h0: PyTree, xs: PyTree = None, *, steps: int | None = None, rescale: bool = False
) -> Trajectory:
    """h_0 .. h_T of `step(params, h, x) -> h` by `lax.scan`; `xs` has leading axis T, or is None with `steps` = T.

    `rescale` is for a step with step(params, c h) = c step(params, h) for every c > 0, such as ReLU without bias and
    inputs: each state is then brought to size by an exact power of two. Its direction and J_t are the same, and it
    neither overflows nor dies away to 0, where a kink would show another slope.
    """
    length = sequence_length(xs, steps)
    flat_step, start = flatten_step(step, h0)

    def advance(h, x):
        after = flat_step(params, h, x)
        return normalise(after)[0] if rescale else after, h

    last, before = lax.scan(advance, start, xs, length=length, unroll=unroll(start.size))
    return Trajectory(jnp.concatenate([before, last[None]]))


def push(flat_step: FlatStep, params: PyTree, h: Float[Array, " n"], x: PyTree, matrix: Float[Array, "n k"]):
    """J M for the columns of `matrix` M, J the Jacobian of the step taken at `h`."""
    return push_rows(flat_step, params, h, x, matrix.T).T


def push_rows(flat_step: FlatStep, params: PyTree, h: Float[Array, " n"], x: PyTree, rows: Float[Array, "k n"]):
    """J v for every row v, J the Jacobian of the step taken at `h`."""
    _, jvp = jax.linearize(lambda state: flat_step(params, state, x), h)
    return jax.vmap(jvp)(rows)


def pull(flat_step: FlatStep, params: PyTree, h: Float[Array, " n"], x: PyTree, matrix: Float[Array, "k n"]):
    """M J for the rows of `matrix` M, J the Jacobian of the step taken at `h`."""
    _, vjp = jax.vjp(lambda state: flat_step(params, state, x), h)
    return jax.vmap(lambda row: vjp(row)[0])(matrix)

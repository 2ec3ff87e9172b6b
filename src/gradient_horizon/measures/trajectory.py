"""Trajectories of a one-step map, and the map in the form used by the measures: a step on real vectors.

The state may be any pytree; Jacobians are those of the vector to which it is converted (see `states`; for a state of
real arrays, its raveled leaves in pytree order).
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

from gradient_horizon.measures.holomorphic import is_holomorphic
from gradient_horizon.measures.states import FlatStep, Layout, flatten_step, layout_of
from gradient_horizon.measures.wide import reads_subnormal
from gradient_horizon.numerics.arrays import PyTree, Step
from gradient_horizon.numerics.compiled import compiled_once
from gradient_horizon.numerics.exponents import normalise
from gradient_horizon.numerics.xla import unroll


class Trajectory(NamedTuple):
    """h_0 .. h_T as vectors: `states[t]` is h_t, shape (T + 1, n), with two entries for each complex one.

    `carried`: the leaves of h_0 .. h_{T-1} that are not differentiated (integers, booleans, keys), with leading axis T.

    `is_misread`: True if XLA has read a parameter as 0 (see `system_of`); then no state counts as finite.
    """

    states: Array
    carried: PyTree = ()
    is_misread: Any = False

    @property
    def length(self) -> int:
        """T, the number of steps."""
        return self.states.shape[0] - 1

    @property
    def finite(self) -> Bool[Array, " times"]:
        """True where a state is finite; False everywhere if `is_misread`."""
        return jnp.all(jnp.isfinite(self.states), axis=1) & ~jnp.asarray(self.is_misread)

    @property
    def first_bad_step(self) -> Int[Array, ""]:
        """The first t whose h_t is not finite, or -1."""
        bad = ~self.finite
        return jnp.where(jnp.any(bad), jnp.argmax(bad), -1).astype(jnp.int32)


def ever(flags: Bool[Array, " times"]) -> Bool[Array, " times"]:
    """True from the first flag that is set. (A single operation, which outside `jax.jit` compiles only once.)"""
    return lax.cummax(flags.astype(jnp.int32)) > 0


def sequence_length(xs: PyTree, steps: int | None) -> int:
    """T, from the leading axis of `xs` or from `steps`; `ValueError` if neither is given or they disagree."""
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


@compiled_once
def rollout(
    step: Step, params: PyTree, h0: PyTree, xs: PyTree = None, *, steps: int | None = None, rescale: bool = False
) -> Trajectory:
    """h_0 .. h_T of `step(params, h, x) -> h` by `lax.scan`; `xs` has leading axis T, or is None with `steps` = T.

    `rescale` is for a step with step(params, c h) = c step(params, h) for every c > 0, such as ReLU without bias and
    inputs: each state is then rescaled by an exact power of two. Its direction and J_t are unchanged, and it neither
    overflows nor decays to 0, where a kink would have a different slope.
    """
    length = sequence_length(xs, steps)
    layout = layout_of(h0)

    def advance(state, x):
        vector, carried = layout.packed_like(step(params, layout.unpack(*state), x))
        return (normalise(vector)[0] if rescale else vector, carried), state

    start = layout.pack(h0)
    (last, _), (before, carried) = lax.scan(advance, start, xs, length=length, unroll=unroll(layout.size))
    return Trajectory(jnp.concatenate([before, last[None]]), carried)


class System(NamedTuple):
    """A network in the form used by the measures: a step on real vectors, its trajectory and the layout of a state."""

    step: FlatStep
    params: PyTree
    xs: PyTree  # the inputs; if part of the state is not differentiated, pairs of the inputs and that part
    trajectory: Trajectory
    layout: Layout
    is_holomorphic: bool

    @property
    def window(self) -> PyTree:
        """h_0 .. h_{T-1} and x_1 .. x_T, at which the steps are linearised."""
        return self.trajectory.states[:-1], self.xs

    @property
    def log_norm_of_pairs(self) -> float:
        """log of the ratio of the Frobenius norm of the real pairs to that of the complex Jacobian."""
        return 0.5 * math.log(2.0) if self.is_holomorphic else 0.0


def system_of(
    step: Step,
    params: PyTree,
    h0: PyTree,
    xs: PyTree = None,
    *,
    steps: int | None = None,
    trajectory: Trajectory | None = None,
) -> System:
    """`step` along `trajectory`, or, if that is None, along its own trajectory from `h0`.

    If XLA reads a parameter as 0 because it is below the smallest normal number, no state is `finite`: the network is
    not the intended one.
    """
    # all methods share the same states: a chaotic map would amplify any rounding differences
    trajectory = rollout(step, params, h0, xs, steps=steps) if trajectory is None else trajectory
    flat_step, layout = flatten_step(step, h0)
    inputs = (xs, trajectory.carried) if layout.carries else xs
    one = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf)[1:], jnp.result_type(leaf)), (trajectory.states, inputs)
    )
    is_misread = reads_subnormal(lambda h, x: flat_step(params, h, x), *one)
    trajectory = trajectory._replace(is_misread=is_misread)
    return System(
        flat_step,
        params,
        inputs,
        trajectory,
        layout,
        layout.is_complex and _is_holomorphic(step, params, h0, xs, layout),
    )


def _is_holomorphic(step: Step, params: PyTree, h0: PyTree, xs: PyTree, layout: Layout) -> bool:
    values = jax.tree.leaves(h0)
    complex_ones = [jnp.asarray(value) for value, leaf in zip(values, layout.leaves, strict=True) if leaf.is_complex]
    others = [value for value, leaf in zip(values, layout.leaves, strict=True) if not leaf.is_complex]
    x = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf)[1:], jnp.result_type(leaf)), xs)

    def function(complex_ones: list[Any], others: list[Any], x: PyTree) -> list[Any]:
        complex_leaves, other_leaves = iter(complex_ones), iter(others)
        state = [next(complex_leaves if leaf.is_complex else other_leaves) for leaf in layout.leaves]
        after = jax.tree.leaves(step(params, jax.tree.unflatten(layout.structure, state), x))
        return [value for value, leaf in zip(after, layout.leaves, strict=True) if leaf.is_complex]

    return is_holomorphic(function, complex_ones, others, x)

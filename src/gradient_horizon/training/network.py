"""A recurrent cell with a linear readout: its parameters, its answers to sequences, and the gradient of its loss."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from gradient_horizon.cells.vanilla import affine
from gradient_horizon.numerics.arrays import PyTree, RandomKey, Scalar
from gradient_horizon.numerics.keys import named_key, normal, sized_key
from gradient_horizon.tasks.score import error_of, loss_of
from gradient_horizon.tasks.task import Sample
from gradient_horizon.training.bptt import recur, taps
from gradient_horizon.training.omega import omega_gradient
from gradient_horizon.training.spec import Member, TrainSpec


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Readout:
    """V (K, N) and its bias (K,)."""

    matrix: Array
    bias: Array


class Params(NamedTuple):
    """The trainable parameters."""

    cell: Any
    readout: Readout


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """True if every entry is finite."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def drawn(spec: TrainSpec, member: Member) -> Params:
    """Draw the untrained network: the cell as in every other experiment, and a readout with its own key."""
    cell, dtype = spec.cell, jnp.dtype(spec.precision)
    weight_scale = jnp.asarray(spec.gain, dtype) * member.weight_scale
    recurrent = cell.init(member.key, weight_scale, spec.weights, spec.bias_scale, spec.input_scale, dtype)
    scale = jnp.asarray(spec.output_scale / cell.hidden_size**0.5, dtype)
    matrix = scale * normal(named_key(member.key, "output"), (spec.task.output_size, cell.hidden_size), dtype)
    return Params(recurrent, Readout(matrix, jnp.zeros(spec.task.output_size, dtype)))


def sequences(spec: TrainSpec, key: RandomKey, count: int, data: PyTree, *, test: bool = False) -> Sample:
    """Draw `count` sequences: inputs (T, count, D), targets (count, L); a different count gives different sequences."""

    def one(key):
        return spec.task.sample(key, data, test=test, dtype=jnp.dtype(spec.precision))

    xs, targets = jax.vmap(one)(jax.random.split(sized_key(key, count), count))
    return Sample(jnp.swapaxes(xs, 0, 1), targets)


def answers(spec: TrainSpec, readout: Readout, states: PyTree) -> Float[Array, "L B K"]:
    """The readout of the last L states; leaves of `states` have shape (T, B, N), or hold only those L states."""
    return affine(spec.cell.output(states)[-spec.task.answers :], readout.matrix, readout.bias)


def answered(spec: TrainSpec, params: Params, sample: Sample) -> tuple[Scalar, Scalar]:
    """Loss and error on one sequence, inputs (T, D), computed with the cell's own step."""

    def advance(h, x):
        h = spec.cell.step(params.cell, h, x)
        return h, spec.cell.output(h)

    start = spec.cell.initial_state(dtype=jnp.dtype(spec.precision))
    outputs = lax.scan(advance, start, sample.xs)[1][-spec.task.answers :]
    outputs = affine(outputs, params.readout.matrix, params.readout.bias)
    return loss_of(spec.task, outputs, sample.targets), error_of(spec.task, outputs, sample.targets)


def loss_and_gradient(spec: TrainSpec, params: Params, batch: Sample) -> tuple[Scalar, Params]:
    """The mean loss over a batch of `sequences`, and its gradient by backpropagation through time, from h_0 = 0.

    With `spec.omega` the gradient includes that of Ω, with respect to W only.
    """
    cell = spec.cell
    size = batch.targets.shape[0]
    start = jax.tree.map(
        lambda leaf: jnp.zeros((size, *leaf.shape), leaf.dtype), cell.initial_state(dtype=jnp.dtype(spec.precision))
    )

    def loss(params, tapped):
        states = recur(cell, spec.task.answers, cell.stacked(params.cell), batch.xs, start, tapped)
        outputs = answers(spec, params.readout, states)
        return jnp.mean(jax.vmap(lambda o, t: loss_of(spec.task, o, t), in_axes=(1, 0))(outputs, batch.targets))

    tapped = taps(cell.stacked(params.cell), start, spec.task.steps)
    if spec.omega is None:
        return jax.value_and_grad(loss)(params, tapped)
    value, (by_params, through_time) = jax.value_and_grad(loss, argnums=(0, 1))(params, tapped)
    more = omega_gradient(spec.omega, params.cell.recurrent, through_time.preactivations[0], through_time.states)
    by_cell = replace(by_params.cell, recurrent=by_params.cell.recurrent + more)
    return value, by_params._replace(cell=by_cell)

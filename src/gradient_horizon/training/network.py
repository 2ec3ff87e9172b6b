"""A recurrent cell with a linear readout: its parameters, its answers to sequences, and the gradient of its loss."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from gradient_horizon.cells.cell import TrainableCell
from gradient_horizon.cells.vanilla import affine
from gradient_horizon.numerics.arrays import PyTree, RandomKey, Scalar
from gradient_horizon.numerics.keys import named_key, normal, sized_key
from gradient_horizon.tasks.loss import error_of, loss_of
from gradient_horizon.tasks.task import Sample
from gradient_horizon.training.bptt import no_perturbations, states_by_step, states_with_bptt
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


def init_network(spec: TrainSpec, member: Member) -> Params:
    """Draw the untrained network: the cell as in every other experiment, and a readout with its own key."""
    cell, dtype = spec.cell, spec.dtype
    weight_scale = jnp.asarray(spec.gain, dtype) * member.weight_scale
    recurrent = cell.init(member.key, weight_scale, spec.weights, spec.bias_scale, spec.input_scale, dtype)
    scale = jnp.asarray(spec.output_scale / cell.hidden_size**0.5, dtype)
    matrix = scale * normal(named_key(member.key, "output"), (spec.task.output_size, cell.hidden_size), dtype)
    return Params(recurrent, Readout(matrix, jnp.zeros(spec.task.output_size, dtype)))


def make_sampler(spec: TrainSpec) -> Callable[[RandomKey, int, PyTree], Sample]:
    """Return `sequences(key, count, data)`, which draws `count` training sequences.

    Inputs have the shape (T, count, D), targets (count, L); a different count gives different sequences.
    """

    def sequences(key: RandomKey, count: int, data: PyTree) -> Sample:
        def one(key):
            return spec.task.sample(key, data, test=False, dtype=spec.dtype)

        xs, targets = jax.vmap(one)(jax.random.split(sized_key(key, count), count))
        return Sample(jnp.swapaxes(xs, 0, 1), targets)

    return sequences


def readout(spec: TrainSpec, params: Readout, states: PyTree) -> Float[Array, "L B K"]:
    """The outputs at the last L states; leaves of `states` have shape (T, B, N), or hold only those L states."""
    seen = jax.vmap(jax.vmap(spec.cell.output))(states)
    return affine(seen[-spec.task.answers :], params.matrix, params.bias)


def evaluate(spec: TrainSpec, params: Params, sample: Sample) -> tuple[Scalar, Scalar]:
    """Loss and error on one sequence, inputs (T, D), computed with the cell's own step."""

    def advance(h, x):
        h = spec.cell.step(params.cell, h, x)
        return h, spec.cell.output(h)

    start = spec.cell.initial_state(dtype=spec.dtype)
    outputs = lax.scan(advance, start, sample.xs)[1][-spec.task.answers :]
    outputs = affine(outputs, params.readout.matrix, params.readout.bias)
    return loss_of(spec.task, outputs, sample.targets), error_of(spec.task, outputs, sample.targets)


def zero_states(spec: TrainSpec, count: int) -> PyTree:
    """h_0 = 0 of `count` sequences, leaves of shape (`count`, N)."""
    start = spec.cell.initial_state(dtype=spec.dtype)
    return jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), start)


def make_loss(spec: TrainSpec) -> Callable[[Params, Sample], tuple[Scalar, Params]]:
    """Return `loss_and_gradient(params, batch)`: the mean loss over a batch of sequences, and its gradient.

    States start from h_0 = 0. The gradient is computed by `states_with_bptt` if the cell is a `TrainableCell`, and
    otherwise by JAX, through a scan of the step. With `spec.omega` it includes that of Ω, with respect to W only.
    """
    cell, task, omega = spec.cell, spec.task, spec.omega

    def mean_loss(params, states, targets):
        outputs = readout(spec, params.readout, states)
        return jnp.mean(jax.vmap(lambda o, t: loss_of(task, o, t), in_axes=(1, 0))(outputs, targets))

    if not isinstance(cell, TrainableCell):

        def loss_by_step(params, batch):
            start = zero_states(spec, batch.targets.shape[0])
            states = states_by_step(cell, task.answers, params.cell, batch.xs, start)
            return mean_loss(params, states, batch.targets)

        return jax.value_and_grad(loss_by_step)

    def loss(params, perturbations, start, batch):
        maps = cell.affine_maps(params.cell)
        states = states_with_bptt(cell, task.answers, maps, batch.xs, start, perturbations)
        return mean_loss(params, states, batch.targets)

    def loss_and_gradient(params: Params, batch: Sample) -> tuple[Scalar, Params]:
        start = zero_states(spec, batch.targets.shape[0])
        perturbations = no_perturbations(cell.affine_maps(params.cell), start, task.steps)
        if omega is None:
            return jax.value_and_grad(loss)(params, perturbations, start, batch)
        by_both = jax.value_and_grad(loss, argnums=(0, 1))
        value, (by_params, through_time) = by_both(params, perturbations, start, batch)
        more = omega_gradient(omega, params.cell.recurrent, through_time.preactivations[0], through_time.states)
        by_cell = replace(by_params.cell, recurrent=by_params.cell.recurrent + more)
        return value, by_params._replace(cell=by_cell)

    return loss_and_gradient

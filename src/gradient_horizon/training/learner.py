"""One training update: a batch of fresh sequences, its gradient, the clip rule, the optimiser."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Int

from gradient_horizon.numerics.arrays import PyTree
from gradient_horizon.numerics.keys import named_key
from gradient_horizon.tasks.task import Sample
from gradient_horizon.training.clipping import ClipState, clipping
from gradient_horizon.training.flossing import flossed
from gradient_horizon.training.network import Params, all_finite, drawn, loss_and_gradient, sequences
from gradient_horizon.training.spec import Member, TrainSpec

_OPTIMIZERS = {
    "sgd": optax.sgd,
    "momentum": lambda rate: optax.sgd(rate, momentum=0.9),
    "rmsprop": optax.rmsprop,
    "adam": optax.adam,
}


class Learner(NamedTuple):
    """The state of a network in training.

    - `updates`: the number of updates made so far.
    - `diverged_at`: the update after which a parameter was not finite (0: before the first update), or -1.
    """

    params: Params
    optimizer: Any
    updates: Array
    diverged_at: Array

    @property
    def clip(self) -> ClipState:
        """The state of the clip rule after the last gradient."""
        return self.optimizer[0]


def optimizer(spec: TrainSpec, member: Member) -> Any:
    """The clip rule followed by the optimiser, with its usual constants (momentum 0.9)."""
    return optax.with_extra_args_support(
        optax.chain(
            clipping(spec.clip, member.clip_threshold, recurrent="recurrent"),
            _OPTIMIZERS[spec.optimizer](member.learning_rate),
        )
    )


def begin(spec: TrainSpec, member: Member, data: PyTree) -> Learner:
    """The network before its first update, flossed if `spec.flossing` is set."""
    params: PyTree = drawn(spec, member)
    if spec.flossing is not None:
        params = flossed(spec, member, params, data, jnp.zeros((), jnp.int32))
    diverged_at = jnp.where(all_finite(params), jnp.int32(-1), jnp.int32(0))
    return Learner(params, optimizer(spec, member).init(params), jnp.zeros((), jnp.int32), diverged_at)


def next_batch(spec: TrainSpec, member: Member, learner: Learner, data: PyTree) -> Sample:
    """The batch of the next update: fresh for every update, the same at every scale, rate and threshold."""
    key = jax.random.fold_in(named_key(member.key, "data"), learner.updates)
    return sequences(spec, key, spec.batch_size, data)


def update(spec: TrainSpec, member: Member, data: PyTree, learner: Learner) -> Learner:
    """Make one update."""
    params: PyTree = learner.params
    if spec.flossing is not None and spec.flossing.goes_on:
        due = (learner.updates > 0) & (learner.updates % jnp.asarray(spec.flossing.every, jnp.int32) == 0)
        params = flossed(spec, member, params, data, learner.updates, due)
    _, grads = loss_and_gradient(spec, params, next_batch(spec, member, learner, data))
    changes, state = optimizer(spec, member).update(grads, learner.optimizer, params)
    params = jax.tree.map(jnp.add, params, changes)
    updates = learner.updates + 1
    diverges = (learner.diverged_at < 0) & ~all_finite(params)
    return Learner(params, state, updates, jnp.where(diverges, updates, learner.diverged_at))


def advance(spec: TrainSpec, member: Member, data: PyTree, learner: Learner, count: Int[Array, ""]) -> Learner:
    """Make `count` updates."""
    return lax.fori_loop(0, count, lambda _, learner: update(spec, member, data, learner), learner)

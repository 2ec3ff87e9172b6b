"""One training update: a batch of fresh sequences, its gradient, the clip rule, the optimiser."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Int

from gradient_horizon.numerics.arrays import PyTree
from gradient_horizon.numerics.keys import named_key
from gradient_horizon.training.clipping import ClipState, clipping
from gradient_horizon.training.flossing import make_flossing
from gradient_horizon.training.network import Params, all_finite, init_network, make_loss, make_sampler
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


def make_optimizer(spec: TrainSpec) -> Callable[[Member], Any]:
    """Return `optimizer(member)`: the clip rule followed by the optimiser, with its usual constants (momentum 0.9)."""
    descent = _OPTIMIZERS[spec.optimizer]

    def optimizer(member: Member) -> Any:
        clip = clipping(spec.clip, member.clip_threshold, recurrent="recurrent")
        return optax.with_extra_args_support(optax.chain(clip, descent(member.learning_rate)))

    return optimizer


def make_init(spec: TrainSpec) -> Callable[[Member, PyTree], Learner]:
    """Return `init_learner(member, data)`: the network before its first update, flossed if `spec.flossing` is set."""
    optimizer = make_optimizer(spec)
    floss = None if spec.flossing is None else make_flossing(spec, spec.flossing)

    def init_learner(member: Member, data: PyTree) -> Learner:
        params: PyTree = init_network(spec, member)
        if floss is not None:
            params = floss(member, params, data, jnp.zeros((), jnp.int32))
        diverged_at = jnp.where(all_finite(params), jnp.int32(-1), jnp.int32(0))
        return Learner(params, optimizer(member).init(params), jnp.zeros((), jnp.int32), diverged_at)

    return init_learner


def _make_repeated_flossing(spec: TrainSpec) -> Callable[[Member, PyTree, Learner], Params]:
    """Return `floss(member, data, learner)`: the parameters, flossed if that is due before the next update."""
    settings = spec.flossing
    if settings is None or not settings.goes_on:
        return lambda member, data, learner: learner.params
    floss = make_flossing(spec, settings)

    def floss_if_due(member: Member, data: PyTree, learner: Learner) -> Params:
        due = (learner.updates > 0) & (learner.updates % jnp.asarray(settings.every, jnp.int32) == 0)
        return floss(member, learner.params, data, learner.updates, due)

    return floss_if_due


def make_update(spec: TrainSpec) -> Callable[[Member, PyTree, Learner], Learner]:
    """Return `update(member, data, learner)`, which makes one update.

    Its batch is fresh for every update, and the same at every scale, rate and threshold.
    """
    optimizer, sequences, loss_and_gradient = make_optimizer(spec), make_sampler(spec), make_loss(spec)
    floss = _make_repeated_flossing(spec)

    def update(member: Member, data: PyTree, learner: Learner) -> Learner:
        params: PyTree = floss(member, data, learner)
        key = jax.random.fold_in(named_key(member.key, "data"), learner.updates)
        _, grads = loss_and_gradient(params, sequences(key, spec.batch_size, data))
        changes, state = optimizer(member).update(grads, learner.optimizer, params)
        params = jax.tree.map(jnp.add, params, changes)
        updates = learner.updates + 1
        diverges = (learner.diverged_at < 0) & ~all_finite(params)
        return Learner(params, state, updates, jnp.where(diverges, updates, learner.diverged_at))

    return update


def make_advance(spec: TrainSpec) -> Callable[[Member, PyTree, Learner, Int[Array, ""]], Learner]:
    """Return `advance(member, data, learner, count)`, which makes `count` updates."""
    update = make_update(spec)

    def advance(member: Member, data: PyTree, learner: Learner, count: Int[Array, ""]) -> Learner:
        return lax.fori_loop(0, count, lambda _, learner: update(member, data, learner), learner)

    return advance

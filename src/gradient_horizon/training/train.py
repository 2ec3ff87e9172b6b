"""A whole training run as one pure function from keys and numbers to a history.

spec = TrainSpec(make_cell("tanh", 50, 6), make_task("temporal_order", steps=30), clip="book")
train = jax.jit(jax.vmap(make_train(spec), in_axes=(Member(0, None, None, None), None)))
history = train(Member(jax.random.split(key, 8), 1.0, 0.01, 1.0), spec.task.data())
history.record.error     # (8, records + 1)
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from gradient_horizon.numerics.arrays import PyTree
from gradient_horizon.training.ending import ends, remaining
from gradient_horizon.training.learner import Learner, make_advance, make_init
from gradient_horizon.training.record import TrainingRecord, blanked, make_record
from gradient_horizon.training.spec import Member, TrainSpec


class History(NamedTuple):
    """All records of one network, leaves (R + 1, ...), the first before any update, and its parameters at the end.

    Under `spec.until_solved`, records after the one that solved the task are NaN, and the parameters are those at that
    record.
    """

    record: TrainingRecord
    params: PyTree


def solved_at(spec: TrainSpec, error: Float[np.ndarray, "... records"]) -> Int[np.ndarray, "..."]:
    """The update of the first record with an error below `spec.solved_below`, or -1 if there is none."""
    solved = np.asarray(error) < spec.solved_below
    return np.where(solved.any(axis=-1), np.asarray(spec.recorded)[solved.argmax(axis=-1)], -1)


def make_train(spec: TrainSpec) -> Callable[[Member, PyTree], History]:
    """Return `train(member, data) -> History`, to be jitted, and vmapped over any leaf of `member`.

    `data` is the task's.
    """

    init_learner, advance, record_of = make_init(spec), make_advance(spec), make_record(spec)

    def train(member: Member, data: PyTree) -> History:
        learner = init_learner(member, data)

        def onwards(
            carry: tuple[Learner, Bool[Array, ""]], count: Int[Array, ""]
        ) -> tuple[tuple[Learner, Bool[Array, ""]], TrainingRecord]:
            learner, over = carry
            learner = advance(member, data, learner, remaining(spec, over, count))
            record = blanked(record_of(member, data, learner), over)
            return (learner, over | ends(spec, record)), record

        # The first count is 0: recording the untrained network outside the scan would compile everything twice.
        counts = jnp.diff(jnp.asarray(spec.recorded, jnp.int32), prepend=0)
        (learner, _), record = lax.scan(onwards, (learner, jnp.zeros((), bool)), counts)
        return History(record, learner.params)

    return train

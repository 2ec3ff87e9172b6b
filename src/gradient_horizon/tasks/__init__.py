"""Sequences to learn from, one task a file: drawn from keys, one at a time, under `jax.vmap` and `jax.jit`.

task = make_task("temporal_order", steps=50)
xs, targets = task.sample(key, task.data(), test=False, dtype=jnp.float32)
loss = loss_of(task, outputs, targets)      # outputs: what was read from the last task.answers states, (L, K)
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gradient_horizon.arrays import Scalar
from gradient_horizon.task_limits import STORY_CLUE, refusal
from gradient_horizon.tasks.adding import TOLERANCE, adding
from gradient_horizon.tasks.characters import characters
from gradient_horizon.tasks.delayed_xor import delayed_xor
from gradient_horizon.tasks.digits import digits, permuted_digits
from gradient_horizon.tasks.fashion import fashion
from gradient_horizon.tasks.multiplication import multiplication
from gradient_horizon.tasks.random_permutation import random_permutation
from gradient_horizon.tasks.recall import recall
from gradient_horizon.tasks.story import story
from gradient_horizon.tasks.task import Sample, Targets, Task
from gradient_horizon.tasks.temporal_order import temporal_order

__all__ = ["Sample", "Task", "error_of", "loss_of", "make_task"]

_MAKERS: dict[str, Callable[[int], Task]] = {
    "adding": adding,
    "multiplication": multiplication,
    "temporal_order": partial(temporal_order, "temporal_order"),
    "temporal_order_3": partial(temporal_order, "temporal_order_3"),
    "copy_memory": partial(recall, "copy_memory"),
    "delayed_xor": delayed_xor,
    "noiseless_memorisation": partial(recall, "noiseless_memorisation"),
    "random_permutation": random_permutation,
    "digits": digits,
    "permuted_digits": permuted_digits,
    "fashion": fashion,
    "characters": characters,
}


def make_task(name: str, steps: int, *, distance: int | None = None) -> Task:
    """The task `name` (`names.TASKS`) with sequences of T = `steps`.

    `distance`, for `story` alone: the words after the clue; None: as many as fit, so that the story begins with it.
    Raises `ValueError` for an unknown name, for steps or a distance that do not fit the task (`task_limits.refusal`)
    and for data that are not installed.
    """
    refused = refusal(name, steps, distance)
    if refused is not None:
        setting, value, allowed = refused
        raise ValueError(f"{setting}: {value!r}; allowed: {allowed}")
    if name == "story":
        return story(steps, steps - STORY_CLUE if distance is None else distance)
    return _MAKERS[name](steps)


def loss_of(task: Task, outputs: Float[Array, "L K"], targets: Targets) -> Scalar:
    """The mean loss over the L answers of one sequence, in the dtype of `outputs`.

    Classes: the cross-entropy -log softmax(outputs)[target], in nats. Values: the squared error (output - target)².
    """
    if task.kind == "values":
        return jnp.mean(jnp.square(outputs[:, 0] - targets))
    is_target = targets[:, None] == jnp.arange(task.output_size, dtype=jnp.int32)[None, :]
    log_probabilities = jax.nn.log_softmax(outputs, axis=1)
    return -jnp.sum(jnp.where(is_target, log_probabilities, jnp.zeros_like(outputs))) / task.answers


def error_of(task: Task, outputs: Float[Array, "L K"], targets: Targets) -> Scalar:
    """The fraction of the L answers of one sequence that are wrong, in the dtype of `outputs`.

    Classes: the largest output (the first of equal ones) is not the target's. Values: the output is off by more than
    0.04, the criterion of Hochreiter and Schmidhuber 1997, sections 5.4 and 5.5 (Pascanu, Mikolov and Bengio 2013 ask
    for a square above 0.04). An answer that is not finite is wrong.
    """
    if task.kind == "values":
        is_right = jnp.abs(outputs[:, 0] - targets) <= TOLERANCE
    else:
        is_right = (jax.lax.argmax(outputs, 1, jnp.int32) == targets) & jnp.all(jnp.isfinite(outputs), axis=1)
    return 1 - jnp.mean(is_right.astype(outputs.dtype))

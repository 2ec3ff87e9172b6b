"""Construct a task by name.

task = make_task("temporal_order", steps=50)
xs, targets = task.sample(key, task.data(), test=False, dtype=jnp.float32)
loss = loss_of(task, outputs, targets)      # outputs: what was read from the last task.answers states, (L, K)
"""

from collections.abc import Callable
from functools import partial

from gradient_horizon.tasks.adding import adding
from gradient_horizon.tasks.characters import characters
from gradient_horizon.tasks.delayed_xor import delayed_xor
from gradient_horizon.tasks.digits import digits, permuted_digits
from gradient_horizon.tasks.fashion import fashion
from gradient_horizon.tasks.limits import STORY_CLUE, refusal
from gradient_horizon.tasks.multiplication import multiplication
from gradient_horizon.tasks.random_permutation import random_permutation
from gradient_horizon.tasks.recall import recall
from gradient_horizon.tasks.story import story
from gradient_horizon.tasks.task import Task
from gradient_horizon.tasks.temporal_order import temporal_order

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
    """The task `name` (one of `names.TASKS`) with sequences of T = `steps`.

    `distance`, for `story` only: the number of words after the clue; None: as many as fit, so that the story begins
    with the clue. Raises `ValueError` for an unknown name, for steps or a distance that do not fit the task
    (`limits.refusal`) and for data that are not installed.
    """
    refused = refusal(name, steps, distance)
    if refused is not None:
        setting, value, allowed = refused
        raise ValueError(f"{setting}: {value!r}; allowed: {allowed}")
    if name == "story":
        return story(steps, steps - STORY_CLUE if distance is None else distance)
    return _MAKERS[name](steps)

"""Construct a task by name.

task = make_task("temporal_order", steps=50)
xs, targets = task.sample(key, task.data(), test=False, dtype=jnp.float32)
loss = loss_of(task, outputs, targets)      # outputs: what was read from the last task.answers states, (L, K)
"""

from typing import Any

from gradient_horizon.names import declare
from gradient_horizon.tasks.limits import declaration, own_settings, refusal
from gradient_horizon.tasks.task import Task


def make_task(name: str, steps: int, **settings: Any) -> Task:
    """The task `name` (one of `names.TASKS`) with sequences of T = `steps`.

    `settings` are the task's own, such as `distance` of `story`: the number of words after the clue; None: as many as
    fit, so that the story begins with the clue. Raises `ValueError` for an unknown name, for steps or settings that do
    not fit the task (`limits.refusal`) and for data that are not installed.
    """
    allowed_settings = {key for task in declare.declared(declare.Task).values() for key in task.settings}
    for key in sorted({*settings} - allowed_settings):
        raise ValueError(
            f"{key}: {settings[key]!r} is not a setting of a task; allowed: {', '.join(sorted(allowed_settings))}"
        )
    refused = refusal(name, steps, settings)
    if refused is not None:
        setting, value, allowed = refused
        raise ValueError(f"{setting}: {value!r}; allowed: {allowed}")
    task = declaration(name)
    return task.load()(*task.arguments, steps, **own_settings(name, settings))

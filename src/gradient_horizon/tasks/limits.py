"""The limits of each task, as its file declares them. JAX-free, so that an impossible request fails at once."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from gradient_horizon import names
from gradient_horizon.names import declare


def declaration(task: str) -> declare.Task:
    """Return the declaration of `task`; `KeyError` if there is none."""
    return declare.declared(declare.Task)[task]


def own_settings(task: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the `settings` that are the task's own, with its defaults for those that are missing."""
    return {name: settings.get(name, own.default) for name, own in declaration(task).settings.items()}


def usual_steps(task: str, settings: Mapping[str, Any]) -> int:
    """Return the default number of steps of a sequence, given the task's own `settings`."""
    usual = declaration(task).usual_steps
    return usual if isinstance(usual, int) else usual(own_settings(task, settings))


def refusal(task: str, steps: int, settings: Mapping[str, Any]) -> tuple[str, object, str] | None:
    """Return the first setting that `task` does not allow: its name, its value and what is allowed; None if all fit.

    `settings` are own settings of tasks, by name; one that belongs to another task must have its default.
    """
    if task not in names.TASKS:
        return "task", task, ", ".join(names.TASKS)
    declared = declaration(task)
    if declared.pixels is not None and (steps < 1 or declared.pixels % steps):
        return "steps", steps, f"a divisor of {declared.pixels}, the number of pixels, where task={task}"
    if declared.pixels is None and steps < declared.least_steps:
        return "steps", steps, f"at least {declared.least_steps} where task={task}"
    for other in declare.declared(declare.Task).values():
        for name, own in other.settings.items():
            if name not in declared.settings and settings.get(name, own.default) != own.default:
                default = "null" if own.default is None else own.default
                return name, settings[name], f"{default} where task={task}"
    whole = SimpleNamespace(steps=steps, **own_settings(task, settings))
    for need in declared.needs:
        if not need.holds(whole):
            return need.setting, getattr(whole, need.setting), need.allowed(whole)
    missing = declared.missing()
    return None if missing is None else ("task", task, f"any other task, as {missing}")

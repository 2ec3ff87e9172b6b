"""What each task asks of its settings. Nothing here imports JAX, so a wrong one is told before JAX is loaded."""

from gradient_horizon import names

# The smallest number of steps at which every position that a task draws has at least one place to be.
SHORTEST_STEPS = {"adding": 10, "temporal_order": 10, "temporal_order_3": 10}


def refusal(task: str, steps: int) -> tuple[str, object, str] | None:
    """The first setting that `task` does not allow: its name, its value and what is allowed; None if all fit."""
    if task not in names.TASKS:
        return "task", task, ", ".join(names.TASKS)
    shortest = SHORTEST_STEPS[task]
    if steps < shortest:
        return "steps", steps, f"at least {shortest} where task={task}"
    return None

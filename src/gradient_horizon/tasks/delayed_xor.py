"""Delayed XOR: in a stream of random bits, the exclusive or of the bits one delay and two delays back.

x_t is a fair bit, 0 or 1, and the target at step t is x_{t-d} XOR x_{t-2d} wherever both exist: at the last
L = T - 2d steps. The delay d = ⌊T/3⌋ grows with the sequence, so that T alone sets the difficulty of the task. Source:
R. Engelken, "Gradient flossing", NeurIPS 2023 (arXiv:2312.17306), and the code of that paper (there with any d < T/2).
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from gradient_horizon.names import declare
from gradient_horizon.numerics.arrays import PyTree, RandomKey
from gradient_horizon.numerics.keys import named_key
from gradient_horizon.tasks.task import Sample, Task

DECLARES = declare.Task(
    "delayed_xor",
    "report the exclusive or of the bits one and two delays back",
    make="delayed_xor",
    least_steps=3,
    usual_steps=15,
)


def _draw(task: Task, key: RandomKey, data: PyTree, test: bool, dtype: DTypeLike) -> Sample:
    bits = jax.random.randint(named_key(key, "bits"), (task.steps,), 0, 2, jnp.int32)
    delay, answers = task.steps // 3, task.answers
    return Sample(bits.astype(dtype)[:, None], bits[delay : delay + answers] ^ bits[:answers])


def delayed_xor(steps: int) -> Task:
    """Two classes, 0 and 1.

    Chance: the exclusive or of two fair bits is fair and independent of either: log 2 and 1/2.
    """
    return Task("delayed_xor", steps, 1, 2, steps - 2 * (steps // 3), "classes", math.log(2), 1 / 2, _draw)

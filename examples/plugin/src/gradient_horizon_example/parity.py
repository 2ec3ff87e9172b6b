"""Parity: whether the first few bits of a stream of random bits hold an even or an odd number of ones."""

import math

import jax
import jax.numpy as jnp

from gradient_horizon.names import declare, rules
from gradient_horizon.tasks.task import Sample, Task

DECLARES = declare.Task(
    "parity",
    "the parity of the first bits",
    make="parity",
    usual_steps=20,
    settings={"bits": declare.Setting(2, rules.whole(1), "the number of bits that count")},
    needs=(
        declare.Need(
            "bits",
            lambda settings: settings.bits <= settings.steps,
            lambda settings: f"at most steps={settings.steps}",
        ),
    ),
)


def parity(steps: int, bits: int) -> Task:
    """Two classes. Chance: the sum of fair bits is even or odd with equal probability: log 2 and 1/2."""

    def draw(task, key, data, test, dtype):
        stream = jax.random.bernoulli(key, shape=(task.steps,)).astype(jnp.int32)
        return Sample(stream.astype(dtype)[:, None], jnp.sum(stream[:bits], dtype=jnp.int32)[None] % 2)

    return Task(f"parity of {bits}", steps, 1, 2, 1, "classes", math.log(2), 1 / 2, draw)

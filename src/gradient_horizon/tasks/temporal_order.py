"""Temporal order: report the order of a few letters A or B far apart among distractors.

Each step shows one of six symbols, one-hot: A or B (0, 1) at the S positions that count, and one of four distractors
(2 .. 5), drawn independently, at all others. With w = ⌊T/10⌋ the positions are, with steps counted from 0,

    S = 2:  w + U{0 .. w-1},  ⌊5T/10⌋ + U{0 .. w-1}
    S = 3:  w + U{0 .. w-1},  ⌊3T/10⌋ + U{0 .. w-1},  ⌊6T/10⌋ + U{0 .. w-1}

and the class is Σ_k v_k 2^k of the letters v_k in order: AA, BA, AB, BB are 0, 1, 2, 3. Source: R. Pascanu,
T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural networks", ICML 2013, section 4.1.1, and the
code of that paper; after S. Hochreiter and J. Schmidhuber, "Long Short-Term Memory", Neural Computation 9, 1997,
section 5.6.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from gradient_horizon.names import declare
from gradient_horizon.numerics.arrays import PyTree, RandomKey
from gradient_horizon.numerics.keys import named_key
from gradient_horizon.tasks.task import Sample, Task

DECLARES = (
    declare.Task(
        "temporal_order",
        "report the order of two letters",
        make="temporal_order",
        arguments=("temporal_order",),
        least_steps=10,
        usual_steps=30,
    ),
    declare.Task(
        "temporal_order_3",
        "report the order of three letters",
        make="temporal_order",
        arguments=("temporal_order_3",),
        least_steps=10,
        usual_steps=30,
    ),
)

SYMBOLS = 6
WINDOWS = {"temporal_order": (1, 5), "temporal_order_3": (1, 3, 6)}  # start of each window, in tenths of the sequence


def _draw(task: Task, key: RandomKey, data: PyTree, test: bool, dtype: DTypeLike) -> Sample:
    starts = jnp.asarray([tenths * task.steps // 10 for tenths in WINDOWS[task.name]], jnp.int32)
    places = starts + jax.random.randint(named_key(key, "positions"), starts.shape, 0, task.steps // 10, jnp.int32)
    letters = jax.random.randint(named_key(key, "letters"), starts.shape, 0, 2, jnp.int32)
    symbols = jax.random.randint(named_key(key, "distractors"), (task.steps,), 2, SYMBOLS, jnp.int32)
    step = jnp.arange(task.steps, dtype=jnp.int32)
    for place, letter in zip(places, letters, strict=True):
        symbols = jnp.where(step == place, letter, symbols)
    order = jnp.sum(letters << jnp.arange(len(letters), dtype=jnp.int32), dtype=jnp.int32)
    return Sample(jax.nn.one_hot(symbols, SYMBOLS, dtype=dtype), order[None])


def temporal_order(name: str, steps: int) -> Task:
    """The order of the two letters of `temporal_order` or of the three of `temporal_order_3`: 4 or 8 classes.

    Chance: the letters are independent and fair, so all K classes are equally frequent: log K and 1 - 1/K.
    """
    classes = 2 ** len(WINDOWS[name])
    return Task(name, steps, SYMBOLS, classes, 1, "classes", math.log(classes), 1 - 1 / classes, _draw)

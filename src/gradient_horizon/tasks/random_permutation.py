"""Random permutation: recall the first symbol of a sequence at its end; nothing in between helps.

There are 100 symbols, one-hot. The first is 0 or 1; all later ones are drawn from the 98 others, so that they disturb
the state without carrying information; the target after the last of the T steps is the first symbol. Source:
J. Martens, I. Sutskever, "Learning recurrent neural networks with Hessian-free optimization", ICML 2011, and
Pascanu, Mikolov and Bengio 2013, whose code is followed: the others are drawn with replacement, so that T can be any
number. The name comes from S. Hochreiter and J. Schmidhuber, "Long Short-Term Memory", Neural Computation 9, 1997,
section 5.2, in which the others are a permutation.
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
    "random_permutation",
    "recall the first symbol at the end of the sequence",
    make="random_permutation",
    least_steps=2,
    usual_steps=20,
)

SYMBOLS = 100


def _draw(task: Task, key: RandomKey, data: PyTree, test: bool, dtype: DTypeLike) -> Sample:
    first = jax.random.randint(named_key(key, "first"), (1,), 0, 2, jnp.int32)
    others = jax.random.randint(named_key(key, "others"), (task.steps - 1,), 2, SYMBOLS, jnp.int32)
    return Sample(jax.nn.one_hot(jnp.concatenate([first, others]), SYMBOLS, dtype=dtype), first)


def random_permutation(steps: int) -> Task:
    """One class per symbol.

    Chance: the target is 0 or 1, each half of the time, which can be learnt without memory: log 2 and 1/2.
    """
    return Task("random_permutation", steps, SYMBOLS, SYMBOLS, 1, "classes", math.log(2), 1 / 2, _draw)

"""Random permutation: the first symbol of a sequence decides its last one, and nothing in between helps.

There are 100 symbols, one-hot. The first is 0 or 1; all later ones are drawn from the 98 others, so that they disturb
the state without telling anything; after the last of the T steps the first one is to be given again. Source:
J. Martens, I. Sutskever, "Learning recurrent neural networks with Hessian-free optimization", ICML 2011, and
Pascanu, Mikolov and Bengio 2013, as in the code of the latter: the others are drawn with replacement, so that T may
be any, where the name comes from S. Hochreiter and J. Schmidhuber, "Long Short-Term Memory", Neural Computation 9,
1997, section 5.2, where they are a permutation.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from gradient_horizon.numerics.arrays import PyTree, RandomKey
from gradient_horizon.numerics.keys import named_key
from gradient_horizon.tasks.task import Sample, Task

SYMBOLS = 100


def _draw(task: Task, key: RandomKey, data: PyTree, test: bool, dtype: DTypeLike) -> Sample:
    first = jax.random.randint(named_key(key, "first"), (1,), 0, 2, jnp.int32)
    others = jax.random.randint(named_key(key, "others"), (task.steps - 1,), 2, SYMBOLS, jnp.int32)
    return Sample(jax.nn.one_hot(jnp.concatenate([first, others]), SYMBOLS, dtype=dtype), first)


def random_permutation(steps: int) -> Task:
    """One class a symbol.

    Chance: only 0 and 1 are ever asked for, each half of the time, which needs no memory to know: log 2 and 1/2.
    """
    return Task("random_permutation", steps, SYMBOLS, SYMBOLS, 1, "classes", math.log(2), 1 / 2, _draw)

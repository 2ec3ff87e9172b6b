"""Recall: a short pattern of symbols is shown at the beginning and must be reproduced, in order, at the end.

With S pattern symbols of V values the sequence is

    S symbols of the pattern (0 .. V-1), blanks (V), one cue (V + 1), blanks to the end

one-hot, and the target of the k-th of the last S outputs is the k-th symbol of the pattern. Earlier outputs are not
read.

- `copy_memory`: 10 symbols of 8 values, 30 bits; the cue comes one step before the answers begin. Source:
  M. Arjovsky, A. Shah, Y. Bengio, "Unitary evolution recurrent neural networks", ICML 2016, section 5.1 (there the
  target of every earlier step is a blank, so the chance loss of 10 log 8 is divided by T instead of by 10).
- `noiseless_memorisation`: 5 bits; the first answer is read at the cue's own step. Source: J. Martens, I. Sutskever,
  "Learning recurrent neural networks with Hessian-free optimization", ICML 2011, and the code of Pascanu, Mikolov and
  Bengio 2013 (there, too, the earlier targets are blanks).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from gradient_horizon.names import declare
from gradient_horizon.numerics.arrays import PyTree, RandomKey
from gradient_horizon.numerics.keys import named_key
from gradient_horizon.tasks.task import Sample, Task

DECLARES = (
    declare.Task(
        "copy_memory",
        "reproduce ten symbols of eight values",
        make="recall",
        arguments=("copy_memory",),
        least_steps=21,
        usual_steps=30,
    ),
    declare.Task(
        "noiseless_memorisation",
        "reproduce five bits",
        make="recall",
        arguments=("noiseless_memorisation",),
        least_steps=10,
        usual_steps=20,
    ),
)


class Pattern(NamedTuple):
    """S symbols of V values, with the cue `lead` steps before the first answer."""

    symbols: int
    values: int
    lead: int


PATTERNS = {"copy_memory": Pattern(10, 8, 1), "noiseless_memorisation": Pattern(5, 2, 0)}


def _draw(task: Task, key: RandomKey, data: PyTree, test: bool, dtype: DTypeLike) -> Sample:
    symbols, values, lead = PATTERNS[task.name]
    pattern = jax.random.randint(named_key(key, "pattern"), (symbols,), 0, values, jnp.int32)
    is_cue = jnp.arange(symbols, task.steps, dtype=jnp.int32) == task.steps - symbols - lead
    sequence = jnp.concatenate([pattern, values + is_cue.astype(jnp.int32)])
    return Sample(jax.nn.one_hot(sequence, task.input_size, dtype=dtype), pattern)


def recall(name: str, steps: int) -> Task:
    """`copy_memory` or `noiseless_memorisation`.

    Chance: without memory, a network can at best know that the V values are equally frequent: log V and 1 - 1/V.
    """
    symbols, values, _ = PATTERNS[name]
    return Task(name, steps, values + 2, values, symbols, "classes", math.log(values), 1 - 1 / values, _draw)

"""The multiplication problem: the sequences of `adding`, but the target is the product of the two marked numbers.

Source: S. Hochreiter and J. Schmidhuber, "Long Short-Term Memory", Neural Computation 9, 1997, section 5.5; the
positions of the marked numbers are those of `adding`, after Pascanu, Mikolov and Bengio 2013.
"""

import math

from jax.typing import DTypeLike

from gradient_horizon.names import declare
from gradient_horizon.numerics.arrays import PyTree, RandomKey
from gradient_horizon.tasks.adding import TOLERANCE, marked_numbers
from gradient_horizon.tasks.task import Sample, Task

DECLARES = declare.Task(
    "multiplication", "report the product of two marked numbers", make="multiplication", least_steps=10, usual_steps=20
)


def _draw(task: Task, key: RandomKey, data: PyTree, test: bool, dtype: DTypeLike) -> Sample:
    xs, first, second = marked_numbers(key, task.steps, dtype)
    return Sample(xs, (first * second)[None])


def multiplication(steps: int) -> Task:
    """The product z = u_0 u_1 of two independent numbers, uniform on [0, 1).

    Chance: the best constant by squared error is the mean 1/4, with the variance 1/9 - 1/16 = 7/144 as its loss. The
    density of z is -log z, largest at 0, so under the threshold ε the best constant is ε, and z ≤ 2ε has probability
    2ε (1 - log 2ε): about 0.28. (The answer 1/4 is right in only 0.11 of the sequences.)
    """
    right = 2 * TOLERANCE * (1 - math.log(2 * TOLERANCE))
    return Task("multiplication", steps, 2, 1, 1, "values", 7 / 144, 1 - right, _draw)

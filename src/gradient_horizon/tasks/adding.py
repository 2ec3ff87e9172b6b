"""The adding problem: report the mean of the two marked numbers of a long sequence.

Each step shows a number, uniform on [0, 1), and a marker, which is 1 at two of the steps and 0 at the others. The
first marked step lies in the first tenth of the sequence, the second between the first tenth and the middle:

    p_0 = U{0 .. ⌊T/10⌋ - 1},  p_1 = ⌊T/10⌋ + U{0 .. ⌊4T/10⌋ - 1}     (steps counted from 0)

These are the positions of Pascanu, Mikolov and Bengio 2013 (the code of the paper), except that T is fixed here and
drawn anew for each batch there. In S. Hochreiter and J. Schmidhuber, "Long Short-Term Memory", Neural Computation 9,
1997, section 5.4, the first is one of the first ten steps and the second one of the first T/2 - 1, the numbers lie in
[-1, 1] and the target is 0.5 + (X_0 + X_1)/4: the same mean of two numbers once both are scaled to [0, 1]. Others
(Le, Jaitly, Hinton 2015; Arjovsky, Shah, Bengio 2016) use the sum as the target, which makes every squared error four
times as large.
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from gradient_horizon.names import declare
from gradient_horizon.numerics.arrays import PyTree, RandomKey, Scalar
from gradient_horizon.numerics.keys import named_key
from gradient_horizon.tasks.task import Sample, Task

DECLARES = declare.Task(
    "adding", "report the mean of two marked numbers", make="adding", least_steps=10, usual_steps=20
)

TOLERANCE = 0.04  # an answer this close to the value counts as right: Hochreiter and Schmidhuber 1997, section 5.4


def marked_numbers(key: RandomKey, steps: int, dtype: DTypeLike) -> tuple[Float[Array, "T 2"], Scalar, Scalar]:
    """The sequence (columns: number, marker), and its first and second marked numbers."""
    tenth, half = steps // 10, steps // 10 + 4 * steps // 10
    least, bound = jnp.asarray([0, tenth], jnp.int32), jnp.asarray([tenth, half], jnp.int32)
    first, second = jax.random.randint(named_key(key, "positions"), (2,), least, bound, jnp.int32)
    numbers = jax.random.uniform(named_key(key, "numbers"), (steps,), jnp.float32).astype(dtype)
    step = jnp.arange(steps, dtype=jnp.int32)
    is_first, is_second = step == first, step == second
    xs = jnp.stack([numbers, (is_first | is_second).astype(dtype)], axis=1)
    zeros = jnp.zeros_like(numbers)
    return xs, jnp.sum(jnp.where(is_first, numbers, zeros)), jnp.sum(jnp.where(is_second, numbers, zeros))


def _draw(task: Task, key: RandomKey, data: PyTree, test: bool, dtype: DTypeLike) -> Sample:
    xs, first, second = marked_numbers(key, task.steps, dtype)
    return Sample(xs, (0.5 * (first + second))[None])


def adding(steps: int) -> Task:
    """The mean m = (u_0 + u_1)/2 of the two marked numbers.

    Chance: the best constant answer is 1/2 by both measures. Its squared error is the variance of m, 2/12/4 = 1/24.
    The density of m is a triangle on [0, 1] with its peak at 1/2, so |m - 1/2| > ε has probability (1 - 2ε)².
    """
    return Task("adding", steps, 2, 1, 1, "values", 1 / 24, (1 - 2 * TOLERANCE) ** 2, _draw)

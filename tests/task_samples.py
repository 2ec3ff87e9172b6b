"""Many sequences of a task as NumPy arrays, and the bounds that counts of them keep."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import chisquare

from gradient_horizon.tasks import Task

MISTAKE = 1e-6  # the probability that a right program fails one of these bounds, had the seed not been fixed


def keys(count: int) -> jax.Array:
    """Of so many sequences."""
    return jax.random.split(jax.random.key(3), count)


@cache
def samples(task: Task, count: int, test: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """`xs` (`count`, T, D) and `targets` (`count`, L)."""
    draw = jax.jit(jax.vmap(lambda key, data: task.sample(key, data, test=test, dtype=jnp.float32), (0, None)))
    xs, targets = draw(keys(count), task.data())
    return np.asarray(xs), np.asarray(targets)


def assert_uniform(values: np.ndarray, choices: int) -> None:
    """`values` are independent and uniform on 0 .. `choices` - 1, by the chi-square test."""
    counts = np.bincount(values.ravel(), minlength=choices)
    assert len(counts) == choices, f"{values.max()} is not one of {choices}"
    assert choices == 1 or chisquare(counts).pvalue > MISTAKE, counts


def assert_mean(values: np.ndarray, expected: float) -> None:
    """The mean of independent `values` is `expected`, within 5 standard errors (a mistake of 6e-7)."""
    spread = values.std() / np.sqrt(values.size)
    assert abs(values.mean() - expected) <= 5 * spread, (values.mean(), expected, spread)

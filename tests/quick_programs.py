"""Compiled measures without the programs that only a suspect result needs."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from gradient_horizon.numerics import fallback


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """`jax.jit(function, **options)`, compiled as measures are outside `jax.jit` (see `numerics.compiled`).

    What is computed again if a result is suspect is a program of its own, compiled only then. Inside `jax.jit` it is
    a part of every program, and most of it. Not for a function that transforms a measure.
    """

    @functools.wraps(function)
    def quickly(*args: Any, **kwargs: Any) -> Any:
        with fallback.postponed() as suspicions:
            return function(*args, **kwargs), suspicions

    quick, careful = jax.jit(quickly, **options), jax.jit(function, **options)

    def call(*args: Any, **kwargs: Any) -> Any:
        found, suspicions = quick(*args, **kwargs)
        return careful(*args, **kwargs) if any(map(bool, suspicions)) else found

    return call

"""Shaped array types: N hidden units, D inputs, T steps."""

from collections.abc import Callable
from typing import Any, TypeAlias

from jaxtyping import Array, Float, Int, Key

PyTree: TypeAlias = Any
Step: TypeAlias = Callable[[Any, Any, Any], Any]  # step(params, h, x) -> h
RandomKey: TypeAlias = Key[Array, ""]
# What belongs to each matrix of a cell's step, in the order in which the step uses them: one, or two for a GRU.
Factors: TypeAlias = tuple[Array, ...]
Scalar: TypeAlias = Float[Array, ""]
Vector: TypeAlias = Float[Array, " N"]
Matrix: TypeAlias = Float[Array, "N N"]
Series: TypeAlias = Float[Array, " T"]
IntSeries: TypeAlias = Int[Array, " T"]

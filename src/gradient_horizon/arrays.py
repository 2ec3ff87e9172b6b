"""Shaped array types: N hidden units, D inputs, T steps."""

from collections.abc import Callable
from typing import Any, TypeAlias

from jaxtyping import Array, Float, Int, Key

PyTree: TypeAlias = Any
Step: TypeAlias = Callable[[Any, Any, Any], Any]  # step(params, h, x) -> h
RandomKey: TypeAlias = Key[Array, ""]
Scalar: TypeAlias = Float[Array, ""]
Vector: TypeAlias = Float[Array, " N"]
Matrix: TypeAlias = Float[Array, "N N"]
Series: TypeAlias = Float[Array, " T"]
IntSeries: TypeAlias = Int[Array, " T"]

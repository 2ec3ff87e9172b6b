"""Hints for XLA, for cases in which its default is several times slower."""

from collections.abc import Callable
from typing import Any

import jax
from jax.experimental.xla_metadata import set_xla_metadata
from jaxtyping import Array


@jax.jit
def _itself(array: Array) -> Array:
    return array


def materialised(array: Array) -> Array:
    """Return `array` through a call that XLA must not inline.

    The operations that produce it are then neither repeated at each of its uses nor fused into one loop with them,
    which often cannot be vectorised. (`lax.optimization_barrier` is removed before XLA fuses loops.)
    """
    with set_xla_metadata(inlineable="false"):
        return _itself(array)


def unroll(n: int) -> int:
    """How many steps of a scan form one loop body: gains up to 30 % if steps are short, nothing beyond N = 64."""
    return 4 if n <= 64 else 1


def reduces(function: Callable[..., Any], *arguments: Any) -> bool:
    """True if `function` takes a sum, a maximum or the like over an axis, other than in a matrix product.

    XLA fuses such a reduction with whatever leads to it, and repeats that for each of its uses; in a loop body of four
    steps this multiplies: with a layer normalisation a step then takes 2.5 times as long as in a body of one (N = 16
    and 64).
    """
    return _has_reduction(jax.make_jaxpr(function)(*arguments).jaxpr)


def _has_reduction(jaxpr: Any) -> bool:
    for equation in jaxpr.eqns:
        inner = [getattr(value, "jaxpr", value) for value in equation.params.values()]
        if (
            equation.primitive.name.startswith(("reduce_", "arg", "cum"))
            and equation.primitive.name != "reduce_precision"
        ):
            return True
        if any(hasattr(program, "eqns") and _has_reduction(program) for program in inner):
            return True
    return False

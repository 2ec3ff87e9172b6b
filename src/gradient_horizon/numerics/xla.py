"""Hints for XLA, for cases in which its default is several times slower."""

import jax
from jax.experimental.xla_metadata import set_xla_metadata
from jaxtyping import Array


@jax.jit
def _itself(array: Array) -> Array:
    return array


def computed_once(array: Array) -> Array:
    """`array`, through a call that XLA must not inline.

    What made it is then neither computed again at each of its uses nor rolled into one loop with what uses it, which
    often cannot be vectorised. (`lax.optimization_barrier` is taken away before XLA makes such loops.)
    """
    with set_xla_metadata(inlineable="false"):
        return _itself(array)


def unroll(n: int) -> int:
    """Steps of a scan in one loop body: gains up to 30 % where a step is short, nothing beyond N = 64."""
    return 4 if n <= 64 else 1

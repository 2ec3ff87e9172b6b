"""Hints for XLA, for cases in which its default is several times slower."""

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

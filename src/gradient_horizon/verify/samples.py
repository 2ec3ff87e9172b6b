"""Networks and factors for the checks, drawn in NumPy unless the draw itself is tested: nothing to compile."""

from functools import lru_cache
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from gradient_horizon.cells.vanilla import VanillaParams


def linear(matrix: Any, h: Any, x: Any) -> Any:
    """The step h ← W h, or h ← x h if the inputs are matrices."""
    return (matrix if x is None else x) @ h


def gaussian(
    rng: np.random.Generator, n: int, d: int = 0, scale: float = 1.0, bias: float = 0.0, dtype: str = "float64"
) -> VanillaParams:
    """W ~ N(0, `scale`²/n), U ~ N(0, 1/d) and b ~ N(0, `bias`²) of a vanilla cell, or of one gate."""
    w = rng.standard_normal((n, n)) * scale / np.sqrt(n)
    u = rng.standard_normal((n, d)) / np.sqrt(max(d, 1))
    b = rng.standard_normal(n) * bias
    return VanillaParams(*(jnp.asarray(array, dtype) for array in (w, u, b)))


@lru_cache(maxsize=1)
def unit_networks(sizes: tuple[int, ...], seeds: int) -> dict[str, Float[np.ndarray, "..."]]:
    """W⁰ ~ N(0, 1/N), b⁰ and h⁰ ~ N(0, 1) of Gaussian networks in float32: `seeds` of each size N, size after size.

    All are padded with zeros to the largest size, so that one program measures them: the padding has no incoming or
    outgoing weights and adds nothing to the norm of a product. `size` is N.
    """
    rng, most, count = np.random.default_rng(8), max(sizes), len(sizes) * seeds
    size = np.repeat(np.array(sizes), seeds)
    weights, bias, state = (
        rng.standard_normal(shape, np.float32) for shape in ((count, most, most), (count, most), (count, most))
    )
    for network, n in enumerate(size):
        weights[network] /= np.sqrt(n)
        weights[network, n:] = weights[network, :, n:] = bias[network, n:] = state[network, n:] = 0.0
    return {"weights": weights, "bias": bias, "state": state, "size": size.astype(np.float32)}


def sech_squared(x: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """The slope of tanh, by a formula other than the package's."""
    return 1.0 / np.cosh(x) ** 2

"""Input sequences that drive a network: Gaussian noise, or handwritten digits read pixel by pixel."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from gradient_horizon.numerics.arrays import RandomKey, available
from gradient_horizon.numerics.keys import named_key, normal, sized_key


def digit_pixels() -> Float[np.ndarray, "1797 64"]:
    """The 1797 handwritten digits of scikit-learn, row by row, each pixel in [0, 1].

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI 1998 (the test set).
    """
    from sklearn.datasets import load_digits

    return np.asarray(load_digits(return_X_y=True)[0] / 16.0, np.float32)


def digit_sequence(
    key: RandomKey, pixels: Float[Array, "K P"], steps: int, dtype: DTypeLike = jnp.float32
) -> Float[Array, "T 1"]:
    """Digits drawn by `key`, with replacement, and read one after the other for `steps` pixels.

    A different number of steps draws different digits.
    """
    count, length = pixels.shape
    key = sized_key(named_key(key, "inputs"), steps)
    chosen = jax.random.randint(key, (-(-steps // length),), 0, count, jnp.int32)
    return pixels[chosen].reshape(-1, 1)[:steps].astype(available(dtype))


def noise_sequence(
    key: RandomKey, size: int, steps: int, scale: ArrayLike = 1.0, dtype: DTypeLike = jnp.float32
) -> Float[Array, "T D"]:
    """Independent N(0, `scale`²) numbers at every step; a different number of steps, or size, draws different ones."""
    return jnp.asarray(scale, dtype) * normal(named_key(key, "inputs"), (steps, size), dtype)

"""Image classification from sequences: images are read row by row, some pixels per step, and classified at the end."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Shaped

from gradient_horizon.numerics.arrays import RandomKey
from gradient_horizon.numerics.keys import named_key
from gradient_horizon.tasks.task import Sample, Task

CLASSES = 10


class Images(NamedTuple):
    """Training and held-out images and their labels. A pixel is in [0, 1], or a byte: 255 times that."""

    pixels: Shaped[np.ndarray | Array, "M P"]
    labels: Int[np.ndarray | Array, " M"]
    held_out_pixels: Shaped[np.ndarray | Array, "H P"]
    held_out_labels: Int[np.ndarray | Array, " H"]


def _fractions(pixels: Shaped[Array, " P"]) -> Float[Array, " P"]:
    return pixels.astype(jnp.float32) / 255 if pixels.dtype == jnp.uint8 else pixels


def _draw(task: Task, key: RandomKey, data: Images, test: bool, dtype: DTypeLike) -> Sample:
    pixels, labels = (data.held_out_pixels, data.held_out_labels) if test else (data.pixels, data.labels)
    chosen = jax.random.randint(named_key(key, "image"), (), 0, len(labels), jnp.int32)
    image = _fractions(jnp.asarray(pixels)[chosen]).astype(dtype)
    return Sample(image.reshape(task.steps, task.input_size), jnp.asarray(labels)[chosen][None])


def image_task(name: str, steps: int, pixels: int, load: Callable[[], Images]) -> Task:
    """The task `name`, with `pixels`/`steps` of an image's `pixels` at each step, and images drawn with replacement.

    Chance: the ten classes must be equally frequent, hence log 10 and 9/10.
    """
    width = pixels // steps
    return Task(name, steps, width, CLASSES, 1, "classes", math.log(CLASSES), 1 - 1 / CLASSES, _draw, load)

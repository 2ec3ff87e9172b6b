"""Sequential handwritten digits, 8 x 8 pixels, one or several pixels per step, in order or permuted.

Of each digit's images, in the order of the data set, the 5th, 10th, 15th, ... are held out: 356 of 1797, 34 to 36 of
each digit. A held-out image is unseen, but its writer need not be. `permuted_digits` shows the pixels of every image in
the same permuted order, drawn once and for all, so that neighbouring pixels end up far apart (after Q. V. Le,
N. Jaitly, G. E. Hinton, arXiv:1504.00941, 2015, section 4.2).
"""

from functools import cache

import jax
import numpy as np

from gradient_horizon.names import declare
from gradient_horizon.numerics.keys import named_key
from gradient_horizon.tasks.drives import digit_pixels
from gradient_horizon.tasks.images import CLASSES, Images, image_task
from gradient_horizon.tasks.task import Task

PIXELS = 64
_MISSING = declare.without_package("sklearn", "scikit-learn", "pip install gradient-horizon[data]")
DECLARES = (
    declare.Task(
        "digits",
        "classify handwritten digits, 64 pixels in order",
        make="digits",
        pixels=PIXELS,
        usual_steps=PIXELS,
        solved_below=0.1,
        missing=_MISSING,
    ),
    declare.Task(
        "permuted_digits",
        "classify handwritten digits, 64 pixels in a permuted order",
        make="permuted_digits",
        pixels=PIXELS,
        usual_steps=PIXELS,
        solved_below=0.1,
        missing=_MISSING,
    ),
)


@cache
def digit_images() -> Images:
    """The digits of `gradient_horizon.tasks.drives`."""
    from sklearn.datasets import load_digits

    pixels, labels = digit_pixels(), np.asarray(load_digits(return_X_y=True)[1], np.int32)
    held_out = np.sort(np.concatenate([np.flatnonzero(labels == digit)[4::5] for digit in range(CLASSES)]))
    rest = np.setdiff1d(np.arange(len(labels)), held_out)
    return Images(pixels[rest], labels[rest], pixels[held_out], labels[held_out])


@cache
def permuted_digit_images() -> Images:
    """The same images with their pixels permuted."""
    images = digit_images()
    order = np.asarray(jax.random.permutation(named_key(jax.random.key(0), "permuted_digits"), images.pixels.shape[1]))
    return images._replace(pixels=images.pixels[:, order], held_out_pixels=images.held_out_pixels[:, order])


def digits(steps: int) -> Task:
    """The digits, 64/`steps` pixels per step. Chance: the classes are equally frequent to within 0.3 %."""
    return image_task("digits", steps, PIXELS, digit_images)


def permuted_digits(steps: int) -> Task:
    """The digits with their pixels permuted. Chance: the classes are equally frequent to within 0.3 %."""
    return image_task("permuted_digits", steps, PIXELS, permuted_digit_images)

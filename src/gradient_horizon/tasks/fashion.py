"""Sequential Fashion-MNIST, 28 x 28 pixels of ten kinds of clothes, one or several pixels per step.

60,000 training images and 10,000 held-out ones, as split by the data set itself, read from where Debian's package
`dataset-fashion-mnist` installs them. Source: H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST", arXiv:1708.07747, 2017.
"""

import gzip
from functools import cache
from pathlib import Path

import numpy as np

from gradient_horizon.names import declare
from gradient_horizon.tasks.images import Images, image_task
from gradient_horizon.tasks.task import Task

PIXELS = 784
FILES = tuple(
    Path("/usr/share/datasets/fashion-mnist") / f"{part}-{kind}-ubyte.gz"
    for part in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
)
DECLARES = declare.Task(
    "fashion",
    "classify the images of Fashion-MNIST, 784 pixels in order",
    make="fashion",
    pixels=PIXELS,
    usual_steps=PIXELS,
    solved_below=0.2,
    missing=declare.without_files(FILES, "apt install dataset-fashion-mnist"),
)


def _idx(path: Path) -> np.ndarray:
    """The bytes of a compressed IDX file, in the shape given by its header: (0, 0, type, rank), then the sizes."""
    content = gzip.decompress(path.read_bytes())
    rank = content[3]
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(np.frombuffer(content, ">u4", rank, 4))


def _flat(path: Path) -> np.ndarray:
    images = _idx(path)
    return images.reshape(len(images), -1)


@cache
def fashion_images() -> Images:
    """All images, one byte per pixel."""
    images, labels, held_out_images, held_out_labels = FILES
    return Images(
        _flat(images), _idx(labels).astype(np.int32), _flat(held_out_images), _idx(held_out_labels).astype(np.int32)
    )


def fashion(steps: int) -> Task:
    """The clothes, 784/`steps` pixels per step. Chance: the classes are equally frequent in both parts."""
    return image_task("fashion", steps, PIXELS, fashion_images)

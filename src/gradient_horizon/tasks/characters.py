"""Character-level language modelling on the source code of Python's standard library.

The modules of `LIBRARY_MODULES`, one after the other, form the training text, and those of `HELD_OUT_MODULES`
the held-out text. A sequence begins anywhere in its text; each of its T steps shows one character, one-hot, and the
target is the next one. The printable ASCII characters and the newline have a class each, 96 in all; all other
characters share one further class. The text, and with it the chance level, depends on the version of Python that runs.
"""

import sysconfig
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, UInt8

from gradient_horizon.names import declare
from gradient_horizon.numerics.arrays import RandomKey
from gradient_horizon.numerics.keys import named_key
from gradient_horizon.tasks.task import Sample, Task

LIBRARY = Path(sysconfig.get_path("stdlib"))
LIBRARY_MODULES = (
    *("argparse", "ast", "bdb", "calendar", "cmd", "codecs", "codeop", "configparser", "contextlib", "copy", "csv"),
    *("dataclasses", "dis", "enum", "filecmp", "fileinput", "fnmatch", "ftplib", "functools", "gettext", "hashlib"),
    *("imaplib", "inspect", "ipaddress", "mailbox", "optparse", "pdb", "pickle", "pickletools", "platform", "plistlib"),
    *("pprint", "pstats", "pydoc", "queue", "random", "sched", "selectors", "shelve", "shlex", "smtplib", "socket"),
    *("socketserver", "statistics", "subprocess", "tarfile", "tempfile", "threading", "timeit", "tokenize"),
    *("traceback", "typing", "uuid", "webbrowser"),
)
HELD_OUT_MODULES = ("bisect", "difflib", "doctest", "fractions", "heapq", "shutil", "textwrap", "trace")
DECLARES = declare.Task(
    "characters",
    "predict the next character of program text",
    make="characters",
    usual_steps=50,
    solved_below=0.5,
    missing=declare.without_files([LIBRARY / f"{name}.py" for name in (*LIBRARY_MODULES, *HELD_OUT_MODULES)]),
)

ALPHABET = "".join(map(chr, range(32, 127))) + "\n"
CLASSES = len(ALPHABET) + 1


class Texts(NamedTuple):
    """Class numbers of the characters of the training text and of the held-out text."""

    characters: UInt8[np.ndarray | Array, " M"]
    held_out: UInt8[np.ndarray | Array, " H"]


def encode(text: str) -> UInt8[np.ndarray, " M"]:
    """The class of each character: its index in `ALPHABET`, or the last class."""
    points = np.frombuffer(text.encode("utf-32-le"), "<u4")
    table = np.full(128, CLASSES - 1, np.uint8)
    table[[ord(character) for character in ALPHABET]] = np.arange(len(ALPHABET))
    return table[np.minimum(points, 127)]


def _read(modules: tuple[str, ...]) -> UInt8[np.ndarray, " M"]:
    return encode("".join((LIBRARY / f"{module}.py").read_text(encoding="utf-8") for module in modules))


@cache
def library_texts() -> Texts:
    """The training text and the held-out text."""
    return Texts(_read(LIBRARY_MODULES), _read(HELD_OUT_MODULES))


def _draw(task: Task, key: RandomKey, data: Texts, test: bool, dtype: DTypeLike) -> Sample:
    text = jnp.asarray(data.held_out if test else data.characters)
    start = jax.random.randint(named_key(key, "start"), (), 0, len(text) - task.steps, jnp.int32)
    window = jax.lax.dynamic_slice(text, (start,), (task.steps + 1,)).astype(jnp.int32)
    return Sample(jax.nn.one_hot(window[:-1], CLASSES, dtype=dtype), window[1:])


def characters(steps: int) -> Task:
    """One class per character, one answer per step.

    Chance: the best constant answer is the frequency p of each character in the held-out text. The loss is the entropy
    -Σ p log p; the error, always answering the most frequent character (the space), is 1 - max p.
    """
    counts = np.bincount(library_texts().held_out)
    p = counts[counts > 0] / counts.sum()
    chance_loss, chance_error = float(-np.sum(p * np.log(p))), float(1 - p.max())
    return Task(
        "characters", steps, CLASSES, CLASSES, steps, "classes", chance_loss, chance_error, _draw, library_texts
    )

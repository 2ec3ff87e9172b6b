"""Limits of each task's settings, and its data requirements. JAX-free, so that an impossible request fails at once."""

import importlib.util
import sysconfig
from pathlib import Path

from gradient_horizon import names

# Words of a story: its clue, and at least this many after it.
STORY_CLUE, STORY_END = 24, 9
# The smallest number of steps that leaves room for every position that a task draws.
SHORTEST_STEPS = {
    "adding": 10,
    "multiplication": 10,
    "temporal_order": 10,
    "temporal_order_3": 10,
    "copy_memory": 21,
    "delayed_xor": 3,
    "noiseless_memorisation": 10,
    "random_permutation": 2,
    "story": STORY_CLUE + STORY_END,
    "characters": 1,
}
# An image is cut into equal parts, one per step.
PIXELS = {"digits": 64, "permuted_digits": 64, "fashion": 784}
# The default number of steps: for an image as many as it has pixels, for a story as many as it needs (`usual_steps`).
_USUAL_STEPS = {
    **PIXELS,
    "adding": 20,
    "multiplication": 20,
    "temporal_order": 30,
    "temporal_order_3": 30,
    "copy_memory": 30,
    "delayed_xor": 15,
    "noiseless_memorisation": 20,
    "random_permutation": 20,
    "characters": 50,
}

# The error below which a network counts as having solved its task: 1 % if every answer can be known.
SOLVED_BELOW = {"digits": 0.1, "permuted_digits": 0.1, "fashion": 0.2, "characters": 0.5}
SOLVED_BELOW_OTHERS = 0.01

FASHION_FILES = tuple(
    Path("/usr/share/datasets/fashion-mnist") / f"{part}-{kind}-ubyte.gz"
    for part in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
)

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


def usual_steps(task: str, distance: int | None = None) -> int:
    """The default number of steps of a sequence of `task`."""
    return STORY_CLUE + max(STORY_END, distance or 0) if task == "story" else _USUAL_STEPS[task]


def _missing(task: str) -> str | None:
    """What is missing of the data of `task` on this machine, and what to do about it; None if they are complete."""
    if task in ("digits", "permuted_digits") and importlib.util.find_spec("sklearn") is None:
        return "scikit-learn is not installed (pip install gradient-horizon[data])"
    if task == "fashion" and not all(file.is_file() for file in FASHION_FILES):
        return f"{FASHION_FILES[0].parent} lacks its files (apt install dataset-fashion-mnist)"
    if task == "characters":
        lacking = [name for name in (*LIBRARY_MODULES, *HELD_OUT_MODULES) if not (LIBRARY / f"{name}.py").is_file()]
        return f"{LIBRARY} lacks the sources of {', '.join(lacking)}" if lacking else None
    return None


def refusal(task: str, steps: int, distance: int | None = None) -> tuple[str, object, str] | None:
    """The first setting that `task` does not allow: its name, its value and what is allowed; None if all are valid."""
    if task not in names.TASKS:
        return "task", task, ", ".join(names.TASKS)
    if task in PIXELS and (steps < 1 or PIXELS[task] % steps):
        return "steps", steps, f"a divisor of {PIXELS[task]}, the number of pixels, where task={task}"
    if task not in PIXELS and steps < SHORTEST_STEPS[task]:
        return "steps", steps, f"at least {SHORTEST_STEPS[task]} where task={task}"
    if task != "story" and distance is not None:
        return "distance", distance, f"null where task={task}"
    if distance is not None and not STORY_END <= distance <= steps - STORY_CLUE:
        allowed = f"from {STORY_END} to {steps - STORY_CLUE}, the steps without the {STORY_CLUE} words of the clue"
        return "distance", distance, f"{allowed}, or null for the longest"
    missing = _missing(task)
    if missing is not None:
        return "task", task, f"any other, as {missing}"
    return None

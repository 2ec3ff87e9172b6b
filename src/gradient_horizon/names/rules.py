"""Rules for the values of settings, in words and as tests, and the error for a value that breaks one. Loads no JAX."""

import math
import operator
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LARGEST_SEED = 2**32 - 1
LARGEST_WHOLE = 2**31 - 1  # the largest index of 32 bits
LARGEST_MEMORY = 1_000_000  # GiB
MOST_VALUES = 10**7  # in one list
LONGEST_NAME = 200  # bytes; file systems allow 255
LONGEST_SHOWN = 300  # characters of a wrong value or a name in a message
LONGEST_MESSAGE = 4000


class SettingError(ValueError):
    """A setting with a value that is not allowed; the message is one line for the user.

    It lists the values that are `allowed`, or gives the reason (`because`) if no value of this setting is.
    """

    def __init__(self, setting: str, value: Any, allowed: str = "", *, because: str = ""):
        rest = f": {because}" if because else f"; allowed: {allowed}"
        super().__init__(one_line(f"{cut(setting)}: {shown(value)} is not allowed{rest}"[:LONGEST_MESSAGE]))

    def within(self, place: str) -> "SettingError":
        """Return the same error, for a setting in the file `place`."""
        self.args = (f"{one_line(place)}: {self}",)
        return self


def one_line(text: str) -> str:
    """Return `text` with line breaks replaced by spaces, and other unprintable characters escaped."""
    return "".join(c if c.isprintable() else " " if c == "\n" else ascii(c)[1:-1] for c in text)


def shown(value: Any) -> str:
    """Return a value as messages show it: as Python prints it, shortened if it is long."""
    try:
        text = repr(value)
    except ValueError:  # more digits than Python converts to text
        text = f"a number of {value.bit_length()} bits" if isinstance(value, int) else "..."
    return cut(text)


def cut(text: str) -> str:
    """Return `text`; if it is too long to be shown, only its beginning and its length."""
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 30]}... ({len(text)} characters)"


@dataclass(frozen=True)
class Rule:
    """What a setting allows: in words, as a test, and as the words offered by shell completion.

    `expand` turns a value as it is written into the one that is tested and used: `8` seeds into 0 to 7, a range into
    its numbers. What it cannot expand it returns unchanged, or as an empty list, which no rule accepts.
    """

    allowed: str
    accepts: Callable[[Any], bool]
    options: tuple[str, ...] = ()
    expand: Callable[[Any], Any] = lambda value: value


def is_number(value: Any) -> bool:
    """True if it is a finite number that a float can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_whole(value: Any) -> bool:
    """True if it is an integer; booleans do not count."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_index(value: Any) -> bool:
    """True if it is an integer of any type, such as NumPy's; booleans do not count."""
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)


def whole_number(name: str, value: Any, least: int | None = 1) -> int:
    """`value`, an integer of Python, NumPy or JAX, as an int; `ValueError` for anything else, or below `least`."""
    number = operator.index(value) if is_index(value) else None
    if number is None or (least is not None and number < least):
        raise ValueError(
            f"{name}: {shown(value)}; allowed: a whole number{'' if least is None else f' of at least {least}'}"
        )
    return number


def one_of(options: Sequence[str]) -> Rule:
    """One of these words."""
    return Rule(", ".join(options), lambda value: value in options, tuple(options))


def one_of_or_null(options: Sequence[str]) -> Rule:
    """One of these words, or null."""
    return Rule(f"{', '.join(options)}, or null", lambda value: value is None or value in options, tuple(options))


def some_of(options: Sequence[str]) -> Rule:
    """One or more of these words, each once."""
    return Rule(
        f"one or more of {', '.join(options)}, each once",
        lambda value: 0 < len(value) == len(set(value)) and set(value) <= set(options),
        tuple(options),
        _expanded_names,
    )


def whole(least: int, most: int = LARGEST_WHOLE) -> Rule:
    """A whole number from `least` to `most`."""
    return Rule(
        f"a whole number of at least {least} and at most {most}",
        lambda value: is_whole(value) and least <= value <= most,
    )


def whole_or_null(least: int, most: int = LARGEST_WHOLE) -> Rule:
    """A whole number from `least` to `most`, or null."""
    rule = whole(least, most)
    return Rule(f"{rule.allowed}, or null", lambda value: value is None or rule.accepts(value))


FINITE = Rule("a finite number", is_number)
NOT_NEGATIVE = Rule("a finite number of at least 0", lambda value: is_number(value) and value >= 0)
POSITIVE = Rule("a finite number above 0", lambda value: is_number(value) and value > 0)
POSITIVE_OR_NULL = Rule(
    "a finite number above 0, or null", lambda value: value is None or (is_number(value) and value > 0)
)
MEMORY_OR_NULL = Rule(
    f"a number above 0 and at most {LARGEST_MEMORY}, or null",
    lambda value: value is None or (is_number(value) and 0 < value <= LARGEST_MEMORY),
)
FRACTION = Rule("a number above 0 and at most 1", lambda value: is_number(value) and 0 < value <= 1)
SWITCH = Rule("true or false", lambda value: isinstance(value, bool), ("true", "false"))
SEEDS = Rule(
    f"a whole number of at least 1 and at most {MOST_VALUES} (8 means 0 to 7), or a list of different whole numbers"
    f" from 0 to {LARGEST_SEED}",
    lambda value: (
        bool(value) and all(is_whole(s) and 0 <= s <= LARGEST_SEED for s in value) and len(set(value)) == len(value)
    ),
    expand=lambda value: _expanded_seeds(value),
)
LAGS = Rule(
    f"a list of different whole numbers of at least 1 and at most {LARGEST_WHOLE}, or null",
    lambda value: (
        value is None
        or (
            bool(value)
            and all(is_whole(lag) and 1 <= lag <= LARGEST_WHOLE for lag in value)
            and len(set(value)) == len(value)
        )
    ),
    expand=lambda value: _expanded_lags(value),
)


def _some_numbers(allowed: str, accepts: Callable[[Any], bool], usual: Sequence[float] | None = None) -> Rule:
    """Numbers that satisfy `accepts`; null stands for the `usual` ones."""
    return Rule(
        f"{allowed}, a list of different ones, or {{start: .., stop: .., num: .., spacing: linear or log}}",
        lambda value: bool(value) and all(accepts(entry) for entry in value) and len(set(value)) == len(value),
        expand=lambda value: _expanded_numbers(list(usual) if value is None and usual else value),
    )


SCALES = _some_numbers(
    "a finite number of at least 0", lambda value: is_number(value) and value >= 0, (0.5, 1.0, 1.5, 2.0)
)
RATES = _some_numbers("a finite number above 0", lambda value: is_number(value) and value > 0)


def _expanded_seeds(value: Any) -> Any:
    if is_whole(value) and 1 <= value <= MOST_VALUES:
        return list(range(value))
    return value if isinstance(value, list) else []


def _expanded_numbers(value: Any) -> Any:
    if isinstance(value, Mapping):
        try:
            start, stop, num = (value[key] for key in ("start", "stop", "num"))
            spacing = value.get("spacing", "linear")
            if set(value) - {"start", "stop", "num", "spacing"} or spacing not in ("linear", "log"):
                return []
            if not (is_whole(num) and 1 <= num <= MOST_VALUES):
                return []
            if not (is_number(start) and is_number(stop)):
                return []
            if spacing == "log":
                if min(start, stop) <= 0:
                    return []
                start, stop = math.log(start), math.log(stop)
            points = [start + (stop - start) * k / max(num - 1, 1) for k in range(num)]
            value = [math.exp(point) for point in points] if spacing == "log" else points
        except (KeyError, TypeError, ValueError, OverflowError):
            return []
    if is_number(value):
        value = [value]
    if not isinstance(value, list):
        return []
    # Twelve digits: 1.05 is the same network whether it was typed or came from a range.
    return [unsigned_zero(float(f"{scale:.12g}")) if is_number(scale) else scale for scale in value]


def unsigned_zero(value: float) -> float:
    """Return the same number, but 0.0 for -0.0, which would have a name and a hash of its own."""
    return value + 0.0


def _expanded_lags(value: Any) -> Any:
    value = [value] if is_whole(value) else value
    return sorted(value) if isinstance(value, list) and all(map(is_whole, value)) else value


def _expanded_names(value: Any) -> Any:
    return [value] if isinstance(value, str) else value if isinstance(value, list) else []


def _is_name(value: Any) -> bool:
    return value is None or (
        isinstance(value, str)
        and value == value.strip()
        and Path(value).name == value
        and value not in ("", ".", "..")
        and value.isprintable()
        and not _is_missing(value)
        and len(value.encode(errors="replace")) <= LONGEST_NAME
    )


def _is_missing(text: str) -> bool:
    """True if Hydra takes the text for a missing value, and would leave the default in its place."""
    return text == "???"


NAME = Rule(f"a folder's name of at most {LONGEST_NAME} bytes, without slashes, or null", _is_name)
# Without line breaks, since the folder's name enters a scheduler's script.
FOLDER = Rule(
    "a writable folder, named in printable characters and not a number",
    lambda value: (
        isinstance(value, str)
        and value.isprintable()
        and not _is_missing(value)
        and not _is_other(value)
        and _is_writable(Path(value))
    ),
)


def _is_other(text: str) -> bool:
    """True if the text was a number, a switch or null before it became a string."""
    try:
        float(text)
    except ValueError:
        return text.lower() in ("true", "false", "null")
    return True


def _is_writable(folder: Path) -> bool:
    try:
        existing = next((path for path in (folder, *folder.absolute().parents) if path.exists()), None)
    except (OSError, ValueError):  # too long, or with a null byte
        return False
    return existing is not None and existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)

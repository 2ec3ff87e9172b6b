"""Presets for `+sweeps=NAME`: small files of plain settings, read and checked here before Hydra sees them.

A preset may come from anybody, so nothing in it can become a command, read the environment, name code, or take long to
process. It may set settings, choose an experiment and a launcher by name, request resources, and define what is swept.
Anything else is refused with one line that names the file.
"""

import itertools
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gradient_horizon.names.rules import SettingError
from gradient_horizon.settings import launchers, validation

LARGEST_FILE = 2**16  # bytes
DEEPEST = 10  # nested lists and mappings
MOST_VALUES = 3000  # in one file; parsing some 4000 takes a second
MODES = ("RUN", "MULTIRUN", None)
_PACKAGE = re.compile(r"^\s*#\s*@package\s+(\S+)\s*$", re.MULTILINE)


def root() -> Path:
    """Return the folder that holds `conf/` and `sweeps/`: the installed package, or the root of the checkout."""
    package = Path(__file__).parents[1]
    return package if (package / "conf").is_dir() else package.parents[1]


def names() -> list[str]:
    """Return the names that `+sweeps=` accepts: shipped presets, and those in `sweeps/` of the working directory."""
    return sorted({path.stem for place in (root(), Path.cwd()) for path in (place / "sweeps").glob("*.yaml")})


def read(name: str) -> dict[str, Any]:
    """Return the checked contents of a preset. Raises `SettingError`, which names the file, for the first error."""
    places = [place / "sweeps" / f"{name}.yaml" for place in (root(), Path.cwd())]
    path = next((path for path in places if os.path.lexists(path)), places[-1])
    label = f"sweeps/{name}.yaml"
    text = _text(path, label)
    values = _plain(text, label)
    packages = _PACKAGE.findall(text)
    if packages != ["_global_"]:
        stated = ", ".join(packages) or "no package"
        raise SettingError(label, stated, "# @package _global_ exactly once, among the first lines")
    try:
        _check(values)
    except SettingError as error:
        raise error.within(label) from None
    return values


def _text(path: Path, label: str) -> str:
    """Return the text of a small plain file; never wait for a pipe or a device."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise SettingError(label, "not a regular file", "a text file of settings")
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise SettingError(label, error.strerror or "unreadable", "a text file of settings") from None
    if len(content) > LARGEST_FILE:
        raise SettingError(label, f"more than {LARGEST_FILE} bytes", f"a file of at most {LARGEST_FILE}")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise SettingError(label, f"byte {error.start}", "text in UTF-8") from None


def _plain(text: str, label: str) -> dict[str, Any]:
    """Return the mapping in the text: one document, not too deep, without aliases and tags, each key only once."""
    try:
        _check_events(text)
        values = OmegaConf.to_container(OmegaConf.create(text))
    except SettingError as error:
        raise error.within(label) from None
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}" if error.problem_mark else "the file"
        raise SettingError(label, line, because=error.problem or error.context or "no YAML") from None
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, ArithmeticError, RecursionError) as error:
        raise SettingError(label, "the file", because=next(iter(str(error).splitlines()), "no YAML")) from None
    if not isinstance(values, dict) or not values:  # nothing but comments
        raise SettingError(label, "no settings", "NAME: VALUE")
    return {str(key): value for key, value in values.items()}


def _check_events(text: str) -> None:
    """Before anything is built from the text, refuse what would expand, name code, or stand for something else."""
    for number, line in enumerate(text.split("\n"), 1):
        # the parser looks ahead through a whole line, bracket by bracket
        steps = ((c in "[{") - (c in "]}") for c in line.partition("#")[0])
        if max(itertools.accumulate(steps), default=0) > DEEPEST:
            raise SettingError(f"line {number}", "one more level", f"lists and mappings at most {DEEPEST} deep")
    depth, key, is_key = 0, "", True  # in the outermost mapping: the last key, and whether a key comes next
    for count, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        line = f"line {event.start_mark.line + 1}" if event.start_mark else "the file"
        place = f"{line}: {key}" if key else line
        if count > MOST_VALUES:
            raise SettingError(place, "one more value", f"at most {MOST_VALUES} in a file")
        if isinstance(event, yaml.AliasEvent):
            raise SettingError(place, f"*{event.anchor}", "values spelt out, without aliases")
        if getattr(event, "tag", None) is not None:
            raise SettingError(place, event.tag, "values without tags")
        if isinstance(event, yaml.DocumentStartEvent) and count > 1:
            raise SettingError(place, "another document", "one")
        if isinstance(event, yaml.ScalarEvent) and ("${" in event.value or event.value == "???"):
            raise SettingError(place, event.value, "values spelt out, without ${..} and ???")
        if isinstance(event, yaml.NodeEvent):
            if depth == 0 and not isinstance(event, yaml.MappingStartEvent):
                raise SettingError(place, "no settings", "NAME: VALUE")
            if depth == 1 and is_key:
                if not isinstance(event, yaml.ScalarEvent):
                    raise SettingError(place, "a list or mapping", "NAME: VALUE")
                key = event.value
            if depth == 1:
                is_key = not is_key
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEEPEST:
                raise SettingError(place, "one more level", f"lists and mappings at most {DEEPEST} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _check(values: Mapping[str, Any]) -> None:
    """Raise `SettingError` for the first thing in a preset that is wrong by itself."""
    for key, value in values.items():
        if key == "defaults":
            _check_defaults(value)
        elif key == "hydra":
            _check_hydra(value)
        else:
            validation.check_key(key, value)
            validation.check_value(key, value)


def _check_defaults(entries: Any) -> None:
    allowed = "a list of override /experiment: NAME, override /hydra/launcher: NAME and _self_"
    for entry in entries if isinstance(entries, list) else [entries]:
        if not isinstance(entries, list) or not (entry == "_self_" or (isinstance(entry, dict) and len(entry) == 1)):
            raise SettingError("defaults", entry, allowed)
        for group, name in entry.items() if isinstance(entry, dict) else ():
            if group == "override /experiment":
                validation.check_value("experiment", name)
            elif group == "override /hydra/launcher":
                launchers.check_name(name)
            else:
                raise SettingError("defaults", entry, allowed)


def _mapping(value: Any, name: str, keys: tuple[str, ...]) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise SettingError(name, value, f"{', '.join(keys)}, each as NAME: VALUE")
    for key in value:
        if key not in keys:
            raise SettingError(name, key, ", ".join(keys))
    return value


def _check_hydra(section: Any) -> None:
    own = _mapping(section, "hydra", ("mode", "sweeper", "launcher"))
    if "mode" in own and own["mode"] not in MODES:
        raise SettingError("hydra.mode", own["mode"], "RUN, MULTIRUN or null")
    if "launcher" in own:
        launchers.check_preset(own["launcher"])
    if "sweeper" in own:
        params = _mapping(own["sweeper"], "hydra.sweeper", ("params",)).get("params") or {}
        if not isinstance(params, Mapping):
            raise SettingError("hydra.sweeper.params", params, "NAME: VALUE,VALUE")
        for key, value in params.items():
            validation.check_key(key, value)
            if not isinstance(value, str | int | float | list):
                raise SettingError(f"hydra.sweeper.params.{key}", value, "VALUE,VALUE")

"""The Hydra launchers that a sweep may use, and their allowed options: none of which can become another command.

The options of a launcher end up in a scheduler's script, in a call of joblib or in a Ray cluster. Each option is
restricted by name and by the characters of its value. Presets may set only harmless options; lines of shell (`setup`),
accounts, addresses and folders can be set only on the user's own command line.
"""

import importlib.util
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gradient_horizon.names import rules
from gradient_horizon.names.rules import Rule, SettingError


@dataclass(frozen=True)
class Option:
    """What one option of a launcher allows, and whether a preset may set it."""

    rule: Rule
    by_preset: bool = True


def _own(rule: Rule) -> Option:
    """Return an option that may be set on the user's own command line, but not by a preset."""
    return Option(rule, by_preset=False)


def _text(pattern: str, allowed: str) -> Rule:
    """Return a rule for a string or number that matches `pattern` as a whole, or null."""
    whole = re.compile(pattern, re.ASCII)
    return Rule(
        f"{allowed}, or null", lambda value: value is None or (_is_scalar(value) and bool(whole.fullmatch(f"{value}")))
    )


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str) or rules.is_number(value)


def _is_line(value: Any, most: int = 1000) -> bool:
    return isinstance(value, str) and len(value) <= most and value.isprintable()


def _is_unquoted(value: Any) -> bool:
    return _is_line(value) and not set(value) & set("'\"\\`$")


WORD = _text(r"[A-Za-z0-9_][A-Za-z0-9_.,+@:/-]{0,199}", "a word of letters, digits and _.,+@:/-")
NODES = _text(r"[A-Za-z0-9_][A-Za-z0-9_.,\[\]-]{0,199}", "names of nodes: letters, digits and _.,-[]")
FEATURES = _text(
    r"[A-Za-z0-9_(\[!][A-Za-z0-9_.,:=+*&|!()\[\]-]{0,199}", "features: letters, digits and _.,:=+*&|!-()[]"
)
RESOURCES = _text(r"[A-Za-z0-9_][A-Za-z0-9_.,:=()*/-]{0,199}", "resources: letters, digits and _.,:=()*/-")
MEMORY = _text(r"[0-9]{1,12}[KMGT]?B?", "a whole number followed by K, M, G or T")
REMARK = Rule(
    "one line of at most 200 characters without quotes, backslashes and $, or null",
    lambda value: value is None or (_is_unquoted(value) and len(value) <= 200),
)
LINES = Rule(
    "a list of single lines, or null",
    lambda value: value is None or (isinstance(value, list) and all(map(_is_line, value))),
)
FLAGS = Rule(
    "NAME: VALUE with names of small letters, digits, - and _, and values of one line without quotes, \\ and $",
    lambda value: isinstance(value, Mapping) and all(_is_flag(key, entry) for key, entry in value.items()),
)


def _is_flag(key: Any, value: Any) -> bool:
    is_name = isinstance(key, str) and re.fullmatch(r"[a-z][a-z0-9_-]{0,63}", key, re.ASCII) is not None
    return is_name and (value is True or rules.is_number(value) or _is_unquoted(value))


COUNT = rules.whole_or_null(0, 1_000_000)
AT_LEAST_ONE = rules.whole(1, 1_000_000)
AMOUNT = Rule(
    "a number from 0 to 1000000, or null", lambda value: value is None or (rules.is_number(value) and 0 <= value <= 1e6)
)
BYTES = rules.whole_or_null(0, 2**50)

OF_SLURM = {
    "timeout_min": Option(AT_LEAST_ONE),
    "nodes": Option(AT_LEAST_ONE),
    "tasks_per_node": Option(AT_LEAST_ONE),
    "cpus_per_task": Option(COUNT),
    "gpus_per_node": Option(COUNT),
    "cpus_per_gpu": Option(COUNT),
    "gpus_per_task": Option(COUNT),
    "mem_gb": Option(COUNT),
    "mem_per_gpu": Option(MEMORY),
    "mem_per_cpu": Option(MEMORY),
    "partition": Option(WORD),
    "qos": Option(WORD),
    "constraint": Option(FEATURES),
    "exclude": Option(NODES),
    "gres": Option(RESOURCES),
    "name": Option(WORD),
    "comment": Option(REMARK),
    "signal_delay_s": Option(COUNT),
    "max_num_timeout": Option(COUNT),
    "array_parallelism": Option(AT_LEAST_ONE),
    "account": _own(WORD),
    "stderr_to_stdout": _own(rules.SWITCH),
    "additional_parameters": _own(FLAGS),
    "setup": _own(LINES),
}
OF_JOBLIB = {
    "n_jobs": Option(
        Rule(
            "a whole number that is not 0", lambda value: rules.is_whole(value) and value != 0 and abs(value) <= 10_000
        )
    ),
    "verbose": Option(rules.whole(0, 100)),
    # joblib evaluates it as Python
    "pre_dispatch": Option(_text(r"all|[0-9]{1,6}|([0-9]{1,6}\*)?n_jobs", "all, a whole number, n_jobs or 2*n_jobs")),
    "batch_size": Option(_text(r"auto|[0-9]{1,6}", "auto or a whole number")),
    "timeout": Option(rules.POSITIVE_OR_NULL),
    "backend": _own(rules.one_of_or_null(("loky",))),
    "prefer": _own(rules.one_of(("processes",))),
    "require": _own(Rule("null", lambda value: value is None)),
    "max_nbytes": _own(_text(r"[0-9]{1,12}[KMG]?", "a whole number followed by K, M or G")),
    "mmap_mode": _own(rules.one_of_or_null(("r", "c", "r+", "w+"))),
    "temp_folder": _own(Rule("a folder in one line, or null", lambda value: value is None or _is_line(value))),
}
OF_RAY = {
    "ray.init.num_cpus": Option(AMOUNT),
    "ray.init.num_gpus": Option(AMOUNT),
    "ray.init.object_store_memory": Option(BYTES),
    "ray.remote.num_cpus": Option(AMOUNT),
    "ray.remote.num_gpus": Option(AMOUNT),
    "ray.remote.memory": Option(BYTES),
    "ray.remote.max_retries": Option(COUNT),
    "ray.remote.scheduling_strategy": Option(rules.one_of(("DEFAULT", "SPREAD"))),
    "ray.remote.accelerator_type": Option(WORD),
    "ray.init.address": _own(WORD),
    "ray.init.namespace": _own(WORD),
    "ray.init.ignore_reinit_error": _own(rules.SWITCH),
    "ray.init.include_dashboard": _own(rules.SWITCH),
    "ray.init.local_mode": _own(rules.SWITCH),
    "ray.init.log_to_driver": _own(rules.SWITCH),
}
OPTIONS = {**OF_SLURM, **OF_JOBLIB, **OF_RAY}
_BRANCHES = ("ray", "ray.init", "ray.remote")  # options that contain options
_NAMED = "additional_parameters"  # an option whose entries may have any name


@dataclass(frozen=True)
class Launcher:
    """A plugin: its module and class, the extra that installs it, its settings' name in Hydra, and its options."""

    module: str
    name: str
    extra: str
    stored: str
    options: Mapping[str, Option]

    @property
    def target(self) -> str:
        """The `_target_` in the plugin's own settings."""
        return f"hydra_plugins.{self.module}.{self.name}"


JOBLIB = Launcher("hydra_joblib_launcher.joblib_launcher", "JoblibLauncher", "joblib", "joblib", OF_JOBLIB)
SLURM = Launcher("hydra_submitit_launcher.submitit_launcher", "SlurmLauncher", "slurm", "submitit_slurm", OF_SLURM)
RAY = Launcher("hydra_ray_launcher.ray_launcher", "RayLauncher", "ray", "ray", OF_RAY)
NAMES = {"joblib": JOBLIB, "slurm": SLURM, "submitit_slurm": SLURM, "ray": RAY}


def check_name(name: Any) -> None:
    """Raise `SettingError` if there is no such launcher, or if it is not installed."""
    if name == "basic":
        return
    if not isinstance(name, str) or name not in NAMES:
        raise SettingError("hydra/launcher", name, f"basic (this process), {', '.join(NAMES)}")
    launcher = NAMES[name]
    if importlib.util.find_spec("hydra_plugins") is None or not _is_installed(launcher):
        raise SettingError(
            "hydra/launcher", name, f"a launcher that is installed (pip install gradient-horizon[{launcher.extra}])"
        )


def _is_installed(launcher: Launcher) -> bool:
    return importlib.util.find_spec(f"hydra_plugins.{launcher.module.partition('.')[0]}") is not None


def check_option(name: str, value: Any) -> None:
    """Raise `SettingError` if no launcher has this command-line option, or if the value is not allowed."""
    for option, part in _flat({name: value}):
        if option.startswith(f"{_NAMED}."):
            option, part = _NAMED, {option.removeprefix(f"{_NAMED}."): part}
        if option not in OPTIONS:
            raise SettingError(f"hydra.launcher.{option}", value, f"the options {', '.join(OPTIONS)}")
        if "${" not in str(part):  # an interpolation can only be checked once it is composed
            _check_value(option, part)


def check_preset(settings: Any) -> None:
    """Raise `SettingError` for the first option that a preset may not set, or whose value is not allowed."""
    chosen = [name for name, option in OPTIONS.items() if option.by_preset]
    if not isinstance(settings, Mapping):
        raise SettingError("hydra.launcher", settings, f"NAME: VALUE for {', '.join(chosen)}")
    for name, value in _flat(settings):
        if name not in OPTIONS:
            raise SettingError(f"hydra.launcher.{name}", value, f"in a preset: {', '.join(chosen)}")
        if name not in chosen:
            line = f"hydra.launcher.{name}=.. on the command line; in a preset: {', '.join(chosen)}"
            raise SettingError(f"hydra.launcher.{name}", value, line)
        _check_value(name, value)


def _check_value(name: str, value: Any) -> None:
    rule = OPTIONS[name].rule
    if not rule.accepts(value):
        raise SettingError(f"hydra.launcher.{name}", value, rule.allowed)


def _flat(settings: Mapping[Any, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every option by its dotted name, with its value."""
    for key, value in settings.items():
        name = f"{before}{key}"
        if name in _BRANCHES and isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def checked(settings: DictConfig) -> dict[str, Any] | None:
    """Return the settings of a launcher, or None for this process; raise `SettingError` if one of them is not allowed.

    An option that is not in the lists above must have the plugin's own value.
    """
    try:
        plain = OmegaConf.to_container(settings, resolve=True)
    except OmegaConfBaseException as error:
        raise SettingError("hydra.launcher", error.full_key, because=str(error).splitlines()[0]) from None
    assert isinstance(plain, dict)
    target = plain.get("_target_")
    if target == _stored("basic")["_target_"]:
        return None
    launcher = next((launcher for launcher in NAMES.values() if launcher.target == target), None)
    if launcher is None:
        raise SettingError("hydra.launcher", target, f"basic, {', '.join(NAMES)}")
    usual = dict(_flat(_stored(launcher.stored)))
    raw = OmegaConf.to_container(settings)
    assert isinstance(raw, dict)
    composed = dict(_flat(raw))
    for name, value in _flat(plain):
        if name in launcher.options:
            _check_value(name, value)
        elif name not in _BRANCHES and (name not in usual or composed[name] != usual[name]):
            raise SettingError(f"hydra.launcher.{name}", value, f"the options {', '.join(launcher.options)}")
    return {str(key): value for key, value in plain.items()}


def _stored(name: str) -> dict[str, Any]:
    """Return the settings that a launcher comes with."""
    plain = OmegaConf.to_container(ConfigStore.instance().load(f"hydra/launcher/{name}.yaml").node)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}

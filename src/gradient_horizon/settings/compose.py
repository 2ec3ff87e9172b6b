"""From the words of a command to checked settings: Hydra's parser, its composition, and presets.

Hydra composes the settings once. The jobs differ only in their swept settings, which are plain values, so no job needs
a composition of its own (Hydra's own sweeper composes every job twice, which takes some 0.15 s).
"""

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, RangeSweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from gradient_horizon import names
from gradient_horizon.names import declare
from gradient_horizon.names.rules import SettingError
from gradient_horizon.settings import identity, launchers, presets, schema, validation

MOST_JOBS = 100_000
LONGEST_OVERRIDE = 20_000  # characters, which Hydra parses in two seconds; longer ones take it minutes
LONGEST_CUT = 1000  # characters of an override that a shell may have split
DEEPEST = 20  # nested brackets


def _parse(overrides: Sequence[str]) -> list[Override]:
    parsed: list[Override] = []
    for index, text in enumerate(overrides):
        try:
            if len(text) > LONGEST_OVERRIDE or _depth(text) > DEEPEST:
                why = f"at most {LONGEST_OVERRIDE} characters, with brackets at most {DEEPEST} deep"
                raise SettingError("override", text, why)
            parsed += OverridesParser.create().parse_overrides([text])
        except SettingError:
            raise
        except Exception as error:  # the parser raises errors of many types
            if whole := _cut_by_a_shell(overrides[index : index + 20]):
                raise SettingError("override", text, f"no space outside quotes: '{whole}'") from None
            raise SettingError(
                "override", text, f"NAME=VALUE, and for a sweep NAME=VALUE,VALUE ({_line(error)})"
            ) from None
    return parsed


def _depth(text: str) -> int:
    """Return how deep brackets are nested, including those in quotes."""
    steps = ((c in "([{") - (c in ")]}") for c in text)
    return max(itertools.accumulate(steps), default=0)


def _cut_by_a_shell(words: Sequence[str]) -> str:
    """Return the override that a shell has split at its spaces, if `words` begins with its parts; else empty."""
    for last in range(2, len(words) + 1):
        whole = " ".join(words[:last])
        if "=" in words[0] and len(whole) <= LONGEST_CUT and not _unreadable(whole):
            return whole
    return ""


def _unreadable(text: str) -> bool:
    try:
        OverridesParser.create().parse_overrides([text])
    except Exception:  # see `_parse`
        return True
    return False


def _line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:LONGEST_CUT]


def _check_override(override: Override) -> None:
    """Raise `SettingError` for an override that is wrong regardless of the others."""
    key, value = override.key_or_group, override.value()
    if not key:
        raise SettingError("override", override.input_line, "NAME=VALUE")
    if override.package is not None:
        raise SettingError("override", override.input_line, f"{key}=VALUE, without @")
    if key == "hydra/launcher" or key.startswith(("hydra.", "hydra/")) or key == "hydra":
        _check_hydras(override)
    elif key == "sweeps":
        if not override.is_add() or not isinstance(value, str):
            raise SettingError("sweeps", override.input_line, "+sweeps=NAME, one value per command")
        if value not in presets.names():
            near = validation.did_you_mean(value, presets.names())
            raise SettingError("sweeps", value, f"the presets {', '.join(presets.names())}{near}")
    else:
        validation.check_key(key, value)
        if override.is_delete():
            raise SettingError(f"~{key}", value, because="a setting can be changed but not deleted")
        _check_sweep(override)


def _check_hydras(override: Override) -> None:
    key, value = override.key_or_group, override.value()
    is_option = key.startswith("hydra.launcher.") and "_target_" not in f"{key}{value}"
    if key != "hydra/launcher" and not is_option:
        raise SettingError(
            key, str(value), "hydra/launcher and hydra.launcher.NAME, since other settings of Hydra can name code"
        )
    if override.is_delete():
        raise SettingError(f"~{key}", value, because="it can be changed but not deleted")
    if override.is_sweep_override():
        raise SettingError(key, (override.input_line or "").partition("=")[2], "one value per command")
    if key == "hydra/launcher":
        launchers.check_name(value)
    else:
        launchers.check_option(key.removeprefix("hydra.launcher."), value)


def _check_sweep(override: Override) -> None:
    """Raise `SettingError` for a Hydra sweep that names no values, or gives them in a different order each time."""
    value, text = override.value(), (override.input_line or "").partition("=")[2]
    is_named = isinstance(value, ChoiceSweep | RangeSweep) or not override.is_sweep_override()
    if not is_named or ("shuffle(" in text.replace(" ", "") and not isinstance(value, str)):
        raise SettingError(override.key_or_group, text, "VALUE,VALUE or choice(..), range(..) and sort(..) of them")


@contextmanager
def initialised() -> Iterator[Callable[[Sequence[str]], DictConfig]]:
    """Yield a function that composes the settings of given overrides, together with Hydra's own.

    Only the package's `conf/` and what is registered in this process are used, so that a folder that happens to be in
    the working directory is not mistaken for a launcher's settings.
    """
    store = ConfigStore.instance()
    store.store(name="settings", node=schema.Config)
    for name, defaults in experiments_defaults().items():
        store.store(group="experiment", name=name, node={"experiment": name, **defaults}, package="_global_")
    with initialize_config_dir(str(presets.root() / "conf"), version_base="1.3", job_name="gradient-horizon"):
        yield lambda overrides: compose("config", list(overrides), return_hydra_config=True)


def experiments_defaults() -> dict[str, dict[str, Any]]:
    """Return, for each experiment, the settings for which it has its own default."""
    declared = declare.declared(declare.Experiment)
    return {name: dict(declared[name].defaults) for name in names.EXPERIMENTS}


def _axis(override: Override) -> list[Any]:
    """Return the values of `key=a,b` or `key=range(..)`, each typed as it is written."""
    _check_sweep(override)
    key, value = override.key_or_group, override.value()
    if not isinstance(value, ChoiceSweep | RangeSweep):
        return [value]
    values: list[Any] = []
    if isinstance(value, RangeSweep) and _is_long(value):
        raise SettingError(key, (override.input_line or "").partition("=")[2], f"at most {MOST_JOBS} jobs")
    for value_of_job in _values(override):
        if len(values) == MOST_JOBS:
            raise SettingError(key, f"{values[0]},{values[1]},...", f"at most {MOST_JOBS} jobs")
        if key in schema.FROM_OTHERS and value_of_job is None:
            raise SettingError(
                key, "a sweep with null", "whole numbers; or null alone, for the usual number in each job"
            )
        checked = validation.check_value(key, value_of_job)
        # 1 and 1.0 are the same setting, hence the same job; lists keep their spelling, which makes shorter job names.
        values.append(value_of_job if key in schema.JOINED else checked)
    if not values:
        raise SettingError(key, (override.input_line or "").partition("=")[2], "at least one value")
    return values


def _is_long(value: RangeSweep) -> bool:
    """True if the range has too many values for a sweep; decided without generating them, which would take long."""
    start, stop, step = value.start, value.stop, value.step
    try:
        return start is not None and stop is not None and (stop - start) / step > MOST_JOBS
    except ArithmeticError:  # a step of 0, or integers too large for a float: see `_values`
        return False


def _values(override: Override) -> Iterator[Any]:
    """Yield the values of a sweep, one by one."""
    value = override.value()
    try:
        if isinstance(value, RangeSweep):
            yield from override.sweep_iterator()
        else:
            for text in override.sweep_string_iterator():
                yield _parse([f"{override.key_or_group}={text}"])[0].value()
    except SettingError:
        raise
    except (HydraException, ArithmeticError, ValueError) as error:
        text = (override.input_line or "").partition("=")[2]
        raise SettingError(override.key_or_group, text, f"range(START,STOP,STEP) of numbers ({_line(error)})") from None


class Composition(NamedTuple):
    """The checked settings of a command: those of its jobs, how the jobs differ, and where they are computed."""

    base: schema.Config  # the settings that all jobs share, with defaults for those that are swept
    values: dict[str, Any]  # the same, but null for usual values that depend on each job's other settings
    axes: dict[str, list[Any]]  # the values of each swept setting
    launcher: dict[str, Any] | None  # settings of one of Hydra's launchers; None: this process


def composed(overrides: Sequence[str], *, multirun: bool = False) -> Composition:
    """Return the settings of a command with these `overrides`; raise `SettingError` for the first wrong one."""
    parsed = _parse(overrides)
    for override in parsed:
        _check_override(override)
    last = {override.key_or_group: override for override in parsed}
    names_of_presets = [str(override.value()) for override in parsed if override.key_or_group == "sweeps"]
    if len(names_of_presets) > 1:
        raise SettingError("sweeps", ", ".join(names_of_presets), "one value per command")
    parsed = [override for override in parsed if override is last[override.key_or_group]]
    fixed = [override for override in parsed if not override.is_sweep_override()]
    swept = [override for override in parsed if override.is_sweep_override()]
    for override in fixed:
        key, value = override.key_or_group, override.value()
        if key == "experiment" or (key in schema.FIELDS and "${" not in str(value)):
            validation.check_value(key, value)
    preset = presets.read(names_of_presets[0]) if names_of_presets else {}
    axes = _axes([*swept, *_swept_by(preset, on_line=last)])
    mode = (preset.get("hydra") or {}).get("mode")
    if axes and not multirun and mode is None:
        key = next(iter(axes))
        text = next(((override.input_line or "").partition("=")[2] for override in swept), axes[key])
        raise SettingError(key, text, "one value; add -m to run each of several")
    node = _compose(fixed, names_of_presets[0] if names_of_presets else "", preset)
    settings = OmegaConf.masked_copy(node, [str(key) for key in node if key != "hydra"])
    spelt = [override for override in fixed if override.key_or_group in schema.AXES]
    base = validation.from_node(settings, {override.key_or_group: override.value() for override in spelt})
    named = [override.key_or_group for override in parsed if override.key_or_group in schema.FIELDS]
    _check_read(base.experiment, [*axes, *named], base)
    values = identity.as_dict(base)
    for key in schema.FROM_OTHERS:
        if settings[key] is None:  # the usual value, which depends on each job's other settings
            values[key] = None
    return Composition(base, values, axes, launchers.checked(node.hydra.launcher))


def _swept_by(preset: Mapping[str, Any], *, on_line: Collection[str]) -> list[Override]:
    """Return what a checked preset sweeps, except for settings given on the command line."""
    params = ((preset.get("hydra") or {}).get("sweeper") or {}).get("params") or {}
    return _parse([f"{key}={text}" for key, text in params.items() if key not in on_line])


def _axes(swept: Sequence[Override]) -> dict[str, list[Any]]:
    for override in swept:
        _check_override(override)
        if override.key_or_group in ("experiment", "sweeps", *schema.HOUSEKEEPING):
            raise SettingError(override.key_or_group, "a sweep", "one value per command")
    return {override.key_or_group: _axis(override) for override in swept}


def _compose(fixed: Sequence[Override], name: str, preset: Mapping[str, Any]) -> DictConfig:
    """Return Hydra's composition of the defaults, a preset of this name, and the overrides with a single value."""
    if name:
        ConfigStore.instance().store(group="sweeps", name=name, node=dict(preset), package="_global_")
    # Lists and ranges replace each other in `composed`; OmegaConf merges a list only with a list.
    lines = [override.input_line or "" for override in fixed if override.key_or_group not in schema.AXES]
    try:
        with initialised() as composing:
            return composing(lines)
    except Exception as error:  # Hydra raises errors of many types
        setting, value = ("sweeps", name) if name else ("override", " ".join(lines))
        raise SettingError(setting, value, f"what Hydra can compose ({' '.join(str(error).split())})") from None


def _check_read(experiment: str, keys: Sequence[str], base: schema.Config) -> None:
    read = schema.settings_of(experiment)
    for key in keys:
        if key not in read and key not in schema.HOUSEKEEPING:
            others = [f"experiment={name}" for name in names.EXPERIMENTS if key in schema.settings_of(name)]
            because = f"experiment={experiment} does not read it (add {' or '.join(others)})"
            raise SettingError(key, getattr(base, key), because=f"{because}; it reads {', '.join(read)}")

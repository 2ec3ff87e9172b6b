"""From composed settings to a checked `Config`, or a `SettingError` of one line that names the setting.

A value is checked by its own rule first, then together with the others. Nothing here loads JAX.
"""

import difflib
import importlib.util
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gradient_horizon.names import declare, rules
from gradient_horizon.names.rules import SettingError
from gradient_horizon.settings.identity import as_dict, spelt_short
from gradient_horizon.settings.schema import (
    FIELDS,
    FROM_OTHERS,
    HOUSEKEEPING,
    JOINED,
    SETTINGS,
    Config,
    settings_of,
)
from gradient_horizon.tasks import limits
from gradient_horizon.training.initialisations import PUBLISHED


def describe_settings(experiment: str | None = None, defaults: Mapping[str, Any] | None = None) -> str:
    """Describe each setting in two lines: name and default; meaning and allowed values.

    With an `experiment`, only the settings that it reads and `HOUSEKEEPING` are listed, with the values that they have
    there by default; `defaults` are the experiment's own.
    """
    values = as_dict(Config())
    listed = list(FIELDS)
    if experiment is not None:
        values = spelt_short(as_dict(checked({"experiment": experiment, **(defaults or {})})))
        listed = [name for name in FIELDS if name in (*settings_of(experiment), *HOUSEKEEPING)]
    return "\n".join(
        f"  {name}={json.dumps(values[name]).strip(chr(34))}\n"
        f"      {SETTINGS[name].description} [{SETTINGS[name].rule.allowed}]"
        for name in listed
    )


def check_key(key: str, value: Any) -> None:
    """Raise `SettingError` for a setting that does not exist, and suggest the nearest one that does."""
    if key not in FIELDS:
        raise SettingError(key, value, f"the settings {', '.join(FIELDS)}{did_you_mean(key, FIELDS)}")


def did_you_mean(word: Any, known: Collection[str]) -> str:
    """Return a suggestion, in brackets, of the nearest of the `known` words; empty if none is near."""
    near = difflib.get_close_matches(str(word).lower(), known, 1)
    return f" (did you mean {near[0]}?)" if near else ""


def _missing_of_range(written: Any) -> str:
    """Return which keys of a range of numbers are missing or unknown, in brackets."""
    if not isinstance(written, Mapping):
        return ""
    missing = [part for part in ("start", "stop", "num") if part not in written]
    others = [str(part) for part in written if part not in ("start", "stop", "num", "spacing")]
    return "".join(
        f" ({', '.join(parts)} {word})" for parts, word in ((missing, "missing"), (others, "unknown")) if parts
    )


def _accepts(rule: rules.Rule, value: Any) -> bool:
    try:
        return rule.accepts(value)
    except TypeError:  # entries that cannot be compared or hashed
        return False


def check_value(key: str, written: Any) -> Any:
    """Return `written`, with lists expanded, if the setting `key` allows it; else raise `SettingError`."""
    rule = SETTINGS[key].rule
    expand = rule.expand
    if FIELDS[key].type in (float, float | None) and rules.is_number(written):
        written = rules.unsigned_zero(float(written))
    value, accepted = [], False
    # check the two ends of a long range first: if they are wrong, it need not be expanded
    if not (isinstance(written, Mapping) and written.get("num") not in (1, 2)) or _accepts(
        rule, expand({**written, "num": 2})
    ):
        value = expand(written)
        accepted = _accepts(rule, value)
    if not accepted:
        wrong = [word for word in (written if isinstance(written, list) else [written]) if word not in rule.options]
        hint = did_you_mean(wrong[0], rule.options) if rule.options and wrong else ""
        raise SettingError(key, written, f"{rule.allowed}{hint or _missing_of_range(written)}")
    return value


def checked(values: Mapping[str, Any]) -> Config:
    """Return the `Config` of these settings, with lists expanded and defaults for missing settings.

    Raises `SettingError` naming the first setting that is wrong.
    """
    for key, value in values.items():
        check_key(key, value)
    defaults = Config()
    plain = {key: check_value(key, values.get(key, getattr(defaults, key))) for key in FIELDS}
    return _completed(Config(**plain), values)


def changed(config: Config, values: Mapping[str, Any]) -> Config:
    """Return `config` with other `values` for some settings: each of these is checked, then all settings together.

    A setting that depends on others is determined afresh if `values` gives null for it.
    """
    return _completed(replace(config, **{key: check_value(key, value) for key, value in values.items()}), values)


def _completed(config: Config, values: Mapping[str, Any]) -> Config:
    """Return `config`, checked as a whole, with the settings that others decide; `values` are as the user wrote."""
    for key in FROM_OTHERS:
        if getattr(config, key) is None:
            config = replace(config, **{key: usual(key, as_dict(config))})
    if config.experiment == "training" and config.initialisation is not None:
        config = _initialised(config, values)
    _check_together(config)
    return config


def usual(key: str, settings: Mapping[str, Any]) -> Any:
    """Return the value that the setting `key` has by default, given the other `settings`; `KeyError` if one is missing.

    This is the schema's default, except for settings that others decide: `steps` and `transient`, and those that a
    published initialisation fixes.
    """
    usual_value = SETTINGS[key].usual
    if usual_value is not None:
        return usual_value(settings)
    initialisation = settings.get("initialisation")
    if settings.get("experiment") == "training" and initialisation in PUBLISHED:
        fixed = _fixed_by(initialisation)
        if key in fixed:
            return fixed[key][0]
    return getattr(Config(), key)


def disagreements(
    jobs: Sequence[Mapping[str, Any]], axes: Collection[str], foreign: Collection[str] = ()
) -> dict[str, list[Any]]:
    """Return the settings that decide the numbers and differ between the `jobs` of a sweep without being axes of it.

    Each name is mapped to its distinct values. Settings that are lists are left out, since they join along an axis of
    the result. Settings that other settings decide may differ with these, like the usual `steps` of two tasks. A
    setting that a job does not name has its default, unless an installed package declares it: `foreign`, and those of
    packages that are installed here, belong only to the jobs that name them.
    """
    foreign = {*foreign, *(name for owner, name, _ in declare.own_settings() if owner.package)}
    keys = dict.fromkeys(key for job in jobs for key in job if key not in axes and key not in JOINED)
    read = {key for job in jobs for key in _read_by(job.get("experiment", ""))}
    differing = {}
    for key in (key for key in keys if key in read or key not in FIELDS):
        having = [job for job in jobs if key in job or key not in foreign]
        values = [job.get(key, FIELDS[key].default if key in FIELDS else None) for job in having]
        different = list({json.dumps(value): value for value in values}.values())
        if len(different) > 1 and not all(map(_is_usual, [key] * len(values), values, having)):
            differing[key] = different
    return differing


def _read_by(experiment: str) -> Collection[str]:
    """Return the settings that an experiment reads; all settings, if it is unknown here."""
    return settings_of(experiment) if experiment in declare.declared(declare.Experiment) else FIELDS


def _is_usual(key: str, value: Any, settings: Mapping[str, Any]) -> bool:
    """True if `value` is the default of `key` given the other settings, or the null that stands for it."""
    if key in FROM_OTHERS and value is None:
        return True
    try:
        return value == usual(key, settings)
    except (KeyError, TypeError, AttributeError):  # depends on something that the settings lack
        return False


def _fixed_by(initialisation: str) -> dict[str, tuple[Any, ...]]:
    """Return the values that a published initialisation allows for the settings it decides, its own choice first."""
    chosen = PUBLISHED[initialisation]
    fixed = {"cell": (chosen.cell,), "weights": chosen.weights, "bias_scale": (0.0,)}
    return fixed | {"input_scale": (1.0,), "output_scale": (1.0,)}  # not read: the entries have `chosen.std`


def _initialised(config: Config, values: Mapping[str, Any]) -> Config:
    """Return `config` with the settings that its published initialisation fixes; refuse other values of these."""
    for name, allowed in _fixed_by(config.initialisation or "").items():
        value = getattr(config, name)
        if value not in (FIELDS[name].default, *allowed):
            words = " or ".join(str(entry) for entry in allowed)
            raise SettingError(name, values.get(name, value), f"{words} where initialisation={config.initialisation}")
        if value not in allowed:
            config = replace(config, **{name: allowed[0]})
    return config


def _check_together(config: Config) -> None:
    """Raise `SettingError` for the first setting that does not fit the others."""
    experiment = declare.declared(declare.Experiment)[config.experiment]
    read = settings_of(config.experiment)
    if "task" in read:
        refused = limits.refusal(config.task, config.steps, as_dict(config))
        if refused is not None:
            raise SettingError(*refused)
    for one in declare.chosen(config):
        if (one is experiment or one.setting in read) and not isinstance(one, declare.Task):
            for need in one.needs:
                if not need.holds(config):
                    raise SettingError(need.setting, getattr(config, need.setting), need.allowed(config))
    if "inputs" in read:
        _check_inputs(config)


def _check_inputs(config: Config) -> None:
    if config.input_size is not None and config.inputs != "noise":
        raise SettingError("input_size", config.input_size, f"null where inputs={config.inputs}")
    if config.inputs == "digits" and importlib.util.find_spec("sklearn") is None:
        raise SettingError(
            "inputs",
            "digits",
            "none or noise, as scikit-learn is not installed (pip install gradient-horizon[data])",
        )


def unread(config: Config) -> dict[str, str]:
    """Return the settings that have no effect, by name, each with the setting that causes this, as in `cell=tanh`."""
    read = settings_of(config.experiment)
    reasons = {name: SETTINGS[name].idle(config) for name in read}
    return {name: reason for name, reason in reasons.items() if reason}


def from_node(node: Any, replaced: Mapping[str, Any]) -> Config:
    """Return the `checked` settings of a composed OmegaConf node.

    The node is merged into the schema once more, which refuses `+typo=1`. `replaced` holds values that take the place
    of the node's own.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), node)
        values = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as error:
        key = (error.full_key or str(error.key or "")).split(".")[0].split("[")[0]
        if key in FIELDS:
            raise SettingError(key, _value_at(node, key), SETTINGS[key].rule.allowed) from None
        check_key(key, _value_at(node, key))
        raise SettingError("settings", key, because=str(error).splitlines()[0]) from None
    assert isinstance(values, dict)
    return checked({**{str(key): value for key, value in values.items()}, **replaced})


def _value_at(node: Any, key: str) -> Any:
    return OmegaConf.to_container(node)[key] if key in node else None  # type: ignore[index]

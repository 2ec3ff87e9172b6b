"""The command `tune`: the value of one setting at which the gradient begins to reach a given number of steps."""

import argparse
import dataclasses
import json
import math
import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gradient_horizon.commands import interrupts
from gradient_horizon.commands.common import DONE, FAILED, UsageError, prepare_jax

if TYPE_CHECKING:
    from gradient_horizon.experiments.tune import Tuned

_ASKED = re.compile(r"(\w+)=\?")


def tune(options: argparse.Namespace) -> int:
    """Find the value of the setting that is given as `?`, and print it with its interval and the command to run it."""
    from gradient_horizon.experiments import tune as tuning

    setting, others = _asked(options.overrides)
    bounds = None if options.between is None else tuple(options.between)
    search = {"kind": options.kind, "level": options.level, "bounds": bounds, "resolution": options.resolution}
    overrides = [
        f"seeds={tuning.SEEDS}",
        *([] if setting == tuning.WEIGHT_SCALE else ["weight_scales=1.0"]),
        *others,
    ]
    config = _config(overrides, setting, search)
    prepare_jax()

    def watch(value: float) -> None:
        interrupts.check()

    found = tuning.tune_config(config, setting, watch=watch, **search)
    command = _command(overrides, setting, found)
    if options.json:
        print(json.dumps(_as_json(found, command), indent=1, allow_nan=False))
    else:
        for line in [*lines_of(found), *([command] if command else [])]:
            print(line)
    return FAILED if math.isnan(found.value) else DONE


def _asked(overrides: Sequence[str]) -> tuple[str, list[str]]:
    """The setting that is asked for, and the other overrides."""
    asked = [match[1] for text in overrides if (match := _ASKED.fullmatch(text))]
    if len(asked) != 1:
        given = " ".join(overrides) or "nothing"
        raise UsageError(f"tune: {given!r}: {len(asked)} settings asked for; allowed: exactly one NAME=? (quote the ?)")
    from gradient_horizon.experiments.tune import ALONE

    others = [text for text in overrides if not _ASKED.fullmatch(text)]
    for text in others:
        key = text.partition("=")[0].lstrip("+~")
        if key in ALONE or key == "sweeps" or key.startswith("hydra"):
            raise UsageError(f"{key}: {text!r} is not allowed with tune; allowed: the settings of the networks")
    return ("weight_scale" if asked[0] == "weight_scales" else asked[0]), [_plural(text) for text in others]


def _plural(text: str) -> str:
    """The override with the setting's full name."""
    return re.sub(r"^weight_scale=", "weight_scales=", text)


def _config(overrides: Sequence[str], setting: str, search: dict[str, Any]) -> Any:
    """The checked settings; `SettingError` for anything wrong, before JAX is loaded."""
    from gradient_horizon.experiments import tune as tuning
    from gradient_horizon.names.rules import SettingError
    from gradient_horizon.settings import compose

    tuning.check_setting(setting)
    for text in overrides:
        key, _, value = text.partition("=")
        if key == "steps" and re.fullmatch(r"0|-\d+|null", value):  # a run, unlike tune, allows null
            raise SettingError("steps", value, "a whole number of at least 1")
    composition = compose.composed(overrides, multirun=True)
    for key, values in composition.axes.items():
        raise SettingError(key, values, "one value")
    config = composition.base
    tuned = "weight_scales" if setting == tuning.WEIGHT_SCALE else setting
    if any(text.partition("=")[0] == tuned for text in overrides):
        raise SettingError(tuned, getattr(config, tuned), because="it is the setting asked for")
    if setting == tuning.WEIGHT_SCALE:
        config = dataclasses.replace(config, weight_scales=[1.0])
    tuning.check_search(config.steps, **search)
    tuning.bounds_of(setting, search["bounds"])
    tuning.check_tuned(config, setting)
    if config.precision == "float64":
        from gradient_horizon.ensembles import devices

        if devices.is_without_float64():
            raise SettingError("precision", "float64", "float32 while JAX_ENABLE_X64=0 is set in the environment")
    return config


def _command(overrides: Sequence[str], setting: str, found: "Tuned") -> str:
    """The command that measures the networks at the value found; empty if there is none."""
    if math.isnan(found.value):
        return ""
    last = {text.partition("=")[0]: text for text in overrides}
    name = "weight_scales" if setting == "weight_scale" else setting
    return shlex.join(["gradient-horizon", "run", *last.values(), f"{name}={found.value!r}"])


def lines_of(found: "Tuned") -> list[str]:
    """What was found, in one to four sentences."""
    seeds = sum(found.counts.values())
    share = _share(found.level)
    counted_in = [f"gradients that are not finite count as {found.kind}"] if found.has_nonfinite else []
    if math.isnan(found.value):
        low, high = found.values[0], found.values[-1]
        often = "at every value" if found.verdict == "nowhere" else "at no value"
        return [
            f"{found.setting}: no value found: more than {_share(1 - found.level)} of the gradients have {found.kind}"
            f" within {found.steps} steps {often} tried, {low:g} to {high:g}",
            f"closest at {found.setting} = {found.closest:g}: {_counts(found)}, {_reaches(found)}",
            *counted_in,
        ]
    lines = [
        f"{found.setting} = {found.value!r} (95 %: {_limits(found)}; {seeds} seeds)",
        f"there, over {found.steps} steps, {_counts(found)}; {_reaches(found)};"
        f" at {found.bracket[0]!r} fewer than {share} have not {found.kind}",
        *counted_in,
    ]
    if found.verdict == "split":
        other = "explode" if found.kind == "vanished" else "vanish"
        lines.append(f"fewer than {share} reach {found.steps} steps there: those that {other} have not {found.kind}")
    if len(found.crossings) > 1:
        others = ", ".join(f"{min(pair):g} to {max(pair):g}" for pair in found.crossings[1:])
        lines.append(f"not the only value: the share also crosses {share} between {others}")
    return lines


def _share(level: float) -> str:
    return "half" if level == 0.5 else f"{100 * level:g} %"


def _limits(found: "Tuned") -> str:
    lower = "unknown" if math.isinf(found.lower) else f"{found.lower!r}"
    upper = "unknown" if math.isinf(found.upper) else f"{found.upper!r}"
    return f"{lower} to {upper}"


def _counts(found: "Tuned") -> str:
    counts = found.counts
    lost = f", {counts['nonfinite']} are not finite" if counts["nonfinite"] else ""
    return f"{counts['beyond']} networks reach, {counts['vanished']} vanish, {counts['exploded']} explode{lost}"


def _reaches(found: "Tuned") -> str:
    """The horizons that decide: those at the quantile that `level` passes."""
    words = [
        f"> {reach.lag - 1:g}" if reach.kind == "beyond" else f"{reach.lag:g} ({reach.kind})" for reach in found.horizon
    ]
    which = "median horizon" if found.level == 0.5 else f"quantile {1 - found.level:g} of the horizons"
    return f"{which} {' to '.join(dict.fromkeys(words))}"


def _as_json(found: "Tuned", command: str) -> dict[str, Any]:
    """Every field as plain values; null for what is unknown."""
    fields = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    plain = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in fields.items()}
    plain["horizon"] = [reach._asdict() for reach in found.horizon]
    return {**_without_infinities(plain), "command": command or None}


def _without_infinities(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_infinities(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinities(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

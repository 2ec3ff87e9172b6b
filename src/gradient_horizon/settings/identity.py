"""The identity of a job: the settings that decide its numbers, and their hash; also how a job is cut into pieces."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gradient_horizon.names import declare
from gradient_horizon.settings.schema import AXES, HOUSEKEEPING, Config, draws_of, settings_of


def as_dict(config: Config) -> dict[str, Any]:
    """Return the settings as plain values, in the schema's order."""
    return dataclasses.asdict(config)


def deciding(config: Config) -> dict[str, Any]:
    """Return the settings that decide the numbers, and `draws`, the version of the random draws, if it matters.

    A declaration of an installed package contributes its settings only if it is chosen, so installing a package changes
    no hash.
    """
    foreign = _foreign(config)
    settings = {key: getattr(config, key) for key in settings_of(config.experiment) if key not in foreign}
    draws = draws_of(config.experiment)
    return settings if draws is None else {**settings, "draws": draws}


def _foreign(config: Config) -> set[str]:
    """Return the settings of those declarations of installed packages that `config` does not choose."""
    chosen = declare.chosen(config)
    return {name for owner, name, _ in declare.own_settings() if owner.package and owner not in chosen}


def described(config: Config) -> dict[str, Any]:
    """Return the settings that a result records: all except `HOUSEKEEPING` and those of declarations not chosen."""
    left_out = {*HOUSEKEEPING, *_foreign(config)}
    return {key: value for key, value in spelt_short(as_dict(config)).items() if key not in left_out}


def spelt_short(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same settings in a form for people: seeds 0 to 7 become 8."""
    seeds = values.get("seeds")
    short = {"seeds": len(seeds)} if seeds and seeds == list(range(len(seeds))) else {}
    return {**values, **short}


def networks_of(config: Config) -> int:
    """Return the number of networks in a job."""
    return math.prod(len(getattr(config, axis)) for axis in AXES)


def cut(config: Config, most: int, axes: Sequence[str] = AXES) -> list[Config]:
    """Split `config` into configs of at most `most` networks each, which together contain every network once."""
    axis, *inner = axes
    values = getattr(config, axis)
    each = math.prod(len(getattr(config, other)) for other in inner)
    if each > most and inner:
        return [piece for value in values for piece in cut(replace(config, **{axis: [value]}), most, inner)]
    step = max(1, most // each)
    return [replace(config, **{axis: values[start : start + step]}) for start in range(0, len(values), step)]


def content_hash(values: Mapping[str, Any]) -> str:
    """Return 64 hexadecimal digits that identify these settings, whatever their order."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

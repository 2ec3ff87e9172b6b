"""The settings of one job: their schema, what each allows, and the hash of those that decide the numbers.

`Config` is the schema of what Hydra composes. `checked` turns the composed settings into a `Config` in which lists are
expanded, or raises `SettingError` with one line that names the setting, the value and what is allowed. Nothing here
loads JAX.
"""

import dataclasses
import difflib
import hashlib
import importlib.util
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gradient_horizon import names
from gradient_horizon.settings import rules
from gradient_horizon.settings.rules import SettingError
from gradient_horizon.tasks import limits
from gradient_horizon.training.initialisations import PUBLISHED

# The schema allows null, which `checked` replaces: in checked settings these are always numbers.
if TYPE_CHECKING:
    Steps: TypeAlias = int
    Transient: TypeAlias = int
else:
    Steps = Transient = int | None


def _setting(default: Any, rule: rules.Rule, description: str) -> Any:
    metadata = {"rule": rule, "description": description}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class Config:
    """Every setting, its default, what it allows and what it means."""

    experiment: str = _setting("jacobian", rules.one_of(names.EXPERIMENTS), "what is measured")
    name: str | None = _setting(
        None, rules.NAME, "folder of the sweep inside the output folder; null: the experiment and a hash of the command"
    )
    output: str = _setting("results", rules.FOLDER, "folder that holds all sweeps")
    cell: str = _setting("tanh", rules.one_of(names.CELLS), "the recurrent cell")
    leak: float = _setting(0.5, rules.FRACTION, "leaky_tanh: how much of the state one step replaces")
    forget_bias: float = _setting(0.0, rules.FINITE, "lstm: added to the bias of the forget gate")
    weights: str = _setting("gaussian", rules.one_of(names.WEIGHTS), "ensemble of every recurrent matrix")
    hidden_size: int = _setting(64, rules.whole(1), "N, hidden units (notes: H)")
    batch_size: int = _setting(20, rules.whole(1), "training: sequences of one update; notes: N, the rows of dh")
    steps: Steps = _setting(
        None, rules.whole_or_null(1), "T, steps in time; null: 100, and in training as many as are usual for the task"
    )
    seeds: Any = _setting(8, rules.SEEDS, "networks at each weight scale")
    weight_scales: Any = _setting(None, rules.SCALES, "g in W = g W0; null: 0.5, 1, 1.5, 2")
    bias_scale: float = _setting(0.0, rules.NOT_NEGATIVE, "standard deviation of the bias")
    input_scale: float = _setting(1.0, rules.NOT_NEGATIVE, "input weights have variance input_scale^2 / input_size")
    state_scale: float = _setting(1.0, rules.NOT_NEGATIVE, "standard deviation of the initial state")
    inputs: str = _setting("none", rules.one_of(names.INPUTS), "what drives the networks")
    input_size: int | None = _setting(
        None, rules.whole_or_null(1), "entries of a noise input; null: as many as hidden units"
    )
    noise_scale: float = _setting(1.0, rules.NOT_NEGATIVE, "standard deviation of a noise input")
    norms: Any = _setting(["frobenius"], rules.some_of(names.NORMS), "norms of the Jacobian product")
    block: str = _setting("state", rules.one_of(names.BLOCKS), "lstm: dh_T/dh_t or dc_T/dc_t alone; state: of all")
    anchors: Any = _setting(["end"], rules.some_of(names.ANCHORS), "end: dh_T/dh_t for every t; start: dh_t/dh_0")
    transient: Transient = _setting(
        None,
        rules.whole_or_null(0),
        "lyapunov: steps that are discarded before counting starts; null: 300, but at most a quarter of the steps",
    )
    exponents: int | None = _setting(None, rules.whole_or_null(1), "lyapunov: how many, from the largest; null: all")
    lags: Any = _setting(
        None, rules.LAGS, "singular_values: steps back from T, at most T; null: 1, 2, 5, 10, 20, 50, ... and T"
    )
    horizon_threshold: float = _setting(
        3.0, rules.POSITIVE, "decades that the gradient may gain or lose before its horizon"
    )
    method: str = _setting("auto", rules.one_of(names.METHODS), "how the product is formed; jacrev is the reference")
    recheck: bool = _setting(
        False, rules.SWITCH, "measure one block again with method=jacrev and record the difference"
    )
    task: str = _setting("temporal_order", rules.one_of(names.TASKS), "training: what is learned")
    distance: int | None = _setting(
        None, rules.whole_or_null(1), "training: story: words from the clue to the question; null: as many as fit"
    )
    updates: int = _setting(1000, rules.whole(1), "training: how many")
    record_every: int | None = _setting(
        None, rules.whole_or_null(1), "training: updates between two records; null: a twentieth of them"
    )
    test_size: int = _setting(1000, rules.whole(1), "training: fresh sequences that each record is made on")
    initialisation: str | None = _setting(
        None,
        rules.one_of_or_null(tuple(PUBLISHED)),
        "training: a published one, which fixes cell, ensemble and the other weights; null: by these settings",
    )
    optimizer: str = _setting("sgd", rules.one_of(names.OPTIMIZERS), "training: what turns gradients into updates")
    learning_rates: Any = _setting([0.01], rules.RATES, "training: networks at each learning rate")
    clip: str = _setting("book", rules.one_of(names.CLIP_RULES), "training: what shortens a gradient that is too long")
    clip_thresholds: Any = _setting([1.0], rules.RATES, "training: networks at each threshold of the clip rule")
    output_scale: float = _setting(
        1.0, rules.NOT_NEGATIVE, "training: readout weights have variance output_scale^2 / N"
    )
    solved_below: float | None = _setting(
        None, rules.POSITIVE_OR_NULL, "training: the error under which the task counts as solved; null: the task's own"
    )
    until_solved: bool = _setting(False, rules.SWITCH, "training: no updates once a network has solved its task")
    omega: float = _setting(0.0, rules.NOT_NEGATIVE, "training: weight of Pascanu's regulariser; 0: none")
    omega_squared: bool = _setting(True, rules.SWITCH, "training: the regulariser of squared norms (else of norms)")
    floss_updates: int = _setting(0, rules.whole(0), "training: updates of gradient flossing before training; 0: none")
    floss_exponents: int = _setting(1, rules.whole(1), "training: Lyapunov exponents that flossing pushes to zero")
    floss_rate: float = _setting(0.001, rules.POSITIVE, "training: learning rate of flossing")
    floss_every: int = _setting(0, rules.whole(0), "training: floss again before every so many updates; 0: never")
    precision: str = _setting("float32", rules.one_of(names.PRECISIONS), "floating point numbers of the networks")
    memory_budget: float | None = _setting(
        None, rules.MEMORY_OR_NULL, "GiB that a job may take; null: 60 % of what is free"
    )
    pack: int = _setting(1, rules.whole(1), "jobs that one task of a launcher computes one after the other")
    quick_look: bool = _setting(True, rules.SWITCH, "draw each job's result beside it")
    force: bool = _setting(False, rules.SWITCH, "compute again and overwrite what is finished")


FIELDS = {entry.name: entry for entry in dataclasses.fields(Config)}

STEPS = 100  # the default, except in training
TRANSIENT = 300  # upper limit of the default

# Settings that do not decide the numbers and are therefore left out of the hash.
HOUSEKEEPING = ("name", "output", "memory_budget", "pack", "quick_look", "force")

# The version of what seeds draw. It enters the hash, so that networks of two versions are never joined. In version 1
# (package 0.1.0) a small array had the first entries of a large one of the same seed; 2 draws every size separately.
DRAWS = 2

# Settings whose values run side by side in one compiled program; too large a job is cut along the first axis first.
AXES = ("seeds", "weight_scales", "learning_rates", "clip_thresholds")

# Coordinates of every result: a sweep over one of these joins along it instead of adding a dimension.
JOINED = {
    "seeds": "seed",
    "weight_scales": "weight_scale",
    "learning_rates": "learning_rate",
    "clip_thresholds": "clip_threshold",
    "norms": "norm",
    "anchors": "anchor",
    "lags": "lag",
}

# Null means the usual value given the other settings, which is filled in job by job.
FROM_OTHERS = ("steps", "transient")

# Settings that decide the networks of every experiment except the notes and training.
_DRAWN = (
    *("experiment", "cell", "leak", "forget_bias", "weights", "hidden_size", "steps", "seeds", "weight_scales"),
    *("bias_scale", "input_scale", "state_scale", "inputs", "input_size", "noise_scale", "precision"),
)
_READ_BY = {
    "jacobian": (*_DRAWN, "norms", "block", "anchors", "horizon_threshold", "method", "recheck"),
    "singular_values": (*_DRAWN, "lags"),
    "lyapunov": (*_DRAWN, "transient", "exponents"),
    "pairs": _DRAWN,
    "nodes": _DRAWN,
    "notes": ("experiment", "hidden_size", "batch_size", "steps", "seeds", "weight_scales"),
    "training": (
        *("experiment", "cell", "leak", "forget_bias", "weights", "hidden_size", "steps", "seeds", "weight_scales"),
        *("bias_scale", "input_scale", "output_scale", "initialisation", "task", "distance", "batch_size"),
        *("updates", "record_every", "test_size"),
        *("optimizer", "learning_rates", "clip", "clip_thresholds", "solved_below", "until_solved"),
        *("omega", "omega_squared", "floss_updates", "floss_exponents", "floss_rate", "floss_every", "precision"),
    ),
}


def settings_of(experiment: str) -> tuple[str, ...]:
    """Return the settings that decide the numbers of `experiment`."""
    return _READ_BY[experiment]


def draws_of(experiment: str) -> int | None:
    """Return `DRAWS`; None for the notes, whose seeds are NumPy's."""
    return None if experiment == "notes" else DRAWS


def describe_settings(experiment: str | None = None, defaults: Mapping[str, Any] | None = None) -> str:
    """Describe each setting in two lines: name and default; meaning and allowed values.

    With an `experiment`, only the settings that it reads and `HOUSEKEEPING` are listed, with the values that they have
    there by default; `defaults` are the experiment's own.
    """
    values = as_dict(Config())
    shown = list(FIELDS)
    if experiment is not None:
        values = spelt_short(as_dict(checked({"experiment": experiment, **(defaults or {})})))
        shown = [name for name in FIELDS if name in (*settings_of(experiment), *HOUSEKEEPING)]
    return "\n".join(
        f"  {name}={json.dumps(values[name]).strip(chr(34))}\n"
        f"      {FIELDS[name].metadata['description']} [{FIELDS[name].metadata['rule'].allowed}]"
        for name in shown
    )


def check_key(key: str, value: Any) -> None:
    """Raise `SettingError` for a setting that does not exist, and suggest the nearest one that does."""
    if key not in FIELDS:
        raise SettingError(key, value, f"the settings {', '.join(FIELDS)}{did_you_mean(key, FIELDS)}")


def did_you_mean(word: Any, known: Collection[str]) -> str:
    """Return a suggestion, in brackets, of the nearest of the `known` words; empty if none is near."""
    near = difflib.get_close_matches(str(word).lower(), known, 1)
    return f" (did you mean {near[0]}?)" if near else ""


def _missing_of_range(given: Any) -> str:
    """Return which keys of a range of numbers are missing or unknown, in brackets."""
    if not isinstance(given, Mapping):
        return ""
    missing = [part for part in ("start", "stop", "num") if part not in given]
    others = [str(part) for part in given if part not in ("start", "stop", "num", "spacing")]
    return "".join(
        f" ({', '.join(parts)} {word})" for parts, word in ((missing, "missing"), (others, "unknown")) if parts
    )


def _expanded_seeds(value: Any) -> Any:
    if rules.is_whole(value) and 1 <= value <= rules.MOST_VALUES:
        return list(range(value))
    return value if isinstance(value, list) else []


def _expanded_numbers(value: Any) -> Any:
    if isinstance(value, Mapping):
        try:
            start, stop, num = (value[key] for key in ("start", "stop", "num"))
            spacing = value.get("spacing", "linear")
            if set(value) - {"start", "stop", "num", "spacing"} or spacing not in ("linear", "log"):
                return []
            if not (rules.is_whole(num) and 1 <= num <= rules.MOST_VALUES):
                return []
            if not (rules.is_number(start) and rules.is_number(stop)):
                return []
            if spacing == "log":
                if min(start, stop) <= 0:
                    return []
                start, stop = math.log(start), math.log(stop)
            points = [start + (stop - start) * k / max(num - 1, 1) for k in range(num)]
            value = [math.exp(point) for point in points] if spacing == "log" else points
        except (KeyError, TypeError, ValueError, OverflowError):
            return []
    if rules.is_number(value):
        value = [value]
    if not isinstance(value, list):
        return []
    # Twelve digits: 1.05 is the same network whether it was typed or came from a range.
    return [_unsigned_zero(float(f"{scale:.12g}")) if rules.is_number(scale) else scale for scale in value]


def _unsigned_zero(value: float) -> float:
    """Return the same number, but 0.0 for -0.0, which would have a name and a hash of its own."""
    return value + 0.0


def _expanded_lags(value: Any) -> Any:
    value = [value] if rules.is_whole(value) else value
    return sorted(value) if isinstance(value, list) and all(map(rules.is_whole, value)) else value


def _expanded_names(value: Any) -> Any:
    return [value] if isinstance(value, str) else value if isinstance(value, list) else []


_EXPAND: dict[str, Callable[[Any], Any]] = {
    "seeds": _expanded_seeds,
    "weight_scales": lambda value: _expanded_numbers([0.5, 1.0, 1.5, 2.0] if value is None else value),
    "learning_rates": _expanded_numbers,
    "clip_thresholds": _expanded_numbers,
    "lags": _expanded_lags,
    "norms": _expanded_names,
    "anchors": _expanded_names,
}


def _accepts(rule: rules.Rule, value: Any) -> bool:
    try:
        return rule.accepts(value)
    except TypeError:  # entries that cannot be compared or hashed
        return False


def check_value(key: str, given: Any) -> Any:
    """Return `given`, with lists expanded, if the setting `key` allows it; else raise `SettingError`."""
    entry = FIELDS[key]
    if entry.type in (float, float | None) and rules.is_number(given):
        given = _unsigned_zero(float(given))
    rule: rules.Rule = entry.metadata["rule"]
    expand = _EXPAND.get(key, lambda value: value)
    value, accepted = [], False
    # check the two ends of a long range first: if they are wrong, it need not be expanded
    if not (isinstance(given, Mapping) and given.get("num") not in (1, 2)) or _accepts(
        rule, expand({**given, "num": 2})
    ):
        value = expand(given)
        accepted = _accepts(rule, value)
    if not accepted:
        wrong = [word for word in (given if isinstance(given, list) else [given]) if word not in rule.options]
        hint = did_you_mean(wrong[0], rule.options) if rule.options and wrong else ""
        raise SettingError(key, given, f"{rule.allowed}{hint or _missing_of_range(given)}")
    return value


def checked(values: Mapping[str, Any]) -> Config:
    """Return the `Config` of these settings, with lists expanded and defaults for missing settings.

    Raises `SettingError` naming the first setting that is wrong.
    """
    for key, value in values.items():
        check_key(key, value)
    defaults = Config()
    plain = {key: check_value(key, values.get(key, getattr(defaults, key))) for key in FIELDS}
    config = Config(**plain)
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
    if key == "steps":
        if settings["experiment"] == "training":
            return limits.usual_steps(settings["task"], settings["distance"])
        return STEPS
    if key == "transient":
        return min(TRANSIENT, settings["steps"] // 4)
    initialisation = settings.get("initialisation")
    if settings.get("experiment") == "training" and initialisation in PUBLISHED:
        fixed = _fixed_by(initialisation)
        if key in fixed:
            return fixed[key][0]
    return getattr(Config(), key)


def disagreements(jobs: Sequence[Mapping[str, Any]], axes: Collection[str]) -> dict[str, list[Any]]:
    """Return the settings that decide the numbers and differ between the `jobs` of a sweep without being axes of it.

    Each name is mapped to its distinct values. Settings that are lists are left out, since they join along an axis of
    the result. Settings that other settings decide may differ with these, like the usual `steps` of two tasks. A
    setting that a job does not name has its default.
    """
    keys = dict.fromkeys(key for job in jobs for key in job if key not in axes and key not in JOINED)
    read = {key for job in jobs for key in _READ_BY.get(job.get("experiment", ""), FIELDS)}
    found = {}
    for key in (key for key in keys if key in read or key not in FIELDS):
        values = [job.get(key, FIELDS[key].default if key in FIELDS else None) for job in jobs]
        different = list({json.dumps(value): value for value in values}.values())
        if len(different) > 1 and not all(_is_usual(key, value, job) for value, job in zip(values, jobs, strict=True)):
            found[key] = different
    return found


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
    """Return `config` with what its published initialisation fixes; refuse other values of these settings."""
    for name, allowed in _fixed_by(config.initialisation or "").items():
        value = getattr(config, name)
        if value not in (FIELDS[name].default, *allowed):
            words = " or ".join(str(entry) for entry in allowed)
            raise SettingError(name, values.get(name), f"{words} where initialisation={config.initialisation}")
        if value not in allowed:
            config = replace(config, **{name: allowed[0]})
    return config


def _check_together(config: Config) -> None:
    if config.experiment == "jacobian":
        if config.block != "state" and config.cell != "lstm":
            raise SettingError("block", config.block, f"state where cell={config.cell}, whose state is one vector")
        for anchor in config.anchors:
            fitting = names.METHOD_OF_ANCHOR[anchor]
            if config.method not in ("auto", "jacrev", fitting):
                raise SettingError("method", config.method, f"auto, jacrev or {fitting} where anchors holds {anchor}")
    if config.experiment == "lyapunov":
        if config.transient >= config.steps:
            raise SettingError("transient", config.transient, f"less than steps={config.steps}")
        size = config.hidden_size * names.STATES_OF_CELL.get(config.cell, 1)
        if config.exponents is not None and config.exponents > size:
            raise SettingError("exponents", config.exponents, f"at most {size}, the size of the state")
    if config.experiment == "singular_values" and config.lags is not None and config.lags[-1] > config.steps:
        raise SettingError("lags", config.lags, f"at most steps={config.steps}")
    if config.experiment == "nodes" and config.cell not in names.ONE_PATH_CELLS:
        raise SettingError("cell", config.cell, f"{', '.join(names.ONE_PATH_CELLS)} where experiment=nodes")
    if config.experiment == "training":
        _check_training(config)
    elif config.experiment != "notes":
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
    found = {}
    if config.cell != "lstm":
        found |= dict.fromkeys(("forget_bias", "block"), f"cell={config.cell}")
    if config.cell != "leaky_tanh":
        found["leak"] = f"cell={config.cell}"
    if config.experiment != "training":
        if config.inputs != "noise":
            found |= dict.fromkeys(("noise_scale", "input_size"), f"inputs={config.inputs}")
        if config.inputs == "none":
            found["input_scale"] = "inputs=none"
        return found
    if config.clip == "none":
        found["clip_thresholds"] = "clip=none"
    if config.omega == 0:
        found["omega_squared"] = "omega=0"
    if config.floss_updates == 0:
        found |= dict.fromkeys(("floss_exponents", "floss_rate", "floss_every"), "floss_updates=0")
    if config.initialisation is not None:
        found |= dict.fromkeys(("input_scale", "output_scale"), f"initialisation={config.initialisation}")
    return found


def _check_training(config: Config) -> None:
    refused = limits.refusal(config.task, config.steps, config.distance)
    if refused is not None:
        raise SettingError(*refused)
    if config.record_every is not None and config.record_every > config.updates:
        raise SettingError("record_every", config.record_every, f"at most updates={config.updates}")
    if config.omega and config.cell not in names.ONE_PATH_CELLS:
        raise SettingError("cell", config.cell, f"{', '.join(names.ONE_PATH_CELLS)} where omega is above 0")
    size = config.hidden_size * names.STATES_OF_CELL.get(config.cell, 1)
    if config.floss_exponents > size:
        raise SettingError("floss_exponents", config.floss_exponents, f"at most {size}, the size of the state")


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
            raise SettingError(key, _value_at(node, key), FIELDS[key].metadata["rule"].allowed) from None
        check_key(key, _value_at(node, key))
        raise SettingError("settings", key, because=str(error).splitlines()[0]) from None
    assert isinstance(values, dict)
    return checked({**{str(key): value for key, value in values.items()}, **replaced})


def _value_at(node: Any, key: str) -> Any:
    return OmegaConf.to_container(node)[key] if key in node else None  # type: ignore[index]


def as_dict(config: Config) -> dict[str, Any]:
    """Return the settings as plain values, in the schema's order."""
    return dataclasses.asdict(config)


def deciding(config: Config) -> dict[str, Any]:
    """Return the settings that decide the numbers, and `draws`, the version of what seeds draw, if it matters."""
    settings = {key: getattr(config, key) for key in settings_of(config.experiment)}
    draws = draws_of(config.experiment)
    return settings if draws is None else {**settings, "draws": draws}


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

"""The settings of one job: `Config`, the schema of what Hydra composes.

Settings that several experiments read are defined here. Those of one cell, task or experiment are declared in its own
file (`names.declare`) and added here, so that all settings look alike on the command line. Nothing here loads JAX.
"""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from gradient_horizon import names
from gradient_horizon.names import declare, rules
from gradient_horizon.names.declare import Setting
from gradient_horizon.training.initialisations import PUBLISHED

# The schema allows null, which `validation.checked` replaces: in checked settings this is always a number.
if TYPE_CHECKING:
    Steps: TypeAlias = int
else:
    Steps = int | None

STEPS = 100  # the default, except in training


def _setting(default: Any, rule: rules.Rule, description: str, **more: Any) -> Any:
    return declare.field_of(Setting(default, rule, description, **more))


def _undriven(settings: Any) -> str:
    """Return why a setting of the noise input has no effect."""
    return f"inputs={settings.inputs}" if settings.experiment != "training" and settings.inputs != "noise" else ""


def _without_inputs(settings: Any) -> str:
    if settings.experiment == "training":
        return declare.unless("initialisation", None)(settings)
    return declare.where("inputs", "none")(settings)


@dataclass
class _Shared:
    """The settings that several experiments read, each with its default, what it allows and what it means."""

    experiment: str = _setting("jacobian", rules.one_of(names.EXPERIMENTS), "experiment to run")
    name: str | None = _setting(
        None,
        rules.NAME,
        "folder of the sweep inside the output folder; null: named by the experiment and a hash of the command",
    )
    output: str = _setting("results", rules.FOLDER, "folder in which sweeps are stored")
    cell: str = _setting("tanh", rules.one_of(names.CELLS), "recurrent cell")
    weights: str = _setting("gaussian", rules.one_of(names.WEIGHTS), "ensemble from which recurrent matrices are drawn")
    hidden_size: int = _setting(64, rules.whole(1), "number of hidden units, N (notes: H)")
    batch_size: int = _setting(
        20, rules.whole(1), "training: number of sequences per update; notes: number of rows of dh, N"
    )
    steps: Steps = _setting(
        None,
        rules.whole_or_null(1),
        "number of time steps, T; null: 100, or in training the usual number for the task",
        usual=lambda settings: _usual_steps(settings),
        usual_from=("task", *declare.own_settings_of(declare.Task)),
    )
    seeds: Any = _setting(
        8, rules.SEEDS, "seeds of the networks, one network per seed at each weight scale", coordinate="seed"
    )
    weight_scales: Any = _setting(
        None, rules.SCALES, "weight scales g in W = g W0; null: 0.5, 1, 1.5, 2", coordinate="weight_scale"
    )
    bias_scale: float = _setting(0.0, rules.NOT_NEGATIVE, "standard deviation of the biases")
    input_scale: float = _setting(
        1.0,
        rules.NOT_NEGATIVE,
        "scale of the input weights, whose variance is input_scale^2 / input_size",
        idle=_without_inputs,
    )
    state_scale: float = _setting(1.0, rules.NOT_NEGATIVE, "standard deviation of the initial state")
    inputs: str = _setting("none", rules.one_of(names.INPUTS), "input that drives the networks")
    input_size: int | None = _setting(
        None,
        rules.whole_or_null(1),
        "number of entries of the noise input; null: the number of hidden units",
        idle=_undriven,
    )
    noise_scale: float = _setting(1.0, rules.NOT_NEGATIVE, "standard deviation of the noise input", idle=_undriven)
    initialisation: str | None = _setting(
        None,
        rules.one_of_or_null(tuple(PUBLISHED)),
        "training: a published initialisation, which fixes the cell and how weights are drawn; null: none",
    )
    precision: str = _setting("float32", rules.one_of(names.PRECISIONS), "floating-point precision of the networks")
    memory_budget: float | None = _setting(
        None, rules.MEMORY_OR_NULL, "memory that a job may take, in GiB; null: 60 % of the free memory"
    )
    pack: int = _setting(1, rules.whole(1), "number of jobs that each task of a launcher computes, one after the other")
    quick_look: bool = _setting(True, rules.SWITCH, "draw a figure of each job's result next to it")
    force: bool = _setting(False, rules.SWITCH, "compute finished jobs again and overwrite their results")


def _usual_steps(settings: Any) -> int:
    from gradient_horizon.tasks import limits

    return limits.usual_steps(settings["task"], settings) if settings["experiment"] == "training" else STEPS


def _own_fields() -> list[tuple[str, Any, Any]]:
    """Return the settings that files declare, as fields of a dataclass."""
    fields = {}
    for owner, name, setting in declare.own_settings():
        if name in fields or name in _Shared.__dataclass_fields__:
            raise ValueError(f"{name}: {owner.module} declares a setting that already exists")
        described = dataclasses.replace(
            setting,
            description=f"{owner.name}: {setting.description}",
            idle=_with_owner(owner, setting),
        )
        fields[name] = (name, setting.type or type(setting.default), declare.field_of(described))
    return list(fields.values())


def _with_owner(owner: declare.Declaration, setting: Setting) -> Any:
    """Return why the setting has no effect: its owner is not chosen, or its own reason."""

    def idle(settings: Any) -> str:
        if getattr(settings, owner.setting) != owner.name:
            return f"{owner.setting}={getattr(settings, owner.setting)}"
        return setting.idle(settings)

    return idle


if TYPE_CHECKING:

    @dataclass
    class Config(_Shared):
        """Every setting, its default, what it allows and what it means."""

        def __init__(self, **settings: Any) -> None: ...

        def __getattr__(self, name: str) -> Any: ...

else:
    Config = dataclasses.make_dataclass("Config", _own_fields(), bases=(_Shared,))
    Config.__module__ = __name__
    Config.__doc__ = "Every setting, its default, what it allows and what it means."

FIELDS = {entry.name: entry for entry in dataclasses.fields(Config)}
SETTINGS: dict[str, Setting] = {name: entry.metadata["setting"] for name, entry in FIELDS.items()}

# Settings that do not decide the numbers and are therefore left out of the hash.
HOUSEKEEPING = ("name", "output", "memory_budget", "pack", "quick_look", "force")

# The version of the random draws. It enters the hash, so that networks of two versions are never joined. In version 1
# (package 0.1.0) a small array had the first entries of a large one of the same seed; 2 draws every size separately.
DRAWS = 2

# Settings whose values run side by side in one compiled program; too large a job is cut along the first axis first.
AXES = ("seeds", "weight_scales", "learning_rates", "clip_thresholds")

# Coordinates of every result: a sweep over one of these joins along it instead of adding a dimension.
JOINED = {name: setting.coordinate for name, setting in SETTINGS.items() if setting.coordinate}

# Null means the usual value given the other settings, which is filled in job by job.
FROM_OTHERS = tuple(name for name, setting in SETTINGS.items() if setting.usual is not None)


def settings_of(experiment: str) -> tuple[str, ...]:
    """Return the settings that decide the numbers of `experiment`.

    Those of a cell, task, ensemble or clip rule of an installed package are among them: see `identity.deciding`.
    """
    declared = declare.declared(declare.Experiment)[experiment]
    read = dict.fromkeys((*declared.reads, *declared.settings))
    for owner, name, _ in declare.own_settings():
        if owner.setting in read and owner.setting != "experiment":
            read[name] = None
    return tuple(read)


def draws_of(experiment: str) -> int | None:
    """Return `DRAWS`; None if the seeds are those of another generator."""
    declared = declare.declared(declare.Experiment).get(experiment)
    return None if declared is not None and declared.has_own_draws else DRAWS

"""From a command line to jobs, by Hydra: defaults, presets, overrides and their sweeps; and the jobs one by one.

Hydra composes the settings once; each job then differs in its swept settings alone, which are plain values, so a job
costs no composition of its own (Hydra's own sweeper composes every job twice, some 0.15 s).
"""

import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from gradient_horizon import config, jobs, launchers, records
from gradient_horizon.rules import SettingError

LONGEST_JOB_NAME = 120
MOST_JOBS = 100_000


@dataclass(frozen=True)
class Sweep:
    """The jobs of one command, all settings checked."""

    folder: Path
    jobs: list[jobs.Job]
    axes: dict[str, list[Any]]
    launcher: dict[str, Any] | None = None  # settings of one of Hydra's; None: this process


def _root() -> Path:
    """Where `conf/` and `sweeps/` lie: inside the installed package, or at the root of the checkout."""
    package = Path(__file__).parent
    return package if (package / "conf").is_dir() else package.parents[1]


def _parse(overrides: Sequence[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(list(overrides))
    except (HydraException, RecursionError) as error:
        bad = next((text for text in overrides if _unreadable(text)), " ".join(overrides))
        raise SettingError("override", bad, f"NAME=VALUE, and for a sweep NAME=VALUE,VALUE ({_line(error)})") from None


def _unreadable(text: str) -> bool:
    try:
        OverridesParser.create().parse_overrides([text])
    except (HydraException, RecursionError):
        return True
    return False


def _line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _check_override(override: Override) -> None:
    key = override.key_or_group
    if not key:
        raise SettingError("override", override.input_line, "NAME=VALUE")
    if key == "hydra/launcher":
        launchers.check_name(override.value())
        return
    if key.startswith(("hydra.", "hydra/")):
        if not key.startswith("hydra.launcher.") or "_target_" in f"{key}{override.value()}":
            raise SettingError(key, str(override.value()), "hydra/launcher and hydra.launcher.NAME, which name no code")
        return
    if key == "sweeps":
        return
    config.check_key(key, override.value())
    if override.is_delete():
        raise SettingError(f"~{key}", override.value(), "settings can be changed but not deleted")


def _check_preset(name: str) -> None:
    """`SettingError` for the first setting of a preset whose own value is wrong, which Hydra may not name."""
    for path in (place / "sweeps" / f"{name}.yaml" for place in (_root(), Path.cwd())):
        try:
            values = OmegaConf.to_container(OmegaConf.load(path))
        except (OSError, YAMLError, OmegaConfBaseException, UnicodeError):
            continue
        for key, value in values.items() if isinstance(values, dict) else ():
            if key in config.FIELDS and "${" not in str(value):
                config.check_value(str(key), value)


@contextmanager
def initialised() -> Iterator[Callable[[Sequence[str]], DictConfig]]:
    """A function that composes the settings of these overrides, with Hydra's own."""
    ConfigStore.instance().store(name="settings", node=config.Config)
    root = _root()
    places = [f"file://{place}" for place in dict.fromkeys((root, Path.cwd()))]
    search = f"hydra.searchpath=[{','.join(json.dumps(place) for place in places)}]"
    with initialize_config_dir(str(root / "conf"), version_base="1.3", job_name="gradient-horizon"):
        yield lambda overrides: compose("config", [*overrides, search], return_hydra_config=True)


def presets() -> list[str]:
    """The names that `+sweeps=` takes: those that ship, and those under `sweeps/` of the working folder."""
    return sorted({path.stem for place in (_root(), Path.cwd()) for path in (place / "sweeps").glob("*.yaml")})


def _axis(override: Override) -> list[Any]:
    """The values of `key=a,b` or `key=range(..)`, each as the type it is written as."""
    if not override.is_sweep_override():
        return [override.value()]
    key = override.key_or_group
    texts = list(itertools.islice(override.sweep_string_iterator(), MOST_JOBS + 1))
    if len(texts) > MOST_JOBS:
        raise SettingError(key, f"{texts[0]},{texts[1]},...", f"at most {MOST_JOBS} jobs")
    values = [_parse([f"{key}={text}"])[0].value() for text in texts]
    if key == "steps" and None in values:
        raise SettingError(key, "a sweep with null", "whole numbers; or null alone, each task's usual number")
    # 1 and 1.0 are one setting and so one job; lists keep the spelling, which is shorter in a job's name.
    return values if key in config.JOINED else [config.check_value(key, value) for value in values]


def plan(overrides: Sequence[str], *, multirun: bool = False) -> Sweep:
    """Every job of `overrides`, or `SettingError` for the first setting that is wrong. Writes nothing."""
    given = _parse(overrides)
    for override in given:
        _check_override(override)
    fixed, swept = [], []
    for override in given:
        if override.is_sweep_override() and not override.key_or_group.startswith("hydra"):
            swept.append(override)
        else:
            fixed.append(override)
    for override in fixed:
        if override.key_or_group == "experiment":
            config.check_value("experiment", override.value())
        if override.key_or_group == "sweeps" and override.value() not in presets():
            raise SettingError("sweeps", override.value(), f"the presets {', '.join(presets())}")
        if override.key_or_group in config.FIELDS and "${" not in str(override.value()):
            config.check_value(override.key_or_group, override.value())
    # Lists and ranges replace each other here; OmegaConf merges a list with a list alone.
    spelt = [override for override in fixed if override.key_or_group in config.AXES]
    try:
        with initialised() as composing:
            composed = composing([override.input_line or "" for override in fixed if override not in spelt])
    except Exception as error:  # whatever Hydra makes of a preset that is none
        preset = next((override.value() for override in fixed if override.key_or_group == "sweeps"), None)
        if preset:
            _check_preset(preset)
        setting, value = ("sweeps", preset) if preset else ("override", " ".join(overrides))
        raise SettingError(setting, value, f"what Hydra can compose ({' '.join(str(error).split())})") from None
    hydra = composed.hydra
    if not isinstance(hydra.sweeper.get("params"), DictConfig | None):
        raise SettingError("hydra.sweeper.params", hydra.sweeper.params, "NAME: VALUE,VALUE")
    settings = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    base = config.from_node(settings, {override.key_or_group: override.value() for override in spelt})

    on_line = {override.key_or_group for override in given}
    preset = {key: text for key, text in (hydra.sweeper.params or {}).items() if key not in on_line}
    swept += _parse([f"{key}={text}" for key, text in preset.items()])
    if swept and not multirun and hydra.mode is None:
        override = swept[0]
        raise SettingError(
            override.key_or_group,
            (override.input_line or "").partition("=")[2],
            "one value; add -m to run each of several",
        )
    for override in swept:
        _check_override(override)
        if override.key_or_group in ("experiment", "sweeps", *config.HOUSEKEEPING):
            raise SettingError(override.key_or_group, "a sweep", "one value a command")
    axes = {override.key_or_group: _axis(override) for override in swept}
    _check_read(base.experiment, [*axes, *(key for key in on_line if key in config.FIELDS)], base)
    values = config.as_dict(base)
    if settings.steps is None:  # and so as many as each job's task asks for
        values["steps"] = None
    return _sweep(base, values, axes, launchers.checked(hydra.launcher))


def _check_read(experiment: str, keys: Sequence[str], base: config.Config) -> None:
    read = config.settings_of(experiment)
    for key in keys:
        if key not in read and key not in config.HOUSEKEEPING:
            raise SettingError(
                key,
                getattr(base, key),
                f"nothing: experiment={experiment} does not read it; it reads {', '.join(read)}",
            )


def _sweep(
    base: config.Config, values: dict[str, Any], axes: dict[str, list[Any]], launcher: dict[str, Any] | None
) -> Sweep:
    deciding = config.deciding(base)
    if values["steps"] is None and {"task", "distance"} & set(axes):
        deciding["steps"] = None  # as every job's own
    name = base.name or f"{base.experiment}-{config.content_hash({**deciding, 'axes': axes})[:8]}"
    folder = Path(base.output) / name
    keys = sorted(axes)
    if (count := math.prod(len(values) for values in axes.values())) > MOST_JOBS:
        raise SettingError(", ".join(keys), f"{count} jobs", f"at most {MOST_JOBS}")
    found: dict[str, jobs.Job] = {}
    for point in itertools.product(*(axes[key] for key in keys)):
        at = dict(zip(keys, point, strict=True))
        checked = config.checked({**values, **at, "name": name})
        swept = {key: getattr(checked, key) for key in keys if key not in config.JOINED}
        job = jobs.Job(folder / job_name(at), checked, swept)
        found.setdefault(job.name, job)
    return Sweep(folder, list(found.values()), axes, launcher)


def job_name(swept: dict[str, Any]) -> str:
    """A folder's name from the swept settings, readable and the same whatever their order: `cell=tanh,steps=100`."""
    if not swept:
        return "single"
    text = ",".join(
        f"{key}={json.dumps(swept[key]) if not isinstance(swept[key], str) else swept[key]}" for key in sorted(swept)
    )
    text = text.replace(" ", "").replace('"', "")
    clean = re.sub(r"[^A-Za-z0-9_.=,+\-\[\]{}:]", "-", text)
    if clean == text and len(text) <= LONGEST_JOB_NAME:
        return text
    return f"{clean[: LONGEST_JOB_NAME - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def conflicts(sweep: Sweep) -> list[str]:
    """One line a job whose folder holds a finished result of other settings."""
    return [
        f"{job.folder}: finished with other settings ({'; '.join(differences)}); allowed: another name, or force=true"
        for job in sweep.jobs
        if not job.config.force and (differences := job.conflict())
    ]


def unfinished(sweep: Sweep) -> list[jobs.Job]:
    """The jobs that have yet to be computed: all of them with `force`."""
    return [job for job in sweep.jobs if job.config.force or not job.is_finished()]


def prepare_folder(sweep: Sweep) -> None:
    """Make the sweep's folder and write its plan; `SettingError` where that cannot be done."""
    try:
        sweep.folder.mkdir(parents=True, exist_ok=True)
        records.write_plan(sweep.folder, {job.name: job.networks for job in sweep.jobs})
    except OSError as error:
        raise SettingError("output", str(sweep.folder), f"a folder that can be written ({error.strerror})") from None


@dataclass(frozen=True)
class Outcome:
    """The jobs that failed, each with why, and those that another process is computing."""

    failed: list[tuple[jobs.Job, str]]
    elsewhere: list[jobs.Job]


def run(todo: Sequence[jobs.Job], watch: Callable[[jobs.Job], Callable[[float], None]]) -> Outcome:
    """Compute `todo` one after the other in this process. A failure stops no other job.

    A job that another process has claimed is left to it, and not computed again when it has just finished there.
    """
    outcome = Outcome([], [])
    for job in todo:
        try:
            with jobs.claimed(job) as mine:
                report = watch(job)
                if not mine:
                    outcome.elsewhere.append(job)
                elif job.is_finished() and not job.config.force:
                    report(job.networks)
                else:
                    jobs.execute(job, report)
        except Exception as error:
            outcome.failed.append((job, f"{type(error).__name__}: {error}".splitlines()[0]))
    return Outcome(outcome.failed, [job for job in outcome.elsewhere if not job.is_finished()])

"""Sweeps: Hydra composes defaults, presets and overrides into jobs, which are then computed one by one.

Hydra composes the settings once. The jobs differ only in their swept settings, which are plain values, so no job needs
a composition of its own (Hydra's own sweeper composes every job twice, which takes some 0.15 s).
"""

import itertools
import logging
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, RangeSweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from gradient_horizon import names
from gradient_horizon.commands import interrupts, jobs
from gradient_horizon.ensembles import devices
from gradient_horizon.settings import launchers, presets, schema
from gradient_horizon.settings.rules import SettingError
from gradient_horizon.store import files, records, sweep_folders

_log = logging.getLogger(__name__)
MOST_JOBS = 100_000
LONGEST_OVERRIDE = 20_000  # characters, which Hydra parses in two seconds; longer ones take it minutes
LONGEST_CUT = 1000  # characters of an override that a shell may have split
DEEPEST = 20  # nested brackets
LOOK_AGAIN = 1.0  # seconds between two looks at a job that another process computes


@dataclass(frozen=True)
class Sweep:
    """The jobs of one command, with all settings checked."""

    folder: Path
    jobs: list[jobs.Job]
    axes: dict[str, list[Any]]
    shared: dict[str, Any]  # settings that decide the numbers and are the same in every job
    launcher: dict[str, Any] | None = None  # settings of one of Hydra's launchers; None: this process
    notices: list[str] = field(default_factory=list)  # about settings that have no effect


def _parse(overrides: Sequence[str]) -> list[Override]:
    read: list[Override] = []
    for index, text in enumerate(overrides):
        try:
            if len(text) > LONGEST_OVERRIDE or _depth(text) > DEEPEST:
                why = f"at most {LONGEST_OVERRIDE} characters, with brackets at most {DEEPEST} deep"
                raise SettingError("override", text, why)
            read += OverridesParser.create().parse_overrides([text])
        except SettingError:
            raise
        except Exception as error:  # the parser raises errors of many types
            if whole := _cut_by_a_shell(overrides[index : index + 20]):
                raise SettingError("override", text, f"no space outside quotes: '{whole}'") from None
            raise SettingError(
                "override", text, f"NAME=VALUE, and for a sweep NAME=VALUE,VALUE ({_line(error)})"
            ) from None
    return read


def _depth(text: str) -> int:
    """Return how deep brackets are nested, including those in quotes."""
    steps = ((c in "([{") - (c in ")]}") for c in text)
    return max(itertools.accumulate(steps), default=0)


def _cut_by_a_shell(pieces: Sequence[str]) -> str:
    """Return the override that a shell has split at its spaces, if `pieces` begins with its parts; else empty."""
    for last in range(2, len(pieces) + 1):
        whole = " ".join(pieces[:last])
        if "=" in pieces[0] and len(whole) <= LONGEST_CUT and not _unreadable(whole):
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
            raise SettingError("sweeps", override.input_line, "+sweeps=NAME, one value a command")
        if value not in presets.names():
            near = schema.did_you_mean(value, presets.names())
            raise SettingError("sweeps", value, f"the presets {', '.join(presets.names())}{near}")
    else:
        schema.check_key(key, value)
        if override.is_delete():
            raise SettingError(f"~{key}", value, because="a setting can be changed but not deleted")
        _check_sweep(override)


def _check_hydras(override: Override) -> None:
    key, value = override.key_or_group, override.value()
    is_option = key.startswith("hydra.launcher.") and "_target_" not in f"{key}{value}"
    if key != "hydra/launcher" and not is_option:
        raise SettingError(key, str(value), "hydra/launcher and hydra.launcher.NAME, which name no code")
    if override.is_delete():
        raise SettingError(f"~{key}", value, because="it can be changed but not deleted")
    if override.is_sweep_override():
        raise SettingError(key, (override.input_line or "").partition("=")[2], "one value a command")
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
    ConfigStore.instance().store(name="settings", node=schema.Config)
    with initialize_config_dir(str(presets.root() / "conf"), version_base="1.3", job_name="gradient-horizon"):
        yield lambda overrides: compose("config", list(overrides), return_hydra_config=True)


def experiments_defaults() -> dict[str, dict[str, Any]]:
    """Return, for each experiment, the settings for which it has its own default, from `conf/experiment/`."""
    found = {}
    for name in names.EXPERIMENTS:
        values = OmegaConf.to_container(OmegaConf.load(presets.root() / "conf" / "experiment" / f"{name}.yaml"))
        assert isinstance(values, dict)
        own = {str(key): value for key, value in values.items() if key != "experiment"}
        found |= {name: own} if own else {}
    return found


def _axis(override: Override) -> list[Any]:
    """Return the values of `key=a,b` or `key=range(..)`, each typed as it is written."""
    _check_sweep(override)
    key, value = override.key_or_group, override.value()
    if not isinstance(value, ChoiceSweep | RangeSweep):
        return [value]
    values: list[Any] = []
    if isinstance(value, RangeSweep) and _is_long(value):
        raise SettingError(key, (override.input_line or "").partition("=")[2], f"at most {MOST_JOBS} jobs")
    for written in _written(override):
        if len(values) == MOST_JOBS:
            raise SettingError(key, f"{values[0]},{values[1]},...", f"at most {MOST_JOBS} jobs")
        if key in schema.FROM_OTHERS and written is None:
            raise SettingError(key, "a sweep with null", "whole numbers; or null alone, the usual number of each job")
        checked = schema.check_value(key, written)
        # 1 and 1.0 are the same setting, hence the same job; lists keep their spelling, which makes shorter job names.
        values.append(written if key in schema.JOINED else checked)
    if not values:
        raise SettingError(key, (override.input_line or "").partition("=")[2], "at least one value")
    return values


def _is_long(value: RangeSweep) -> bool:
    """True if the range has too many values for a sweep; decided without generating them, which would take long."""
    start, stop, step = value.start, value.stop, value.step
    try:
        return start is not None and stop is not None and (stop - start) / step > MOST_JOBS
    except ArithmeticError:  # a step of 0, or integers too large for a float: see `_written`
        return False


def _written(override: Override) -> Iterator[Any]:
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


def plan(overrides: Sequence[str], *, multirun: bool = False) -> Sweep:
    """Return every job of `overrides`, or raise `SettingError` for the first wrong setting. Writes nothing."""
    given = _parse(overrides)
    for override in given:
        _check_override(override)
    last = {override.key_or_group: override for override in given}
    chosen = [str(override.value()) for override in given if override.key_or_group == "sweeps"]
    if len(chosen) > 1:
        raise SettingError("sweeps", ", ".join(chosen), "one value a command")
    given = [override for override in given if override is last[override.key_or_group]]
    fixed, swept = [], []
    for override in given:
        if override.is_sweep_override():
            swept.append(override)
        else:
            fixed.append(override)
    for override in fixed:
        key, value = override.key_or_group, override.value()
        if key == "experiment" or (key in schema.FIELDS and "${" not in str(value)):
            schema.check_value(key, value)
    preset = presets.read(chosen[0]) if chosen else {}
    axes = _axes([*swept, *_swept_by(preset, on_line={override.key_or_group for override in given})])
    mode = (preset.get("hydra") or {}).get("mode")
    if axes and not multirun and mode is None:
        key = next(iter(axes))
        text = next(((found.input_line or "").partition("=")[2] for found in swept), axes[key])
        raise SettingError(key, text, "one value; add -m to run each of several")
    composed = _composed(fixed, chosen[0] if chosen else "", preset)
    settings = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    spelt = [override for override in fixed if override.key_or_group in schema.AXES]
    base = schema.from_node(settings, {override.key_or_group: override.value() for override in spelt})
    named = [override.key_or_group for override in given if override.key_or_group in schema.FIELDS]
    _check_read(base.experiment, [*axes, *named], base)
    values = schema.as_dict(base)
    for key in schema.FROM_OTHERS:
        if settings[key] is None:  # the usual value, which depends on each job's other settings
            values[key] = None
    return _sweep(base, values, axes, launchers.checked(composed.hydra.launcher))


def _swept_by(preset: Mapping[str, Any], *, on_line: Collection[str]) -> list[Override]:
    """Return what a checked preset sweeps, except for settings given on the command line."""
    params = ((preset.get("hydra") or {}).get("sweeper") or {}).get("params") or {}
    return _parse([f"{key}={text}" for key, text in params.items() if key not in on_line])


def _axes(swept: Sequence[Override]) -> dict[str, list[Any]]:
    for override in swept:
        _check_override(override)
        if override.key_or_group in ("experiment", "sweeps", *schema.HOUSEKEEPING):
            raise SettingError(override.key_or_group, "a sweep", "one value a command")
    return {override.key_or_group: _axis(override) for override in swept}


def _composed(fixed: Sequence[Override], name: str, preset: Mapping[str, Any]) -> DictConfig:
    """Return Hydra's composition of the defaults, a preset of this name, and the overrides with a single value."""
    if name:
        ConfigStore.instance().store(group="sweeps", name=name, node=dict(preset), package="_global_")
    # Lists and ranges replace each other in `plan`; OmegaConf merges a list only with a list.
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


def _sweep(
    base: schema.Config, values: dict[str, Any], axes: dict[str, list[Any]], launcher: dict[str, Any] | None
) -> Sweep:
    deciding = schema.deciding(base)
    for key, others in (("steps", {"task", "distance"}), ("transient", {"steps"})):
        if key in deciding and values[key] is None and others & set(axes):
            deciding[key] = None  # each job has its own
    name = base.name or f"{base.experiment}-{schema.content_hash({**deciding, 'axes': axes})[:8]}"
    folder = Path(base.output) / name
    if launcher is not None and not (whole := str(folder.resolve())).isprintable():
        raise SettingError("output", whole, "a folder of printable characters, as a launcher's script names it")
    keys = sorted(axes)
    if (count := math.prod(len(values) for values in axes.values())) > MOST_JOBS:
        raise SettingError(", ".join(keys), f"{count} jobs", f"at most {MOST_JOBS}")
    found: dict[str, jobs.Job] = {}
    idle: dict[str, list[tuple[str, Any]]] = {}
    for point in itertools.product(*(axes[key] for key in keys)):
        at = dict(zip(keys, point, strict=True))
        checked = schema.checked({**values, **at, "name": name})
        for key, reason in schema.unread(checked).items():
            several = axes.get(key) or (getattr(checked, key) if key in schema.AXES else [])
            if len(several) > 1:
                idle.setdefault(key, []).append((reason, several))
        swept = {key: getattr(checked, key) for key in keys if key not in schema.JOINED}
        job = jobs.Job(folder / records.job_name(at), checked, swept)
        found.setdefault(job.name, job)
    in_float64 = "precision" in deciding and any(job.config.precision == "float64" for job in found.values())
    if in_float64 and devices.is_without_float64():
        raise SettingError("precision", "float64", "float32 where the environment has JAX_ENABLE_X64=0")
    for key, cases in idle.items():
        if len(cases) == count:  # the same networks would be computed for each value
            reasons = ", ".join(dict.fromkeys(reason for reason, _ in cases))
            raise SettingError(key, cases[0][1], f"one value where {reasons}, which does not read it")
    shared = {key: value for key, value in deciding.items() if key not in (*axes, *schema.JOINED)}
    notices = [
        f"{key} changes nothing where {' or '.join(dict.fromkeys(reason for reason, _ in cases))}:"
        f" the same networks are computed for each of its {len(cases[0][1])} values"
        for key, cases in idle.items()
    ]
    return Sweep(folder, list(found.values()), axes, shared, launcher, notices)


def conflicts(sweep: Sweep) -> list[str]:
    """Return why the command must not run, one line for each reason; writes nothing.

    Jobs of one sweep differ only along its axes, so other values for settings that all its jobs share are refused. If
    every job in the folder is also a job of this command, the jobs are replaced instead, and finished ones only with
    `force`.
    """
    try:
        files.check_folder(sweep.folder)  # the folder that `output` names may be a link, but nothing below it
    except files.PlaceError as error:
        return [str(error)]
    if line := _shared_conflict(sweep):
        return [line]
    return [
        f"{job.folder}: {job.occupied()} with other settings ({'; '.join(differences)}); allowed: another name, or"
        " force=true"
        for job in sweep.jobs
        if not job.config.force and (differences := job.conflict())
    ]


def _shared_conflict(sweep: Sweep) -> str:
    others = {folder.name for folder in sweep_folders.job_folders(sweep.folder)} - {job.name for job in sweep.jobs}
    if not others:
        return ""
    there = _known(sweep.folder, others)
    found: dict[str, list[Any]] = {}
    for known in there:
        # a setting that one side does not share is, or was, swept there
        found |= schema.disagreements([known, sweep.shared], known.keys() ^ sweep.shared.keys())
    if not found:
        return ""
    differences = "; ".join(f"{key}: {a!r} there, {b!r} here" for key, (a, b) in found.items())
    more = ", as force=true does not compute its other jobs again" if sweep.jobs[0].config.force else ""
    return (
        f"{sweep.folder}: its jobs have other settings ({differences}); allowed: another name, or a sweep over these"
        f" settings{more}"
    )


def _known(folder: Path, jobs: Collection[str]) -> list[dict[str, Any]]:
    """Return the settings that the jobs of a sweep's folder share, from its plan or else from each job's record."""
    shared = sweep_folders.shared_settings(folder)
    if shared is not None:
        return [shared]
    found = [record for name in sorted(jobs) if (record := records.readable_record(folder / name))]
    swept = {key for record in found for key in record.swept}
    return [
        {key: value for key, value in record.settings.items() if key not in swept and key not in schema.JOINED}
        for record in found
    ]


def unfinished(sweep: Sweep) -> list[jobs.Job]:
    """Return the jobs that have yet to be computed; all of them with `force`."""
    return [job for job in sweep.jobs if job.config.force or not job.is_finished()]


def prepare_folder(sweep: Sweep) -> None:
    """Create the sweep's folder and write its plan.

    Raises `SettingError` if this fails, or if another command has just planned jobs with other settings there.
    """
    try:
        sweep.folder.mkdir(parents=True, exist_ok=True)
        with sweep_folders.planning(sweep.folder):
            if line := _shared_conflict(sweep):
                raise SettingError("name", sweep.folder.name, line)
            names = [job.name for job in sweep.jobs]
            shared = _merged(sweep, {folder.name for folder in sweep_folders.job_folders(sweep.folder)} - {*names})
            sweep_folders.write_plan(sweep.folder, {job.name: job.networks for job in sweep.jobs}, shared)
    except OSError as error:
        raise SettingError("output", str(sweep.folder), f"a folder that can be written ({error.strerror})") from None


def _merged(sweep: Sweep, others: Collection[str]) -> dict[str, Any]:
    """Return what all jobs share, including earlier jobs: what either command sweeps is an axis of both."""
    shared = dict(sweep.shared)
    for known in _known(sweep.folder, others) if others else ():
        # if two usual values differ, null stands for each job's own
        shared = {
            key: value if value == known[key] else None if key in schema.FROM_OTHERS else value
            for key, value in shared.items()
            if key in known
        }
    return shared


@dataclass(frozen=True)
class Outcome:
    """The jobs that failed, each with the reason, and those that another process is computing."""

    failed: list[tuple[jobs.Job, str]]
    elsewhere: list[jobs.Job]


Watch = Callable[[jobs.Job], Callable[[float], None]]


def run(todo: Sequence[jobs.Job], watch: Watch) -> Outcome:
    """Compute `todo` one after the other in this process. A failed job does not stop the others.

    A job that another process has claimed is left to it, and one that has just finished there is not computed again.
    """
    outcome = Outcome([], [])
    for job in todo:
        interrupts.check()
        try:
            with jobs.claimed(job) as mine:
                if not mine:
                    outcome.elsewhere.append(job)
                    continue
                report = watch(job)
                if job.is_finished() and not job.config.force:
                    report(job.networks)
                else:
                    check_still_wanted(job)
                    jobs.execute(job, report)
        except jobs.TakenError as error:
            _log.warning("%s", error)
            outcome.elsewhere.append(job)
        except Exception as error:
            outcome.failed.append((job, f"{type(error).__name__}: {error}".splitlines()[0]))
    return Outcome(outcome.failed, [job for job in outcome.elsewhere if not job.is_finished()])


def check_still_wanted(job: jobs.Job) -> None:
    """Raise `SettingError` if another command has meanwhile taken the job's folder or sweep for other settings."""
    if not job.config.force and (differences := job.conflict()):
        raise SettingError("name", job.config.name, f"another one: {job.occupied()} ({'; '.join(differences)})")
    shared = sweep_folders.shared_settings(job.folder.parent)
    if shared is not None:
        settings = schema.deciding(job.config)
        found = schema.disagreements([shared, settings], settings.keys() - shared.keys())
        if found:
            differences = "; ".join(f"{key}: {a!r} there, {b!r} here" for key, (a, b) in found.items())
            raise SettingError("name", job.config.name, f"another one: other settings were planned ({differences})")


def wait(outcome: Outcome, watch: Watch) -> Outcome:
    """Wait until no job of `outcome` is left to another process, and compute here whatever that leaves unfinished.

    A job that finishes elsewhere in the meantime is not computed again, even with `force`; one that fails there counts
    as failed.
    """
    failed, left = list(outcome.failed), list(outcome.elsewhere)
    before = {job.folder: records.readable_record(job.folder) for job in left}
    while left:
        open_still = []
        for job in left:
            record = records.readable_record(job.folder)
            if record is None or record.hash != job.hash or record == before[job.folder]:
                open_still.append(job)
            elif job.is_finished():
                watch(job)(job.networks)
            elif record.state == records.FAILED and record.error != jobs.INTERRUPTED:
                failed.append((job, record.error))
            else:
                open_still.append(job)
        now = run(open_still, watch)
        failed += now.failed
        left = now.elsewhere
        if left:
            time.sleep(LOOK_AGAIN)
    return Outcome(failed, [])

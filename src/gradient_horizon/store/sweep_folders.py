"""The folder of a sweep: its plan, `sweep.json`, which jobs are in it, and what launchers have left there."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from gradient_horizon import __version__
from gradient_horizon.store import files, records
from gradient_horizon.store.files import harmless
from gradient_horizon.store.records import RECORD, DamagedError, is_count, is_own, job_name, read_record

PLAN, PLAN_LOCK, PLANNER = "sweep.json", ".sweep.lock", ".sweep.alone"
LAUNCHER = "launcher"  # folder for the launchers' files
ALIVE = "alive"  # file in each command's own folder there; locked as long as the command runs

# Tests of the values of a plan, which lists each job's networks.
_PLANNED: dict[str, Callable[[Any], bool]] = {
    "jobs": lambda value: isinstance(value, dict) and all(map(is_count, value.values())),
    "settings": lambda value: value is None or isinstance(value, dict),
}


@contextmanager
def planning(sweep: Path) -> Iterator[None]:
    """Lock the plan of a sweep's folder within the context, so that what is read from it stays valid until written.

    Raises `PlaceError` if the folder is a link: the folder that `output` names may be one, but nothing below it.
    """
    files.check_folder(sweep)
    with files.locked(sweep / PLAN_LOCK, wait=True) as held, nullcontext() if held else files.alone(sweep / PLANNER):
        yield


@contextmanager
def writing(sweep: Path) -> Iterator[None]:
    """Like `planning`, but also remove what processes killed while writing have left in the sweep's folder."""
    with planning(sweep):
        files.clear_unfinished(sweep)
        yield


def write_plan(sweep: Path, jobs: Mapping[str, int], settings: Mapping[str, Any] | None = None) -> None:
    """Record that these jobs, with their numbers of networks, belong to the sweep, in addition to any earlier jobs.

    `settings` are those that all jobs of the sweep share; None keeps the ones already recorded.
    """
    plan = _read_plan(sweep)
    before = {"jobs": plan.get("jobs", {}), "settings": plan.get("settings")}
    after = {
        "jobs": {**before["jobs"], **jobs},
        "settings": before["settings"] if settings is None else dict(settings),
    }
    if after != before:
        records.write_sealed(sweep / PLAN, {**after, "version": __version__})


def _read_plan(sweep: Path) -> dict[str, Any]:
    values = records.read_sealed(sweep / PLAN)
    if values:
        records.check_version(sweep / PLAN, values, {"jobs"}, {"jobs", "settings", "version"})
        records.check_types(sweep / PLAN, values, _PLANNED)
    return values


def read_plan(sweep: Path) -> dict[str, int]:
    """Return the jobs that belong to a sweep's folder, in the order of request, and their numbers of networks.

    Raises `ResultError` for a plan of another version, and `DamagedError` for values of other types or something that
    is not a file.
    """
    jobs = _read_plan(sweep).get("jobs", {})
    return {name: networks for name, networks in jobs.items() if _is_name(name)}


def _is_name(name: str) -> bool:
    """True if a job's folder may have this name: a plan from someone else must not point outside the sweep's folder."""
    return Path(name).name == name not in ("", "..") and harmless(name) == name


def known_plan(sweep: Path) -> tuple[dict[str, int], str]:
    """Return the jobs in a sweep's plan with their numbers of networks, and the reason if it cannot be read."""
    try:
        return read_plan(sweep), ""
    except DamagedError as error:
        return {}, str(error)


def shared_settings(sweep: Path) -> dict[str, Any] | None:
    """Return the settings that all jobs of a sweep share, from its plan; None if it lists none (version 0.1.0)."""
    try:
        stat = (sweep / PLAN).stat()
    except OSError:
        return None
    return _shared_settings(sweep, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=16)
def _shared_settings(sweep: Path, *_: int) -> dict[str, Any] | None:
    """Read the plan once per version of the file: it may list 100,000 jobs, each of which needs it."""
    return _read_plan(sweep).get("settings")


def contents(sweep: Path) -> tuple[list[Path], dict[str, str]]:
    """Return the folders of a sweep's jobs, planned or found; and a dictionary of everything else there, by name.

    Its values are, for a folder that holds a job of another name, that job's name; for a folder without a job's record,
    an empty string; and for a plan that cannot be read, the reason.
    """
    plan, reason = known_plan(sweep)
    others = {PLAN: reason} if reason else {}
    own = []
    for folder in sorted(path.parent for path in sweep.glob(f"*/{RECORD}")):
        try:
            record = read_record(folder) if _is_name(folder.name) else None
        except DamagedError:
            if folder.name in plan or files.is_regular(folder / RECORD):
                own.append(folder.name)
            else:
                others[folder.name] = ""
            continue
        if record is not None and not is_own(folder, record):
            others[folder.name] = record.job or job_name(record.swept)
        elif record is not None or folder.name in plan:
            own.append(folder.name)
        else:
            others[folder.name] = ""
    return [sweep / name for name in dict.fromkeys([*plan, *own])], others


def job_folders(sweep: Path) -> list[Path]:
    """Return the folders of a sweep's jobs, planned or found."""
    return contents(sweep)[0]


def ignored_lines(others: Mapping[str, str]) -> list[str]:
    """Return the lines that report what else is in a sweep's folder, from the result of `contents`."""
    return [f"ignored: {harmless(_description(name, content))}" for name, content in others.items()]


def _description(name: str, content: str) -> str:
    if name == PLAN:
        return content
    if content:
        return f"{name}: holds the job {content}, whose folder has that name"
    return f"{name}: holds no job's record"


@contextmanager
def launching(sweep: Path) -> Iterator[Path]:
    """Yield a new folder for the launcher's files of this command alone, which counts as alive within the context."""
    files.make_folder(sweep / LAUNCHER)
    own = sweep / LAUNCHER / os.urandom(8).hex()  # nobody can have put links there
    files.make_folder(own)
    with files.locked(own / ALIVE, wait=True):
        yield own


def clear_launcher(sweep: Path) -> None:
    """Once all jobs of a sweep are finished, remove from its folder the launcher files of commands that have ended.

    Until then these files hold the output of tasks, and the instructions for tasks that are still waiting.
    """
    folder = sweep / LAUNCHER
    if not folder.is_dir() or folder.is_symlink():
        return
    if any(records.state_of(job) != records.FINISHED for job in job_folders(sweep)):
        return
    for own in folder.iterdir():
        with suppress(OSError):
            files.check_folder(own)
            with files.locked(own / ALIVE, wait=False) as is_free:
                pass
            if is_free:
                files.remove_tree(own)
    with suppress(OSError):  # another command still has something there
        folder.rmdir()

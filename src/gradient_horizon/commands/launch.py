"""Jobs in other processes and on other machines, through Hydra's launchers: joblib, submitit (SLURM) and Ray.

The settings of every job are written to its folder before anything is launched. A task receives the sweep's folder and
the names of its jobs, and needs nothing else but a shared file system. The outcome of a job is read from its record.
"""

import importlib
import json
import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.experimental.callback import Callback
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from gradient_horizon.commands import interrupts, jobs, sweep
from gradient_horizon.commands.sweep import Outcome, Sweep
from gradient_horizon.ensembles import devices, process
from gradient_horizon.settings import compose, launchers
from gradient_horizon.store import files, records, sweep_folders, sweep_status

SECONDS, PATIENCE = 2.0, 300.0  # between two looks at the records; allowed for the restart of a lost job
_log = logging.getLogger(__name__)
Show = Callable[[list[sweep_status.JobStatus]], None]


class _LostError(Exception):
    """Jobs are lost, and no process is restarting them."""


def work(folder: str, swept: Sequence[str], cores: int | None, task: DictConfig) -> None:
    """Compute the jobs that `task.jobs` names, one after the other; a launcher runs this in a separate process.

    Returns normally even if jobs fail, since their records report it.
    """
    if "jax" not in sys.modules:  # the first task of this process
        process.prepare_own(devices=cores)
    interrupts.forget()
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupts.stop)
    if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # keep a launcher's own handler
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    todo = []
    for name in task.jobs:
        try:
            todo.append(jobs.read_job(Path(folder) / name, swept))
        except ValueError as error:
            _log.warning("%s", error)
    sweep.run(todo, lambda job: lambda networks: None)


def run(planned: Sweep, todo: Sequence[jobs.Job], pack: int, show: Show) -> Outcome:
    """Launch `todo`, `pack` jobs per task, and wait for them; `show` is called regularly with their status.

    Jobs that are being computed by the tasks of another command are waited for as well.
    """
    assert planned.launcher is not None
    cores, memory = _share(planned.launcher, math.ceil(len(todo) / pack))
    failed, fit = [], []
    for job in todo:
        try:
            sweep.check_still_wanted(job)
            jobs.leave_to_others(job, memory)
            fit.append(job)
        except (OSError, ValueError) as unfit:
            failed.append((job, f"{type(unfit).__name__}: {unfit}".splitlines()[0]))
    if not fit:
        return Outcome(failed, [])
    todo = fit
    with sweep_folders.launching(planned.folder.resolve()) as own:
        outcome = _launched(planned, todo, pack, show, own, cores)
    if not outcome.failed:
        files.remove_tree(own)
    return Outcome([*failed, *outcome.failed], [])


def _launched(planned: Sweep, todo: Sequence[jobs.Job], pack: int, show: Show, own: Path, cores: int | None) -> Outcome:
    """Launch `todo` from the folder `own`, and wait until every job has ended, wherever it ran."""
    assert planned.launcher is not None
    names = [job.name for job in todo]
    tasks = [names[start : start + pack] for start in range(0, len(names), pack)]
    error = ""
    if planned.launcher["_target_"] == launchers.SLURM.target:
        importlib.import_module("submitit")
        # it warns every few seconds if SLURM has no accounting
        logging.getLogger("submitit").setLevel(logging.ERROR)
    try:
        with _following(todo, show):
            task = partial(work, str(planned.folder.resolve()), list(todo[0].swept), cores)
            launcher = _launcher(planned.launcher, own, task)
            launcher.launch([[f"+jobs={json.dumps(task)}"] for task in tasks], 0)
    except _LostError:
        pass
    except Exception as raised:  # an error of the launcher; those of jobs are in their records
        error = f"{type(raised).__name__}: {raised}".splitlines()[0]
    while (outcome := _outcome(todo, error)).elsewhere:
        interrupts.check()
        time.sleep(SECONDS)
        show([sweep_status.status_of(job.folder, job.networks) for job in todo])
    return outcome


@contextmanager
def _following(todo: Sequence[jobs.Job], show: Show) -> Iterator[None]:
    """Call `show` regularly with the status of the jobs; raise `_LostError` if some are lost and none has run for long.

    A launcher may not notice that one of its own tasks was killed.
    """
    ended, gave_up = threading.Event(), threading.Event()

    def look() -> set[str]:
        statuses = [sweep_status.status_of(job.folder, job.networks) for job in todo]
        show(statuses)
        return {job.state for job in statuses}

    def follow() -> None:
        quiet = 0.0
        while not ended.wait(SECONDS):
            states = look()
            quiet = quiet + SECONDS if records.LOST in states and records.RUNNING not in states else 0.0
            if quiet > PATIENCE:
                gave_up.set()
                interrupts.stop_main()
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    except KeyboardInterrupt:
        if gave_up.is_set():
            interrupts.forget()
            raise _LostError from None
        raise
    finally:
        ended.set()
        thread.join()
        look()


def _share(launcher: dict[str, Any], tasks: int) -> tuple[int | None, float | None]:
    """Return the cores and the memory, in GiB, of one task; None if unknown.

    With joblib, the tasks that run at once share this machine equally. With Ray, a task has the cores that its settings
    give it, or one, and memory in proportion. With SLURM, the cores are None and the memory is 60 % of `mem_gb`, if
    that is set.
    """
    gibibytes = devices.memory_budget(None) / 2**30
    if launcher["_target_"] == launchers.JOBLIB.target:
        count = launcher["n_jobs"]
        workers = min(tasks, count if count > 0 else max(1, devices.cpu_count() + 1 + count))
        return max(1, devices.cpu_count() // workers), gibibytes / workers
    if launcher["_target_"] == launchers.RAY.target:
        cores = int(launcher["ray"]["remote"].get("num_cpus") or 1)
        return cores, gibibytes * min(1.0, cores / devices.cpu_count())
    return None, 0.6 * launcher["mem_gb"] if launcher.get("mem_gb") else None


def _launcher(settings: dict[str, Any], folder: Path, task: Callable[[DictConfig], None]) -> Any:
    with compose.initialised() as composing:
        master = composing([f"hydra.sweep.dir={json.dumps(str(folder))}", "hydra.sweep.subdir=tasks"])
        with open_dict(master):
            output = {"submitit_folder": str(folder / "%j")} if "submitit_folder" in settings else {}
            master.hydra.launcher = OmegaConf.create({**settings, **output})
        # a do-nothing callback has the methods that a job calls on the group of all callbacks
        context = HydraContext(GlobalHydra.instance().config_loader(), cast(Any, Callback()))
        return Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=master)


def _outcome(todo: Sequence[jobs.Job], error: str) -> Outcome:
    outcome = Outcome([], [])
    for job in todo:
        status = sweep_status.status_of(job.folder, job.networks)
        if status.state == records.RUNNING:
            outcome.elsewhere.append(job)
        elif status.state != records.FINISHED:
            why = status.why or error or "it was not started"
            outcome.failed.append((job, f"{status.state}: {why}" if status.state != records.FAILED else why))
    return outcome

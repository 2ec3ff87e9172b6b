"""The commands `run` and `figures`: compute what is missing, then show it. JAX is loaded only to compute or to draw."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gradient_horizon.commands import interrupts
from gradient_horizon.commands.common import (
    DONE,
    FAILED,
    INTERRUPTED,
    UsageError,
    jobs_phrase,
    prepare_jax,
    preset_names,
)

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import Console

    from gradient_horizon.commands.jobs import Job
    from gradient_horizon.commands.sweep import Outcome, Sweep

_NAMED = 5  # jobs of other processes named below the table


def run(options: argparse.Namespace) -> int:
    """Compute the jobs of a sweep that are not finished, and show the sweep."""
    return _run_sweep(options.overrides, multirun=options.multirun, dry_run=options.dry_run)


def figures(options: argparse.Namespace) -> int:
    """Draw paper figures into results/figures, and those of a preset without a paper figure into its own folder."""
    from gradient_horizon.figures.paper import FIGURES

    allowed = sorted({*FIGURES, *preset_names("")})
    unknown = [name for name in options.names if name not in allowed]
    if unknown:
        raise UsageError(f"NAME: {unknown[0]!r} is not allowed; allowed: {', '.join(allowed)}")
    names = options.names or [*FIGURES]
    for name in names:
        if (options.quick or options.draw_only) and name not in FIGURES:
            raise UsageError(
                f"NAME: {name!r} is not a paper figure; allowed with --quick and --draw-only: {', '.join(FIGURES)}"
            )
    prepare_jax()  # before the first figure, which may load JAX
    ends = []
    for name in names:
        interrupts.check()
        try:
            if name in FIGURES:
                ends.append(_paper_figure(name, quick=options.quick, draw_only=options.draw_only))
            else:
                ends.append(_run_sweep([f"+sweeps={name}"], redraw=True))
        except Exception as error:  # one failed figure must not stop the others
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            print(f"gradient-horizon: {name}: {why}", file=sys.stderr)
            ends.append(FAILED)
        if ends[-1] == INTERRUPTED:
            return INTERRUPTED
    return max(ends)


def _paper_figure(name: str, *, quick: bool, draw_only: bool) -> int:
    from gradient_horizon.commands import publication, terminal
    from gradient_horizon.commands import sweep as sweeps

    sweep = sweeps.plan(publication.overrides_of(name, quick=quick), multirun=True)
    screen = terminal.console()
    other, todo = sweeps.conflicts(sweep), sweeps.unfinished(sweep)
    if other or (todo and draw_only):
        command = publication.command_of(name, quick=quick, force=bool(other))
        missing = f"{len(todo)} of its {len(sweep.jobs)} jobs are missing or stale"
        print(f"gradient-horizon: {name}: {missing}; {command} computes them", file=sys.stderr)
        return FAILED
    if todo:
        sweeps.prepare_folder(sweep)
        screen.print(_plan_line(sweep, todo), markup=False)
        end, _ = _compute_and_report(screen, sweep, todo)
        if end != DONE:
            return end
    jobs = publication.opened(sweep)
    now = publication.fingerprint(jobs)
    changes = publication.changed(publication.stem_of(name, sweep), now)
    if not changes:
        screen.print(f"{name}: up to date", markup=False)
        return DONE
    screen.print(f"{name}: drawing (changed: {', '.join(changes)})", markup=False)
    for path in publication.build(name, sweep, jobs, now):
        screen.print(str(path), markup=False)
    return DONE


def _run_sweep(overrides: Sequence[str], *, multirun: bool = False, dry_run: bool = False, redraw: bool = False) -> int:
    from gradient_horizon.commands import sweep as sweeps
    from gradient_horizon.commands import terminal
    from gradient_horizon.store import sweep_folders

    sweep = sweeps.plan(overrides, multirun=multirun)
    conflicts = sweeps.conflicts(sweep)
    if conflicts:
        raise UsageError("\ngradient-horizon: ".join(conflicts))
    todo = sweeps.unfinished(sweep)
    if todo and not dry_run:
        sweeps.prepare_folder(sweep)
    screen = terminal.console()
    screen.print(_plan_line(sweep, todo), markup=False)
    for notice in sweep.notices if todo else ():
        screen.print(notice, markup=False)
    if dry_run:
        for job in todo:
            screen.print(f"would compute {job.folder}", markup=False)
        return DONE
    end, any_results = _compute_and_report(screen, sweep, todo) if todo else (DONE, True)
    if end == INTERRUPTED or not any_results:
        return end
    sweep_folders.clear_launcher(sweep.folder)
    _draw_quick_looks(screen, sweep, todo)
    return max(end, _conclude(screen, sweep.folder, redraw=redraw))


def _compute_and_report(screen: "Console", sweep: "Sweep", todo: "list[Job]") -> tuple[int, bool]:
    """Compute `todo` and report the outcome; return the exit status, and whether there is anything to show."""
    from gradient_horizon.commands import sweep as sweeps
    from gradient_horizon.store import records

    finished_before = len(sweep.jobs) - len(todo)
    try:
        outcome = _compute(screen, sweep, todo)
    except KeyboardInterrupt:
        forced = any(job.config.force for job in todo)
        done = finished_before if forced else len(sweep.jobs) - len(sweeps.unfinished(sweep))
        screen.print(
            f"interrupted: {done} of {len(sweep.jobs)} jobs are finished and kept; the same command resumes the others",
            markup=False,
        )
        return INTERRUPTED, False
    for job, why in outcome.failed:
        screen.print(f"failed: {job.folder}: {why} (see {job.folder / 'run.log'})", markup=False, soft_wrap=True)
    for job in todo:
        record = records.readable_record(job.folder)
        if record is not None and record.picture:
            line = f"no quick look: {job.folder}: {record.picture} (see {job.folder / 'run.log'})"
            screen.print(line, markup=False, soft_wrap=True)
    return (FAILED if outcome.failed else DONE), len(outcome.failed) < len(sweep.jobs)


def _compute(screen: "Console", sweep: "Sweep", todo: "list[Job]") -> "Outcome":
    from gradient_horizon.commands import sweep as sweeps
    from gradient_horizon.commands import terminal

    if sweep.launcher is None:
        prepare_jax()
        with terminal.watching(screen, todo) as watch:
            outcome = sweeps.run(todo, watch)
            for job in outcome.elsewhere:
                screen.print(f"waiting for {job.folder}: another process is computing it", markup=False)
            return sweeps.wait(outcome, watch)
    from gradient_horizon.commands import launch

    try:
        with terminal.following(screen, todo) as show:
            return launch.run(sweep, todo, todo[0].config.pack, show)
    finally:
        prepare_jax()  # for the figures; earlier, the tasks would inherit its settings


def _plan_line(sweep: "Sweep", todo: "list[Job]") -> str:
    count, finished = len(sweep.jobs), len(sweep.jobs) - len(todo)
    if not todo:
        return f"{sweep.folder}: all {count} jobs are already finished; nothing to compute (force=true computes again)"
    before = f", {finished} already finished" if finished else ""
    networks = sum(job.networks for job in todo)
    return f"{sweep.folder}: {jobs_phrase(count)}{before}; computing {len(todo)} ({networks} networks)"


def _draw_quick_looks(screen: "Console", sweep: "Sweep", computed: "list[Job]") -> None:
    """Draw the missing pictures of jobs that had finished before this command."""
    from gradient_horizon.commands import jobs

    missing = [job for job in sweep.jobs if job not in computed and jobs.owes_quick_look(job)]
    if missing:
        prepare_jax()
        screen.print(f"drawing {len(missing)} missing quick looks", markup=False)
    for job in missing:
        interrupts.check()
        if why := jobs.draw_quick_look(job):
            screen.print(f"no quick look: {job.folder}: {why}", markup=False)


def _conclude(screen: "Console", folder: Path, *, redraw: bool) -> int:
    """Print the sweep's table and the paths of its files, and draw its figures unless they show all finished jobs.

    Returns the exit status: a figure that cannot be drawn is reported, and leaves the results as they are.
    """
    from gradient_horizon.analysis import tables
    from gradient_horizon.commands import drawing
    from gradient_horizon.store import datasets, records, sweep_folders

    finished = drawing.finished(folder)
    dataset = datasets.load(folder)
    left_out = json.loads(dataset.attrs["missing_jobs"])  # among them finished jobs whose results were altered
    shows = drawing.shown_by({name: checksum for name, checksum in finished.items() if name not in left_out})
    for table in tables.tables(dataset):
        screen.print(table)
    for line in (*tables.recheck_lines(dataset), *_left_out_lines(dataset, folder)):
        screen.print(line, markup=False, soft_wrap=True)
    paths = sorted(path for job in sweep_folders.job_folders(folder) if (path := job / records.RESULT).exists())
    end, pictures = DONE, None if redraw else drawing.current(folder, shows)
    if pictures is None:
        try:
            pictures = drawing.draw(folder, dataset, shows, interrupts.check)
        except Exception as error:
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            screen.print(
                f"no figures: {folder}: {why} (the same command draws them again)", markup=False, soft_wrap=True
            )
            end, pictures = FAILED, []
    for path in (*paths, *pictures):
        screen.print(str(path), markup=False)
    for line in tables.meaning_lines(dataset, folder):
        screen.print(line, markup=False, soft_wrap=True)
    return end


def _left_out_lines(dataset: "xr.Dataset", folder: Path) -> list[str]:
    """Return lines on the jobs that the table and the figures leave out: their states, and how to include them."""
    from gradient_horizon.store import records, sweep_status

    missing = {*json.loads(dataset.attrs["missing_jobs"])}
    if not missing:
        return []
    count = len(sweep_status.statuses(folder))
    jobs = sweep_status.left_out(folder, missing)
    states = [f"{number} {state}" for state, number in sweep_status.counts(jobs).items() if state != records.FINISHED]
    if later := sum(job.state == records.FINISHED for job in jobs):
        states.append(f"{later} finished since")
    running = [job for job in jobs if job.state == records.RUNNING]
    lines = [f"Left out of the table and the figures: {len(jobs)} of {jobs_phrase(count)} ({', '.join(states)})."]
    for job in running[:_NAMED]:
        done = f"{job.done} of {job.networks} networks are done"
        lines.append(f"{job.job}: process {job.process} on {job.host} is computing it; {done}.")
    if len(running) > _NAMED:
        lines.append(f"Other processes are computing {len(running) - _NAMED} more.")
    return [
        *lines,
        f"gradient-horizon status {folder} lists them. Once they have finished, this command shows them too.",
    ]

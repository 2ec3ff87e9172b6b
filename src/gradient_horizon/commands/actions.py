"""The action behind each command. Whatever needs no JAX answers before JAX is loaded.

Each action takes the parsed options and returns the exit status.
"""

import argparse
import dataclasses
import json
import logging
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gradient_horizon.commands import interrupts
from gradient_horizon.ensembles import devices, process

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130
_NAMED = 5  # jobs of other processes named below the table
_LISTED = 200  # finished jobs that a table lists; more are only counted


class UsageError(ValueError):
    """Input that the command line refuses; the message is one line for the user."""


def preset_names(prefix: str) -> list[str]:
    """Return the presets whose names begin with `prefix`."""
    from gradient_horizon.settings import presets

    return [name for name in presets.names() if name.startswith(prefix)]


def run(options: argparse.Namespace) -> int:
    return _run_sweep(options.overrides, multirun=options.multirun, dry_run=options.dry_run)


def figures(options: argparse.Namespace) -> int:
    """Draw paper figures into results/figures; for a preset that makes none, its own figures into its folder."""
    from gradient_horizon.figures.paper import FIGURES

    known = sorted({*FIGURES, *preset_names("")})
    unknown = [name for name in options.names if name not in known]
    if unknown:
        raise UsageError(f"NAME: {unknown[0]!r} is not allowed; allowed: {', '.join(known)}")
    names = options.names or [*FIGURES]
    for name in names:
        if (options.quick or options.draw_only) and name not in FIGURES:
            raise UsageError(
                f"NAME: {name!r} is no paper figure; allowed with --quick and --draw-only: {', '.join(FIGURES)}"
            )
    _prepare()  # before the first figure, which may load JAX
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
        said = f"{name}: {len(todo)} of its {len(sweep.jobs)} jobs are missing or stale; {command} makes them"
        print(f"gradient-horizon: {said}", file=sys.stderr)
        return FAILED
    if todo:
        sweeps.prepare_folder(sweep)
        screen.print(_plan_line(sweep, todo), markup=False)
        end, _ = _computed(screen, sweep, todo)
        if end != DONE:
            return end
    jobs = publication.opened(sweep)
    now = publication.fingerprint(jobs)
    changed = publication.changed(publication.stem_of(name, sweep), now)
    if not changed:
        screen.print(f"{name}: up to date", markup=False)
        return DONE
    screen.print(f"{name}: drawing (changed: {', '.join(changed)})", markup=False)
    for path in publication.build(name, sweep, jobs, now):
        screen.print(str(path), markup=False)
    return DONE


def _run_sweep(overrides: Sequence[str], *, multirun: bool = False, dry_run: bool = False, redraw: bool = False) -> int:
    from gradient_horizon.commands import sweep as sweeps
    from gradient_horizon.commands import terminal

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
    end, some = _computed(screen, sweep, todo) if todo else (DONE, True)
    if end == INTERRUPTED or not some:
        return end
    if (sweep.folder / "launcher").exists():
        from gradient_horizon.commands import launch

        launch.clear(sweep.folder)
    _draw_quick_looks(screen, sweep, todo)
    return max(end, _conclude(screen, sweep.folder, redraw=redraw))


def _computed(screen: Any, sweep: Any, todo: list[Any]) -> tuple[int, bool]:
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
            f"interrupted: {done} of {len(sweep.jobs)} jobs are finished and stay; the same command goes on from there",
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


def _compute(screen: Any, sweep: Any, todo: list[Any]) -> Any:
    from gradient_horizon.commands import sweep as sweeps
    from gradient_horizon.commands import terminal

    if sweep.launcher is None:
        _prepare()
        with terminal.watching(screen, todo) as watch:
            outcome = sweeps.run(todo, watch)
            for job in outcome.elsewhere:
                screen.print(f"waiting for {job.folder}: another process is computing it", markup=False)
            return sweeps.wait(outcome, watch)
    from gradient_horizon.commands import launch

    try:
        with terminal.telling(screen, todo) as tell:
            return launch.run(sweep, todo, todo[0].config.pack, tell)
    finally:
        _prepare()  # for the figures; earlier, the tasks would inherit its settings


def _prepare() -> None:
    """Set up JAX, unless this process has already loaded it."""
    if "jax" not in sys.modules:
        process.prepare_own()
        _check_platforms()


def _check_platforms() -> None:
    """Refuse a platform that JAX cannot start, since JAX's own error may lack a message."""
    asked = os.environ.get("JAX_PLATFORMS")
    if asked:
        import jax

        try:
            jax.devices()
        except Exception as error:
            said = next(iter(str(error).splitlines()), "") or "JAX finds no such device"
            raise UsageError(
                f"JAX_PLATFORMS: {asked!r} cannot be started here ({said}); allowed: cpu, or unset"
            ) from None


def _plan_line(sweep: Any, todo: list[Any]) -> str:
    count, finished = len(sweep.jobs), len(sweep.jobs) - len(todo)
    if not todo:
        return f"{sweep.folder}: all {count} jobs are finished already; nothing to compute (force=true computes again)"
    before = f", {finished} finished already" if finished else ""
    networks = sum(job.networks for job in todo)
    return f"{sweep.folder}: {_jobs(count)}{before}; computing {len(todo)} ({networks} networks)"


def _jobs(count: int) -> str:
    return f"{count} job" if count == 1 else f"{count} jobs"


def _draw_quick_looks(screen: Any, sweep: Any, computed: list[Any]) -> None:
    """Draw the missing pictures of jobs that had finished before this command."""
    from gradient_horizon.commands import jobs

    owed = [job for job in sweep.jobs if job not in computed and jobs.owes_quick_look(job)]
    if owed:
        _prepare()
        screen.print(f"drawing {len(owed)} missing quick looks", markup=False)
    for job in owed:
        interrupts.check()
        if why := jobs.draw_quick_look(job):
            screen.print(f"no quick look: {job.folder}: {why}", markup=False)


def _conclude(screen: Any, folder: Path, *, redraw: bool) -> int:
    """Print the sweep's table and the paths of its files, and draw its figures unless they show all finished jobs.

    Returns the exit status: a figure that cannot be drawn is reported, and leaves the results as they are.
    """
    from gradient_horizon.analysis import tables
    from gradient_horizon.commands import drawing
    from gradient_horizon.store import datasets, records

    shows = drawing.shown_by(folder)
    dataset = datasets.load(folder)
    for table in tables.tables(dataset):
        screen.print(table)
    for line in (*tables.recheck_lines(dataset), *_left_out_lines(dataset, folder)):
        screen.print(line, markup=False, soft_wrap=True)
    paths = sorted(path for job in records.job_folders(folder) if (path := job / records.RESULT).exists())
    end, drawn = DONE, None if redraw else drawing.standing(folder, shows)
    if drawn is None:
        try:
            drawn = drawing.draw(folder, dataset, shows, interrupts.check)
        except Exception as error:
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            screen.print(
                f"no figures: {folder}: {why} (the same command draws them again)", markup=False, soft_wrap=True
            )
            end, drawn = FAILED, []
    for path in (*paths, *drawn):
        screen.print(str(path), markup=False)
    for line in tables.meaning_lines(dataset, folder):
        screen.print(line, markup=False, soft_wrap=True)
    return end


def _left_out_lines(dataset: Any, folder: Path) -> list[str]:
    """Return lines on the jobs that the table and the figures leave out: their states, and how to include them."""
    from gradient_horizon.store import records
    from gradient_horizon.store import standings as told

    missing = {*json.loads(dataset.attrs["missing_jobs"])}
    if not missing:
        return []
    every = told.standings(folder)
    jobs = [job for job in every if job.job in missing]
    states = [f"{count} {state}" for state, count in told.counts(jobs).items() if state != records.FINISHED]
    if later := sum(job.state == records.FINISHED for job in jobs):
        states.append(f"{later} finished since")
    running = [job for job in jobs if job.state == records.RUNNING]
    lines = [f"Left out of the table and the figures: {len(jobs)} of {_jobs(len(every))} ({', '.join(states)})."]
    for job in running[:_NAMED]:
        done = f"{job.done} of {job.networks} networks are done"
        lines.append(f"{job.job}: process {job.process} on {job.host} is computing it; {done}.")
    if len(running) > _NAMED:
        lines.append(f"Other processes are computing {len(running) - _NAMED} more.")
    return [
        *lines,
        f"gradient-horizon status {folder} lists them. Once they have finished, this command shows them too.",
    ]


def _folder(path: Path) -> Path:
    from gradient_horizon.store import records

    if not path.is_dir() or not records.job_folders(path):
        raise UsageError(f"DIR: {str(path)!r} holds no sweep; allowed: a folder that gradient-horizon run wrote")
    return path


def _output(path: Path) -> Path:
    """Return `path` if a file can be written there, in place of nothing or of a regular file; else raise `UsageError`.

    Writing replaces whatever has that name: a device or a pipe would be lost, and a link would not be followed.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        mode = None
    except OSError as error:
        raise UsageError(f"-o: {str(path)!r} cannot be written ({error.strerror})") from None
    if mode is not None and not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFLNK: "a link", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        kind = kinds.get(stat.S_IFMT(mode), "a device")
        raise UsageError(
            f"-o: {str(path)!r} cannot be written, as it is {kind}; allowed: a new file, or one to replace"
        )
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise UsageError(f"-o: {str(path)!r} cannot be written; allowed: a file in a folder that can be written")
    return path


def status(options: argparse.Namespace) -> int:
    """Show the state of each job of a sweep, wherever it runs."""
    from gradient_horizon.store import records
    from gradient_horizon.store import standings as told

    with records.remembering():
        folder = _folder(options.folder)
        jobs = told.standings(folder, look=True)
        ignored = records.found_folders(folder)[1]
    counts, left = told.counts(jobs), told.seconds_left(jobs)
    if options.json:
        rows = [dataclasses.asdict(job) for job in jobs]
        answer = {"sweep": str(folder), "counts": counts, "seconds_left": left, "jobs": rows, "ignored": ignored}
        print(json.dumps(answer, indent=1, allow_nan=False))
        return DONE
    from gradient_horizon.commands import terminal

    screen = terminal.console()
    many = counts.get(records.FINISHED, 0) > _LISTED
    listed = [job for job in jobs if job.state != records.FINISHED or job.why] if many else jobs
    if listed:
        screen.print(terminal.status_table(str(folder), listed, screen.width))
    if len(listed) < len(jobs):
        screen.print(f"Not listed: {len(jobs) - len(listed)} finished jobs; --json lists all.", markup=False)
    line = ", ".join(f"{count} {state}" for state, count in counts.items())
    for said in records.ignored_lines(ignored):
        screen.print(said, markup=False)
    screen.print(f"{line}; about {terminal.duration(left)} left" if left else line, markup=False)
    return DONE


@contextmanager
def _without_warnings() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def collect(options: argparse.Namespace) -> int:
    """Join the finished jobs into one file, and list the missing ones."""
    folder = _folder(options.folder)  # before the slow imports
    from gradient_horizon.store import datasets, records
    from gradient_horizon.store import standings as told

    output = _output(options.output or folder / "collected.nc")
    with records.remembering(), _without_warnings():  # missing jobs are listed below
        dataset = datasets.load(folder)
        missing = {*json.loads(dataset.attrs["missing_jobs"])}
        left_out = [job for job in told.standings(folder) if job.job in missing] if missing else []
        ignored = records.found_folders(folder)[1]
    try:
        if output.parent.resolve() == folder.resolve():
            with records.writing(folder):
                datasets.save(dataset, _output(output))
        else:
            datasets.save(dataset, _output(output))  # checked again, as it may have changed meanwhile
    except OSError as error:
        raise UsageError(f"-o: {str(output)!r} cannot be written ({error.strerror})") from None
    for job in left_out:
        print(f"missing: {job.job} ({job.state}{f': {job.why}' if job.why else ''})")
    for line in records.ignored_lines(ignored):
        print(line)
    print(f"wrote {output}: {len(json.loads(dataset.attrs['jobs']))} jobs, {len(missing)} missing")
    return DONE


def verify(options: argparse.Namespace) -> int:
    import time

    from gradient_horizon.commands import terminal
    from gradient_horizon.store import records

    if options.output.suffix != ".html":
        raise UsageError(f"-o: {str(options.output)!r} is no page; allowed: a file whose name ends in .html")
    output = _output(options.output)
    if devices.is_without_float64():
        raise UsageError("JAX_ENABLE_X64: off is not allowed; allowed: unset, as the laws are held to in float64")
    process.prepare_own()
    _check_platforms()
    from gradient_horizon.verify import report as page
    from gradient_horizon.verify.suite import SECTIONS, verify

    screen = terminal.console()
    begun = time.monotonic()
    checks = sum(len(checks) for checks in SECTIONS.values())
    with terminal.counting(screen, checks) as say, _without_warnings():  # some checks provoke warnings

        def report(name: str) -> None:
            interrupts.check()
            say(name)

        sections = verify(full=options.full, sections=SECTIONS, report=report)
    sentence, failed = page.verdict(sections)
    made = page.made(full=options.full, seconds=time.monotonic() - begun)
    records.write_atomically(output, page.as_html(sections, made).encode())
    screen.print(page.as_table(sections))
    for line in (sentence, *(f"    {law}" for law in failed), f"wrote {output}"):
        screen.print(line, markup=False)
    return FAILED if failed else DONE

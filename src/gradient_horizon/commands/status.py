"""The commands `status` and `collect`, which read a sweep's folder, wherever its jobs run. Neither loads JAX."""

import argparse
import dataclasses
import json
from pathlib import Path

from gradient_horizon.commands.common import DONE, UsageError, check_output, without_warnings

LISTED = 200  # finished jobs that a table lists; more are only counted


def _sweep_folder(path: Path) -> Path:
    from gradient_horizon.store import sweep_folders

    if not path.is_dir() or not sweep_folders.job_folders(path):
        raise UsageError(f"DIR: {str(path)!r} holds no sweep; allowed: a folder that gradient-horizon run wrote")
    return path


def status(options: argparse.Namespace) -> int:
    """Show the state of each job of a sweep, wherever it runs."""
    from gradient_horizon.store import records, sweep_folders, sweep_status

    with records.remembering():
        folder = _sweep_folder(options.folder)
        jobs = sweep_status.statuses(folder, look=True)
        ignored = sweep_folders.contents(folder)[1]
    counts, left = sweep_status.counts(jobs), sweep_status.seconds_left(jobs)
    if options.json:
        rows = [dataclasses.asdict(job) for job in jobs]
        answer = {"sweep": str(folder), "counts": counts, "seconds_left": left, "jobs": rows, "ignored": ignored}
        print(json.dumps(answer, indent=1, allow_nan=False))
        return DONE
    from gradient_horizon.commands import terminal

    screen = terminal.console()
    many = counts.get(records.FINISHED, 0) > LISTED
    listed = [job for job in jobs if job.state != records.FINISHED or job.why] if many else jobs
    if listed:
        screen.print(terminal.status_table(str(folder), listed, screen.width))
    if len(listed) < len(jobs):
        screen.print(f"Not listed: {len(jobs) - len(listed)} finished jobs; --json lists all.", markup=False)
    line = ", ".join(f"{count} {state}" for state, count in counts.items())
    for ignored_line in sweep_folders.ignored_lines(ignored):
        screen.print(ignored_line, markup=False)
    screen.print(f"{line}; about {terminal.duration(left)} left" if left else line, markup=False)
    return DONE


def collect(options: argparse.Namespace) -> int:
    """Join the finished jobs into one file, and list the missing ones."""
    folder = _sweep_folder(options.folder)  # before the slow imports
    from gradient_horizon.store import datasets, records, sweep_folders, sweep_status

    output = check_output(options.output or folder / "collected.nc")
    with records.remembering(), without_warnings():  # missing jobs are listed below
        dataset = datasets.load(folder)
        missing = {*json.loads(dataset.attrs["missing_jobs"])}
        left_out = sweep_status.left_out(folder, missing)
        ignored = sweep_folders.contents(folder)[1]
    try:
        if output.parent.resolve() == folder.resolve():
            with sweep_folders.writing(folder):
                datasets.save(dataset, check_output(output))
        else:
            datasets.save(dataset, check_output(output))  # checked again, as it may have changed meanwhile
    except OSError as error:
        raise UsageError(f"-o: {str(output)!r} cannot be written ({error.strerror})") from None
    for job in left_out:
        print(f"missing: {job.job} ({job.state}{f': {job.why}' if job.why else ''})")
    for line in sweep_folders.ignored_lines(ignored):
        print(line)
    print(f"wrote {output}: {len(json.loads(dataset.attrs['jobs']))} jobs, {len(missing)} missing")
    return DONE

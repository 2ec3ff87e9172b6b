"""The command `gradient-horizon`. Whatever needs no JAX answers before JAX is loaded.

Exit status: 0 done, 1 some job failed or some law does not hold, 2 wrong input, 130 interrupted.
"""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import argcomplete
import argcomplete.shell_integration

from gradient_horizon import __version__, runtime

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130


class _UsageError(ValueError):
    """Input that the command line refuses; one line for the user."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    parser = _parser()
    argcomplete.autocomplete(parser)
    options, rest = parser.parse_known_args(arguments)
    if rest:  # settings on both sides of an option
        if not hasattr(options, "overrides") or any(text.startswith("-") for text in rest):
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        options.overrides += rest
    if not hasattr(options, "command"):
        parser.print_help()
        return WRONG
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        return options.command(options)
    except ValueError as error:  # settings, results, names: each message is one line
        if logging.getLogger().isEnabledFor(logging.DEBUG):
            raise
        print(f"gradient-horizon: {error}", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        print("gradient-horizon: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gradient-horizon",
        description="How far back in time can the gradient of a recurrent network reach?",
        epilog='Shell completion: eval "$(gradient-horizon completion bash)"; also zsh and fish.',
    )
    parser.add_argument("--version", action="version", version=f"gradient-horizon {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    run = commands.add_parser(
        "run",
        help="one job, or a sweep with -m",
        description="Run one job, or a sweep with -m (NAME=VALUE,VALUE runs each). Finished jobs are not run again.",
        epilog="gradient-horizon settings lists every setting, its default and what it allows.",
    )
    overrides = run.add_argument(
        "overrides", nargs="*", metavar="NAME=VALUE", help="settings; +sweeps=NAME takes a preset"
    )
    overrides.completer = _complete_override  # type: ignore[attr-defined]
    run.add_argument("-m", "--multirun", action="store_true", help="run every combination of NAME=VALUE,VALUE")
    run.add_argument("--dry-run", action="store_true", help="say what would be computed, and stop")
    run.set_defaults(command=_run)

    settings = commands.add_parser("settings", help="every setting, its default and what it allows")
    settings.set_defaults(command=_settings)

    figures = commands.add_parser(
        "figures",
        help="(re)build the figures of presets, running what they need and reusing what stands",
        description="Run what a preset's figures need, reuse what is finished, and draw them into results/NAME.",
    )
    names = figures.add_argument("names", nargs="*", metavar="NAME", help="presets under sweeps/; default: all")
    names.completer = lambda prefix, **_: _preset_names(prefix)  # type: ignore[attr-defined]
    figures.set_defaults(command=_figures)

    status = commands.add_parser("status", help="finished, failed and missing jobs of a sweep")
    status.add_argument("folder", metavar="DIR", type=Path, help="a sweep's folder, results/NAME")
    status.set_defaults(command=_status)

    collect = commands.add_parser("collect", help="join what is finished into one netCDF file")
    collect.add_argument("folder", metavar="DIR", type=Path, help="a sweep's folder, results/NAME")
    collect.add_argument("-o", "--output", metavar="FILE", type=Path, help="default: DIR/collected.nc")
    collect.set_defaults(command=_collect)

    verify = commands.add_parser(
        "verify",
        help="hold the package to every law that it can be held to, on one page",
        description="Measure what closed forms, identities and known limits predict, and write one page of it.",
        epilog="Exit status 1 where a law fails.",
    )
    verify.add_argument("--full", action="store_true", help="more networks and larger ones; takes some minutes")
    verify.add_argument(
        "-o", "--output", metavar="FILE", type=Path, default=Path("verify.html"), help="default: verify.html"
    )
    verify.set_defaults(command=_verify)

    completion = commands.add_parser("completion", help="print the shell's completion code")
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))
    completion.set_defaults(command=_completion)
    return parser


def _complete_override(prefix: str, **_: Any) -> list[str]:
    from gradient_horizon import config

    key, equals, _rest = prefix.partition("=")
    if not equals:
        return [f"{name}=" for name in (*config.FIELDS, "+sweeps") if name.startswith(prefix)]
    if key == "+sweeps":
        return [f"{key}={name}" for name in _preset_names("")]
    options = config.FIELDS[key].metadata["rule"].options if key in config.FIELDS else ()
    return [f"{key}={option}" for option in options]


def _preset_names(prefix: str) -> list[str]:
    from gradient_horizon.sweep import presets

    return [name for name in presets() if name.startswith(prefix)]


def _settings(_: argparse.Namespace) -> int:
    from gradient_horizon import config

    print(config.describe_settings())
    return DONE


def _completion(options: argparse.Namespace) -> int:
    print(argcomplete.shell_integration.shellcode(["gradient-horizon"], shell=options.shell))
    return DONE


def _run(options: argparse.Namespace) -> int:
    return _run_sweep(options.overrides, multirun=options.multirun, dry_run=options.dry_run)


def _figures(options: argparse.Namespace) -> int:
    unknown = [name for name in options.names if name not in _preset_names("")]
    if unknown:
        raise _UsageError(f"NAME: {unknown[0]!r} is not allowed; allowed: {', '.join(_preset_names(''))}")
    ends = [_run_sweep([f"+sweeps={name}"], redraw=True) for name in options.names or _preset_names("")]
    return max(ends)


def _run_sweep(overrides: Sequence[str], *, multirun: bool = False, dry_run: bool = False, redraw: bool = False) -> int:
    from gradient_horizon import sweep as sweeps
    from gradient_horizon import terminal

    sweep = sweeps.plan(overrides, multirun=multirun)
    conflicts = sweeps.conflicts(sweep)
    if conflicts:
        raise _UsageError("\ngradient-horizon: ".join(conflicts))
    todo = sweeps.unfinished(sweep)
    if todo and not dry_run:
        sweeps.prepare_folder(sweep)
    screen = terminal.console()
    screen.print(_plan_line(sweep, todo), markup=False)
    if dry_run:
        for job in todo:
            screen.print(f"would compute {job.folder}", markup=False)
        return DONE
    if not todo:
        _conclude(screen, sweep.folder, redraw=redraw)
        return DONE
    runtime.prepare()
    finished_before = len(sweep.jobs) - len(todo)
    try:
        with terminal.watching(screen, todo) as watch:
            outcome = sweeps.run(todo, watch)
    except KeyboardInterrupt:
        forced = any(job.config.force for job in todo)
        done = finished_before if forced else len(sweep.jobs) - len(sweeps.unfinished(sweep))
        screen.print(
            f"interrupted: {done} of {len(sweep.jobs)} jobs are finished and stay; the same command goes on from there",
            markup=False,
        )
        return INTERRUPTED
    for job, why in outcome.failed:
        screen.print(f"failed: {job.folder}: {why} (see {job.folder / 'run.log'})", markup=False)
    for job in outcome.elsewhere:
        screen.print(
            f"left out: {job.folder}: another process is computing it; once it is done, run this again", markup=False
        )
    if len(outcome.failed) + len(outcome.elsewhere) < len(sweep.jobs):
        _conclude(screen, sweep.folder, redraw=True)
    return FAILED if outcome.failed else DONE


def _plan_line(sweep: Any, todo: list[Any]) -> str:
    count, finished = len(sweep.jobs), len(sweep.jobs) - len(todo)
    if not todo:
        return f"{sweep.folder}: all {count} jobs are finished already; nothing to compute (force=true computes again)"
    before = f", {finished} finished already" if finished else ""
    return f"{sweep.folder}: {count} jobs{before}; computing {len(todo)} ({sum(job.networks for job in todo)} networks)"


def _conclude(screen: Any, folder: Path, *, redraw: bool) -> None:
    """The sweep's table, its figures (drawn where they are missing, or again), and where everything lies."""
    from gradient_horizon import figures, results, summary

    dataset = results.load(folder)
    for table in summary.tables(dataset):
        screen.print(table)
    for line in summary.recheck_lines(dataset):
        screen.print(line, markup=False)
    paths = sorted(folder.glob("*/result.nc"))
    if redraw or not any(folder.glob("*.pdf")):
        paths += [
            path
            for name, figure in figures.sweep_figures(dataset).items()
            for path in figures.save(figure, folder / name)
        ]
    else:
        paths += sorted([*folder.glob("*.pdf"), *folder.glob("*.png")])
    for path in paths:
        screen.print(str(path), markup=False)


def _folder(path: Path) -> Path:
    from gradient_horizon import records

    if not path.is_dir() or not records.job_folders(path):
        raise _UsageError(f"DIR: {str(path)!r} holds no sweep; allowed: a folder that gradient-horizon run wrote")
    return path


def _status(options: argparse.Namespace) -> int:
    from rich.table import Table

    from gradient_horizon import records, terminal

    folder = _folder(options.folder)
    table = Table("job", "state", "seconds", "why", title=str(folder))
    states = []
    for job in records.job_folders(folder):
        record, state = records.read_record(job), records.state_of(job)
        states.append(state)
        wall = f"{record.wall_time:.1f}" if record and state == records.FINISHED else ""
        table.add_row(job.name, state, wall, record.error if record and state == records.FAILED else "")
    screen = terminal.console()
    screen.print(table)
    counts = {state: states.count(state) for state in dict.fromkeys(states)}
    screen.print(", ".join(f"{count} {state}" for state, count in counts.items()), markup=False)
    return DONE


def _collect(options: argparse.Namespace) -> int:
    import json

    from gradient_horizon import results

    folder = _folder(options.folder)
    output: Path = options.output or folder / "collected.nc"
    if not output.parent.is_dir() or not os.access(output.parent, os.W_OK):
        raise _UsageError(f"-o: {str(output)!r} cannot be written; allowed: a file in a folder that can be written")
    logging.disable(logging.WARNING)  # what is missing is said below
    dataset = results.load(folder)
    results.save(dataset, output)
    missing = json.loads(dataset.attrs["missing_jobs"])
    for name in missing:
        print(f"missing: {name}")
    print(f"wrote {output}: {len(json.loads(dataset.attrs['jobs']))} jobs, {len(missing)} missing")
    return DONE


def _verify(options: argparse.Namespace) -> int:
    import time

    from gradient_horizon import records, terminal

    output: Path = options.output
    if output.suffix != ".html":
        raise _UsageError(f"-o: {str(output)!r} is no page; allowed: a file whose name ends in .html")
    if output.is_dir() or not output.parent.is_dir() or not os.access(output.parent, os.W_OK):
        raise _UsageError(f"-o: {str(output)!r} cannot be written; allowed: a file in a folder that can be written")
    runtime.prepare()
    from gradient_horizon.verify import SECTIONS, page, verify

    screen = terminal.console()
    logging.disable(logging.WARNING)  # some checks provoke what is warned of
    begun = time.monotonic()
    with terminal.counting(screen, sum(len(checks) for checks in SECTIONS.values())) as report:
        sections = verify(full=options.full, sections=SECTIONS, report=report)
    sentence, failed = page.verdict(sections)
    made = page.made(full=options.full, seconds=time.monotonic() - begun)
    records.write_atomically(output, page.as_html(sections, made).encode())
    screen.print(page.as_table(sections))
    for line in (sentence, *(f"    {law}" for law in failed), f"wrote {output}"):
        screen.print(line, markup=False)
    return FAILED if failed else DONE

"""The command `gradient-horizon`. Whatever needs no JAX answers before JAX is loaded.

Exit status: 0 success; 1 a job failed, a law does not hold, or something could not be written; 2 wrong input; 130
interrupted. Wrong input is reported in one line; any other error is a fault of the package and shows a traceback. With
`--debug`, or GRADIENT_HORIZON_DEBUG in the environment, every error shows one.
"""

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

import argcomplete
import argcomplete.shell_integration

from gradient_horizon import __version__
from gradient_horizon.commands import actions, interrupts
from gradient_horizon.commands.actions import DONE, FAILED, INTERRUPTED, WRONG, UsageError
from gradient_horizon.settings.rules import SettingError, one_line
from gradient_horizon.store.files import Harmless
from gradient_horizon.store.records import ResultError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. Output is `harmless`: file contents cannot control the terminal."""
    if sys.stdout is None:
        _complain("standard output: is closed; allowed: a file, a pipe or a terminal")
        return FAILED
    output = Harmless(sys.stdout, "standard output")
    errors = Harmless(sys.stderr or io.StringIO(), "standard error")
    with contextlib.redirect_stdout(cast(Any, output)), contextlib.redirect_stderr(cast(Any, errors)):
        try:
            try:
                return _run(arguments)
            finally:
                output.flush()
                if output.failed:
                    raise output.failed
        except BrokenPipeError:  # the reader has closed the pipe
            _drop(output)
            return DONE
        except OSError as error:  # a full disk, a folder that cannot be written
            if _debug(arguments):
                raise
            if error.filename == "standard output":
                _drop(output)
            _complain(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
            return FAILED


def _debug(arguments: Sequence[str] | None) -> bool:
    """True if errors are to be shown with their tracebacks."""
    return bool(os.environ.get("GRADIENT_HORIZON_DEBUG")) or "--debug" in (arguments or sys.argv[1:])


def _complain(line: str) -> None:
    with contextlib.suppress(OSError):
        print(f"gradient-horizon: {line}", file=sys.stderr)


def _drop(output: Harmless) -> None:
    """Discard pending output that cannot be written, of which Python would otherwise complain as it exits."""
    with contextlib.suppress(OSError):  # not a file when captured by a test
        os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())


def _run(arguments: Sequence[str] | None) -> int:
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
    try:
        with interrupts.honoured():
            status = options.command(options)
            if status != INTERRUPTED:
                interrupts.check()
            return status
    except (SettingError, ResultError, UsageError) as error:  # each message is one line
        if _debug(arguments):
            raise
        _complain(str(error))
        return WRONG
    except KeyboardInterrupt:
        _complain("interrupted")
        return INTERRUPTED


class _Parser(argparse.ArgumentParser):
    """An argument parser that reports errors in one line."""

    more_help: Callable[[], str] = staticmethod(lambda: "")  # appended to the help, and called for it alone

    def format_help(self) -> str:
        return super().format_help() + self.more_help()

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG, f"gradient-horizon: {one_line(message)} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="gradient-horizon",
        description="How far back in time can the gradient of a recurrent network reach?",
        epilog='Shell completion: eval "$(gradient-horizon completion bash)"; also zsh and fish.',
    )
    parser.add_argument("--version", action="version", version=f"gradient-horizon {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of any error")
    add = parser.add_subparsers(title="commands", metavar="COMMAND").add_parser

    run = add(
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
    run.set_defaults(command=actions.run)

    settings = add(
        "settings",
        help="every setting, its default and what it allows",
        description="Every setting, its default and what it allows; of one experiment those that it reads.",
    )
    chosen = settings.add_argument(
        "overrides", nargs="*", metavar="experiment=NAME", help="the settings of this experiment, with its defaults"
    )
    chosen.completer = _complete_override  # type: ignore[attr-defined]
    settings.set_defaults(command=_settings)

    figures = add(
        "figures",
        help="(re)build paper figures, running what they need and reusing what stands",
        description="Run what each figure needs and is not finished, and draw into results/figures those whose data,"
        " code or style has changed: PDF, PNG, the numbers as CSV, and a caption.",
        epilog="A preset that makes no paper figure can be named too: its own figures are drawn into results/NAME.",
    )
    names = figures.add_argument("names", nargs="*", metavar="NAME", help="figures; default: all of the paper")
    names.completer = lambda prefix, **_: actions.preset_names(prefix)  # type: ignore[attr-defined]
    figures.add_argument("--quick", action="store_true", help="small versions, into results/quick/figures")
    figures.add_argument(
        "--draw-only", action="store_true", help="compute nothing; say what makes data that is missing"
    )
    figures.more_help = _paper_figures
    figures.set_defaults(command=actions.figures)

    status = add("status", help="finished, running, failed, lost and missing jobs of a sweep, and how long is left")
    status.add_argument("folder", metavar="DIR", type=Path, help="a sweep's folder, results/NAME")
    status.add_argument("--json", action="store_true", help="the same for programs to read")
    status.set_defaults(command=actions.status)

    collect = add("collect", help="join what is finished into one netCDF file")
    collect.add_argument("folder", metavar="DIR", type=Path, help="a sweep's folder, results/NAME")
    collect.add_argument("-o", "--output", metavar="FILE", type=Path, help="default: DIR/collected.nc")
    collect.set_defaults(command=actions.collect)

    verify = add(
        "verify",
        help="hold the package to every law that it can be held to, on one page",
        description="Measure what closed forms, identities and known limits predict, and write one page of it.",
        epilog="Exit status 1 where a law fails.",
    )
    verify.add_argument("--full", action="store_true", help="more networks and larger ones; takes some minutes")
    verify.add_argument(
        "-o", "--output", metavar="FILE", type=Path, default=Path("verify.html"), help="default: verify.html"
    )
    verify.set_defaults(command=actions.verify)

    completion = add("completion", help="print the shell's completion code")
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))
    completion.set_defaults(command=_completion)
    return parser


def _paper_figures() -> str:
    from gradient_horizon.figures import paper

    return f"\nfigures of the paper:\n{paper.listing()}"


def _complete_override(prefix: str, **_: Any) -> list[str]:
    from gradient_horizon.settings import schema

    key, equals, _rest = prefix.partition("=")
    if not equals:
        return [f"{name}=" for name in (*schema.FIELDS, "+sweeps") if name.startswith(prefix)]
    if key == "+sweeps":
        return [f"{key}={name}" for name in actions.preset_names("")]
    options = schema.FIELDS[key].metadata["rule"].options if key in schema.FIELDS else ()
    return [f"{key}={option}" for option in options]


def _settings(options: argparse.Namespace) -> int:
    import json

    from gradient_horizon.commands import sweep
    from gradient_horizon.settings import schema

    own = sweep.experiments_defaults()
    if options.overrides:
        key, _, experiment = options.overrides[-1].partition("=")
        if key != "experiment" or len(options.overrides) > 1:
            raise UsageError(f"settings: {' '.join(options.overrides)!r} is not allowed; allowed: experiment=NAME")
        schema.check_value("experiment", experiment)
        print(schema.describe_settings(experiment, own.get(experiment)))
        return DONE
    print(schema.describe_settings())
    print("Defaults of single experiments (gradient-horizon settings experiment=NAME shows all that it reads):")
    for name, values in own.items():
        print(f"  experiment={name}: {', '.join(f'{key}={json.dumps(value)}' for key, value in values.items())}")
    return DONE


def _completion(options: argparse.Namespace) -> int:
    print(argcomplete.shell_integration.shellcode(["gradient-horizon"], shell=options.shell))
    return DONE

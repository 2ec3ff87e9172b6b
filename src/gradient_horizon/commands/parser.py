"""The command `gradient-horizon`. Commands that do not need JAX answer before it is loaded.

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
from gradient_horizon.commands import interrupts, run, status, tune, verify
from gradient_horizon.commands.common import DONE, FAILED, INTERRUPTED, WRONG, UsageError, preset_names
from gradient_horizon.names.rules import SettingError, one_line
from gradient_horizon.store.files import Harmless
from gradient_horizon.store.records import ResultError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. Output is `harmless`: file contents cannot control the terminal."""
    if sys.stdout is None:
        _complain("standard output: closed; allowed: a file, a pipe or a terminal")
        return FAILED
    output = Harmless(sys.stdout, "standard output")
    errors = Harmless(sys.stderr or io.StringIO(), "standard error")
    debug = bool(os.environ.get("GRADIENT_HORIZON_DEBUG"))
    with contextlib.redirect_stdout(cast(Any, output)), contextlib.redirect_stderr(cast(Any, errors)):
        try:
            try:
                options = _parsed(arguments)
                debug = debug or options.debug
                return _run(options, debug=debug)
            finally:
                output.flush()
                if output.failed:
                    raise output.failed
        except BrokenPipeError:  # the reader has closed the pipe
            _drop(output)
            return DONE
        except OSError as error:  # a full disk, a folder that cannot be written
            if debug:
                raise
            if error.filename == "standard output":
                _drop(output)
            _complain(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
            return FAILED


def _complain(line: str) -> None:
    with contextlib.suppress(OSError):
        print(f"gradient-horizon: {line}", file=sys.stderr)


def _drop(output: Harmless) -> None:
    """Discard pending output that cannot be written, about which Python would otherwise complain on exit."""
    with contextlib.suppress(OSError):  # not a file when captured by a test
        os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    argcomplete.autocomplete(parser)
    options, rest = parser.parse_known_args(arguments)
    if rest:  # settings on both sides of an option
        if not hasattr(options, "overrides") or any(text.startswith("-") for text in rest):
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        options.overrides += rest
    return options


def _run(options: argparse.Namespace, *, debug: bool) -> int:
    try:
        with interrupts.honoured():
            end = options.command(options)
            if end != INTERRUPTED:
                interrupts.check()
            return end
    except (SettingError, ResultError, UsageError) as error:  # each message is one line
        if debug:
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
    parser.set_defaults(command=lambda _: _help(parser))
    add = parser.add_subparsers(title="commands", metavar="COMMAND").add_parser

    run_parser = add(
        "run",
        help="one job, or a sweep with -m",
        description="Run one job, or a sweep with -m (NAME=VALUE,VALUE runs each). Finished jobs are not run again.",
        epilog="gradient-horizon settings lists every setting, its default and its allowed values.",
    )
    overrides = run_parser.add_argument(
        "overrides", nargs="*", metavar="NAME=VALUE", help="settings; +sweeps=NAME uses a preset"
    )
    overrides.completer = _complete_override  # type: ignore[attr-defined]
    run_parser.add_argument("-m", "--multirun", action="store_true", help="run every combination of NAME=VALUE,VALUE")
    run_parser.add_argument("--dry-run", action="store_true", help="list the jobs that would be computed, and stop")
    run_parser.set_defaults(command=run.run)

    settings = add(
        "settings",
        help="list every setting, its default and its allowed values",
        description="List every setting, its default and its allowed values; for one experiment, those that it reads.",
    )
    experiment = settings.add_argument(
        "overrides",
        nargs="*",
        metavar="experiment=NAME",
        help="list the settings of this experiment, with its defaults",
    )
    experiment.completer = _complete_override  # type: ignore[attr-defined]
    settings.set_defaults(command=_settings)

    figures = add(
        "figures",
        help="build the paper's figures, running only jobs that are not finished",
        description="Run the unfinished jobs that each figure needs, and draw the figures whose data, code or style has"
        " changed into results/figures: PDF, PNG, the numbers as CSV, and a caption.",
        epilog="The name of a preset without a paper figure draws its own figures into results/NAME.",
    )
    names = figures.add_argument(
        "names", nargs="*", metavar="NAME", help="figures to build; default: all figures of the paper"
    )
    names.completer = lambda prefix, **_: preset_names(prefix)  # type: ignore[attr-defined]
    figures.add_argument("--quick", action="store_true", help="build small versions, into results/quick/figures")
    figures.add_argument(
        "--draw-only", action="store_true", help="compute nothing; name the command that computes missing data"
    )
    figures.more_help = _paper_figures
    figures.set_defaults(command=run.figures)

    status_parser = add(
        "status", help="list a sweep's finished, running, failed, lost and missing jobs, and the time left"
    )
    status_parser.add_argument("folder", metavar="DIR", type=Path, help="a sweep's folder, results/NAME")
    status_parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    status_parser.set_defaults(command=status.status)

    collect = add("collect", help="join the finished jobs of a sweep into one netCDF file")
    collect.add_argument("folder", metavar="DIR", type=Path, help="a sweep's folder, results/NAME")
    collect.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="the file to write; default: DIR/collected.nc"
    )
    collect.set_defaults(command=status.collect)

    tune_parser = add(
        "tune",
        help="find the value of a setting at which the gradient reaches a number of steps",
        description="Find the value of the setting written NAME=? at which the gradient ceases to vanish within"
        " steps=T steps, or begins to explode, over seeds that are the same for every value.",
        epilog="Example: gradient-horizon tune cell=lstm 'forget_bias=?' steps=500 hidden_size=32. The exit status is 1"
        " if there is no such value.",
    )
    asked = tune_parser.add_argument(
        "overrides", nargs="*", metavar="NAME=VALUE", help="settings of the networks, one of them as NAME=?"
    )
    asked.completer = _complete_override  # type: ignore[attr-defined]
    tune_parser.add_argument(
        "--kind",
        default="vanished",
        help="vanished (default): where the gradient ceases to vanish; exploded: where it begins to explode",
    )
    tune_parser.add_argument(
        "--between", nargs=2, type=float, metavar=("LOW", "HIGH"), help="the lowest and the highest value to try"
    )
    tune_parser.add_argument(
        "--level", type=float, default=0.5, help="share of networks that must not have vanished (or exploded)"
    )
    tune_parser.add_argument(
        "--resolution", type=float, default=1e-3, help="width of the final bracket; relative for scales and fractions"
    )
    tune_parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    tune_parser.set_defaults(command=tune.tune)

    verify_parser = add(
        "verify",
        help="check measurements against closed forms, identities and limits; write one page",
        description="Measure what closed forms, identities and known limits predict, and write a page of comparisons.",
        epilog="The exit status is 1 if a law fails.",
    )
    verify_parser.add_argument("--full", action="store_true", help="use more and larger networks; takes some minutes")
    verify_parser.add_argument(
        *("-o", "--output"),
        metavar="FILE",
        type=Path,
        default=Path("verify.html"),
        help="the page to write; default: verify.html",
    )
    verify_parser.set_defaults(command=verify.verify)

    completion = add("completion", help="print shell completion code")
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))
    completion.set_defaults(command=_completion)
    return parser


def _help(parser: argparse.ArgumentParser) -> int:
    parser.print_help()
    return WRONG


def _paper_figures() -> str:
    from gradient_horizon.figures import paper

    return f"\nfigures of the paper:\n{paper.listing()}"


def _complete_override(prefix: str, **_: Any) -> list[str]:
    from gradient_horizon.settings import schema

    key, equals, _rest = prefix.partition("=")
    if not equals:
        return [f"{name}=" for name in (*schema.FIELDS, "+sweeps") if name.startswith(prefix)]
    if key == "+sweeps":
        return [f"{key}={name}" for name in preset_names("")]
    options = schema.FIELDS[key].metadata["rule"].options if key in schema.FIELDS else ()
    return [f"{key}={option}" for option in options]


def _settings(options: argparse.Namespace) -> int:
    import json

    from gradient_horizon.settings import compose, validation

    own = compose.experiments_defaults()
    if options.overrides:
        key, _, experiment = options.overrides[-1].partition("=")
        if key != "experiment" or len(options.overrides) > 1:
            raise UsageError(f"settings: {' '.join(options.overrides)!r} is not allowed; allowed: experiment=NAME")
        validation.check_value("experiment", experiment)
        print(validation.describe_settings(experiment, own.get(experiment)))
        return DONE
    print(validation.describe_settings())
    print("Defaults of single experiments (gradient-horizon settings experiment=NAME shows all that it reads):")
    for name, values in own.items():
        print(f"  experiment={name}: {', '.join(f'{key}={json.dumps(value)}' for key, value in values.items())}")
    return DONE


def _completion(options: argparse.Namespace) -> int:
    print(argcomplete.shell_integration.shellcode(["gradient-horizon"], shell=options.shell))
    return DONE

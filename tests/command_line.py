"""The command line in this process, without the seconds that a fresh interpreter needs to import everything.

For tests of what a command prints, writes and returns. Signals, settings of threads and devices, what may be imported,
and outputs that cannot be written need processes of their own.
"""

import contextlib
import io
import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path

from gradient_horizon.commands import parser


@contextlib.contextmanager
def without_handlers() -> Iterator[None]:
    """No handler of pytest's on the root logger: a warning goes to standard error, as in a process of its own."""
    root = logging.getLogger()
    kept, root.handlers = root.handlers, []
    try:
        yield
    finally:
        root.handlers = kept


def run_here(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """`gradient-horizon` with these arguments in `folder`."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = parser.main(arguments)
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())

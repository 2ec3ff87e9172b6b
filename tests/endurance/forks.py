"""Commands in forks of one process, which has loaded everything and started no device."""

import contextlib
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gradient_horizon.ensembles import process

sys.path.append(str(Path(__file__).parents[1]))  # for what tests share

LONGEST = 120  # seconds that one command may take


def load_everything(cache: Path) -> None:
    """Import what commands import, without starting a device: a fork of this process has it at once."""
    warnings.filterwarnings("ignore", message=r"os\.fork\(\)")
    os.environ["XDG_CACHE_HOME"] = str(cache)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    process.prepare_own()


@dataclass
class Child:
    """A command in a fork of this process, in a session of its own; what it says goes to a file."""

    pid: int
    said: Path

    def wait(self, seconds: float = LONGEST) -> int:
        """Its exit status, negative for a signal's; -1000 after it was killed for taking longer."""
        end = time.monotonic() + seconds
        while True:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > end:
                self.kill()
                os.waitpid(self.pid, 0)
                return -1000
            time.sleep(0.005)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


def fork(run: Callable[[], int], said: Path, folder: Path) -> Child:
    """`run` in a fork, in `folder`."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(pid, pid)
        return Child(pid, said)
    status = 70
    try:
        with contextlib.suppress(PermissionError):
            os.setpgid(0, 0)
        file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.chdir(folder)
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        status = run()
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
        status = 71
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def command(words: list[str], *, small_slabs: bool = False, at_event: int = 0, count: Path | None = None) -> int:
    """A command that writes parts and records as often as it can; killed just before its file operation `at_event`."""
    from gradient_horizon.commands import jobs, parser
    from gradient_horizon.experiments import grid
    from gradient_horizon.store import checkpoints, records

    jobs.Checkpoints = partial(checkpoints.Checkpoints, seconds=0.0)  # type: ignore[misc]
    records.HEARTBEAT = 0.02
    if small_slabs:
        grid.SLAB = grid.SLAB_CHUNKS = 1
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"):
            concerned = True
        else:
            concerned = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if concerned:
            seen += 1
            if seen == at_event:
                os.killpg(0, signal.SIGKILL)

    sys.addaudithook(hook)
    status = parser.main(words)
    if count is not None:
        count.write_text(str(seen))
    return status

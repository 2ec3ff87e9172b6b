"""What several commands share: exit statuses, the error for wrong input, JAX's start, and checks of output files."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gradient_horizon.ensembles import process

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130


class UsageError(ValueError):
    """Input that the command line refuses; the message is one line for the user."""


def preset_names(prefix: str) -> list[str]:
    """Return the presets whose names begin with `prefix`."""
    from gradient_horizon.settings import presets

    return [name for name in presets.names() if name.startswith(prefix)]


def prepare_jax() -> None:
    """Set up JAX, unless this process has already loaded it."""
    if "jax" not in sys.modules:
        process.prepare_own()
        check_platforms()


def check_platforms() -> None:
    """Refuse a platform that JAX cannot start, since JAX's own error may lack a message."""
    platforms = os.environ.get("JAX_PLATFORMS")
    if platforms:
        import jax

        try:
            jax.devices()
        except Exception as error:
            reason = next(iter(str(error).splitlines()), "") or "JAX finds no such device"
            raise UsageError(
                f"JAX_PLATFORMS: {platforms!r} cannot be started here ({reason}); allowed: cpu, or unset"
            ) from None


def jobs_phrase(count: int) -> str:
    """Return `1 job`, `2 jobs` and so on."""
    return f"{count} job" if count == 1 else f"{count} jobs"


def check_output(path: Path) -> Path:
    """Return `path` if a file can be written there, in place of nothing or of a regular file; else raise `UsageError`.

    Writing replaces whatever has that name: a device or a pipe would be lost, and a link would not be followed.
    """
    from gradient_horizon.store import files

    try:
        files.check_place(path)
    except files.PlaceError as error:
        raise UsageError(f"-o: {error}") from None
    except OSError as error:
        raise UsageError(f"-o: {str(path)!r} cannot be written ({error.strerror})") from None
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise UsageError(f"-o: {str(path)!r} cannot be written; allowed: a file in a writable folder")
    return path


@contextmanager
def without_warnings() -> Iterator[None]:
    """Log no warnings within the context."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)

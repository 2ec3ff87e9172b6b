"""Safe reading and writing in folders whose contents may come from someone else.

Writes and deletions never follow a link out of the folder, pipes never block, files are never left half written, and
text from these files cannot control the terminal.
"""

import errno
import fcntl
import functools
import io
import logging
import os
import random
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

MOST = 2**26  # bytes of a record or a plan; 100,000 jobs with the longest names take a fifth of it
PATIENCE = 30.0  # seconds after which the process that is `alone` is presumed dead
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
_LEFT = re.compile(r"\..+\.([0-9]+|[0-9a-f]{16})")  # a temporary name; version 0.1.0 used the process ID
# C0 and C1, characters that change the direction of text or end a line, and unprintable lone surrogates
_COMMANDS = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_log = logging.getLogger(__name__)


class PlaceError(OSError):
    """Something else occupies the path of one of the package's files or folders; the message is one line."""

    def __init__(self, path: Path, found: str, allowed: str):
        super().__init__(errno.EINVAL, harmless(f"{path} {found}; allowed: {allowed}"))

    def __str__(self) -> str:
        return str(self.strerror)


def harmless(text: str, keep: str = "") -> str:
    r"""Return `text` with characters that would control a terminal escaped, as in `\x1b`, except those in `keep`."""

    def escaped(match: re.Match[str]) -> str:
        return match[0] if match[0] in keep else ascii(match[0])[1:-1]

    return _COMMANDS.sub(escaped, text)


class Output:
    """An output stream whose errors name it; the first is kept in `failed`, since not every caller handles it."""

    def __init__(self, bare: TextIO, name: str):
        self._bare, self._name = bare, name
        self.failed: OSError | None = None

    def write(self, text: str) -> int:
        with self._naming():
            return self._bare.write(text)

    def flush(self) -> None:
        with self._naming():
            self._bare.flush()

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            named = OSError(error.errno, error.strerror, self._name)
            self.failed = self.failed or named
            raise named from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bare, name)


class Harmless(Output):
    """An output that makes all text `harmless`; `screen` passes it on as it is, for code that controls the terminal."""

    def __init__(self, bare: TextIO, name: str):
        super().__init__(bare, name)
        self.screen = Output(bare, name)

    def write(self, text: str) -> int:
        super().write(harmless(text, keep="\n\t"))
        return len(text)


def _kind(mode: int) -> str:
    names = {
        stat.S_IFLNK: "is a link",
        stat.S_IFDIR: "is a folder",
        stat.S_IFIFO: "is a named pipe",
        stat.S_IFSOCK: "is a socket",
        stat.S_IFREG: "is a file",
    }
    return names.get(stat.S_IFMT(mode), "is a device")


def _mode(path: Path) -> int | None:
    """Return the mode of whatever is at `path`, without following links; None if there is nothing."""
    try:
        return os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def is_regular(path: Path) -> bool:
    """True if there is a regular file at `path`, directly or through a link."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def check_place(path: Path) -> None:
    """Raise `PlaceError` unless `path` is free or a regular file (not a link), which may be replaced."""
    mode = _mode(path)
    if mode is not None and not stat.S_ISREG(mode):
        raise PlaceError(path, _kind(mode), "a regular file, or nothing")


def check_folder(path: Path) -> None:
    """Raise `PlaceError` unless `path` is free or a folder; a link is refused, as it would lead elsewhere."""
    mode = _mode(path)
    if mode is not None and not stat.S_ISDIR(mode):
        raise PlaceError(path, _kind(mode), "a real folder, or nothing")


def make_folder(path: Path) -> None:
    """Create a folder and any missing parents; raise `PlaceError` if something else is there."""
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        check_folder(path)


def remove_tree(path: Path) -> None:
    """Remove a folder and everything in it, if it exists; raise `PlaceError` if something else is there."""
    check_folder(path)
    shutil.rmtree(path, ignore_errors=True)  # does not follow links


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file for reading, directly or through a link; anything else raises `PlaceError` and is not opened."""
    mode = os.stat(path).st_mode
    if stat.S_ISREG(mode):
        stream = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
        mode = os.fstat(stream.fileno()).st_mode
        if stat.S_ISREG(mode):
            return stream
        stream.close()
    raise PlaceError(path, _kind(mode), "a file")


def read_regular(path: Path, most: int = MOST) -> bytes:
    """Return the bytes of a file; raise `PlaceError` if there are more than `most`, or if it is not a file."""
    with open_regular(path) as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise PlaceError(path, f"holds more than {most} bytes", "what gradient-horizon wrote")
    return content


def _temporary(path: Path) -> Path:
    """Return an unguessable name in the same folder as `path`."""
    return path.with_name(f".{path.name}.{os.urandom(8).hex()}")


def _create(path: Path) -> int:
    """Create a file, which must not exist yet, and return a descriptor for writing to it."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


@contextmanager
def replacing(path: Path, *, durable: bool = True, check: Callable[[], None] | None = None) -> Iterator[Path]:
    """Yield an empty temporary file to write to; it becomes `path` if the context ends without an error.

    If `durable`, it is flushed to disk first. `check` is called just before the renaming, and can prevent it by
    raising. Raises `PlaceError` if `path` exists and is not a regular file.
    """
    check_place(path)
    temporary = _temporary(path)
    os.close(_create(temporary))
    try:
        yield temporary
        if durable:
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
        if check is not None:
            check()
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(
    path: Path, content: bytes, *, durable: bool = True, check: Callable[[], None] | None = None
) -> None:
    """Write a temporary file, flush it to disk and rename it: `path` is the old file or the new one, never a part."""
    with replacing(path, durable=durable, check=check) as temporary, temporary.open("r+b") as stream:
        stream.write(content)


def open_log(path: Path) -> TextIO:
    """Open a new file, in place of any old one, for text that is written as it comes."""
    with replacing(path, durable=False) as temporary:
        return temporary.open("a", encoding="utf-8")


def append(path: Path, text: str) -> None:
    """Append text to a regular file that has no other name, or create it."""
    check_place(path)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o666), "a", encoding="utf-8", errors="backslashreplace") as stream:
        if os.fstat(stream.fileno()).st_nlink > 1:
            raise PlaceError(path, "has more than one name", "a regular file with a single name, or nothing")
        stream.write(text)


def clear_unfinished(folder: Path) -> None:
    """Remove temporary files of processes that were killed while writing; only for a folder's sole writer."""
    for path in folder.glob(".*.*"):
        if _LEFT.fullmatch(path.name):
            with suppress(OSError):
                path.unlink()


def clock(folder: Path) -> float:
    """Return the time in seconds by the clock of the file system that holds `folder`, which stamps newly written files.

    All machines that share the file system share this clock. If nothing can be written there, this machine's clock is
    used.
    """
    temporary = _temporary(folder / "clock")
    try:
        descriptor = _create(temporary)
        try:
            os.write(descriptor, b"0")
            return os.fstat(descriptor).st_mtime
        finally:
            os.close(descriptor)
            temporary.unlink(missing_ok=True)
    except OSError:
        return time.time()


@functools.cache
def _say_without_locks(reason: str) -> None:
    _log.warning("no locks on this file system (%s): processes coordinate by the heartbeats of their jobs", reason)


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[bool | None]:
    """Hold a lock on the file at `path` within the context, and yield True; yield None if there are no locks.

    Without `wait`, yields False if another process holds the lock. The operating system releases it however the process
    ends. The file is neither written nor truncated. Warns, once per process, if the file system has no locks.
    """
    check_place(path)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666)
    try:
        held: bool | None = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                held = False
            elif error.errno in _NO_LOCKS:
                held = None
                _say_without_locks(error.strerror or "")
            else:
                raise
        try:
            yield held
        finally:
            if held:
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # also for processes forked in the meantime
    finally:
        os.close(descriptor)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Briefly exclude other processes when there are no locks: only one process can create the file `path`.

    A file older than `PATIENCE` was left behind by a process that died.
    """
    while True:
        with suppress(FileExistsError):
            descriptor = _create(path)
            break
        _take_from_the_dead(path)
        time.sleep(random.uniform(0.005, 0.05))
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            if os.lstat(path).st_ino == os.fstat(descriptor).st_ino:  # unless this process was presumed dead
                path.unlink()
        os.close(descriptor)


def _take_from_the_dead(path: Path) -> None:
    check_place(path)
    with suppress(FileNotFoundError):
        status = os.lstat(path)
        if abs(clock(path.parent) - status.st_mtime) > PATIENCE:
            set_aside(path, lambda aside: os.lstat(aside).st_ino == status.st_ino)


def set_aside(path: Path, is_meant: Callable[[Path], bool]) -> None:
    """Remove a file that others may replace at this very moment; put it back unless `is_meant` accepts it."""
    aside, meant = _temporary(path), False
    path.rename(aside)
    try:
        meant = is_meant(aside)
    finally:
        if not meant:
            with suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink(missing_ok=True)

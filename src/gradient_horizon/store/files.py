"""Reading and writing in folders that others may have filled.

No link leads a write or a deletion out of them, no pipe blocks, no file is ever half written, and no text from them
commands the terminal.
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

MOST = 2**26  # bytes of a record or a plan; 100,000 jobs with the longest names take a fifth
PATIENCE = 30.0  # seconds after which whoever is `alone` is taken for dead
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
_LEFT = re.compile(r"\..+\.([0-9]+|[0-9a-f]{16})")  # a temporary name; version 0.1.0 took the process's number
# C0 and C1, what changes the direction of text or ends a line, and halves of characters, which cannot be printed
_COMMANDS = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_log = logging.getLogger(__name__)


class PlaceError(OSError):
    """Something else stands where a file or a folder of the package belongs; the message is one line."""

    def __init__(self, path: Path, found: str, allowed: str):
        super().__init__(errno.EINVAL, harmless(f"{path} {found}; allowed: {allowed}"))

    def __str__(self) -> str:
        return str(self.strerror)


def harmless(text: str, keep: str = "") -> str:
    r"""`text` in which what a terminal would obey is shown as it is spelt: `\x1b`; but for the characters to `keep`."""

    def spelt(found: re.Match[str]) -> str:
        return found[0] if found[0] in keep else ascii(found[0])[1:-1]

    return _COMMANDS.sub(spelt, text)


class Output:
    """A stream to print to, whose errors name it; the first stays in `failed`, as not everybody who prints heeds it."""

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
    """An output on which all text is `harmless`; `screen` is the same for one who commands the terminal itself."""

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
    """What stands there, links not followed; None: nothing."""
    try:
        return os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def is_regular(path: Path) -> bool:
    """Whether a file stands there, by a link or not."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def check_place(path: Path) -> None:
    """`PlaceError` where something else stands than a file of its own, which may be replaced."""
    mode = _mode(path)
    if mode is not None and not stat.S_ISREG(mode):
        raise PlaceError(path, _kind(mode), "a file of its own, or nothing")


def check_folder(path: Path) -> None:
    """`PlaceError` where something else stands than a folder of its own: a link would lead elsewhere."""
    mode = _mode(path)
    if mode is not None and not stat.S_ISDIR(mode):
        raise PlaceError(path, _kind(mode), "a folder of its own, or nothing")


def make_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing; `PlaceError` where something else stands there."""
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        check_folder(path)


def remove_tree(path: Path) -> None:
    """Remove a folder and all that it holds, if it is there; `PlaceError` where something else stands there."""
    check_folder(path)
    shutil.rmtree(path, ignore_errors=True)  # follows no link


def open_regular(path: Path) -> io.BufferedReader:
    """A file to read, by a link or not; `PlaceError` where something else stands there, which is not opened."""
    mode = os.stat(path).st_mode
    if stat.S_ISREG(mode):
        stream = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
        mode = os.fstat(stream.fileno()).st_mode
        if stat.S_ISREG(mode):
            return stream
        stream.close()
    raise PlaceError(path, _kind(mode), "a file")


def read_regular(path: Path, most: int = MOST) -> bytes:
    """The bytes of a file; `PlaceError` where there are more than `most`, or no file stands there."""
    with open_regular(path) as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise PlaceError(path, f"holds more than {most} bytes", "what gradient-horizon wrote")
    return content


def _temporary(path: Path) -> Path:
    """A name beside `path` that nobody can guess."""
    return path.with_name(f".{path.name}.{os.urandom(8).hex()}")


def _create(path: Path) -> int:
    """A descriptor of a file that was not there, to write to."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


@contextmanager
def replacing(path: Path, *, durable: bool = True, check: Callable[[], None] | None = None) -> Iterator[Path]:
    """An empty file under a temporary name, to write to; it is `path` once the context has ended without an error.

    It is flushed to the disk first if `durable`. `check` is called just before the renaming, which its error prevents.
    Raises `PlaceError` where `path` is no file of its own.
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
    """Write under a temporary name, flush to the disk, rename: `path` is the old file or the new one, never a part."""
    with replacing(path, durable=durable, check=check) as temporary, temporary.open("r+b") as stream:
        stream.write(content)


def open_log(path: Path) -> TextIO:
    """A new file in the place of an old one, to write text to as it comes."""
    with replacing(path, durable=False) as temporary:
        return temporary.open("a", encoding="utf-8")


def append(path: Path, text: str) -> None:
    """Add text to a file of its own, or make it."""
    check_place(path)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o666), "a", encoding="utf-8", errors="backslashreplace") as stream:
        if os.fstat(stream.fileno()).st_nlink > 1:
            raise PlaceError(path, "has another name too", "a file of its own, or nothing")
        stream.write(text)


def clear_unfinished(folder: Path) -> None:
    """Remove what processes that were killed while they wrote have left; for the one process that may write there."""
    for path in folder.glob(".*.*"):
        if _LEFT.fullmatch(path.name):
            with suppress(OSError):
                path.unlink()


def clock(folder: Path) -> float:
    """The time of the file system that holds `folder`, in seconds: what a file that is written now is stamped with.

    All machines that share it have this one clock. Where nothing can be written there it is this machine's.
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
    _log.warning("no locks on this file system (%s): processes keep apart by the heartbeats of their jobs", reason)


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[bool | None]:
    """Whether this process holds a lock on the file at `path`, as long as the context lasts; None: there are no locks.

    False, without `wait`: another process holds it. The operating system takes it from a process that ends, however.
    The file is neither written nor truncated. Warns, once a process, of a file system without locks.
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
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # for processes that were forked meanwhile, too
    finally:
        os.close(descriptor)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """For a moment the only process here, where there are no locks: `path` is a file that only one of them can make.

    One that is older than `PATIENCE` was left by a process that died.
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
            if os.lstat(path).st_ino == os.fstat(descriptor).st_ino:  # unless taken for dead
                path.unlink()
        os.close(descriptor)


def _take_from_the_dead(path: Path) -> None:
    check_place(path)
    with suppress(FileNotFoundError):
        found = os.lstat(path)
        if abs(clock(path.parent) - found.st_mtime) > PATIENCE:
            set_aside(path, lambda aside: os.lstat(aside).st_ino == found.st_ino)


def set_aside(path: Path, is_meant: Callable[[Path], bool]) -> None:
    """Remove a file that others may replace at this moment; it is put back if it is not the one that `is_meant`."""
    aside, meant = _temporary(path), False
    path.rename(aside)
    try:
        meant = is_meant(aside)
    finally:
        if not meant:
            with suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink(missing_ok=True)

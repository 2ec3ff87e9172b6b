"""Whatever stands in a folder, nothing is written or removed outside it, nothing blocks, no terminal obeys it."""

import errno
import io
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gradient_horizon.commands import terminal
from gradient_horizon.store import files
from gradient_horizon.store.files import PlaceError


@pytest.fixture
def outside(tmp_path) -> Path:
    """A file elsewhere, which must stay as it is."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "kept").write_bytes(b"kept")
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    path = tmp_path / "folder"
    path.mkdir()
    return path


def as_it_was(outside: Path) -> bool:
    return [path.name for path in outside.iterdir()] == ["kept"] and (outside / "kept").read_bytes() == b"kept"


def placed(path: Path, kind: str, outside: Path) -> None:
    """Put something at `path` that is no file of its own."""
    if kind == "link":
        path.symlink_to(outside / "kept")
    elif kind == "dangling link":
        path.symlink_to(outside / "made")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)


KINDS = ["link", "dangling link", "folder", "pipe"]
WRITERS = {
    "write": lambda path: files.write_atomically(path, b"new"),
    "log": lambda path: files.open_log(path).close(),
    "append": lambda path: files.append(path, "new"),
    "lock": lambda path: files.locked(path, wait=False).__enter__(),
    "alone": lambda path: files.alone(path).__enter__(),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_of_its_own_is_refused_in_one_line_and_nothing_is_written(kind, writer, folder, outside):
    path = folder / "file"
    placed(path, kind, outside)
    with pytest.raises(PlaceError) as refused:
        WRITERS[writer](path)
    said = {"dangling link": "link", "pipe": "named pipe"}.get(kind, kind)
    assert str(refused.value) == f"{path} is a {said}; allowed: a regular file, or nothing"
    assert as_it_was(outside)
    assert [found.name for found in folder.iterdir()] == ["file"]


@pytest.mark.parametrize("writer", ["write", "log", "append", "lock"])
def test_a_file_that_has_another_name_elsewhere_is_not_written_to(writer, folder, outside):
    path = folder / "file"
    os.link(outside / "kept", path)
    if writer == "append":
        with pytest.raises(PlaceError, match="has more than one name"):
            WRITERS[writer](path)
    else:
        WRITERS[writer](path)
    assert as_it_was(outside)


def test_a_log_is_a_new_file(folder):
    path = folder / "run.log"
    path.write_text("old")
    with files.open_log(path) as stream:
        stream.write("new\n")
    files.append(path, "more\n")
    assert path.read_text() == "new\nmore\n"
    assert list(folder.iterdir()) == [path]


def test_temporary_names_that_somebody_foresaw_lead_nowhere(folder, outside):
    for number in range(os.getpid() - 20, os.getpid() + 20):
        (folder / f".file.{number}").symlink_to(outside / "kept")
    files.write_atomically(folder / "file", b"new")
    assert (folder / "file").read_bytes() == b"new"
    assert as_it_was(outside)
    files.clear_unfinished(folder)
    assert [path.name for path in folder.iterdir()] == ["file"]
    assert as_it_was(outside)


def test_what_was_left_unfinished_is_removed_and_nothing_else(folder):
    with files.replacing(folder / "file") as temporary:
        assert re.fullmatch(r"\.file\.[0-9a-f]{16}", temporary.name)
    (folder / "file").rename(temporary)  # as if it had been killed before
    for name in (".status.json.11033", ".notes.txt", "plain", ".hidden", ".a.b.c"):
        (folder / name).touch()
    (folder / ".folder.17").mkdir()
    files.clear_unfinished(folder)
    assert {path.name for path in folder.iterdir()} == {".notes.txt", "plain", ".hidden", ".a.b.c", ".folder.17"}


def test_a_check_that_fails_keeps_the_old_file(folder):
    path = folder / "file"
    path.write_bytes(b"old")

    def taken():
        raise RuntimeError("taken")

    with pytest.raises(RuntimeError, match="taken"):
        files.write_atomically(path, b"new", check=taken)
    assert path.read_bytes() == b"old"
    assert list(folder.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["link", "file"])
def test_folders_are_made_and_removed_where_they_are_of_their_own(kind, folder, outside):
    files.make_folder(folder / "a" / "b")
    files.make_folder(folder / "a" / "b")
    (folder / "a" / "away").symlink_to(outside)  # inside, it is removed itself
    files.remove_tree(folder / "a")
    files.remove_tree(folder / "a")
    assert as_it_was(outside)
    if kind == "link":
        (folder / "a").symlink_to(outside)
    else:
        (folder / "a").touch()
    for call in (files.make_folder, files.remove_tree, files.check_folder):
        with pytest.raises(PlaceError, match=f"a is a {kind}; allowed: a real folder, or nothing"):
            call(folder / "a")
    assert as_it_was(outside)


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to a pipe", "device"])
def test_what_is_no_file_is_never_opened_to_read(kind, folder, outside, monkeypatch):
    path = folder / "file"
    if kind == "link to a pipe":
        os.mkfifo(outside / "pipe")
        path.symlink_to(outside / "pipe")
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        placed(path, kind, outside)
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("opened"))
    with pytest.raises(PlaceError, match=r"file is a .*; allowed: a file$"):
        files.read_regular(path)
    assert not files.is_regular(path)


def test_so_much_is_read_and_no_more(folder):
    path = folder / "file"
    path.write_bytes(bytes(10))
    assert files.read_regular(path, 10) == bytes(10)
    with pytest.raises(PlaceError, match="file holds more than 9 bytes; allowed: what gradient-horizon wrote"):
        files.read_regular(path, 9)
    (folder / "link").symlink_to(path)  # to read by a link does no harm
    assert files.read_regular(folder / "link") == bytes(10)


def test_the_clock_is_the_file_systems(folder, monkeypatch):
    monkeypatch.setattr(files.time, "time", lambda: 1.0)  # this machine's is wrong
    before = time.clock_gettime(time.CLOCK_REALTIME)
    now = files.clock(folder)
    assert before - 0.1 < now < time.clock_gettime(time.CLOCK_REALTIME) + 0.1
    assert not list(folder.iterdir())

    def refused(*_):
        raise PermissionError

    monkeypatch.setattr(os, "open", refused)
    assert files.clock(folder) == 1.0  # where nothing can be written


def test_a_lock_is_held_by_one(folder):
    with files.locked(folder / "lock", wait=False) as held:
        assert held is True
        with files.locked(folder / "lock", wait=False) as again:
            assert again is False
    with files.locked(folder / "lock", wait=True) as held:
        assert held is True


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_is_told_once(number, folder, monkeypatch, caplog):
    def none(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.fcntl, "flock", none)
    files._say_without_locks.cache_clear()
    for _ in range(3):
        with files.locked(folder / "lock", wait=False) as held:
            assert held is None
    assert [record.message for record in caplog.records] == [
        f"no locks on this file system ({os.strerror(number)}): processes coordinate by the heartbeats of their jobs"
    ]
    monkeypatch.setattr(files.fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    with pytest.raises(OSError, match="broken"), files.locked(folder / "lock", wait=False):
        pass


def test_alone_is_one_at_a_time(folder):
    inside, most = [], []

    def work():
        for _ in range(5):
            with files.alone(folder / "alone"):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.001)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(most), max(most)) == (30, 1)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("seconds", [-1000, 1000])
def test_what_a_dead_process_left_keeps_nobody_out(seconds, folder):
    path = folder / "alone"
    path.touch()
    then = time.time() + seconds
    os.utime(path, (then, then))
    with files.alone(path):
        assert abs(path.stat().st_mtime - time.time()) < 5
    assert not list(folder.iterdir())


def test_what_others_have_replaced_is_put_back(folder):
    path = folder / "file"
    path.write_bytes(b"theirs")
    files.set_aside(path, lambda aside: aside.read_bytes() == b"ours")
    assert path.read_bytes() == b"theirs"
    files.set_aside(path, lambda aside: aside.read_bytes() == b"theirs")
    assert not list(folder.iterdir())


COMMANDS = {
    "\x1b[2J": r"\x1b[2J",
    "\x9b31m": r"\x9b31m",
    "\x1b]0;title\x07": r"\x1b]0;title\x07",
    "a\rb\x08\x00\x7f": r"a\rb\x08\x00\x7f",
    "two\nlines\t": r"two\nlines\t",
    "\u202eback\u2066\u2028": r"\u202eback\u2066\u2028",
    "\udc80\ud800": r"\udc80\ud800",
    "φ′ ‖∂h‖ ü 網 🙂 [bold]": "φ′ ‖∂h‖ ü 網 🙂 [bold]",
}


@pytest.mark.parametrize("text", COMMANDS)
def test_what_a_terminal_would_obey_is_shown_as_it_is_spelt(text):
    assert files.harmless(text) == COMMANDS[text]
    stream = io.StringIO()
    print(text, file=files.Harmless(stream, "output"))  # type: ignore[arg-type]
    assert stream.getvalue() == files.harmless(text, keep="\n\t") + "\n"


def test_a_screen_obeys_its_own_commands_alone(monkeypatch):
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", files.Harmless(stream, "output"))  # type: ignore[arg-type]
    screen = terminal.console()
    table = terminal.status_table("\x1b[2Jtitle", [terminal.JobStatus("job\x1b[2J", "fail\x1b[2J", 1, 0, why="\x9b2J")])
    screen.print(table)
    screen.print("[bold]plain\x1b[2J", markup=True)
    said = stream.getvalue()
    assert "\x1b[1m" in said  # its own
    assert "\x1b[2J" not in said
    assert "\x9b" not in said
    assert r"\x1b[2J" in said


PROGRAM = """
import os, sys
from pathlib import Path
from gradient_horizon.store import files
path = Path(sys.argv[1])
for number in range(200):
    files.write_atomically(path, os.urandom(1) * 5000)
    assert len(set(files.read_regular(path))) == 1
"""


def test_processes_that_replace_one_file_never_read_a_part(folder):
    running = [subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder / "file")]) for _ in range(3)]
    assert [process.wait() for process in running] == [0] * 3
    assert [path.name for path in folder.iterdir()] == ["file"]

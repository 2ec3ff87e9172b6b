"""What commands write, they write in place of nothing, or of a regular file; of many jobs they list what matters."""

import argparse
import json
import logging
import os
import socket
from pathlib import Path

import pytest
from stored_results import made, write

from gradient_horizon.commands import parser, status
from gradient_horizon.store import datasets, records


def device(path):
    if os.geteuid() != 0:
        pytest.skip("only root makes devices")
    try:
        os.mknod(path, 0o020666, os.makedev(1, 3))  # as /dev/null
    except PermissionError:
        pytest.skip("no devices here")


def bound_socket(path):
    with socket.socket(socket.AF_UNIX) as made_there:
        made_there.bind(str(path))


def link(path):
    (path.parent / "aim.html").write_text("kept")
    path.symlink_to("aim.html")


KINDS = {
    "a named pipe": os.mkfifo,
    "a socket": bound_socket,
    "a device": device,
    "a folder": os.mkdir,
    "a link": link,
}


@pytest.fixture
def sweep(tmp_path):
    write(tmp_path / "sweep" / "cell=tanh", made({"cell": "tanh"}))
    return tmp_path / "sweep"


@pytest.mark.parametrize("words", [["collect", "sweep"], ["verify"]])
@pytest.mark.parametrize(("kind", "make"), KINDS.items())
def test_what_is_no_regular_file_is_not_replaced(sweep, monkeypatch, capsys, words, kind, make):
    monkeypatch.chdir(sweep.parent)
    path = sweep.parent / "out.html"
    make(path)
    before = path.lstat()
    assert parser.main([*words, "-o", "out.html"]) == 2
    said = f"gradient-horizon: -o: out.html is {kind}; allowed: a regular file, or nothing\n"
    assert capsys.readouterr() == ("", said)
    assert path.lstat() == before
    if kind == "a link":
        assert (sweep.parent / "aim.html").read_text() == "kept"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nowhere/all.nc", "; allowed: a file in a writable folder"),
        ("sweep/cell=tanh/result.nc/all.nc", "; allowed: a file in a writable folder"),
        ("a" * 300, " (File name too long)"),
        ("a" * 250, " (File name too long)"),
    ],
)
def test_where_nothing_can_be_written_one_line_says_so(sweep, monkeypatch, capsys, name, why):
    monkeypatch.chdir(sweep.parent)
    assert parser.main(["collect", "sweep", "-o", name]) == 2
    assert capsys.readouterr() == ("", f"gradient-horizon: -o: {name!r} cannot be written{why}\n")


def test_a_file_is_written_or_replaced(sweep, capsys):
    path = sweep / "collected.nc"
    for before in (None, b"an older one"):
        if before is not None:
            path.write_bytes(before)
        assert parser.main(["collect", str(sweep)]) == 0
        assert capsys.readouterr().out == f"wrote {path}: 1 jobs, 0 missing\n"
        assert datasets.load(path).identical(datasets.load(sweep))
        path.unlink()


def test_of_many_finished_jobs_a_table_lists_those_that_are_not(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(status, "LISTED", 3)
    for number in range(5):
        state = records.FAILED if number == 2 else records.FINISHED
        folder = tmp_path / f"steps={number + 1}"
        folder.mkdir()
        (folder / records.RESULT).write_bytes(b"")
        record = records.JobRecord(
            state, "", {}, {"steps": number + 1}, records.file_checksum(folder / records.RESULT), job=folder.name
        )
        records.write_record(folder, record)
    assert status.status(argparse.Namespace(folder=tmp_path, json=False)) == 0
    said = capsys.readouterr().out
    assert "steps=3" in said
    assert "steps=1" not in said
    assert said.splitlines()[-2:] == ["Not listed: 4 finished jobs; --json lists all.", "4 finished, 1 failed"]
    assert status.status(argparse.Namespace(folder=tmp_path, json=True)) == 0
    assert len(json.loads(capsys.readouterr().out)["jobs"]) == 5


def test_what_a_killed_collect_has_left_is_removed(tmp_path):
    folder = tmp_path / "sweep"
    write(folder / "cell=tanh", made({"cell": "tanh"}))
    left = folder / ".collected.nc.0123456789abcdef"
    left.write_bytes(b"half")
    assert parser.main(["collect", str(folder)]) == 0
    assert (folder / "collected.nc").exists()
    assert not left.exists()


def test_a_command_leaves_the_warnings_of_the_process_as_they_were(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path("results/a/cell=tanh"), made({"cell": "tanh"}))
    assert parser.main(["collect", "results/a"]) == 0
    assert not logging.root.manager.disable

"""A sweep's figures show what is finished, whatever ended the process that drew them, and are drawn no more often."""

import json
import shutil
from pathlib import Path

import pytest

from gradient_horizon import figures
from gradient_horizon.commands import drawing
from gradient_horizon.commands.parser import main
from gradient_horizon.store import files, records

WORDS = ["hidden_size=3", "steps=5", "seeds=2", "weight_scales=[0.5,1.0]", "name=drawn"]
CELLS = "tanh,linear,relu"
FOLDER = Path("results/drawn")
NAMES = {"norm_against_lag.pdf", "norm_against_lag.png", "horizon.pdf", "horizon.png"}


def run(*words: str) -> int:
    return main(["run", "-m", *WORDS, *words])


def drawn() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in FOLDER.glob("*.p*")}


def state() -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in Path("results").rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with the sweep over three cells, and in `one` that over two of them."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        for name, cells in (("one", CELLS.removesuffix(",relu")), ("three", CELLS)):
            (folder / name).mkdir()
            patch.chdir(folder / name)
            assert run(f"cell={cells}") == 0
    return folder


@pytest.fixture
def three(made, tmp_path, monkeypatch):
    """The working folder, with the sweep over three cells."""
    monkeypatch.chdir(shutil.copytree(made / "three", tmp_path / "three"))


@pytest.fixture
def one(made, tmp_path, monkeypatch):
    """The working folder, with the sweep over two cells."""
    monkeypatch.chdir(shutil.copytree(made / "one", tmp_path / "one"))


def test_a_repeat_draws_nothing_that_stands(three, capsys):
    before = state()
    assert {path.name for path in before if path.parent == FOLDER} == {*NAMES, "figures.json", "sweep.json"} | {
        ".sweep.lock"
    }
    capsys.readouterr()
    assert run(f"cell={CELLS}") == 0
    assert {f"{FOLDER}/{name}" for name in NAMES} <= {*capsys.readouterr().out.splitlines()}
    assert state() == before


@pytest.mark.parametrize(
    ("stop", "at"), [(KeyboardInterrupt, 0), (OSError(28, "No space left on device"), 1), (KeyboardInterrupt, 2)]
)
def test_whatever_ends_the_drawing_a_repeat_does_it(made, one, monkeypatch, capsys, stop, at):
    """Of a sweep that has grown, whose figures are those of the smaller one: a repeat has no job left to compute."""
    save, write, calls = figures.save, files.write_atomically, []

    def stopping(figure, stem, formats=("pdf", "png")):
        if stem.parent == FOLDER:
            calls.append(stem)
            if len(calls) == at + 1:
                raise stop
        return save(figure, stem, formats)

    def stopping_last(path, content, **named):
        if path.name == drawing.FIGURES and at == 2:  # the files are written, and what says so is not
            raise stop
        write(path, content, **named)

    with monkeypatch.context() as patch:
        patch.setattr(figures, "save", stopping)
        patch.setattr(files, "write_atomically", stopping_last)
        assert run(f"cell={CELLS}") == (130 if stop is KeyboardInterrupt else 1)
    said = capsys.readouterr()
    if isinstance(stop, OSError):
        assert "no figures: results/drawn: OSError: [Errno 28] No space left on device" in said.out
    assert run(f"cell={CELLS}") == 0
    assert "all 3 jobs are already finished" in capsys.readouterr().out
    whole = {path.name: path.read_bytes() for path in (made / "three" / FOLDER).glob("*.p*")}
    assert drawn() == whole


@pytest.mark.parametrize("harm", ["altered", "missing", "unsaid", "odd"])
def test_what_is_not_what_was_drawn_is_drawn_again(three, harm):
    whole = drawn()
    path = FOLDER / "horizon.pdf"
    if harm == "altered":
        path.write_bytes(whole["horizon.pdf"][:-1])
    elif harm == "missing":
        path.unlink()
    elif harm == "unsaid":
        (FOLDER / "figures.json").unlink()
    else:
        (FOLDER / "figures.json").write_text('{"shows": 3, "files": [1]}')
    assert run(f"cell={CELLS}") == 0
    assert drawn() == whole


def test_figures_show_what_other_commands_have_finished_since(made, one):
    whole = {path.name: path.read_bytes() for path in (made / "three" / FOLDER).glob("*.p*")}
    assert drawn() != whole
    shutil.copytree(made / "three" / FOLDER / "cell=relu", FOLDER / "cell=relu")
    assert run("cell=tanh,linear") == 0
    assert drawn() == whole


def test_a_figure_that_is_none_any_more_is_removed_and_nothing_else(three, tmp_path):
    said = json.loads((FOLDER / "figures.json").read_text())
    for name in ("spectrum.pdf", "mine.pdf", "notes.txt"):
        (FOLDER / name).write_text("")
    outside = tmp_path / "outside.pdf"
    outside.write_text("")
    said["files"] |= {"spectrum.pdf": "", "../../../outside.pdf": "", str(outside): "", "notes.txt": ""}
    said["shows"] = "something else"
    (FOLDER / "figures.json").write_text(json.dumps(said))
    assert run(f"cell={CELLS}") == 0
    assert {path.name for path in FOLDER.glob("*.p*")} == {*NAMES, "mine.pdf"}
    assert (FOLDER / "notes.txt").exists()
    assert outside.exists()


def test_a_quick_look_that_is_missing_is_drawn(three, capsys):
    path = FOLDER / "cell=relu" / "quick_look.png"
    whole = path.read_bytes()
    path.unlink()
    record = records.read_record(path.parent)
    before = state()
    assert run(f"cell={CELLS}", "quick_look=false") == 0
    assert state() == before
    capsys.readouterr()
    assert run(f"cell={CELLS}") == 0
    assert "drawing 1 missing quick looks" in capsys.readouterr().out
    assert path.read_bytes() == whole
    assert records.read_record(path.parent) == record


def test_a_quick_look_that_could_not_be_drawn_is_owed(one, monkeypatch, capsys):
    def full(dataset):
        raise OSError(28, "No space left on device")

    path = FOLDER / "cell=linear" / "quick_look.png"
    with monkeypatch.context() as patch:
        patch.setattr(figures, "quick_look", full)
        assert run("cell=tanh,linear", "force=true") == 0
        record = records.read_record(path.parent)
        assert record is not None
        assert "No space" in record.picture
        assert run("cell=tanh,linear") == 0  # once more in vain
    said = "no quick look: results/drawn/cell=linear: OSError: [Errno 28] No space left on device"
    assert said in capsys.readouterr().out
    assert not path.exists()
    assert run("cell=tanh,linear") == 0
    record = records.read_record(path.parent)
    assert record is not None
    assert record.picture == ""
    assert path.exists()

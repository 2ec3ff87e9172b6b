"""Paper figures are built where data, code or style has changed, alike each time, and say what makes missing data."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gradient_horizon.commands import publication
from gradient_horizon.commands.parser import main
from gradient_horizon.commands.sweep import plan
from gradient_horizon.figures.kit import style
from gradient_horizon.figures.paper import FIGURES as DECLARED
from gradient_horizon.figures.paper import notes
from gradient_horizon.settings import presets
from gradient_horizon.store import provenance

FILES = {"notes.pdf", "notes.png", "notes.csv", "notes.md", "notes.json"}
FIGURES, RESULT = Path("results/quick/figures"), Path("results/quick/notes/single/result.nc")
MAKES = "gradient-horizon run -m +sweeps=notes output=results/quick quick_look=false"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder in which the quick figure of the notes was built."""
    folder = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["figures", "notes", "--quick"]) == 0
    return folder


@pytest.fixture
def here(published, tmp_path, monkeypatch):
    """The working folder: a copy of `published`."""
    folder = shutil.copytree(published, tmp_path / "here")
    monkeypatch.chdir(folder)
    return folder


def state():
    return {path: path.stat().st_mtime_ns for path in Path("results").rglob("*") if path.is_file()}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def fingerprint():
    return publication.fingerprint(
        publication.opened(plan(publication.overrides_of("notes", quick=True), multirun=True))
    )


def test_a_figure_is_a_picture_its_numbers_and_a_caption(here):
    assert {path.name for path in FIGURES.iterdir()} == FILES
    caption = (FIGURES / "notes.md").read_text()
    for words in (
        DECLARED["notes"].title,
        DECLARED["notes"].caption,
        "| weight_scales | [1.0, 0.5] |",
        "2 networks in 1 jobs",
        "JAX 0.",
    ):
        assert words in caption


def test_a_figure_sets_jax_up_before_it_loads_it(tmp_path):
    call = [sys.executable, "-W", "error", "-m", "gradient_horizon", "figures", "notes", "--quick"]
    ran = subprocess.run(
        call, cwd=tmp_path, env={**os.environ, "JAX_NUM_CPU_DEVICES": "3"}, capture_output=True, text=True
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert " on 3 x cpu" in (tmp_path / FIGURES / "notes.md").read_text()


def test_a_second_call_does_nothing_and_says_so(here, capsys):
    before = state()
    assert main(["figures", "notes", "--quick"]) == 0
    assert capsys.readouterr() == ("notes: up to date\n", "")
    assert state() == before


def test_two_builds_are_alike_to_the_byte(here):
    first = contents(FIGURES)
    shutil.rmtree("results")
    assert main(["figures", "notes", "--quick"]) == 0
    assert contents(FIGURES) == first


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_that_is_missing_is_made_again(here, name):
    first = contents(FIGURES)
    (FIGURES / name).unlink()
    assert main(["figures", "notes", "--quick", "--draw-only"]) == 0
    assert contents(FIGURES) == first


@pytest.mark.parametrize("name", sorted(FILES - {"notes.json"}))
def test_a_file_that_is_not_the_one_that_was_built_is_made_again(here, capsys, name):
    first = contents(FIGURES)
    (FIGURES / name).write_bytes(first[name][:-7])
    capsys.readouterr()
    assert main(["figures", "notes", "--quick", "--draw-only"]) == 0
    assert capsys.readouterr().out.startswith("notes: drawing (changed: files)\n")
    assert contents(FIGURES) == first


@pytest.mark.parametrize("record", ["", "[]", "{}"])
def test_a_record_that_says_nothing_is_no_record(here, record):
    (FIGURES / "notes.json").write_text(record)
    assert publication.changed(FIGURES / "notes", fingerprint()) == ["data", "code", "style"]


@pytest.mark.parametrize("what", ["data", "code", "style"])
def test_what_changes_is_drawn_again(here, monkeypatch, capsys, what):
    if what == "data":
        monkeypatch.setitem(DECLARED, "notes", replace(DECLARED["notes"], quick=("steps=5",)))
        command = publication.command_of("notes", quick=True, force=True)
        assert main(command.split()[1:]) == 0
    elif what == "code":
        package = shutil.copytree(provenance._PACKAGE, here / "package", ignore=shutil.ignore_patterns("__pycache__"))
        with (package / "theory" / "bounds.py").open("a") as source:
            source.write("# a remark\n")
        monkeypatch.setattr(provenance, "_PACKAGE", package)
    else:
        sheet = shutil.copy(style.SHEET, here / "sheet.mplstyle")
        with Path(sheet).open("a") as text:
            text.write("lines.linewidth: 2\n")
        monkeypatch.setattr(style, "SHEET", Path(sheet))
    picture = (FIGURES / "notes.png").read_bytes()
    capsys.readouterr()
    assert main(["figures", "notes", "--quick"]) == 0
    assert capsys.readouterr().out.startswith(f"notes: drawing (changed: {what})\n")
    assert ((FIGURES / "notes.png").read_bytes() == picture) == (what == "code")


def test_how_long_the_data_took_is_no_part_of_them(here):
    (data,) = publication.opened(plan(publication.overrides_of("notes", quick=True), multirun=True))
    before = publication.fingerprint([data])
    data.attrs.update(wall_time_seconds=1e3, peak_memory_bytes=1)
    assert publication.fingerprint([data]) == before
    data["norm"][0, 0, 0] += 1
    assert publication.fingerprint([data])["data"] != before["data"]


@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_without_data_a_drawing_names_the_command_that_makes_them(here, capsys, harm):
    shutil.rmtree(FIGURES)
    if harm == "missing":
        shutil.rmtree(RESULT.parent)
    else:
        RESULT.write_bytes(RESULT.read_bytes()[:-1])
    before = state()
    assert main(["figures", "notes", "--quick", "--draw-only"]) == 1
    said = f"gradient-horizon: notes: 1 of its 1 jobs are missing or stale; {MAKES} computes them\n"
    assert capsys.readouterr() == ("", said)
    assert state() == before
    assert main(["figures", "notes", "--quick"]) == 0
    assert main(["figures", "notes", "--quick", "--draw-only"]) == 0


@pytest.mark.parametrize("options", [["--draw-only"], []])
def test_data_of_other_settings_are_left_alone(here, monkeypatch, capsys, options):
    monkeypatch.setitem(DECLARED, "notes", replace(DECLARED["notes"], quick=("steps=5",)))
    before = state()
    assert main(["figures", "notes", "--quick", *options]) == 1
    command = MAKES.replace("notes output", "notes steps=5 output") + " force=true"
    assert capsys.readouterr().err.endswith(f"{command} computes them\n")
    assert state() == before


def test_a_figure_that_fails_does_not_stop_the_next(here, monkeypatch, capsys):
    def fail(dataset):
        raise RuntimeError("no paper left")

    (FIGURES / "notes.md").unlink()
    monkeypatch.setattr(notes, "draw", fail)
    assert main(["figures", "notes", "edge", "--quick", "--draw-only"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == "gradient-horizon: notes: RuntimeError: no paper left"
    assert second.startswith(
        "gradient-horizon: edge: 3 of its 3 jobs are missing or stale; gradient-horizon run -m +sweeps=edge"
    )


def test_the_command_of_a_full_figure():
    assert publication.command_of("notes", quick=False) == "gradient-horizon run +sweeps=notes"


def test_a_preset_without_a_paper_figure_has_no_quick_version(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for option in ("--quick", "--draw-only"):
        assert main(["figures", "main", option]) == 2
        assert "'main' is not a paper figure; allowed with --quick and --draw-only: notes" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", DECLARED)
def test_a_figure_has_a_preset_and_a_small_version_of_it(name):
    assert DECLARED[name].preset in presets.names()
    small = plan(publication.overrides_of(name, quick=True), multirun=True)
    full = plan(publication.overrides_of(name, quick=False), multirun=True)
    assert small.folder == Path("results/quick") / name
    assert full.folder == Path("results") / name


def test_the_help_lists_the_figures(capsys):
    with pytest.raises(SystemExit):
        main(["figures", "--help"])
    shown = capsys.readouterr().out
    for name, figure in DECLARED.items():
        assert f"  {name} " in shown
        assert figure.help in shown

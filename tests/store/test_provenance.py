"""The commit of a result is that of the package's own source, and its parts stand and fall with that source alone."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gradient_horizon.store import provenance


@pytest.fixture
def outside(monkeypatch):
    """No variable of git's, such as a hook sets."""
    for key in [key for key in os.environ if key.startswith("GIT_")]:
        monkeypatch.delenv(key)


def git(folder: Path, *words: str) -> str:
    own = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    ran = subprocess.run(
        ["git", *identity, "-C", folder, *words], env={**os.environ, **own}, capture_output=True, text=True, check=True
    )
    return ran.stdout.strip()


def repository(folder: Path) -> str:
    """A repository with all that lies in the folder; its commit."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "own.txt").write_text("somebody's own work\n")
    git(folder, "init", "-q")
    git(folder, "add", "--all")
    git(folder, "commit", "-q", "-m", "one")
    return git(folder, "rev-parse", "HEAD")


def package(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("__init__.py", "other.py"):
        (folder / name).write_text("pass\n")
    return folder


def test_a_checkout_of_the_package_has_its_commit_and_says_where_it_differs(tmp_path, outside):
    source = package(tmp_path / "src" / "gradient_horizon")
    assert provenance._commit_of(source) == ""
    commit = repository(tmp_path)
    assert provenance._commit_of(source) == commit
    (source / "other.py").write_text("changed\n")
    assert provenance._commit_of(source) == f"{commit}-dirty"


def test_the_package_that_runs_is_found_in_its_own_checkout(outside):
    assert provenance._PACKAGE.name == "gradient_horizon"
    assert (provenance._PACKAGE / "__init__.py").exists()
    checkout = provenance._PACKAGE.parents[1]
    if provenance._PACKAGE.parent.name != "src" or not (checkout / ".git").exists():
        pytest.skip("the package does not run from a checkout")
    assert provenance._commit_of(provenance._PACKAGE).removesuffix("-dirty") == git(checkout, "rev-parse", "HEAD")


@pytest.mark.parametrize(
    "place",
    [
        ".venv/lib/python3.11/site-packages/gradient_horizon",
        "src/gradient_horizon",  # of somebody's repository, which ignores it
        "deep/src/gradient_horizon",
        "vendored/gradient_horizon",
    ],
)
def test_a_package_that_lies_in_another_repository_has_no_commit(tmp_path, outside, place):
    (tmp_path / ".gitignore").write_text(".venv\n/src\n")
    source = package(tmp_path / place)
    repository(tmp_path)
    assert provenance._commit_of(source) == ""
    if place.startswith("deep"):  # nor where something that is no repository lies beside it
        (tmp_path / "deep" / ".git").mkdir()
        assert provenance._commit_of(source) == ""


def test_the_environment_names_no_other_repository(tmp_path, outside, monkeypatch):
    source = package(tmp_path / "ours" / "src" / "gradient_horizon")
    ours, theirs = repository(tmp_path / "ours"), repository(tmp_path / "theirs")
    assert ours != theirs
    installed = package(tmp_path / "site-packages" / "gradient_horizon")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "theirs" / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "theirs"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "theirs" / ".git" / "index"))
    assert provenance._commit_of(source) == ours
    assert provenance._commit_of(installed) == ""


def test_a_repository_starts_no_program_of_its_own(tmp_path, outside):
    source = package(tmp_path / "src" / "gradient_horizon")
    marker, hook = tmp_path / "marker", tmp_path / "hook"
    commit = repository(tmp_path)
    hook.write_text(f"#!/bin/sh\ntouch {marker}\n")
    hook.chmod(0o755)
    git(tmp_path, "config", "core.fsmonitor", str(hook))
    for name in ("post-index-change", "fsmonitor-watchman"):
        shutil.copy(hook, tmp_path / ".git" / "hooks" / name)
    (source / "other.py").touch()
    assert provenance._commit_of(source) == commit
    assert not marker.exists()


def test_this_package_has_the_commit_of_its_checkout_alone(tmp_path, outside):
    """As a user's process finds it, below a repository of the user's and with its variables."""
    repository(tmp_path)
    variables = {"GIT_DIR": str(tmp_path / ".git"), "GIT_WORK_TREE": str(tmp_path)}
    program = "from gradient_horizon.store import provenance; print(provenance._git_commit())"
    ran = [
        subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        ).stdout
        for environment in ({**os.environ}, {**os.environ, **variables})
    ]
    assert ran[0] == ran[1]
    assert git(tmp_path, "rev-parse", "HEAD") not in ran[0]


def test_parts_are_of_the_code_and_not_of_a_commit(tmp_path, outside, monkeypatch):
    source = package(tmp_path / "src" / "gradient_horizon")
    monkeypatch.setattr(provenance, "_PACKAGE", source)
    before = provenance.made_by("settings")
    repository(tmp_path)
    (tmp_path / "own.txt").write_text("more\n")
    git(tmp_path, "commit", "-q", "-a", "-m", "two")
    provenance._code_hash.cache_clear()
    assert provenance.made_by("settings") == before
    assert provenance.made_by("others") != before
    (source / "other.py").write_text("changed\n")
    provenance._code_hash.cache_clear()
    assert provenance.made_by("settings") != before
    provenance._code_hash.cache_clear()


def test_parts_are_of_the_versions_of_what_calculates(monkeypatch):
    before = provenance.made_by("settings")
    versions = provenance.version
    for name in provenance.CALCULATING:
        monkeypatch.setattr(provenance, "version", lambda asked, name=name: "0" if asked == name else versions(asked))
        provenance._code_hash.cache_clear()
        assert provenance.made_by("settings") != before
    monkeypatch.undo()
    provenance._code_hash.cache_clear()
    assert provenance.made_by("settings") == before

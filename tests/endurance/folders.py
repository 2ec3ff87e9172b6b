"""Folders damaged at random, and every command tried on them."""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from forks import LONGEST, command, fork

FOLDERS = [
    "run",
    "-m",
    "cell=tanh,relu,linear",
    "hidden_size=4",
    "steps=12",
    "seeds=3",
    "weight_scales=[0.8,1.5]",
    "name=kept",
]
KINDS = (
    *("flip", "flip", "cut", "delete", "folder", "pipe", "link", "dangling", "empty", "noise", "large", "loop"),
    *("sealed", "sealed", "sealed", "copy", "rename", "swap", "linked job", "linked parts", "junk"),
)
HOSTILE = [
    "\x1b[31mred\x1b]0;title\x07",
    -1,
    1e400,
    float("nan"),
    [],
    {},
    None,
    True,
    "x" * 10_000,
    3,
    "../../..",
    [[]],
]


def harm(folder: Path, outside: Path, rng: random.Random) -> str:
    """Damage a sweep's folder in one way; what was done."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    if not files:
        return "nothing left"
    path = rng.choice(files)
    name = str(path.relative_to(folder))
    kind = rng.choice(KINDS)
    jobs = sorted(path for path in folder.glob("cell=*") if path.is_dir() and not path.is_symlink())
    content = path.read_bytes()
    if kind == "flip":
        changed = bytearray(content or b"\0")
        for _ in range(rng.randint(1, 8)):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
    elif kind == "cut":
        path.write_bytes(content[: rng.randrange(len(content) + 1)])
    elif kind == "noise":
        path.write_bytes(rng.randbytes(rng.randint(0, 3000)))
    elif kind == "large":
        with path.open("wb") as stream:
            stream.truncate(2**28)
    elif kind == "sealed":
        name = sealed(rng.choice([found for found in files if found.suffix == ".json"] or [path]), rng)
    elif kind in ("delete", "empty", "folder", "pipe", "link", "dangling", "loop"):
        path.unlink()
        {
            "delete": lambda: None,
            "empty": path.touch,
            "folder": lambda: (path / "inside").mkdir(parents=True),
            "pipe": lambda: os.mkfifo(path),
            "link": lambda: path.symlink_to(outside / "file"),
            "dangling": lambda: path.symlink_to(outside / "new"),
            "loop": lambda: path.symlink_to(path),
        }[kind]()
    elif kind == "junk":
        (folder / "\x1b[2Jodd").mkdir(exist_ok=True)
        (folder / "\x1b[2Jodd" / "status.json").write_bytes(content[:1000])
    elif len(jobs) > 1:
        one, other = rng.sample(jobs, 2)
        name = one.name
        if kind == "copy":
            shutil.copytree(one, folder / "cell=gru", symlinks=True, ignore=_only_plain, dirs_exist_ok=True)
        elif kind == "rename":
            one.rename(folder / "cell=lstm") if not (folder / "cell=lstm").exists() else None
        elif kind == "swap" and all((job / "result.nc").is_file() for job in (one, other)):
            first, second = (one / "result.nc").read_bytes(), (other / "result.nc").read_bytes()
            (one / "result.nc").write_bytes(second)
            (other / "result.nc").write_bytes(first)
        elif kind == "linked job":
            shutil.rmtree(one)
            one.symlink_to(outside, target_is_directory=True)
        elif kind == "linked parts" and not (one / "parts").exists():
            (one / "parts").symlink_to(outside, target_is_directory=True)
            (one / "status.json").unlink(missing_ok=True)
    return f"{kind} {name}"


def _only_plain(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not Path(folder, name).is_file()]


def sealed(path: Path, rng: random.Random) -> str:
    """Give a value of a record, or of a plan, another type, under a seal that is right."""
    from gradient_horizon.store import records

    try:
        values = json.loads(path.read_bytes())
        values.pop("seal", None)
        key = rng.choice([*values])
    except (ValueError, AttributeError, IndexError, TypeError):
        return f"{path.name} (no values)"
    values[key] = rng.choice(HOSTILE)
    path.write_text(json.dumps({**values, "seal": records._seal(values)}))
    return f"{path.name}: {key}={values[key]!r:.40}"


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in folder.rglob("*")
    }


def said_by(words: list[str]) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command, within this process."""
    import io

    from gradient_horizon.commands import parser

    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            status = parser.main(words)
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
    return status, out.getvalue(), err.getvalue()


def values_of(folder: Path) -> dict[str, dict[str, bytes]]:
    """The values of each finished job, by the label of its cell."""
    import gradient_horizon as gh

    dataset = gh.load(folder)
    if "cell" not in dataset.dims:
        return {}
    missing = json.loads(dataset.attrs["missing_jobs"])
    return {
        str(cell): {
            str(name): dataset[name].sel(cell=cell).values.tobytes()
            for name in ("log_norm", "horizon", "spectral_radius", "finite")
        }
        for cell in dataset["cell"].values
        if f"cell={cell}" not in missing
    }


def try_folder(folder: Path, expected: dict[str, dict[str, bytes]], outcomes: Counter[str]) -> list[str]:
    """Every command on a damaged sweep: one line each for what is wrong, values right or refused, nothing outside."""
    wrong: list[str] = []

    def tried(words: list[str]) -> tuple[int, str]:
        status, out, err = said_by(words)
        if status not in (0, 1, 2):
            wrong.append(f"{words[0]}: status {status}")
        if "Traceback" in out + err or any(ord(sign) < 32 and sign not in "\n\t" for sign in out + err):
            wrong.append(f"{words[0]}: says {(out + err)[-300:]!r}")
        # one line for each job that cannot be computed
        if status == 2 and not (err and all(line.startswith("gradient-horizon: ") for line in err.splitlines())):
            wrong.append(f"{words[0]}: refuses in other than a line: {err[-300:]!r}")
        outcomes[f"{words[0]} {status}"] += 1
        return status, out

    def read(place: Path) -> None:
        try:
            found = values_of(place)
        except ValueError as error:
            if "\n" in str(error):
                wrong.append(f"load: refuses in several lines: {error}")
            outcomes["load refuses"] += 1
            return
        outcomes["load reads"] += 1
        wrong.extend(f"load: other values of {cell}" for cell in found if found[cell] != expected.get(cell))

    tried(["status", "results/kept"])
    status, out = tried(["status", "results/kept", "--json"])
    if status == 0:
        json.loads(out, parse_constant=lambda word: wrong.append(f"status --json: {word}"))
    read(folder / "results/kept")
    status, _ = tried(["collect", "results/kept", "-o", "together.nc"])
    if status == 0:
        read(folder / "together.nc")
    status, out = tried(FOLDERS)
    if status == 0:
        found = values_of(folder / "results/kept")
        if {cell: found.get(cell) for cell in expected} != expected:
            wrong.append("run: ends well with other values")
        outcomes["computed again" if "computing" in out.splitlines()[0] else "stood"] += 1
    return wrong


def try_folders(scratch: Path, template: Path, first: int, count: int, seed: int, until: float) -> int:
    """Damage and try folders `first` and up, in one process; what was wrong is appended to a file, a line each."""
    from gradient_horizon import figures
    from gradient_horizon.commands import drawing

    figures.sweep_figures = lambda dataset: {}  # type: ignore[attr-defined]
    assert drawing.figures is figures
    expected = values_of(template / "results/kept")
    with (scratch / "folders.jsonl").open("a") as told:
        for number in range(first, first + count):
            if time.monotonic() > until:
                break
            rng, outcomes = random.Random(f"{seed} {number}"), Counter[str]()
            with tempfile.TemporaryDirectory(dir=scratch) as place:
                folder, outside = Path(place, "work"), Path(place, "outside")
                shutil.copytree(template, folder)
                outside.mkdir()
                (outside / "file").write_text("precious")
                (outside / "status.json").write_bytes((template / "results/kept/cell=tanh/status.json").read_bytes())
                (outside / "0000000000.part").write_text("precious")
                before = tree(outside)
                done = [harm(folder / "results/kept", outside, rng) for _ in range(rng.randint(1, 3))]
                told.write(json.dumps({"begun": number, "harm": done}) + "\n")
                told.flush()
                os.chdir(folder)
                signal.alarm(LONGEST)
                try:
                    wrong = try_folder(folder, expected, outcomes)
                except Exception:
                    wrong = [traceback.format_exc()[-1500:]]
                signal.alarm(0)
                if tree(outside) != before:
                    wrong.append("something outside was changed")
                os.chdir(scratch)
                told.write(json.dumps({"ended": number, "wrong": wrong, "outcomes": outcomes}) + "\n")
                told.flush()
    return 0


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(scratch: Path, count: int, seed: int, *, until: float = float("inf")) -> list[str]:
    template = scratch / "template"
    template.mkdir()
    child = fork(partial(command, [*FOLDERS]), scratch / "said.txt", template)
    assert child.wait() == 0, child.said.read_text()
    path = scratch / "folders.jsonl"
    path.touch()
    first = 0
    while first < count and time.monotonic() < until:
        run_some = partial(try_folders, scratch, template, first, min(100, count - first), seed, until)
        status = fork(run_some, scratch / "said.txt", scratch).wait(seconds=100 * LONGEST)
        begun = [told["begun"] for told in _lines(path) if "begun" in told]
        if status:  # the folder that was being tried, or none of them
            why = f"ends or hangs: {status} {(scratch / 'said.txt').read_text()[-1000:]}"
            path.open("a").write(json.dumps({"ended": max(begun, default=first), "wrong": [why]}) + "\n")
        first = max(begun, default=first) + 1
    harmed = {told["begun"]: told["harm"] for told in _lines(path) if "begun" in told}
    ended = [told for told in _lines(path) if "ended" in told]
    wrong = [
        f"folder {told['ended']} ({harmed.get(told['ended'])}): {line}" for told in ended for line in told["wrong"]
    ]
    outcomes = sum((Counter(told["outcomes"]) for told in _lines(path) if "outcomes" in told), Counter[str]())
    told = ", ".join(f"{name} {times}" for name, times in sorted(outcomes.items()))
    print(f"{len(ended)} damaged folders ({told}): {len(wrong)} wrong")
    return wrong

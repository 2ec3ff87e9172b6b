"""Malformed command lines and presets: each refused in one line."""

import itertools
import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from folders import tree
from forks import fork


def try_inputs(scratch: Path, count: int, seed: int, until: float) -> int:
    import malformed

    slowest, done = 0.0, 0
    with (scratch / "inputs.jsonl").open("w") as told:
        for arguments, files in malformed.cases(seed):
            if done >= count or time.monotonic() > until:
                break
            told.write(json.dumps({"input": [arguments, files]}) + "\n")
            told.flush()
            begun = time.monotonic()
            wrong = malformed.check(arguments, files)
            slowest = max(slowest, time.monotonic() - begun)
            done += 1
            if wrong:
                told.write(json.dumps({"wrong": wrong, "input": [arguments, files]}) + "\n")
        told.write(json.dumps({"done": done, "slowest": slowest}) + "\n")
    return 0


def run(scratch: Path, count: int, seed: int, *, real: int = 0, until: float = float("inf")) -> list[str]:
    place = scratch / "inputs"
    place.mkdir()
    child = fork(partial(try_inputs, scratch, count, seed, until), scratch / "said.txt", place)
    status = child.wait(seconds=min(count * 5 + 60, max(until - time.monotonic(), 0) + 60))
    lines = [json.loads(line) for line in (scratch / "inputs.jsonl").read_text().splitlines()]
    wrong = [f"{line['wrong']}: {str(line['input'])[:300]}" for line in lines if "wrong" in line]
    if status:
        wrong.append(f"ends or hangs ({status}): {str(lines[-1])[:500]} {child.said.read_text()[-500:]}")
    done = lines[-1].get("done", len(lines))
    print(f"{done} malformed inputs, the slowest {lines[-1].get('slowest', 0):.2f} s: {len(wrong)} wrong")
    if real:
        wrong += real_inputs(scratch, real, seed)
    return wrong


def real_inputs(scratch: Path, count: int, seed: int) -> list[str]:
    """Some of the same, by the command itself."""

    import malformed

    wrong = []
    chosen = list(itertools.islice(malformed.cases(seed + 1), 20 * count))[::20]
    for arguments, files in chosen:
        with tempfile.TemporaryDirectory(dir=scratch) as place:
            for name, text in files.items():
                path = Path(place, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            before = tree(Path(place))
            words = [sys.executable, "-m", "gradient_horizon", *arguments]
            try:
                ran = subprocess.run(words, cwd=place, capture_output=True, text=True, timeout=60)
            except subprocess.TimeoutExpired:
                wrong.append(f"hangs: {arguments} {files}")
                continue
            except ValueError:  # no such argument can be passed to a program: it holds a null byte
                continue
            fine = ran.returncode == 2 and ran.stdout == "" and ran.stderr.count("\n") == 1
            if not fine or tree(Path(place)) != before:
                wrong.append(f"status {ran.returncode}: {ran.stderr[-300:]}: {str([arguments, files])[:300]}")
    print(f"{len(chosen)} malformed inputs by the command itself: {len(wrong)} wrong")
    return wrong

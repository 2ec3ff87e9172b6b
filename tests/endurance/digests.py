"""What stands in a sweep's folder, as hashes that are compared."""

import hashlib
import json
from pathlib import Path

from forks import fork

# These differ from run to run, and `device` names how many of them a launcher leaves to a task.
_ATTRIBUTES = ("wall_time_seconds", "peak_memory_bytes", "jobs", "recheck", "git_commit", "device")


def digest(folder: Path) -> dict[str, str]:
    """Hashes of all values, labels and attributes of a sweep's folder, and of its pictures."""
    import numpy as np

    import gradient_horizon as gh

    dataset = gh.load(folder)
    found = {}
    for name, variable in dataset.variables.items():
        said = json.dumps([variable.dims, variable.shape, str(variable.dtype), sorted(map(str, variable.attrs))])
        values = np.ascontiguousarray(variable.values)
        content = values.tobytes() if values.dtype != object else repr(values.tolist()).encode()
        found[str(name)] = hashlib.sha256(said.encode() + content).hexdigest()
    attributes = {key: str(value) for key, value in dataset.attrs.items() if key not in _ATTRIBUTES}
    found["attributes"] = hashlib.sha256(json.dumps(attributes, sort_keys=True).encode()).hexdigest()
    for path in sorted([*folder.glob("*.p*"), *folder.glob("*/quick_look.png")]):
        found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def digest_in_child(folder: Path, scratch: Path) -> dict[str, str] | str:
    """`digest`, read by another process: this one starts no device. A text says what went wrong."""

    def run() -> int:
        (scratch / "digest.json").write_text(json.dumps(digest(folder)))
        return 0

    child = fork(run, scratch / "digest.txt", folder)
    if child.wait():
        return child.said.read_text()[-1000:]
    return json.loads((scratch / "digest.json").read_text())


def left_behind(folder: Path) -> list[str]:
    """Temporary files, parts and slabs that a finished sweep should not hold."""
    names = [str(path.relative_to(folder)) for path in folder.rglob("*")]
    return [
        name
        for name in names
        if Path(name).name == "parts"
        or Path(name).name.startswith(("slab-", "launcher"))
        or (Path(name).name.startswith(".") and Path(name).name != ".sweep.lock")
    ]


def differences(expected: dict[str, str], found: dict[str, str] | str) -> str:
    """What differs, in words; empty where nothing does."""
    if isinstance(found, str):
        return f"cannot be read: {found}"
    return ", ".join(key for key in sorted({*expected, *found}) if expected.get(key) != found.get(key))

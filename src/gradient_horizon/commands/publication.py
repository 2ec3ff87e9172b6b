"""Paper figures on disk: each as PDF, PNG, its numbers as CSV and a caption, built again where something changed.

What a figure was built from stands beside it as three hashes: of its data, of the package's code, and of how
matplotlib draws; and one of each file, so that a file that was altered is built again. No file holds a time, so that
the same three give the same bytes.
"""

import hashlib
import json
import shlex
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from gradient_horizon import __version__
from gradient_horizon.commands.jobs import Job
from gradient_horizon.commands.sweep import Sweep
from gradient_horizon.figures.kit import style
from gradient_horizon.figures.paper import paper_figure
from gradient_horizon.settings.schema import AXES, Config, as_dict, settings_of, spelt_short
from gradient_horizon.store import datasets, files, provenance, records

ENDINGS = ("pdf", "png", "csv", "md")
_MEASURED_ANEW = ("wall_time_seconds", "peak_memory_bytes")
_ALWAYS_TOLD = ("experiment", "cell", "weights", "hidden_size", "steps", "precision", *AXES)


def overrides_of(name: str, *, quick: bool) -> list[str]:
    """What makes a figure's data: its preset, and for its small version what makes that small."""
    small = (*paper_figure(name).QUICK, "output=results/quick", "quick_look=false") if quick else ()
    return [f"+sweeps={name}", *small]


def command_of(name: str, *, quick: bool, force: bool = False) -> str:
    """The command that makes a figure's data."""
    several = ["-m"] if quick else []
    forced = ["force=true"] if force else []
    return shlex.join(["gradient-horizon", "run", *several, *overrides_of(name, quick=quick), *forced])


def stem_of(name: str, sweep: Sweep) -> Path:
    """A figure's files, but for their endings."""
    return sweep.folder.parent / "figures" / name


def opened(sweep: Sweep) -> list[xr.Dataset]:
    """The result of every job of the sweep, without whatever else its folder holds. Raises `ResultError`."""
    return [datasets.open_job(job.folder) for job in sweep.jobs]


def fingerprint(jobs: Iterable[xr.Dataset]) -> dict[str, str]:
    """Hashes of all that a figure depends on: `data`, `code` and `style`."""
    return {"data": _data_hash(jobs), "code": provenance.code_hash(), "style": style_hash()}


def _data_hash(jobs: Iterable[xr.Dataset]) -> str:
    """Of values, labels and attributes, but not of how long they took to compute."""
    digest = hashlib.sha256()
    for data in jobs:
        attributes = {key: np.asarray(value).tolist() for key, value in data.attrs.items() if key not in _MEASURED_ANEW}
        digest.update(json.dumps(attributes, sort_keys=True).encode())
        for name in sorted(map(str, data.variables)):
            values = data[name].values
            digest.update(json.dumps([name, data[name].dims, values.shape, values.dtype.str]).encode())
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def style_hash() -> str:
    """Of the style sheet and the version of matplotlib."""
    return hashlib.sha256(version("matplotlib").encode() + style.SHEET.read_bytes()).hexdigest()


def changed(stem: Path, now: dict[str, str]) -> list[str]:
    """Which of `data`, `code` and `style` differ from those of the figure that stands there; all where it does not.

    `files` where they are all the same, but a file is missing or not the one that was built.
    """
    try:
        before = json.loads(files.read_regular(stem.with_name(f"{stem.name}.json")))
        different = [key for key, value in now.items() if before.get(key) != value]
    except (OSError, ValueError, AttributeError, RecursionError):
        return [*now]
    return different or ([] if before.get("files") == _checksums(stem) else ["files"])


def _checksums(stem: Path) -> dict[str, str]:
    """Of the files that stand there, by their endings."""
    paths = {ending: stem.with_name(f"{stem.name}.{ending}") for ending in ENDINGS}
    return {ending: records.file_checksum(path) for ending, path in paths.items() if path.is_file()}


def build(name: str, sweep: Sweep, jobs: Sequence[xr.Dataset], now: dict[str, str]) -> list[Path]:
    """Draw the figure from the results of all `jobs` of its sweep, write its files, and return their paths."""
    figure, stem = paper_figure(name), stem_of(name, sweep)
    dataset = datasets.join(jobs)
    files.make_folder(stem.parent)
    paths = style.save(figure.draw(dataset), stem, ENDINGS[:2])

    def write(ending: str, text: str) -> None:
        paths.append(stem.with_name(f"{stem.name}.{ending}"))
        files.write_atomically(paths[-1], text.encode())

    write("csv", figure.numbers(dataset).to_csv(index=False, lineterminator="\n"))
    write("md", caption(name, sweep, jobs))
    # last: it says that the others stand
    write("json", json.dumps({**now, "files": _checksums(stem)}, indent=1) + "\n")
    return paths


def caption(name: str, sweep: Sweep, jobs: Sequence[xr.Dataset]) -> str:
    """What the figure shows, the settings of its networks, how many there are, and how they were made; Markdown."""
    figure = paper_figure(name)
    made = [data.attrs for data in jobs]
    networks = sum(job.networks for job in sweep.jobs)
    hashes = [f"- {job.name}: `{job.hash[:12]}`" for job in sweep.jobs]
    lines = [
        f"# {figure.TITLE}",
        figure.CAPTION,
        "\n".join(["| setting | value |", "|---|---|", *_setting_rows(sweep.jobs)]),
        "All other settings have their defaults, which `gradient-horizon settings` lists.",
        f"{networks} networks in {len(sweep.jobs)} jobs, by gradient-horizon {_all(made, 'package_version')}, JAX"
        f" {_all(made, 'jax_version')} and Python {_all(made, 'python_version')} on {_all(made, 'device')}; commit"
        f" {_all(made, 'git_commit') or 'unknown'}. Drawn by gradient-horizon {__version__} and matplotlib"
        f" {version('matplotlib')}.",
        "\n".join(["Settings of each job, by their hash:", "", *hashes]),
    ]
    return "\n\n".join(lines) + "\n"


def _all(made: Sequence[dict[str, Any]], key: str) -> str:
    return ", ".join(sorted({str(attributes.get(key, "")) for attributes in made} - {""}))


def _setting_rows(jobs: Sequence[Job]) -> list[str]:
    """What is swept, from job to job, and what is fixed to another value than the default's or decides everything."""
    told = [spelt_short(as_dict(job.config)) for job in jobs]
    defaults, rows = as_dict(Config()), []
    for key in settings_of(jobs[0].config.experiment):
        values = list(dict.fromkeys(json.dumps(settings[key], ensure_ascii=False) for settings in told))
        if len(values) > 1 or key in _ALWAYS_TOLD or getattr(jobs[0].config, key) != defaults[key]:
            rows.append(f"| {key} | {'; '.join(value.strip(chr(34)) for value in values)} |")
    return rows

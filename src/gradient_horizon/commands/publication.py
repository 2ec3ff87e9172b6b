"""Paper figures on disk: each as PDF, PNG, CSV of its numbers and a caption, rebuilt if anything has changed.

Next to each figure, a file stores three hashes of what it was built from (its data, the package's code, and how
matplotlib draws) and a hash of each of its files, so that a figure with an altered file is rebuilt. No file contains a
time, so that the same three hashes give the same bytes.
"""

import hashlib
import json
import shlex
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import xarray as xr

from gradient_horizon import __version__
from gradient_horizon.commands.jobs import Job
from gradient_horizon.commands.sweep import Sweep
from gradient_horizon.figures.kit import style
from gradient_horizon.figures.paper import FIGURES, paper_figure
from gradient_horizon.settings.identity import as_dict, spelt_short
from gradient_horizon.settings.schema import AXES, Config, settings_of
from gradient_horizon.store import datasets, files, provenance, records

ENDINGS = ("pdf", "png", "csv", "md")
_COSTS = ("wall_time_seconds", "peak_memory_bytes")
_ALWAYS_SHOWN = ("experiment", "cell", "weights", "hidden_size", "steps", "precision", *AXES)


def overrides_of(name: str, *, quick: bool) -> list[str]:
    """Return the overrides that make a figure's data: its preset, and with `quick` those that make it small."""
    small = (*FIGURES[name].quick, "output=results/quick", "quick_look=false") if quick else ()
    return [f"+sweeps={FIGURES[name].preset}", *small]


def command_of(name: str, *, quick: bool, force: bool = False) -> str:
    """Return the command that makes a figure's data."""
    several = ["-m"] if quick else []
    forced = ["force=true"] if force else []
    return shlex.join(["gradient-horizon", "run", *several, *overrides_of(name, quick=quick), *forced])


def stem_of(name: str, sweep: Sweep) -> Path:
    """Return the path of a figure's files without their endings."""
    return sweep.folder.parent / "figures" / name


def opened(sweep: Sweep) -> list[xr.Dataset]:
    """Open the result of every job of the sweep, and nothing else in its folder. Raises `ResultError`."""
    return [datasets.open_job(job.folder) for job in sweep.jobs]


def fingerprint(jobs: Iterable[xr.Dataset]) -> dict[str, str]:
    """Return hashes of everything that a figure depends on: `data`, `code` and `style`."""
    return {"data": _data_hash(jobs), "code": provenance.code_hash(), "style": style_hash()}


def _data_hash(jobs: Iterable[xr.Dataset]) -> str:
    """Hash values, labels and attributes, except the time and memory that it took to compute them."""
    digest = hashlib.sha256()
    for data in jobs:
        attributes = {key: np.asarray(value).tolist() for key, value in data.attrs.items() if key not in _COSTS}
        digest.update(json.dumps(attributes, sort_keys=True).encode())
        for name in sorted(map(str, data.variables)):
            values = data[name].values
            digest.update(json.dumps([name, data[name].dims, values.shape, values.dtype.str]).encode())
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def style_hash() -> str:
    """Hash the style sheet and the version of matplotlib."""
    return hashlib.sha256(version("matplotlib").encode() + style.SHEET.read_bytes()).hexdigest()


def changed(stem: Path, now: dict[str, str]) -> list[str]:
    """Return which of `data`, `code` and `style` differ from those of the existing figure; all if there is none.

    Returns `files` if all three are the same, but a file is missing or is not the one that was built.
    """
    try:
        before = json.loads(files.read_regular(stem.with_name(f"{stem.name}.json")))
        different = [key for key, value in now.items() if before.get(key) != value]
    except (OSError, ValueError, AttributeError, RecursionError):
        return [*now]
    return different or ([] if before.get("files") == _checksums(stem) else ["files"])


def _checksums(stem: Path) -> dict[str, str]:
    """Return the checksums of the existing files, by their endings."""
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
    # last: its presence means that the others are complete
    write("json", json.dumps({**now, "files": _checksums(stem)}, indent=1) + "\n")
    return paths


def caption(name: str, sweep: Sweep, jobs: Sequence[xr.Dataset]) -> str:
    """Return the caption in Markdown: what the figure shows, and the settings, number and origin of its networks."""
    figure = FIGURES[name]
    networks = sum(job.networks for job in sweep.jobs)
    hashes = [f"- {job.name}: `{job.hash[:12]}`" for job in sweep.jobs]
    lines = [
        f"# {figure.title}",
        figure.caption,
        "\n".join(["| setting | value |", "|---|---|", *_setting_rows(sweep.jobs)]),
        "All other settings have their defaults, which `gradient-horizon settings` lists.",
        f"{networks} networks in {len(sweep.jobs)} jobs, by gradient-horizon {_all(jobs, 'package_version')}, JAX"
        f" {_all(jobs, 'jax_version')} and Python {_all(jobs, 'python_version')} on {_all(jobs, 'device')}; commit"
        f" {_all(jobs, 'git_commit') or 'unknown'}. Drawn by gradient-horizon {__version__} and matplotlib"
        f" {version('matplotlib')}.",
        "\n".join(["Settings of each job, by their hash:", "", *hashes]),
    ]
    return "\n\n".join(lines) + "\n"


def _all(jobs: Sequence[xr.Dataset], key: str) -> str:
    return ", ".join(sorted({str(data.attrs.get(key, "")) for data in jobs} - {""}))


def _setting_rows(jobs: Sequence[Job]) -> list[str]:
    """Return a row for each setting that differs between jobs or from its default, or that is always shown."""
    settings_of_jobs = [spelt_short(as_dict(job.config)) for job in jobs]
    defaults, rows = as_dict(Config()), []
    for key in settings_of(jobs[0].config.experiment):
        values = list(dict.fromkeys(json.dumps(settings[key], ensure_ascii=False) for settings in settings_of_jobs))
        if len(values) > 1 or key in _ALWAYS_SHOWN or getattr(jobs[0].config, key) != defaults[key]:
            rows.append(f"| {key} | {'; '.join(value.strip(chr(34)) for value in values)} |")
    return rows

"""Labelled results: one netCDF-4 file per job, written atomically, checked on loading, and joined over a sweep.

`horizon_kind` is a word in memory and a CF flag on disk. Nothing is ever pickled. Every file ends with its own checksum
(see `seal`) and is read through `netcdf`: only once, so that the bytes parsed are the bytes checked.
"""

import errno
import io
import json
import logging
import os
import shutil
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import h5netcdf
import h5py
import numpy as np
import xarray as xr
from xarray.backends import H5NetCDFStore

from gradient_horizon import names
from gradient_horizon.settings.schema import draws_of
from gradient_horizon.store import files, joined_arrays, netcdf, records, seal, sweep_folders
from gradient_horizon.store.joined_arrays import boxes
from gradient_horizon.store.joining import DifferentJobsError, join
from gradient_horizon.store.records import ResultError

_log = logging.getLogger(__name__)
_KIND = "horizon_kind"
LARGEST_IN_MEMORY = 2**28  # bytes of files; larger results are read on access


def _encoded(dataset: xr.Dataset) -> xr.Dataset:
    if _KIND not in dataset:
        return dataset
    words = dataset[_KIND]
    flags = np.full(words.shape, -1, np.int8)
    for flag, word in enumerate(names.HORIZON_KINDS):
        flags[words.values == word] = flag
    attributes = {
        **words.attrs,
        "flag_values": np.arange(len(names.HORIZON_KINDS), dtype=np.int8),
        "flag_meanings": " ".join(names.HORIZON_KINDS),
    }
    return dataset.assign({_KIND: (words.dims, flags, attributes)})


def _words(flags: xr.Variable) -> xr.Variable:
    """Return the words that flags stand for; words are returned as they are.

    Raises `ResultError` for flags or words that `_encoded` does not write.
    """
    values = flags.values
    if values.dtype.kind not in "iu":
        if set(np.unique(values).tolist()) <= {*names.HORIZON_KINDS, ""}:
            return flags
        raise ResultError(f"{_KIND}: words other than {', '.join(names.HORIZON_KINDS)}")
    meanings = flags.attrs.get("flag_meanings")
    if meanings != " ".join(names.HORIZON_KINDS):
        raise ResultError(f"{_KIND}: its flags mean {meanings!r}; allowed: {' '.join(names.HORIZON_KINDS)!r}")
    if values.size and not -1 <= int(values.min()) <= int(values.max()) < len(names.HORIZON_KINDS):
        raise ResultError(
            f"{_KIND}: flags from {values.min()} to {values.max()}; allowed: -1 to {len(names.HORIZON_KINDS) - 1}"
        )
    attributes = {key: value for key, value in flags.attrs.items() if not key.startswith("flag_")}
    words = np.array([*names.HORIZON_KINDS, ""])[values]  # -1: no such network
    return xr.Variable(flags.dims, words, attributes)


class _Remembering(h5py.File):
    """A file without groups that opens each dataset once: h5netcdf looks each one up by its path dozens of times."""

    def __init__(self, *arguments: Any, **settings: Any):
        self._opened: dict[str, Any] = {}
        super().__init__(*arguments, **settings)

    def __getitem__(self, name: Any) -> Any:
        if not isinstance(name, str):  # a reference
            return super().__getitem__(name)
        name = name.strip("/")
        if not name:
            return self
        if name not in self._opened:
            self._opened[name] = super().__getitem__(name)
        return self._opened[name]

    def __delitem__(self, name: str) -> None:
        self._opened.pop(name.strip("/"), None)
        super().__delitem__(name)


def _file_of(dataset: xr.Dataset) -> bytes:
    """Return the bytes that `Dataset.to_netcdf` would write with h5netcdf, in half the time."""
    stream = io.BytesIO()
    with _Remembering(stream, "w", track_order=True) as opened, h5netcdf.File(opened, "w") as file:
        dataset.dump_to_store(H5NetCDFStore(file))
    return stream.getvalue()


def save(dataset: xr.Dataset, path: Path, *, check: Callable[[], None] | None = None) -> str:
    """Write `dataset` and its checksum to `path` under a temporary name, flush and rename; return the file's SHA-256.

    `check` is called just before the renaming, and can prevent it by raising. Everything but large variables is
    assembled in memory first, because HDF5 does not survive a disk that fills up while it writes.
    """
    large = [
        name
        for name, array in dataset.data_vars.items()
        if array.nbytes > joined_arrays.LARGE and array.dtype.kind in "fi"
    ]
    encoded = _encoded(dataset)
    content = _file_of(encoded.drop_vars(large))
    if not large:
        whole = io.BytesIO(content)
        checksum = _seal(whole, encoded, h5py.h5f.open_file_image(content))
        files.write_atomically(path, whole.getvalue(), check=check)
        return checksum
    room = shutil.disk_usage(path.parent).free
    if room < 1.01 * dataset.nbytes:
        raise OSError(
            errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} for {dataset.nbytes} bytes ({room} are free)", str(path)
        )
    with files.replacing(path, check=check) as temporary:
        temporary.write_bytes(content)
        with h5netcdf.File(temporary, "a") as file:
            for name in large:
                _append(file, str(name), dataset[name].variable)
        with temporary.open("r+b") as stream:
            return _seal(stream, encoded, h5py.h5f.open(os.fsencode(temporary), h5py.h5f.ACC_RDONLY))


def _seal(stream: BinaryIO, dataset: xr.Dataset, file: h5py.h5f.FileID) -> str:
    """Append to a file a table of its contents and a checksum; return the SHA-256 of the whole file."""
    try:
        contents = netcdf.contents(dataset, file)
    finally:
        file.close()
    stream.seek(0, os.SEEK_END)
    stream.write(contents)
    return seal.write(stream)


def _append(file: h5netcdf.File, name: str, variable: xr.Variable) -> None:
    """Write a large numerical variable in portions, with the same result as if xarray wrote it whole."""
    for dim, length in variable.sizes.items():
        if dim not in file.dimensions:
            file.dimensions[str(dim)] = length
    stored = file.create_variable(
        name,
        tuple(map(str, variable.dims)),
        variable.dtype,
        fillvalue=np.nan if variable.dtype.kind == "f" else None,
        fill_time="never",  # every element is written below
    )
    stored.attrs.update(variable.attrs)
    for box in boxes(variable.shape, joined_arrays.LARGE // variable.dtype.itemsize):
        stored[box] = variable[box].values


def _read(path: Path, checksum: str = "", *, lazy: bool, small: int = 0) -> xr.Dataset:
    """Read a file once, so that the bytes parsed are the bytes checked.

    `checksum` is the one in the job's record. The last line of the file is checked in any case, and a file with neither
    is read with a warning. If `lazy`, variables of more than `small` bytes are read on access. Raises `ResultError`.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:  # do not wait for a pipe
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ResultError("no file; allowed: a netCDF-4 file")
            content = b"" if lazy else stream.read()
            whole = seal.examine(stream if lazy else io.BytesIO(content))
            if whole.intact is False or (checksum and whole.checksum != checksum):
                again = "run it again" if checksum else "write it again"
                raise ResultError(f"cut short or altered since it was written (its checksum differs); {again}")
            if lazy:
                end = status.st_size - seal.LENGTH if whole.intact else None
                identity = netcdf.Identity.of(status)
                dataset = netcdf.open_lazily(str(path), stream, identity, {_KIND: _words}, small, end=end)
            else:
                own = content[: -seal.LENGTH] if whole.intact else content
                dataset = netcdf.read(own, {_KIND: _words}, trusted=bool(whole.intact))
            _check_attributes(dataset)
    except ResultError as error:
        raise ResultError(f"{path}: {error}") from None
    except Exception as error:  # HDF5, h5netcdf and xarray raise many types for a damaged or foreign file
        if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
            raise ResultError(f"{path}: {error.strerror}") from None
        raise ResultError(f"{path}: not a readable netCDF file ({netcdf.first_line(error)})") from None
    if whole.intact is None and not checksum:
        _log.warning("%s: unchecked, as it carries no checksum of its own", path)
    return _with_draws(dataset)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


# For each attribute that is JSON: a test of its value, and a description for the error message.
_JSON: dict[str, tuple[Callable[[Any], bool], str]] = {
    "swept": (_is_object, "an object"),
    "config": (_is_object, "an object"),
    "missing_jobs": (
        lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
        "a list of names",
    ),
    "jobs": (
        lambda value: (
            isinstance(value, list)
            and all(_is_object(job) and _is_object(job.get("swept")) and _is_object(job.get("config")) for job in value)
        ),
        "a list of objects with swept and config",
    ),
    "recheck": (
        lambda value: (
            isinstance(value, list)
            and all(
                _is_object(one)
                and isinstance(one.get("job"), str)
                and all(isinstance(one.get(key), int | float) for key in ("difference", "networks"))
                for one in value
            )
        ),
        "a list of objects with job, difference and networks",
    ),
}


def _check_attributes(dataset: xr.Dataset) -> None:
    """Raise `ResultError` if an attribute that this package reads holds something that it does not write there."""
    for key, (allowed, called) in _JSON.items():
        if key not in dataset.attrs:
            continue
        try:
            fits = allowed(json.loads(dataset.attrs[key]))
        except (ValueError, TypeError, RecursionError):
            fits = False
        if not fits:
            raise ResultError(f"attribute {key}: {_short(dataset.attrs[key])}; allowed: {called} as JSON")
    draws, experiment = dataset.attrs.get("draws", 1), dataset.attrs.get("experiment", "")
    if not isinstance(draws, int | np.integer):
        raise ResultError(f"attribute draws: {_short(draws)}; allowed: a whole number")
    if not isinstance(experiment, str):
        raise ResultError(f"attribute experiment: {_short(experiment)}; allowed: a name")


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _with_draws(dataset: xr.Dataset) -> xr.Dataset:
    """Return `dataset` with the version of its draws as an attribute; version 1 did not record itself."""
    experiment = dataset.attrs.get("experiment")
    if experiment is None or draws_of(experiment) is None:
        return dataset
    dataset.attrs["draws"] = int(dataset.attrs.get("draws", 1))
    return dataset


def _say_draws(path: Path, dataset: xr.Dataset) -> xr.Dataset:
    """Return `dataset`; warn if its seeds would draw other networks with this version of the package."""
    draws = dataset.attrs.get("draws")
    if draws is not None and draws != draws_of(dataset.attrs["experiment"]):
        _log.warning(
            "%s: these networks were drawn by version %d of the draws (package %s); this package has version %d, in "
            "which the same seeds draw other networks",
            *(path, draws, dataset.attrs.get("package_version", "unknown"), draws_of(dataset.attrs["experiment"])),
        )
    return dataset


def _is_large(paths: Iterable[Path]) -> bool:
    total = 0
    for path in paths:
        with suppress(OSError):
            total += path.stat().st_size
    return total > LARGEST_IN_MEMORY


def open_job(folder: Path, *, lazy: bool = False, small: int = 0) -> xr.Dataset:
    """Return the result of a finished job, its checksum verified; if `lazy`, only small variables are read at once.

    Small variables have at most `small` bytes; all others are read on access. Raises `ResultError`.
    """
    record = records.read_record(folder)
    if record is None or record.state != records.FINISHED:
        raise ResultError(f"{folder}: holds no finished job")
    return _read(folder / records.RESULT, record.checksum, lazy=lazy, small=small)


def _open_file(path: Path) -> xr.Dataset:
    """Open one file, checked against the record of the job in its folder, or against the checksum at its own end."""
    record = records.read_record(path.parent) if path.name == records.RESULT else None
    checksum = record.checksum if record is not None and record.state == records.FINISHED else ""
    return _read(path, checksum, lazy=_is_large([path]))


@records.remembering()
def load(path: str | os.PathLike[str]) -> xr.Dataset:
    """Load a sweep's folder, with all its finished jobs joined; or the folder of one job; or a single file.

    The dimensions are the swept settings, followed by those of the result (`norm`, `weight_scale`, `seed`, `lag`). The
    join is an outer join: missing jobs, which the attribute `missing_jobs` lists, are NaN, and `lag` is padded with NaN
    to the longest. Null becomes NaN along a numerical dimension. A job whose file was truncated or altered counts as
    missing, with a warning that names the file. A folder that holds a copy of a job under another name is ignored with
    a warning. Results of more than 256 MiB are not loaded into memory but read on access. The attribute `draws` is the
    version of the random draws; a warning is logged if it is not this package's.

    Every file that this package writes is checked against its checksum. Any other netCDF-4 file is read with a warning,
    but refused if its data are stored in other files or would take more memory than 64 times its size plus 64 MiB.
    Raises `ResultError` if no result can be read, and if jobs differ in a setting that is not a dimension.
    """
    folder = Path(path)
    if folder.is_file():
        return _say_draws(folder, _open_file(folder))
    if (folder / records.RECORD).exists():
        return _say_draws(folder, open_job(folder, lazy=_is_large([folder / records.RESULT])))
    jobs, others = sweep_folders.contents(folder) if folder.is_dir() else ([], {})
    for line in sweep_folders.ignored_lines(others):
        _log.warning("%s: %s", folder, line)
    if not jobs:
        besides = f" ({'; '.join(sweep_folders.ignored_lines(others))})" if others else ""
        raise ResultError(
            f"{folder}: holds no sweep{besides}; allowed: a sweep's folder, a job's folder or a collected file"
        )
    states = {job: records.state_of(job) for job in jobs}
    finished = [job for job, state in states.items() if state == records.FINISHED]
    if not finished:
        raise ResultError(f"{folder}: none of its {len(jobs)} jobs has finished")
    lazy = _is_large(job / records.RESULT for job in finished)
    # variables that are small over all jobs together are read at once, as joining them would do anyway
    small = joined_arrays.LARGE // len(finished)
    results: dict[Path, xr.Dataset] = {}
    refused: list[ResultError] = []
    for job in finished:
        try:
            results[job] = open_job(job, lazy=lazy, small=small)
        except ResultError as error:
            refused.append(error)
    if not results:
        raise refused[0]
    for error in refused:
        _log.warning("%s", error)
    missing = [job.name for job in jobs if job not in results]
    if missing:
        _log.warning("%s: %d of %d jobs missing: %s", folder, len(missing), len(jobs), ", ".join(missing))
    try:
        joined = join([*results.values()], lazy=lazy)
    except DifferentJobsError as error:
        raise DifferentJobsError(f"{folder}: {error}") from None
    joined.attrs["missing_jobs"] = json.dumps(missing)
    return _say_draws(folder, joined)

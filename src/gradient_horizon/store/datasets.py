"""Labelled results: one netCDF-4 file per job, written atomically, checked on loading, and joined over a sweep.

`horizon_kind` is a word in memory and a CF flag on disk. Nothing is ever pickled. Every file ends with its own checksum
(see `seal`) and is read through `netcdf`: only once, so that the bytes parsed are the bytes checked.
"""

import errno
import io
import json
import logging
import math
import os
import shutil
import stat
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import h5netcdf
import h5py
import numpy as np
import xarray as xr
from xarray.backends import H5NetCDFStore
from xarray.core.indexing import LazilyIndexedArray

from gradient_horizon import names
from gradient_horizon.settings import schema
from gradient_horizon.settings.schema import draws_of
from gradient_horizon.store import files, netcdf, records, seal
from gradient_horizon.store.joined_arrays import JoinedArray, Placed, boxes, is_covered
from gradient_horizon.store.records import ResultError

_log = logging.getLogger(__name__)
_KIND = "horizon_kind"
_ORDERS = (
    *(names.CELLS, names.WEIGHTS, names.NORMS, names.INPUTS, names.PRECISIONS),
    *(names.TASKS, names.CLIP_RULES, names.OPTIMIZERS),
)
LARGEST_IN_MEMORY = 2**28  # bytes of files; larger results are read on access, piece by piece
LARGE = 2**24  # bytes; larger variables are written piece by piece, and in large results joined piece by piece


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
        raise ResultError(f"{_KIND}: other words than {', '.join(names.HORIZON_KINDS)}")
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
    large = [name for name, array in dataset.data_vars.items() if array.nbytes > LARGE and array.dtype.kind in "fi"]
    encoded = _encoded(dataset)
    content = _file_of(encoded.drop_vars(large))
    if not large:
        whole = io.BytesIO(content)
        checksum = _ended(whole, encoded, h5py.h5f.open_file_image(content))
        files.write_atomically(path, whole.getvalue(), check=check)
        return checksum
    room = shutil.disk_usage(path.parent).free
    if room < 1.01 * dataset.nbytes:
        raise OSError(
            errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} for {dataset.nbytes} bytes, {room} are free", str(path)
        )
    with files.replacing(path, check=check) as temporary:
        temporary.write_bytes(content)
        with h5netcdf.File(temporary, "a") as file:
            for name in large:
                _append(file, str(name), dataset[name].variable)
        with temporary.open("r+b") as stream:
            return _ended(stream, encoded, h5py.h5f.open(os.fsencode(temporary), h5py.h5f.ACC_RDONLY))


def _ended(stream: BinaryIO, dataset: xr.Dataset, file: h5py.h5f.FileID) -> str:
    """Append to a file a table of its contents and a checksum; return the SHA-256 of the whole file."""
    try:
        contents = netcdf.contents(dataset, file)
    finally:
        file.close()
    stream.seek(0, os.SEEK_END)
    stream.write(contents)
    return seal.write(stream)


def _append(file: h5netcdf.File, name: str, variable: xr.Variable) -> None:
    """Write a large numerical variable piece by piece, with the same result as if xarray wrote it whole."""
    for dim, length in variable.sizes.items():
        if dim not in file.dimensions:
            file.dimensions[str(dim)] = length
    written = file.create_variable(
        name,
        tuple(map(str, variable.dims)),
        variable.dtype,
        fillvalue=np.nan if variable.dtype.kind == "f" else None,
        fill_time="never",  # every element is written below
    )
    written.attrs.update(variable.attrs)
    for box in boxes(variable.shape, LARGE // variable.dtype.itemsize):
        written[box] = variable[box].values


def _read(path: Path, checksum: str = "", *, lazy: bool, small: int = 0) -> xr.Dataset:
    """Read a file once, so that the bytes parsed are the bytes checked.

    `checksum` is the one in the job's record. The last line of the file is checked in any case, and a file with neither
    is read with a warning. If `lazy`, variables of more than `small` bytes are read on access. Raises `ResultError`.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:  # do not wait for a pipe
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ResultError("no file; allowed: a netCDF-4 file")
            content = b"" if lazy else stream.read()
            whole = seal.examine(stream if lazy else io.BytesIO(content))
            if whole.intact is False or (checksum and whole.checksum != checksum):
                again = "run it again" if checksum else "write it again"
                raise ResultError(f"cut short or altered since it was written (its checksum differs); {again}")
            if lazy:
                end = found.st_size - seal.LENGTH if whole.intact else None
                identity = netcdf.Identity.of(found)
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
        raise ResultError(f"{path}: no netCDF file that can be read ({netcdf.said(error)})") from None
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
            "%s: version %d of the draws made these networks (package %s); this package has version %d, whose same "
            "seeds are other networks",
            *(path, draws, dataset.attrs.get("package_version", "unknown"), draws_of(dataset.attrs["experiment"])),
        )
    return dataset


def _check_draws(datasets: Sequence[xr.Dataset]) -> None:
    """Raise `ResultError` if different versions drew the networks."""
    first: dict[int, xr.Dataset] = {}
    for dataset in datasets:
        if "draws" in dataset.attrs:
            first.setdefault(dataset.attrs["draws"], dataset)
    version = {draws: _settings(dataset)[0] for draws, dataset in first.items()} if len(first) > 1 else {}
    if len(version) > 1:
        found = "; ".join(
            f"version {draws} ({', '.join(f'{key}={value}' for key, value in swept.items()) or 'single'})"
            for draws, swept in sorted(version.items())
        )
        raise ResultError(f"draws: {found}; allowed: results of one version (repeat the older with force=true)")


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
    known = record.checksum if record is not None and record.state == records.FINISHED else ""
    return _read(path, known, lazy=_is_large([path]))


@records.remembering()
def load(path: str | os.PathLike[str]) -> xr.Dataset:
    """Load a sweep's folder, with all its finished jobs joined; or the folder of one job; or a single file.

    The dimensions are the swept settings, followed by those of the result (`norm`, `weight_scale`, `seed`, `lag`). The
    join is an outer join: missing jobs, which the attribute `missing_jobs` lists, are NaN, and `lag` is padded with NaN
    to the longest. Null becomes NaN along a numerical dimension. A folder that holds a copy of a job under another name
    is ignored with a warning. Results of more than 256 MiB are not loaded into memory but read on access. The attribute
    `draws` is the version of what seeds draw; a warning is logged if it is not this package's.

    Every file that this package writes is checked against its checksum. Any other netCDF-4 file is read with a warning,
    but refused if its data are stored in other files or would take more memory than 64 times its size plus 64 MiB.
    Raises `ResultError`, also if jobs differ in a setting that is not a dimension.
    """
    folder = Path(path)
    if folder.is_file():
        return _say_draws(folder, _open_file(folder))
    if (folder / records.RECORD).exists():
        return _say_draws(folder, open_job(folder, lazy=_is_large([folder / records.RESULT])))
    jobs, others = records.found_folders(folder) if folder.is_dir() else ([], {})
    for line in records.ignored_lines(others):
        _log.warning("%s: %s", folder, line)
    if not jobs:
        besides = f" ({'; '.join(records.ignored_lines(others))})" if others else ""
        raise ResultError(
            f"{folder}: holds no sweep{besides}; allowed: a sweep's folder, a job's folder or a collected file"
        )
    states = {job: records.state_of(job) for job in jobs}
    finished = [job for job, state in states.items() if state == records.FINISHED]
    if not finished:
        raise ResultError(f"{folder}: none of its {len(jobs)} jobs has finished")
    missing = [job.name for job, state in states.items() if state != records.FINISHED]
    if missing:
        _log.warning("%s: %d of %d jobs missing: %s", folder, len(missing), len(jobs), ", ".join(missing))
    lazy = _is_large(job / records.RESULT for job in finished)
    try:
        # variables that are small over all jobs together are read at once, as joining them would do anyway
        joined = join([open_job(job, lazy=lazy, small=LARGE // len(finished)) for job in finished], lazy=lazy)
    except DifferentJobsError as error:
        raise DifferentJobsError(f"{folder}: {error}") from None
    joined.attrs["missing_jobs"] = json.dumps(missing)
    return _say_draws(folder, joined)


class DifferentJobsError(ResultError):
    """Jobs that are not parts of one result: they differ in a setting along which they cannot be joined."""


def _settings(dataset: xr.Dataset) -> tuple[dict[str, Any], dict[str, Any]]:
    return json.loads(dataset.attrs.get("swept", "{}")), json.loads(dataset.attrs.get("config", "{}"))


def _value(key: str, swept: dict[str, Any], settings: dict[str, Any]) -> Any:
    """Return a job's value of a setting swept by it or another job; the default if its version lacked the setting."""
    default = schema.FIELDS[key].default if key in schema.FIELDS else None
    return swept.get(key, settings.get(key, default))


def _labels(key: str, values: Sequence[Any]) -> list[Any]:
    """Return swept values as a coordinate: null, which files cannot store, becomes NaN among numbers, else a word."""
    if None not in values:
        return list(values)
    kind = str(schema.FIELDS[key].type) if key in schema.FIELDS else ""
    known = [value for value in values if value is not None]
    is_number = all(isinstance(value, int | float) for value in known) and not kind.startswith("str")
    return [("null" if not is_number else math.nan) if value is None else value for value in values]


def is_label_of(label: Any, value: Any) -> bool:
    """True if the coordinate `label` stands for this value of a swept setting.

    (Version 0.1.0 turned numbers into words if null was among the swept values.)
    """
    if value is None:
        return label == "null" or (isinstance(label, float) and math.isnan(label))
    return label == value or (isinstance(label, str) and label == str(value))


def _coordinate(values: Iterable[Any], *, ordered: bool) -> list[Any]:
    """Return the distinct values: numbers in ascending order, names in the order in which `names` lists them.

    Null comes last. If `ordered` is false, the values are in order of first occurrence.
    """
    different = list(dict.fromkeys(values))
    if not ordered:
        return different
    null = [None] if None in different else []
    different = [value for value in different if value is not None]
    if not all(isinstance(value, str) for value in different):
        return sorted(different, key=lambda value: (isinstance(value, str), value)) + null
    for known in _ORDERS:
        if set(different) <= set(known):
            return sorted(different, key=known.index) + null
    return sorted(different) + null


def _fill(dtype: np.dtype[Any], shape: Sequence[int], pieces: Sequence[Placed]) -> tuple[np.dtype[Any], Any]:
    """Return the type of a variable whose pieces have `dtype`, and the value to use where there is no piece."""
    if dtype.kind in "US":
        return dtype, ""
    if dtype.kind == "f":
        return dtype, np.nan
    return (dtype, 0) if is_covered(shape, pieces) else (np.dtype(np.float64), np.nan)


def concatenated(slabs: Sequence[xr.Dataset]) -> xr.Dataset:
    """Join the results of one job that was measured in slabs of networks; large variables are read on access."""
    attributes = dict(slabs[0].attrs)
    for name, combine in (("recheck_difference", max), ("recheck_networks", sum), ("products_with_exponents", sum)):
        if name in attributes:
            attributes[name] = combine(np.asarray(slab.attrs[name]).item() for slab in slabs)
    joined = join(slabs, lazy=True, ordered=False)
    joined.attrs = attributes
    return joined


def join(datasets: Sequence[xr.Dataset], *, lazy: bool = False, ordered: bool = True) -> xr.Dataset:
    """Outer join of results over the swept settings that their attributes name, seeds, weight scales and lags.

    If `lazy`, large variables are assembled on access. Coordinates are sorted if `ordered`, and otherwise in order of
    first occurrence. A variable with the name of a swept setting, which holds the setting as it was used, is renamed
    NAME_used. Raises `DifferentJobsError` if jobs differ in a setting that none of them sweeps, and `ResultError` if
    their seeds drew different networks.
    """
    _check_draws(datasets)
    described = [_settings(dataset) for dataset in datasets]
    keys = list(dict.fromkeys(key for swept, _ in described for key in swept))
    own = list(dict.fromkeys(str(dim) for dataset in datasets for dim in dataset.sizes))
    _check_joinable(described, keys, own)
    places = [{key: _value(key, swept, settings) for key in keys} for swept, settings in described]
    axes: dict[str, list[Any]] = {key: _coordinate((place[key] for place in places), ordered=ordered) for key in keys}
    labels = [{str(dim): dataset[dim].values.tolist() for dim in dataset.sizes} for dataset in datasets]
    for dim in own:
        values = (v for at, ds in zip(labels, datasets, strict=True) if dim in ds.coords for v in at[dim])
        axes[dim] = _coordinate(values, ordered=ordered)
    where = {dim: {value: index for index, value in enumerate(values)} for dim, values in axes.items()}
    swept_places = [[np.array([where[key][place[key]]]) for key in keys] for place in places]
    own_places = [{dim: np.array([where[dim][v] for v in found]) for dim, found in at.items()} for at in labels]

    variables: dict[Hashable, xr.Variable] = {}
    for name in dict.fromkeys(name for dataset in datasets for name in dataset.data_vars):
        holders = [(i, ds.variables[name]) for i, ds in enumerate(datasets) if name in ds.variables]
        first = holders[0][1]
        dims = (*keys, *(str(dim) for dim in first.dims))
        shape = [len(axes[dim]) for dim in dims]
        pieces = [
            Placed(swept_places[i] + [own_places[i][str(dim)] for dim in variable.dims], variable)
            for i, variable in holders
        ]
        dtype, fill = _fill(np.result_type(*{variable.dtype for _, variable in holders}), shape, pieces)
        joined = JoinedArray(shape, dtype, fill, pieces)
        large = lazy and dtype.itemsize * math.prod(shape) > LARGE
        values = LazilyIndexedArray(joined) if large else joined.whole()
        variables[f"{name}_used" if name in keys else name] = xr.Variable(dims, values, first.attrs)

    coordinates = {
        dim: (
            dim,
            _labels(dim, values) if dim in keys else values,
            next(
                (ds[dim].attrs for ds in datasets if dim in ds.coords),
                {"long_name": dim.replace("_", " "), "units": "1"},
            ),
        )
        for dim, values in axes.items()
    }
    shared = {
        key: value
        for key, value in datasets[0].attrs.items()
        if all(dataset.attrs.get(key) == value for dataset in datasets)
    }
    kept = ("config_hash", "wall_time_seconds", "peak_memory_bytes")
    jobs = [
        {
            "swept": swept,
            "config": settings,
            **{key: np.asarray(ds.attrs[key]).item() for key in kept if key in ds.attrs},
        }
        for (swept, settings), ds in zip(described, datasets, strict=True)
    ]
    rechecked = [
        {
            "job": ", ".join(f"{key}={value}" for key, value in swept.items()),
            "difference": float(ds.attrs["recheck_difference"]),
            "networks": int(ds.attrs["recheck_networks"]),
        }
        for (swept, _), ds in zip(described, datasets, strict=True)
        if "recheck_difference" in ds.attrs
    ]
    attributes = {
        **shared,
        "swept": json.dumps({key: axes[key] for key in keys}),
        "jobs": json.dumps(jobs),
        "recheck": json.dumps(rechecked),
    }
    return xr.Dataset(variables, coords=coordinates, attrs=attributes)


def _check_joinable(
    described: Sequence[tuple[dict[str, Any], dict[str, Any]]], keys: Sequence[str], own: Sequence[str]
) -> None:
    """Raise `DifferentJobsError`, with a one-line message, if jobs with these settings do not form one result."""
    if both := [key for key in keys if key in own]:
        raise DifferentJobsError(
            f"{', '.join(both)}: a swept setting, and a dimension of the result; allowed: one of them"
        )
    different = schema.disagreements([settings for _, settings in described], keys)
    if not different:
        return
    examples = []
    for key, values in different.items():
        holders = [
            next(swept for swept, settings in described if _value(key, {}, settings) == value) for value in values[:3]
        ]
        examples.append(
            f"{key} ("
            + ", ".join(f"{value!r} in {records.job_name(at)}" for value, at in zip(values[:3], holders, strict=True))
            + (", ..." if len(values) > 3 else "")
            + ")"
        )
    raise DifferentJobsError(
        f"its jobs differ in settings along which they do not join: {'; '.join(examples)}; allowed: jobs that differ in"
        " swept settings alone (move the others to a folder of their own)"
    )


def settings_of(dataset: xr.Dataset) -> dict[str, Any]:
    """Return the settings shared by every job behind `dataset`, and those fixed by its place in a sweep.

    (`load(folder).sel(cell="relu")` has the scalar coordinate `cell`.) Empty if the attributes name none.
    """
    if "config" in dataset.attrs:
        return json.loads(dataset.attrs["config"])
    swept = json.loads(dataset.attrs.get("swept", "{}"))
    labels = {key: np.atleast_1d(dataset[key].values).tolist() for key in swept if key in dataset.coords}
    jobs = [
        job
        for job in json.loads(dataset.attrs.get("jobs", "[]"))
        if all(any(is_label_of(label, _value(key, *_of(job))) for label in at) for key, at in labels.items())
    ]
    shared = dict(jobs[0]["config"]) if jobs else {}
    shared = {key: value for key, value in shared.items() if all(job["config"].get(key) == value for job in jobs)}
    fixed = {key: at[0] for key, at in labels.items() if not dataset[key].ndim}
    for key, label in fixed.items():
        values = [_value(key, *_of(job)) for job in jobs] + list(swept[key] if isinstance(swept[key], list) else [])
        shared[key] = next((value for value in values if is_label_of(label, value)), label)
    return shared


def _of(job: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return job["swept"], job["config"]

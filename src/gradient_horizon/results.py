"""Labelled results: one netCDF-4 file a job, written atomically, checked at load, joined over a sweep.

`horizon_kind` is a word in memory and a CF flag on disk. Nothing is ever pickled.
"""

import json
import logging
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from gradient_horizon import names, records

_log = logging.getLogger(__name__)
_KIND = "horizon_kind"


class ResultError(ValueError):
    """A result that cannot be read: missing, cut short or altered."""


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


def _decoded(dataset: xr.Dataset) -> xr.Dataset:
    if _KIND not in dataset:
        return dataset
    flags = dataset[_KIND]
    words = np.array([*names.HORIZON_KINDS, ""])[flags.values]  # -1: no such network
    attributes = {key: value for key, value in flags.attrs.items() if not key.startswith("flag_")}
    return dataset.assign({_KIND: (flags.dims, words, attributes)})


def save(dataset: xr.Dataset, path: Path) -> str:
    """Write `dataset` to `path` under a temporary name, flush, rename; returns the file's SHA-256."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _encoded(dataset).to_netcdf(temporary, engine="h5netcdf")
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        checksum = records.file_checksum(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return checksum


def _read(path: Path) -> xr.Dataset:
    try:
        with xr.open_dataset(path, engine="h5netcdf") as dataset:
            return _decoded(dataset.load())
    except OSError as error:
        raise ResultError(f"{path}: no netCDF file that can be read ({str(error).splitlines()[0]})") from None


def open_job(folder: Path) -> xr.Dataset:
    """The result of one finished job, its checksum verified. Raises `ResultError`."""
    record = records.read_record(folder)
    if record is None or record.state != records.FINISHED:
        raise ResultError(f"{folder}: holds no finished job")
    path = folder / records.RESULT
    try:
        intact = records.file_checksum(path) == record.checksum
    except OSError as error:
        raise ResultError(f"{path}: {error.strerror}") from None
    if not intact:
        raise ResultError(f"{path}: cut short or altered since it was written (its checksum differs); run it again")
    return _read(path)


def load(path: str | os.PathLike[str]) -> xr.Dataset:
    """Every finished job of a sweep's folder, joined; or one job's folder; or a file that `collect` wrote.

    The dimensions are the swept settings, then the result's own (`norm`, `weight_scale`, `seed`, `lag`). It is an
    outer join: NaN where a job is missing (`missing_jobs` in the attributes names them), `lag` padded with NaN to
    the longest. Raises `ResultError`.
    """
    folder = Path(path)
    if folder.is_file():
        return _read(folder)
    if (folder / records.RECORD).exists():
        return open_job(folder)
    jobs = records.job_folders(folder) if folder.is_dir() else []
    if not jobs:
        raise ResultError(f"{folder}: holds no sweep; allowed: a sweep's folder, a job's folder or a collected file")
    finished = [job for job in jobs if records.state_of(job) == records.FINISHED]
    if not finished:
        raise ResultError(f"{folder}: none of its {len(jobs)} jobs has finished")
    missing = [job.name for job in jobs if job not in finished]
    if missing:
        _log.warning("%s: %d of %d jobs missing: %s", folder, len(missing), len(jobs), ", ".join(missing))
    joined = join([open_job(job) for job in finished])
    joined.attrs["missing_jobs"] = json.dumps(missing)
    return joined


def _settings(dataset: xr.Dataset) -> tuple[dict[str, Any], dict[str, Any]]:
    return json.loads(dataset.attrs.get("swept", "{}")), json.loads(dataset.attrs.get("config", "{}"))


def _label(value: Any) -> Any:
    """A setting as a coordinate: files know no null."""
    return "null" if value is None else value


def _coordinate(values: Iterable[Any]) -> list[Any]:
    """Numbers ascending; names in the order in which `names` lists them."""
    different = list(dict.fromkeys(values))
    if not all(isinstance(value, str) for value in different):
        return sorted(different, key=lambda value: (isinstance(value, str), value))
    for known in (names.CELLS, names.WEIGHTS, names.NORMS, names.INPUTS, names.PRECISIONS):
        if set(different) <= set(known):
            return sorted(different, key=known.index)
    return sorted(different)


def _empty(shape: Sequence[int], dtype: np.dtype[Any], complete: bool) -> np.ndarray[Any, Any]:
    if dtype.kind in "US":
        return np.full(shape, "", dtype)
    if complete or dtype.kind == "f":
        return np.full(shape, np.nan if dtype.kind == "f" else 0, dtype)
    return np.full(shape, np.nan, np.float64)


def join(datasets: Sequence[xr.Dataset]) -> xr.Dataset:
    """An outer join over the swept settings that the attributes name, seeds, weight scales and lags."""
    described = [_settings(dataset) for dataset in datasets]
    keys = list(dict.fromkeys(key for swept, _ in described for key in swept))
    own = list(dict.fromkeys(str(dim) for dataset in datasets for dim in dataset.sizes))
    places = [{key: _label(swept.get(key, config.get(key))) for key in keys} for swept, config in described]
    axes: dict[str, list[Any]] = {key: _coordinate(place[key] for place in places) for key in keys}
    for dim in own:
        axes[dim] = _coordinate(
            v for dataset in datasets if dim in dataset.coords for v in dataset[dim].values.tolist()
        )
    where = {dim: {value: index for index, value in enumerate(values)} for dim, values in axes.items()}

    variables: dict[Hashable, tuple[tuple[str, ...], np.ndarray[Any, Any], Mapping[Any, Any]]] = {}
    for name in dict.fromkeys(name for dataset in datasets for name in dataset.data_vars):
        holders = [(place, ds[name]) for place, ds in zip(places, datasets, strict=True) if name in ds]
        first = holders[0][1]
        dims = (*keys, *(str(dim) for dim in first.dims))
        shape = [len(axes[dim]) for dim in dims]
        complete = sum(array.size for _, array in holders) == int(np.prod(shape))
        dtype = np.result_type(*(array.dtype for _, array in holders))
        values = _empty(shape, dtype, complete)
        for place, array in holders:
            at = [[where[key][place[key]]] for key in keys]
            at += [[where[str(dim)][v] for v in array[dim].values.tolist()] for dim in array.dims]
            values[np.ix_(*at)] = array.values[(np.newaxis,) * len(keys)]
        variables[name] = (dims, values, first.attrs)

    coordinates = {
        dim: (
            dim,
            values,
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
        {"swept": swept, "config": config, **{key: np.asarray(ds.attrs[key]).item() for key in kept if key in ds.attrs}}
        for (swept, config), ds in zip(described, datasets, strict=True)
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


def settings_of(dataset: xr.Dataset) -> dict[str, Any]:
    """The settings that every job behind `dataset` had, and those that its place in a sweep fixes.

    (`load(folder).sel(cell="relu")` has the scalar coordinate `cell`.) Empty where the attributes name none.
    """
    if "config" in dataset.attrs:
        return json.loads(dataset.attrs["config"])
    configs = [job["config"] for job in json.loads(dataset.attrs.get("jobs", "[]"))]
    shared = configs[0] if configs else {}
    shared = {key: value for key, value in shared.items() if all(config.get(key) == value for config in configs)}
    swept = json.loads(dataset.attrs.get("swept", "{}"))
    return shared | {key: dataset[key].item() for key in swept if key in dataset.coords and not dataset[key].ndim}

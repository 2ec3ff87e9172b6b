"""Joins of labelled results: over the jobs of a sweep, and over the slabs of a job."""

import json
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from xarray.core.indexing import LazilyIndexedArray

from gradient_horizon import names
from gradient_horizon.settings import schema, validation
from gradient_horizon.store import joined_arrays, records
from gradient_horizon.store.joined_arrays import JoinedArray, Placed, is_covered
from gradient_horizon.store.records import ResultError

_ORDERS = (
    *(names.CELLS, names.WEIGHTS, names.NORMS, names.INPUTS, names.PRECISIONS),
    *(names.TASKS, names.CLIP_RULES, names.OPTIMIZERS),
)


def _check_draws(datasets: Sequence[xr.Dataset]) -> None:
    """Raise `ResultError` if the networks were drawn by different versions."""
    first: dict[int, xr.Dataset] = {}
    for dataset in datasets:
        if "draws" in dataset.attrs:
            first.setdefault(dataset.attrs["draws"], dataset)
    version = {draws: _settings(dataset)[0] for draws, dataset in first.items()} if len(first) > 1 else {}
    if len(version) > 1:
        versions = "; ".join(
            f"version {draws} ({', '.join(f'{key}={value}' for key, value in swept.items()) or 'single'})"
            for draws, swept in sorted(version.items())
        )
        raise ResultError(f"draws: {versions}; allowed: results of one version (repeat the older with force=true)")


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
    distinct = list(dict.fromkeys(values))
    if not ordered:
        return distinct
    null = [None] if None in distinct else []
    distinct = [value for value in distinct if value is not None]
    if not all(isinstance(value, str) for value in distinct):
        return sorted(distinct, key=lambda value: (isinstance(value, str), value)) + null
    for known in _ORDERS:
        if set(distinct) <= set(known):
            return sorted(distinct, key=known.index) + null
    return sorted(distinct) + null


def _fill(dtype: np.dtype[Any], shape: Sequence[int], placed: Sequence[Placed]) -> tuple[np.dtype[Any], Any]:
    """Return the type of a joined variable whose parts have `dtype`, and the value where there is no part."""
    if dtype.kind in "US":
        return dtype, ""
    if dtype.kind == "f":
        return dtype, np.nan
    return (dtype, 0) if is_covered(shape, placed) else (np.dtype(np.float64), np.nan)


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
    _check_joinable(described, keys, own, _of_packages(datasets))
    points = [{key: _value(key, swept, settings) for key in keys} for swept, settings in described]
    labels = [{str(dim): dataset[dim].values.tolist() for dim in dataset.sizes} for dataset in datasets]
    axes = {key: _coordinate((point[key] for point in points), ordered=ordered) for key in keys}
    for dim in own:
        values = (v for at, ds in zip(labels, datasets, strict=True) if dim in ds.coords for v in at[dim])
        axes[dim] = _coordinate(values, ordered=ordered)
    return xr.Dataset(
        _variables(datasets, points, labels, axes, lazy=lazy),
        coords=_coordinates(datasets, keys, axes),
        attrs=_attributes(datasets, described, {key: axes[key] for key in keys}),
    )


def _variables(
    datasets: Sequence[xr.Dataset],
    points: Sequence[dict[str, Any]],
    labels: Sequence[dict[str, list[Any]]],
    axes: Mapping[str, list[Any]],
    *,
    lazy: bool,
) -> dict[Hashable, xr.Variable]:
    """Return the joined variables: their dimensions are the swept settings, followed by their own.

    For each dataset, `points` holds its values of the swept settings, and `labels` those along its own dimensions.
    """
    index = {dim: {value: place for place, value in enumerate(values)} for dim, values in axes.items()}
    swept_places = [[np.array([index[key][value]]) for key, value in point.items()] for point in points]
    own_places = [{dim: np.array([index[dim][v] for v in values]) for dim, values in at.items()} for at in labels]
    keys = list(points[0]) if points else []
    variables: dict[Hashable, xr.Variable] = {}
    for name in dict.fromkeys(name for dataset in datasets for name in dataset.data_vars):
        holders = [(i, ds.variables[name]) for i, ds in enumerate(datasets) if name in ds.variables]
        first = holders[0][1]
        dims = (*keys, *(str(dim) for dim in first.dims))
        shape = [len(axes[dim]) for dim in dims]
        placed = [
            Placed(swept_places[i] + [own_places[i][str(dim)] for dim in variable.dims], variable)
            for i, variable in holders
        ]
        dtype, fill = _fill(np.result_type(*{variable.dtype for _, variable in holders}), shape, placed)
        joined = JoinedArray(shape, dtype, fill, placed)
        is_large = lazy and dtype.itemsize * math.prod(shape) > joined_arrays.LARGE
        values = LazilyIndexedArray(joined) if is_large else joined.whole()
        variables[f"{name}_used" if name in keys else name] = xr.Variable(dims, values, first.attrs)
    return variables


def _coordinates(
    datasets: Sequence[xr.Dataset], keys: Sequence[str], axes: Mapping[str, list[Any]]
) -> dict[str, tuple[str, list[Any], dict[str, Any]]]:
    """Return the joined coordinates: swept settings (`keys`) in a form that files can store, others as they are."""

    def described(dim: str) -> dict[str, Any]:
        usual = {"long_name": dim.replace("_", " "), "units": "1"}
        return next((dataset[dim].attrs for dataset in datasets if dim in dataset.coords), usual)

    return {dim: (dim, _labels(dim, values) if dim in keys else values, described(dim)) for dim, values in axes.items()}


def _attributes(
    datasets: Sequence[xr.Dataset],
    described: Sequence[tuple[dict[str, Any], dict[str, Any]]],
    swept_axes: Mapping[str, list[Any]],
) -> dict[str, Any]:
    """Return what all results share, the swept axes, and as JSON the settings and cost of each job and its recheck."""
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
    return {
        **shared,
        "swept": json.dumps(dict(swept_axes)),
        "jobs": json.dumps(jobs),
        "recheck": json.dumps(rechecked),
    }


def _of_packages(datasets: Sequence[xr.Dataset]) -> list[str]:
    """Return the settings that installed packages declare, wherever the results were computed (see `provenance`)."""
    packages = (json.loads(dataset.attrs.get("packages", "{}")) for dataset in datasets)
    return list(dict.fromkeys(key for settings in packages for names in settings.values() for key in names))


def _check_joinable(
    described: Sequence[tuple[dict[str, Any], dict[str, Any]]],
    keys: Sequence[str],
    own: Sequence[str],
    foreign: Sequence[str],
) -> None:
    """Raise `DifferentJobsError`, with a one-line message, if jobs with these settings do not form one result."""
    if both := [key for key in keys if key in own]:
        raise DifferentJobsError(
            f"{', '.join(both)}: a swept setting, and a dimension of the result; allowed: one of them"
        )
    different = validation.disagreements([settings for _, settings in described], keys, foreign)
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
        f"its jobs differ in settings along which they cannot be joined: {'; '.join(examples)}; allowed: jobs that"
        " differ in swept settings alone (move the others to a folder of their own)"
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

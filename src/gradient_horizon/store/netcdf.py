"""Reading of netCDF-4 files of any origin: nothing outside the file is read, and its size bounds the memory.

A file of this package ends in a table of its `contents`, made from the dataset that was written: with it the file is
read in a fiftieth of the time that xarray takes. xarray reads every other file, after `netcdf_limits.check` has shown
that no part of it lies outside the file and that it fills no more memory than `netcdf_limits.bound` allows.
"""

import io
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

import h5py
import numpy as np
import xarray as xr
from h5py import h5d, h5f, h5g, h5o  # type: ignore[attr-defined]
from xarray.backends import BackendArray
from xarray.core import indexing

from gradient_horizon.store.netcdf_limits import check
from gradient_horizon.store.records import ResultError

# attributes whose variables xarray decodes into others
_DECODED = {"missing_value", "scale_factor", "add_offset", "_Unsigned", "_Encoding", "calendar", "coordinates"}
_TIME_UNITS = {f"{unit}s" for unit in ("day", "hour", "minute", "second", "millisecond", "microsecond", "nanosecond")}
_NUMBERS = {np.dtype(code).str: np.dtype(code) for code in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8")}
_BEFORE, _AFTER = b"\nContents: ", b"\nContents: %020d bytes"
_LAST = re.compile(rb"\nContents: (\d{20}) bytes\Z")
Decoders = Mapping[str, Callable[[xr.Variable], xr.Variable]]


class Identity(NamedTuple):
    """Identifies a file and its state: it changes if the file is replaced or written to."""

    device: int
    number: int
    size: int
    changed: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Identity":
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class _Entry(NamedTuple):
    """One variable: contiguous numbers of `dtype` at `offset`, or else `texts`."""

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    offset: int
    texts: list[str]
    attributes: dict[str, Any]
    is_index: bool
    is_truth: bool

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * _NUMBERS[self.dtype].itemsize if self.dtype else 0


class _Contents(NamedTuple):
    entries: list[_Entry]
    attributes: dict[str, Any]


class _NotPlainError(Exception):
    """The dataset has something that a table of contents cannot describe."""


def contents(dataset: xr.Dataset, file: h5f.FileID) -> bytes:
    """Return the table to append to the `file` to which xarray has written `dataset`.

    Empty unless the dataset is plain: contiguous numbers, texts along a dimension of their own, and attributes that
    are numbers or single texts.
    """
    try:
        if len(dataset.coords) > len(dataset.indexes):
            raise _NotPlainError
        rows = [_entry(name, dataset.variables[name], file) for name in _written(file) if name in dataset.variables]
        text = json.dumps([rows, _coded(dataset.attrs)], separators=(",", ":")).encode()
    except _NotPlainError:
        return b""
    return _BEFORE + text + _AFTER % len(text)


def _written(file: h5f.FileID) -> list[str]:
    """Return the names of a file's variables, in the order in which they were written."""
    root = h5g.open(file, b"/")
    return [name.decode() for name in root]


def _entry(name: str, variable: xr.Variable, file: h5f.FileID) -> _Entry:
    is_index, kind = variable.dims == (name,), variable.dtype.kind
    units = variable.attrs.get("units", "")
    if _DECODED & {*variable.attrs, *variable.encoding} or "since" in units or units in _TIME_UNITS:
        raise _NotPlainError
    dims, attributes = tuple(map(str, variable.dims)), _coded(variable.attrs)
    if is_index and kind in "UO":
        texts = variable.values.tolist()
        if not all(isinstance(text, str) for text in texts):
            raise _NotPlainError
        return _Entry(name, dims, variable.shape, "", 0, texts, attributes, is_index, False)
    stored, dtype = h5d.open(file, name.encode()), np.dtype(np.int8) if kind == "b" else variable.dtype
    is_whole = stored.get_create_plist().get_layout() == h5d.CONTIGUOUS and stored.get_offset() is not None
    if not is_whole or dtype.str not in _NUMBERS or stored.dtype != dtype:
        raise _NotPlainError
    return _Entry(name, dims, variable.shape, dtype.str, stored.get_offset(), [], attributes, is_index, kind == "b")


def _coded(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    """Return attributes in a form for JSON: texts as they are, numbers and arrays of numbers with their types."""
    coded: dict[str, Any] = {}
    for key, value in attributes.items():
        array = np.asarray(value)
        if isinstance(value, str):
            coded[key] = str(value)
        elif array.dtype.str in _NUMBERS and array.ndim < 2 and array.size:
            coded[key] = [array.dtype.str, array.item() if array.size == 1 else array.tolist()]
        else:
            raise _NotPlainError
    return coded


def _uncoded(attributes: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value if isinstance(value, str) else np.array(value[1], _NUMBERS[value[0]])[()]
        for key, value in attributes.items()
    }


def _stated_contents(stream: BinaryIO, end: int) -> _Contents | None:
    """Return what `contents` wrote before position `end` of a file; None if there is no such table."""
    stream.seek(max(0, end - len(_AFTER % 0)))
    last = _LAST.search(stream.read(min(end, len(_AFTER % 0))))
    if last is None:
        return None
    length = int(last[1])
    start = end - len(_AFTER % 0) - length
    if start < len(_BEFORE):
        return None
    stream.seek(start - len(_BEFORE))
    if stream.read(len(_BEFORE)) != _BEFORE:
        return None
    rows, attributes = json.loads(stream.read(length))
    entries = [_Entry(row[0], tuple(row[1]), tuple(row[2]), *row[3:]) for row in rows]
    for one in entries:
        if min(one.offset, *one.shape, 0) < 0 or one.offset + one.bytes > end:
            raise ResultError(f"{one.name}: lies outside the file")
    return _Contents([one._replace(attributes=_uncoded(one.attributes)) for one in entries], _uncoded(attributes))


def read(content: bytes, decoders: Decoders, *, trusted: bool = False) -> xr.Dataset:
    """Return the dataset in a file of these bytes; `decoders` are applied to the variables of these names.

    `trusted`: the bytes are unaltered since this package wrote them, so that their table of contents is correct.
    Raises `ResultError`.
    """
    table = _stated_contents(io.BytesIO(content), len(content)) if trusted else None
    if table is not None:
        return _dataset(table, decoders, lambda one: _numbers_at(content, one))
    file = h5f.open_file_image(content)
    try:
        check(file, len(content))
    finally:
        file.close()
    with xr.open_dataset(io.BytesIO(content), engine="h5netcdf") as opened:
        return _decoded(opened.load(), decoders)


def _numbers_at(content: bytes, one: _Entry) -> np.ndarray[Any, Any]:
    count = math.prod(one.shape)
    return np.frombuffer(content, _NUMBERS[one.dtype], count, one.offset).reshape(one.shape).copy()


def open_lazily(
    path: str, stream: BinaryIO, identity: Identity, decoders: Decoders, small: int, *, end: int | None = None
) -> xr.Dataset:
    """Return the dataset in a file; variables of more than `small` bytes are read on access.

    `end`: where the table of contents ends, if this package wrote the file. `identity` is that of `stream`; if the
    file at `path` has another by then, it is not read. Raises `ResultError`.
    """

    def numbers(one: _Entry) -> Any:
        stored = _Stored(path, identity, one)
        return stored.whole() if one.is_index or one.bytes <= small else indexing.LazilyIndexedArray(stored)

    table = _stated_contents(stream, end) if end is not None else None
    if table is not None:
        return _dataset(table, decoders, numbers)
    file = _opened(path, identity)
    try:
        check(file, identity.size)
    finally:
        file.close()
    dataset = xr.open_dataset(path, engine="h5netcdf")
    _check_identity(path, identity)
    return _decoded(dataset, decoders)


def _dataset(table: _Contents, decoders: Decoders, numbers: Callable[[_Entry], Any]) -> xr.Dataset:
    """Return the dataset that a table of contents describes; `numbers` reads the values of one entry."""
    variables, coordinates = {}, {}
    for one in table.entries:
        values = numbers(one) if one.dtype else np.array(one.texts, np.str_ if one.texts else "U1")
        if one.is_truth:
            is_read = isinstance(values, np.ndarray)
            values = values.astype(bool) if is_read else indexing.LazilyIndexedArray(_Truths(values))  # type: ignore[arg-type]
        variable = xr.Variable(one.dims, values, one.attributes, fastpath=True)
        if one.name in decoders:
            variable = decoders[one.name](variable)
        (coordinates if one.is_index else variables)[one.name] = variable
    return xr.Dataset(variables, coordinates, table.attributes)


def _decoded(dataset: xr.Dataset, decoders: Decoders) -> xr.Dataset:
    return dataset.assign(
        {name: decode(dataset[name].variable) for name, decode in decoders.items() if name in dataset.data_vars}
    )


def _check_identity(path: str, identity: Identity) -> None:
    if Identity.of(os.stat(path)) != identity:
        raise ResultError("altered since it was opened; open it again")


def _opened(path: str, identity: Identity) -> h5f.FileID:
    _check_identity(path, identity)
    return h5f.open(os.fsencode(path), h5f.ACC_RDONLY)


class _Stored(BackendArray):
    """Numbers in a file that is opened on each access."""

    def __init__(self, path: str, identity: Identity, entry: _Entry):
        self.path, self.identity, self.name = path, identity, entry.name
        self.shape, self.dtype = entry.shape, _NUMBERS[entry.dtype]

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER_1VECTOR, self.part)

    def whole(self) -> np.ndarray[Any, Any]:
        return np.asarray(self.part(()))

    def part(self, key: Any) -> Any:
        try:
            file = _opened(self.path, self.identity)
            try:
                return h5py.Dataset(h5o.open(file, self.name.encode()))[key]
            finally:
                file.close()
                _check_identity(self.path, self.identity)
        except Exception as error:  # HDF5 raises many types for something that is missing
            raise ResultError(f"{self.path}: {first_line(error)}") from None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if it has none."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


class _Truths(BackendArray):
    """A lazy array of numbers, read as booleans."""

    def __init__(self, numbers: indexing.LazilyIndexedArray):
        self.numbers, self.shape, self.dtype = numbers, numbers.shape, np.dtype(bool)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return np.asarray(self.numbers[key].get_duck_array()).astype(bool)

"""netCDF-4 files read without trust: only what they hold themselves, and no more than they can hold.

A file of this package ends in a table of its `contents`, made from the dataset that was written: with it the file is
read in a fiftieth of the time that xarray takes. xarray reads every other file, once `check` has found that nothing of
it lies outside the file and that it does not fill more memory than `bound` allows.
"""

import io
import json
import math
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import h5py
import numpy as np
import xarray as xr
from h5py import h5a, h5d, h5f, h5g, h5l, h5o, h5s, h5t, h5z  # type: ignore[attr-defined]
from xarray.backends import BackendArray
from xarray.core import indexing

from gradient_horizon.store.joined_arrays import boxes
from gradient_horizon.store.records import ResultError

EXPANSION, ALLOWANCE = 64, 2**26  # bytes in memory for each byte of a file, and besides
MOST_NAMES = 2**12  # of a file's variables, and of one variable's attributes
_OF_A_TEXT = 64  # bytes in memory besides its characters
_OWN_FILTERS = {h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32, h5z.FILTER_NBIT, h5z.FILTER_SCALEOFFSET}
_NO_VARIABLE = b"This is a netCDF dimension but not a netCDF variable"
# what xarray makes another variable of
_DECODED = {"missing_value", "scale_factor", "add_offset", "_Unsigned", "_Encoding", "calendar", "coordinates"}
_TIME_UNITS = {f"{unit}s" for unit in ("day", "hour", "minute", "second", "millisecond", "microsecond", "nanosecond")}
_TEXT = np.dtype("O", metadata={"vlen": str})
_NUMBERS = {np.dtype(code).str: np.dtype(code) for code in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8")}
_BEFORE, _AFTER = b"\nContents: ", b"\nContents: %020d bytes"
_LAST = re.compile(rb"\nContents: (\d{20}) bytes\Z")
Decoders = Mapping[str, Callable[[xr.Variable], xr.Variable]]


class Identity(NamedTuple):
    """Which file a path names, and which state of it."""

    device: int
    number: int
    size: int
    changed: int

    @classmethod
    def of(cls, found: os.stat_result) -> "Identity":
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def bound(size: int) -> int:
    """The most bytes of memory that what a file of `size` bytes holds may fill: 64 times as many, and 64 MiB."""
    return EXPANSION * size + ALLOWANCE


class _Meter:
    """Counts what a file fills in memory, against `bound`."""

    def __init__(self, size: int):
        self.size, self.left = size, bound(size)

    def take(self, name: str, count: int, *, at_most: bool = False) -> None:
        """Count so many bytes for `name`, or see that so many are left. Raises `ResultError`."""
        if count > self.left:
            raise ResultError(
                f"{name}: declares more than a file of {self.size} bytes can hold; allowed: {EXPANSION} times its size"
                f" and {ALLOWANCE} bytes in memory"
            )
        if not at_most:
            self.left -= count


class _Entry(NamedTuple):
    """One variable: numbers of `dtype` that lie in one piece at `offset`, or else `texts`."""

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
    """Something that a table of contents has no words for."""


def contents(dataset: xr.Dataset, file: h5f.FileID) -> bytes:
    """The table to write behind the bytes of the `file` to which xarray has written `dataset`.

    Empty for a dataset that is not plain: numbers that lie in one piece, texts along a dimension of their own, and
    attributes of numbers and single texts.
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
    """The names of a file's variables, in the order in which they were written."""
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
    """Texts as they are, numbers and arrays of them with their types."""
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
    """What `contents` wrote before the place `end` of a file."""
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
    """What a file of these bytes holds, in memory; `decoders` are for variables by name. Raises `ResultError`.

    `trusted`: as this package wrote them, so that what they say of their own contents holds.
    """
    found = _stated_contents(io.BytesIO(content), len(content)) if trusted else None
    if found is not None:
        return _dataset(found, decoders, lambda one: _numbers_at(content, one))
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
    """What a file holds, of which variables of more than `small` bytes are read when they are asked for.

    `end`: where its table of contents ends, for one that this package wrote. A file that is no longer the one of this
    `identity`, that of `stream`, is not read. Raises `ResultError`.
    """

    def numbers(one: _Entry) -> Any:
        stored = _Stored(path, identity, one)
        return stored.whole() if one.is_index or one.bytes <= small else indexing.LazilyIndexedArray(stored)

    found = _stated_contents(stream, end) if end is not None else None
    if found is not None:
        return _dataset(found, decoders, numbers)
    file = _opened(path, identity)
    try:
        check(file, identity.size)
    finally:
        file.close()
    dataset = xr.open_dataset(path, engine="h5netcdf")
    _check_identity(path, identity)
    return _decoded(dataset, decoders)


def _dataset(found: _Contents, decoders: Decoders, numbers: Callable[[_Entry], Any]) -> xr.Dataset:
    """The Dataset of these contents."""
    variables, coordinates = {}, {}
    for one in found.entries:
        values = numbers(one) if one.dtype else np.array(one.texts, np.str_ if one.texts else "U1")
        if one.is_truth:
            is_read = isinstance(values, np.ndarray)
            values = values.astype(bool) if is_read else indexing.LazilyIndexedArray(_Truths(values))  # type: ignore[arg-type]
        variable = xr.Variable(one.dims, values, one.attributes, fastpath=True)
        if one.name in decoders:
            variable = decoders[one.name](variable)
        (coordinates if one.is_index else variables)[one.name] = variable
    return xr.Dataset(variables, coordinates, found.attributes)


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
    """Numbers in a file that is opened whenever a part of them is asked for."""

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
        except Exception as error:  # HDF5 has many for what is not there
            raise ResultError(f"{self.path}: {said(error)}") from None


def said(error: BaseException) -> str:
    """What an exception of any library says, in one line."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


class _Truths(BackendArray):
    """The truth values that a lazy array of numbers stands for."""

    def __init__(self, numbers: indexing.LazilyIndexedArray):
        self.numbers, self.shape, self.dtype = numbers, numbers.shape, np.dtype(bool)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return np.asarray(self.numbers[key].get_duck_array()).astype(bool)


def _opened_attributes(owner: Any, name: str, but: Collection[bytes] = ()) -> Iterator[tuple[bytes, h5a.AttrID]]:
    """An object's attributes."""
    if h5a.get_num_attrs(owner) > MOST_NAMES:
        raise ResultError(f"{name}: has more than {MOST_NAMES} attributes".removeprefix(": "))
    keys: list[bytes] = []
    # by index HDF5 would copy all of them to open each one
    h5a.iterate(owner, keys.append)
    for key in keys:
        if key not in but:
            yield key, h5a.open(owner, key)


def check(file: h5f.FileID, size: int) -> None:
    """Raise `ResultError`, which names the variable, where reading a file of `size` bytes would leave the file.

    By links to other files, by data in other files, by filters that are loaded; or where it would fill more memory
    than `bound` allows.
    """
    meter = _Meter(size)
    root = h5g.open(file, b"/")
    if root.get_num_objs() > MOST_NAMES:
        raise ResultError(f"holds more than {MOST_NAMES} variables")
    names = list(root)
    types = {name: root.links.get_info(name).type for name in names}
    for name in names:
        label = name.decode("utf-8", "replace")
        if types[name] == h5l.TYPE_SOFT:
            target = root.links.get_val(name).removeprefix(b"/")
            if types.get(target) != h5l.TYPE_HARD:
                raise ResultError(
                    f"{label}: a link to {target.decode('utf-8', 'replace')!r}, which is no variable of the file"
                )
        elif types[name] != h5l.TYPE_HARD:
            raise ResultError(f"{label}: a link out of the file; allowed: a file that holds all that it names")
        opened = h5o.open(root, name)
        if isinstance(opened, h5d.DatasetID):
            _check_dataset(opened, label, meter)
    _check_attributes(root, "its attributes", meter)


def _check_dataset(dataset: h5d.DatasetID, name: str, meter: _Meter) -> None:
    settings = dataset.get_create_plist()
    layout, kind = settings.get_layout(), dataset.get_type()
    if layout == h5d.VIRTUAL or settings.get_external_count():
        raise ResultError(f"{name}: its data lie in another file; allowed: a file that holds all that it names")
    filters = {settings.get_filter(index)[0] for index in range(settings.get_nfilters())}
    if other := filters - _OWN_FILTERS - {h5z.FILTER_LZF}:
        raise ResultError(f"{name}: stored through filter {min(other)}; allowed: deflate, lzf and those of HDF5 itself")
    _check_attributes(dataset, name, meter)
    if _is_no_variable(dataset):
        return
    shape = _shape(dataset.get_space())
    if isinstance(kind, h5t.TypeStringID) and kind.is_variable_str():
        _check_texts(dataset, name, shape, meter)
        return
    _check_type(kind, name)
    meter.take(name, math.prod(shape) * max(kind.get_size(), 8))  # decoded numbers have up to 8 bytes
    if layout == h5d.CHUNKED:
        meter.take(name, math.prod(settings.get_chunk()) * kind.get_size(), at_most=True)


def _shape(space: h5s.SpaceID) -> tuple[int, ...]:
    return (0,) if space.get_simple_extent_type() == h5s.NULL else space.get_simple_extent_dims()


def _is_no_variable(dataset: h5d.DatasetID) -> bool:
    """Whether it only stands for a dimension, and is never read."""
    if not h5a.exists(dataset, b"NAME"):
        return False
    attribute = h5a.open(dataset, b"NAME")
    kind = attribute.get_type()
    if not isinstance(kind, h5t.TypeStringID) or kind.is_variable_str() or attribute.shape != ():
        return False
    if not 0 < attribute.get_storage_size() == kind.get_size() < 2**16:
        return False
    read = np.empty((), f"S{kind.get_size()}")
    attribute.read(read, kind)
    return bytes(read[()]).startswith(_NO_VARIABLE)


def _check_type(kind: h5t.TypeID, name: str) -> None:
    if kind.detect_class(h5t.VLEN) or (not isinstance(kind, h5t.TypeStringID) and kind.dtype.hasobject):
        raise ResultError(f"{name}: lists of any length, or references; allowed: numbers and texts")


def _check_texts(dataset: h5d.DatasetID, name: str, shape: tuple[int, ...], meter: _Meter) -> None:
    """Count texts, of which each may be as long as the file, and several the same one: so many at a time as fit."""
    meter.take(name, math.prod(shape) * _OF_A_TEXT)
    space = dataset.get_space()
    for box in boxes(shape, max(1, meter.left // (meter.size + 1))):
        if box:
            starts = tuple(along.start for along in box)
            lengths = tuple(along.stop - along.start for along in box)
            space.select_hyperslab(starts, lengths)
            part, target = np.empty(lengths, _TEXT), h5s.create_simple(lengths)
            dataset.read(target, space, part)
        else:
            part = np.empty((), _TEXT)
            dataset.read(h5s.ALL, h5s.ALL, part)
        meter.take(name, 4 * sum(len(text) for text in part.ravel().tolist()))


def _check_attributes(owner: Any, name: str, meter: _Meter) -> None:
    for key, attribute in _opened_attributes(owner, name, (b"REFERENCE_LIST",)):
        label = f"{name}: attribute {key.decode('utf-8', 'replace')}"
        kind, count = attribute.get_type(), math.prod(_shape(attribute.get_space()))
        if key == b"DIMENSION_LIST":
            if any(h5py.h5ds.get_num_scales(owner, index) > 1 for index in range(min(count, len(owner.shape)))):
                raise ResultError(f"{label}: several names for one dimension")
        elif isinstance(kind, h5t.TypeStringID) and kind.is_variable_str():
            meter.take(label, count * meter.size, at_most=True)  # each may be as long as the file
            read = np.empty(_shape(attribute.get_space()), _TEXT)
            if count:
                attribute.read(read)
            meter.take(label, sum(4 * len(text) + _OF_A_TEXT for text in read.ravel().tolist() if text is not None))
        else:
            _check_type(kind, label)
            meter.take(label, count * max(kind.get_size(), 8))

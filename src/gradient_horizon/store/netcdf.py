"""netCDF-4 files read without trust: only what they hold themselves, and no more than they can hold.

What is plain, as every file that this package writes is (numbers that lie in one piece, texts along a dimension of
their own, attributes of numbers and single texts), is read from HDF5 without xarray, which gives the same in ten times
as long. Such a file says at its end what `contents` HDF5 found in it when it was written, and where: with that it is
read in a hundredth of the time. Whatever else there is, xarray reads, once `check` has found that nothing of it lies
outside the file, and that it does not fill more memory than `bound` allows.
"""

import io
import json
import math
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import h5py
import numpy as np
import xarray as xr
from h5py import h5, h5a, h5d, h5f, h5g, h5l, h5o, h5p, h5s, h5t, h5z  # type: ignore[attr-defined]
from xarray.backends import BackendArray
from xarray.core import indexing

from gradient_horizon.store.joined_arrays import boxes
from gradient_horizon.store.records import ResultError

EXPANSION, ALLOWANCE = 64, 2**26  # bytes in memory for each byte of a file, and besides
MOST_NAMES = 2**12  # of a file's variables, and of one variable's attributes
_OF_A_TEXT, _OF_A_TEXT_STORED = 64, 16  # bytes in memory besides its characters, and in the dataset in their place
_OWN_FILTERS = {h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32, h5z.FILTER_NBIT, h5z.FILTER_SCALEOFFSET}
_HIDDEN = {b"REFERENCE_LIST", b"CLASS", b"DIMENSION_LIST", b"NAME", b"_Netcdf4Dimid", b"_Netcdf4Coordinates"} | {
    b"_nc3_strict",
    b"_NCProperties",
}
_REFERENCES = {b"DIMENSION_LIST", b"REFERENCE_LIST"}
_NO_VARIABLE = b"This is a netCDF dimension but not a netCDF variable"
# what xarray makes another variable of
_DECODED = {"missing_value", "scale_factor", "add_offset", "_Unsigned", "_Encoding", "calendar", "coordinates"}
_TIME_UNITS = {f"{unit}s" for unit in ("day", "hour", "minute", "second", "millisecond", "microsecond", "nanosecond")}
_TEXT = np.dtype("O", metadata={"vlen": str})
_TEXT_READ = h5t.py_create(_TEXT)
_NUMBERS = {np.dtype(code).str: np.dtype(code) for code in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8")}
_BEFORE, _AFTER = b"\nContents: ", b"\nContents: %020d bytes"
_LAST = re.compile(rb"\nContents: (\d{20}) bytes\Z")
Decoders = Mapping[str, Callable[[xr.Variable], xr.Variable]]


class _NotPlainError(Exception):
    """Something that xarray is left to read."""


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


def contents(file: h5f.FileID) -> bytes:
    """What to write behind a file's bytes so that they are read at once; nothing for a file that is not plain."""
    found = _contents(file, file.get_filesize())
    if found is None:
        return b""
    rows = [one._replace(attributes=_coded(one.attributes)) for one in found.entries]
    text = json.dumps([rows, _coded(found.attributes)], separators=(",", ":")).encode()
    return _BEFORE + text + _AFTER % len(text)


def _coded(attributes: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value if isinstance(value, str) else [value.dtype.str, value.tolist()] for key, value in attributes.items()
    }


def _uncoded(attributes: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value if isinstance(value, str) else np.array(value[1], _NUMBERS[value[0]])[()]
        for key, value in attributes.items()
    }


def _stated_contents(content: bytes) -> _Contents | None:
    """What `contents` wrote at the end of a file."""
    last = _LAST.search(content, max(len(content) - len(_AFTER % 0), 0))
    if last is None:
        return None
    end = last.start()
    start = end - int(last[1])
    if start < len(_BEFORE) or content[start - len(_BEFORE) : start] != _BEFORE:
        return None
    rows, attributes = json.loads(content[start:end])
    entries = [_Entry(row[0], tuple(row[1]), tuple(row[2]), *row[3:]) for row in rows]
    return _Contents([one._replace(attributes=_uncoded(one.attributes)) for one in entries], _uncoded(attributes))


def read(content: bytes, decoders: Decoders, *, trusted: bool = False) -> xr.Dataset:
    """What a file of these bytes holds, in memory; `decoders` are for variables by name. Raises `ResultError`.

    `trusted`: as this package wrote them, so that what they say of their own contents holds.
    """
    found = _stated_contents(content) if trusted else None
    if found is None:
        file = h5f.open_file_image(content)
        try:
            found = _contents(file, len(content))
            if found is None:
                check(file, len(content))
        finally:
            file.close()
    if found is not None:
        return _dataset(found, decoders, len(content), lambda one: _numbers_at(content, one))
    with xr.open_dataset(io.BytesIO(content), engine="h5netcdf") as opened:
        return _decoded(opened.load(), decoders)


def _numbers_at(content: bytes, one: _Entry) -> np.ndarray[Any, Any]:
    count = math.prod(one.shape)
    if min(one.offset, *one.shape, 0) < 0 or one.offset + one.bytes > len(content):
        raise ResultError(f"{one.name}: lies outside the file")
    return np.frombuffer(content, _NUMBERS[one.dtype], count, one.offset).reshape(one.shape).copy()


def open_lazily(path: str, identity: Identity, decoders: Decoders, small: int) -> xr.Dataset:
    """What a file holds, of which variables of more than `small` bytes are read when they are asked for.

    A file that is no longer the one of this `identity` is not read. Raises `ResultError`.
    """

    def numbers(one: _Entry) -> Any:
        stored = _Stored(path, identity, one)
        return stored.whole() if one.is_index or one.bytes <= small else indexing.LazilyIndexedArray(stored)

    file = _opened(path, identity)
    try:
        found = _contents(file, identity.size)
        if found is None:
            check(file, identity.size)
    finally:
        file.close()
    if found is not None:
        return _dataset(found, decoders, identity.size, numbers)
    dataset = xr.open_dataset(path, engine="h5netcdf")
    _check_identity(path, identity)
    return _decoded(dataset, decoders)


def _dataset(found: _Contents, decoders: Decoders, size: int, numbers: Callable[[_Entry], Any]) -> xr.Dataset:
    """The Dataset of these contents of a file of `size` bytes."""
    meter = _Meter(size)
    variables, coordinates = {}, {}
    for one in found.entries:
        meter.take(one.name, one.bytes)
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


# What is plain


def _contents(file: h5f.FileID, size: int) -> _Contents | None:
    """What a file of `size` bytes holds; None where some of it is not plain."""
    meter = _Meter(size)
    root = h5g.open(file, b"/")
    try:
        found = {name: _PlainDataset(root, name, meter) for name in _names(root)}
        dims = {one.number: (name, one.shape[0]) for name, one in found.items() if one.is_scale}
        if len(dims) != sum(one.is_scale for one in found.values()):
            return None
        entries = [one.entry(_dims_of(one, dims), meter) for one in found.values() if one.is_variable]
        attributes = _attributes(root, meter, "")
    except (_NotPlainError, UnicodeDecodeError):
        return None
    return None if _DECODED & attributes.keys() else _Contents(entries, attributes)


def _names(group: h5g.GroupID) -> list[bytes]:
    """The names of a group's members, in the order in which they were made, if the file knows it."""
    names: list[bytes] = []
    if group.get_num_objs() > MOST_NAMES:
        raise ResultError(f"holds more than {MOST_NAMES} variables")
    for name in group:
        if group.links.get_info(name).type != h5l.TYPE_HARD:
            raise _NotPlainError
        names.append(name)
    return names


def _dims_of(one: "_PlainDataset", dims: Mapping[int, tuple[bytes, int]]) -> tuple[str, ...]:
    try:
        own = [dims[number] for number in one.dims]
    except KeyError:
        raise _NotPlainError from None
    if [length for _, length in own] != list(one.shape):
        raise _NotPlainError
    return tuple(name.decode() for name, _ in own)


class _PlainDataset:
    """A dataset of numbers, or of texts along its own dimension, that lies in the file in one piece."""

    def __init__(self, group: h5g.GroupID, name: bytes, meter: _Meter):
        self.id = h5o.open(group, name)
        if not isinstance(self.id, h5d.DatasetID) or name.startswith(b"_nc4_non_coord_"):
            raise _NotPlainError
        self.name = name.decode()
        settings = self.id.get_create_plist()
        if settings.get_layout() != h5d.CONTIGUOUS or settings.get_external_count():
            raise _NotPlainError
        self.shape = self.id.shape
        self.type = self.id.get_type()
        self.is_text = isinstance(self.type, h5t.TypeStringID)
        self.attributes: dict[str, Any] = {}
        self.dims: list[int] = []
        self.number = -1
        self.is_scale, self.is_variable = False, True
        self._read_attributes(settings, meter)
        self.bytes = math.prod(self.shape) * (_OF_A_TEXT_STORED if self.is_text else self.type.get_size())
        if self.is_variable:
            self.dtype = "" if self.is_text else _number_type(self.type).str
            if self.id.get_storage_size() != self.bytes:  # also where its extent is null
                raise _NotPlainError
            meter.take(self.name, self.bytes)

    def _read_attributes(self, settings: Any, meter: _Meter) -> None:
        """Keep the attributes, and the dimensions that the hidden ones tell of."""
        for name, attribute in _opened_attributes(self.id, settings, self.name, _REFERENCES):
            if name == b"NAME":
                self.is_variable = not _fixed_text(attribute).startswith(_NO_VARIABLE)
            elif name == b"CLASS":
                self.is_scale = _fixed_text(attribute) == b"DIMENSION_SCALE"
            elif name == b"_Netcdf4Dimid":
                self.number = int(np.ravel(_numbers(attribute, meter, self.name))[0])
            elif name == b"_Netcdf4Coordinates":
                self.dims = np.ravel(_numbers(attribute, meter, self.name)).tolist()
            elif name in _HIDDEN:
                raise _NotPlainError
            else:
                self.attributes[name.decode()] = _attribute(attribute, meter, self.name)
        if self.is_scale:
            if len(self.shape) != 1 or self.dims not in ([], [self.number]):
                raise _NotPlainError
            self.dims = [self.number]
        if len(self.dims) != len(self.shape) or (self.is_text and not self.is_scale):
            raise _NotPlainError

    def entry(self, dims: tuple[str, ...], meter: _Meter) -> _Entry:
        attributes = self.attributes
        units = attributes.get("units")
        if _DECODED & attributes.keys() or not isinstance(units, str | None):
            raise _NotPlainError
        if units is not None and ("since" in units or units in _TIME_UNITS):
            raise _NotPlainError
        fill = attributes.pop("_FillValue", None)
        if fill is not None and not (self.dtype[1:2] == "f" and np.isnan(fill).all()):  # NaN stays NaN
            raise _NotPlainError
        kind = attributes.pop("dtype", None)
        if kind is not None and (kind != "bool" or self.dtype != "|i1"):
            raise _NotPlainError
        texts = self.texts(meter) if self.is_text else []
        offset = (0 if self.is_text else self.id.get_offset()) or 0
        return _Entry(
            *(self.name, dims, self.shape, self.dtype, offset, texts, attributes), self.is_scale, kind is not None
        )

    def texts(self, meter: _Meter) -> list[str]:
        count = math.prod(self.shape)
        if count * meter.size > bound(meter.size):  # each may be as long as the file
            raise _NotPlainError
        read = np.empty(self.shape, _TEXT)
        self.id.read(h5s.ALL, h5s.ALL, read, _TEXT_READ)
        texts = [_text(one) for one in read.flat]
        meter.take(self.name, count * (_OF_A_TEXT + max(map(len, texts), default=0) * 4))
        return texts


class _Truths(BackendArray):
    """The truth values that a lazy array of numbers stands for."""

    def __init__(self, numbers: indexing.LazilyIndexedArray):
        self.numbers, self.shape, self.dtype = numbers, numbers.shape, np.dtype(bool)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return np.asarray(self.numbers[key].get_duck_array()).astype(bool)


def _number_type(kind: h5t.TypeID) -> np.dtype[Any]:
    if not isinstance(kind, h5t.TypeIntegerID | h5t.TypeFloatID):
        raise _NotPlainError
    dtype = kind.dtype
    if dtype.str not in _NUMBERS or not dtype.isnative or dtype.itemsize != kind.get_size():
        raise _NotPlainError
    return dtype


def _opened_attributes(
    owner: Any, settings: Any, name: str, but: Collection[bytes] = ()
) -> Iterator[tuple[bytes, h5a.AttrID]]:
    """An object's attributes, in the order in which they were made, if the file knows it."""
    if h5a.get_num_attrs(owner) > MOST_NAMES:
        raise ResultError(f"{name}: has more than {MOST_NAMES} attributes".removeprefix(": "))
    known = settings.get_attr_creation_order() & h5p.CRT_ORDER_TRACKED
    keys: list[bytes] = []
    # by index HDF5 would copy all of them to open each one
    h5a.iterate(owner, keys.append, index_type=h5.INDEX_CRT_ORDER if known else h5.INDEX_NAME)
    for key in keys:
        if key not in but:
            yield key, h5a.open(owner, key)


def _attributes(owner: Any, meter: _Meter, name: str) -> dict[str, Any]:
    return {
        key.decode(): _attribute(attribute, meter, name)
        for key, attribute in _opened_attributes(owner, owner.get_create_plist(), name, _HIDDEN)
    }


def _attribute(attribute: h5a.AttrID, meter: _Meter, name: str) -> Any:
    """A single text, a number, or an array of numbers."""
    kind = attribute.get_type()
    if not isinstance(kind, h5t.TypeStringID):
        values = _numbers(attribute, meter, name, kind)
        return values if values.size != 1 else values.ravel()[0]  # as h5netcdf does
    if not kind.is_variable_str() or attribute.shape != () or not attribute.get_storage_size():
        raise _NotPlainError
    read = np.empty((), _TEXT)
    attribute.read(read, _TEXT_READ)
    text = _text(read[()])
    meter.take(name, 4 * len(text) + _OF_A_TEXT)
    return text


def _text(stored: Any) -> str:
    return stored if isinstance(stored, str) else stored.decode("utf-8", "surrogateescape")


def _fixed_text(attribute: h5a.AttrID) -> bytes:
    kind = attribute.get_type()
    if not isinstance(kind, h5t.TypeStringID) or kind.is_variable_str() or attribute.shape != ():
        raise _NotPlainError
    if not 0 < attribute.get_storage_size() == kind.get_size() < 2**16:
        raise _NotPlainError
    read = np.empty((), f"S{kind.get_size()}")
    attribute.read(read, kind)
    return bytes(read[()])


def _numbers(attribute: h5a.AttrID, meter: _Meter, name: str, kind: h5t.TypeID | None = None) -> np.ndarray[Any, Any]:
    kind = kind or attribute.get_type()
    dtype, shape = _number_type(kind), attribute.shape
    if len(shape) > 1 or not all(shape) or not attribute.get_storage_size():
        raise _NotPlainError
    meter.take(name, dtype.itemsize * math.prod(shape))
    values = np.empty(shape, dtype)
    attribute.read(values, kind)
    return values


# What is not plain


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
    try:
        return h5a.exists(dataset, b"NAME") and _fixed_text(h5a.open(dataset, b"NAME")).startswith(_NO_VARIABLE)
    except _NotPlainError:
        return False


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
    for key, attribute in _opened_attributes(owner, owner.get_create_plist(), name, (b"REFERENCE_LIST",)):
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

"""netCDF-4 files read without trust: only what they hold themselves, and no more than they can hold.

What is plain, as every file that this package writes is (datasets that lie in one piece, attributes of numbers and
single texts), is read straight from HDF5, and is what `xarray.open_dataset` gives, in a tenth of the time. Whatever
else there is, xarray reads, once `check` has found that nothing of it lies outside the file, and that it does not fill
more memory than `bound` allows.
"""

import io
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import h5py
import numpy as np
import xarray as xr
from h5py import h5a, h5d, h5f, h5g, h5l, h5o, h5s, h5t, h5z
from xarray.backends import BackendArray
from xarray.core import indexing

from gradient_horizon.lazy import boxes
from gradient_horizon.records import ResultError

EXPANSION, ALLOWANCE = 64, 2**26  # bytes in memory for each byte of a file, and besides
MOST_NAMES = 2**12  # of a file's variables, and of one variable's attributes
_OF_A_TEXT = 64  # bytes in memory besides its characters
_OWN_FILTERS = {h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32, h5z.FILTER_NBIT, h5z.FILTER_SCALEOFFSET}
_HIDDEN = {b"REFERENCE_LIST", b"CLASS", b"DIMENSION_LIST", b"NAME", b"_Netcdf4Dimid", b"_Netcdf4Coordinates"} | {
    b"_nc3_strict",
    b"_NCProperties",
}
_NO_VARIABLE = b"This is a netCDF dimension but not a netCDF variable"
# what xarray makes another variable of
_DECODED = {"missing_value", "scale_factor", "add_offset", "_Unsigned", "_Encoding", "calendar", "coordinates"}
_TIME_UNITS = {f"{unit}s" for unit in ("day", "hour", "minute", "second", "millisecond", "microsecond", "nanosecond")}
_TEXT = np.dtype("O", metadata={"vlen": str})
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


def read(content: bytes, decoders: Decoders) -> xr.Dataset:
    """What a file of these bytes holds, in memory; `decoders` are for variables by name. Raises `ResultError`."""
    file = h5f.open_file_image(content)
    try:
        dataset = _plain(file, len(content), decoders)
        if dataset is not None:
            return dataset
        check(file, len(content))
    finally:
        file.close()
    with xr.open_dataset(io.BytesIO(content), engine="h5netcdf") as opened:
        return _decoded(opened.load(), decoders)


def open_lazily(path: str, identity: Identity, decoders: Decoders, small: int) -> xr.Dataset:
    """What a file holds, of which variables of more than `small` bytes are read when they are asked for.

    A file that is no longer the one of this `identity` is not read. Raises `ResultError`.
    """
    file = _opened(path, identity)
    try:
        dataset = _plain(file, identity.size, decoders, lambda name: _Stored(path, identity, name), small)
        if dataset is not None:
            return dataset
        check(file, identity.size)
    finally:
        file.close()
    dataset = xr.open_dataset(path, engine="h5netcdf")
    _check_identity(path, identity)
    return _decoded(dataset, decoders)


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
    """A numeric dataset in a file that is opened whenever a part of it is asked for."""

    def __init__(self, path: str, identity: Identity, name: bytes):
        self.path, self.identity, self.name = path, identity, name
        file = _opened(path, identity)
        try:
            dataset = h5o.open(file, name)
            self.shape, self.dtype = dataset.shape, dataset.dtype
        finally:
            file.close()

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER_1VECTOR, self._part
        )

    def _part(self, key: Any) -> Any:
        try:
            file = _opened(self.path, self.identity)
            try:
                return h5py.Dataset(h5o.open(file, self.name))[key]
            finally:
                file.close()
                _check_identity(self.path, self.identity)
        except Exception as error:  # HDF5 has many for what is not there
            raise ResultError(f"{self.path}: {said(error)}") from None


def said(error: BaseException) -> str:
    """What an exception of any library says, in one line."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


# What is plain


def _plain(
    file: h5f.FileID,
    size: int,
    decoders: Decoders,
    stored: Callable[[bytes], Any] | None = None,
    small: int = 0,
) -> xr.Dataset | None:
    """What the file holds, where all of it is plain; variables of more than `small` bytes are `stored` ones."""
    meter = _Meter(size)
    root = h5g.open(file, b"/")
    try:
        found = {name: _PlainDataset(root, name, meter) for name in _names(root)}
        dims = {one.number: (name, one.shape[0]) for name, one in found.items() if one.is_scale}
        if len(dims) != sum(one.is_scale for one in found.values()):
            return None
        variables = {}
        for name, one in found.items():
            if one.is_variable:
                lazily = stored is not None and not one.is_scale and one.bytes > small
                values = indexing.LazilyIndexedArray(stored(name)) if stored and lazily else one.values(meter)
                variables[name.decode()] = one.variable(_dims_of(one, dims), values)
        attributes = _attributes(root, meter, "")
    except (_NotPlainError, UnicodeDecodeError):
        return None
    if _DECODED & attributes.keys():
        return None
    for name, decode in decoders.items():
        if name in variables:
            variables[name] = decode(variables[name])
    index = {name.decode() for name, one in found.items() if one.is_scale and one.is_variable}
    return xr.Dataset(
        {name: variable for name, variable in variables.items() if name not in index},
        coords={name: variable for name, variable in variables.items() if name in index},
        attrs=attributes,
    )


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
        space = self.id.get_space()
        if settings.get_layout() not in (h5d.CONTIGUOUS, h5d.COMPACT) or settings.get_external_count():
            raise _NotPlainError
        if space.get_simple_extent_type() == h5s.NULL:
            raise _NotPlainError
        self.shape = space.get_simple_extent_dims()
        self.type = self.id.get_type()
        self.is_text = isinstance(self.type, h5t.TypeStringID)
        self.attributes: dict[str, Any] = {}
        self.dims: list[int] = []
        self.number = -1
        self.is_scale, self.is_variable = False, True
        self._read_attributes(meter)
        self.bytes = math.prod(self.shape) * self.type.get_size()
        if self.is_variable:
            self.dtype = _TEXT if self.is_text else _number_type(self.type)
            if self.id.get_storage_size() != self.bytes:
                raise _NotPlainError
            meter.take(self.name, self.bytes)

    def _read_attributes(self, meter: _Meter) -> None:
        """Keep the attributes, and the dimensions that the hidden ones tell of."""
        for name, attribute in _opened_attributes(self.id, self.name):
            if name in (b"DIMENSION_LIST", b"REFERENCE_LIST"):
                continue
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

    def variable(self, dims: Sequence[str], values: Any) -> xr.Variable:
        attributes = self.attributes
        units = attributes.get("units")
        if _DECODED & attributes.keys() or not isinstance(units, str | None):
            raise _NotPlainError
        if units is not None and ("since" in units or units in _TIME_UNITS):
            raise _NotPlainError
        fill = attributes.pop("_FillValue", None)
        if fill is not None and not (self.dtype.kind == "f" and fill != fill):  # NaN stays NaN
            raise _NotPlainError
        kind = attributes.pop("dtype", None)
        if kind is not None:
            if kind != "bool" or self.dtype != np.int8:
                raise _NotPlainError
            if not isinstance(values, np.ndarray):
                values = indexing.LazilyIndexedArray(_Truths(values))
            else:
                values = values.astype(bool)
        return xr.Variable(dims, values, attributes, fastpath=True)

    def values(self, meter: _Meter) -> np.ndarray[Any, Any]:
        if self.is_text:
            count = math.prod(self.shape)
            if count * meter.size > bound(meter.size):
                raise _NotPlainError
            read = np.empty(self.shape, self.dtype)
            self.id.read(h5s.ALL, h5s.ALL, read)
            texts = [_text(one) for one in read.flat]
            meter.take(self.name, count * (_OF_A_TEXT + max(map(len, texts), default=0) * 4))
            return np.array(texts, np.str_ if texts else "U1")
        values = np.empty(self.shape, self.dtype)
        if values.size:
            self.id.read(h5s.ALL, h5s.ALL, values)
        return values


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
    if dtype.kind not in "iuf" or not dtype.isnative or dtype.itemsize != kind.get_size():
        raise _NotPlainError
    return dtype


def _opened_attributes(owner: Any, name: str) -> Iterator[tuple[bytes, h5a.AttrID]]:
    """An object's attributes, in the order in which they were made, if the file knows it."""
    count = h5a.get_num_attrs(owner)
    if count > MOST_NAMES:
        raise ResultError(f"{name}: has more than {MOST_NAMES} attributes".removeprefix(": "))
    known = owner.get_create_plist().get_attr_creation_order() & h5py.h5p.CRT_ORDER_TRACKED
    order = h5py.h5.INDEX_CRT_ORDER if known else h5py.h5.INDEX_NAME
    for index in range(count):
        attribute = h5a.open(owner, index=index, index_type=order)
        yield attribute.name, attribute


def _attributes(owner: Any, meter: _Meter, name: str) -> dict[str, Any]:
    return {
        key.decode(): _attribute(attribute, meter, name)
        for key, attribute in _opened_attributes(owner, name)
        if key not in _HIDDEN
    }


def _attribute(attribute: h5a.AttrID, meter: _Meter, name: str) -> Any:
    """A single text, a number, or an array of numbers."""
    if isinstance(attribute.get_type(), h5t.TypeStringID):
        return _single_text(attribute, meter, name)
    values = _numbers(attribute, meter, name)
    return values if values.ndim and values.size != 1 else values.ravel()[0]


def _single_text(attribute: h5a.AttrID, meter: _Meter, name: str) -> str:
    kind = attribute.get_type()
    if not kind.is_variable_str() or attribute.get_space().get_simple_extent_type() != h5s.SCALAR:
        raise _NotPlainError
    read = np.empty((), _TEXT)
    attribute.read(read)
    text = _text(read[()])
    meter.take(name, 4 * len(text) + _OF_A_TEXT)
    return text


def _text(stored: bytes | str) -> str:
    return stored if isinstance(stored, str) else stored.decode("utf-8", "surrogateescape")


def _fixed_text(attribute: h5a.AttrID) -> bytes:
    kind = attribute.get_type()
    if not isinstance(kind, h5t.TypeStringID) or kind.is_variable_str() or kind.get_size() > 2**16:
        raise _NotPlainError
    if attribute.get_space().get_simple_extent_type() != h5s.SCALAR:
        raise _NotPlainError
    read = np.empty((), f"S{kind.get_size()}")
    attribute.read(read)
    return read[()]


def _numbers(attribute: h5a.AttrID, meter: _Meter, name: str) -> np.ndarray[Any, Any]:
    dtype = _number_type(attribute.get_type())
    space = attribute.get_space()
    if space.get_simple_extent_type() == h5s.NULL:
        raise _NotPlainError
    shape = space.get_simple_extent_dims()
    if len(shape) > 1 or not all(shape):
        raise _NotPlainError
    meter.take(name, dtype.itemsize * math.prod(shape))
    values = np.empty(shape, dtype)
    attribute.read(values)
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
        meter.take(name, 4 * sum(len(text) for text in part.flat))


def _check_attributes(owner: Any, name: str, meter: _Meter) -> None:
    for key, attribute in _opened_attributes(owner, name):
        if key == b"REFERENCE_LIST":  # is not read
            continue
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
            meter.take(label, sum(4 * len(text) + _OF_A_TEXT for text in read.flat if text is not None))
        else:
            _check_type(kind, label)
            meter.take(label, count * max(kind.get_size(), 8))

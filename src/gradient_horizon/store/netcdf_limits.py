"""Limits of netCDF-4 files of any origin: nothing outside the file is read, and memory is bounded by its size."""

import math
from collections.abc import Collection, Iterator
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5f, h5g, h5l, h5o, h5s, h5t, h5z  # type: ignore[attr-defined]

from gradient_horizon.store.joined_arrays import boxes
from gradient_horizon.store.records import ResultError

EXPANSION, ALLOWANCE = 64, 2**26  # bytes in memory for each byte of a file, and bytes in addition
MOST_NAMES = 2**12  # most variables in a file, and most attributes of one variable
_OF_A_TEXT = 64  # bytes in memory besides its characters
_OWN_FILTERS = {h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32, h5z.FILTER_NBIT, h5z.FILTER_SCALEOFFSET}
_NO_VARIABLE = b"This is a netCDF dimension but not a netCDF variable"
_TEXT = np.dtype("O", metadata={"vlen": str})


def bound(size: int) -> int:
    """Return how many bytes of memory a file of `size` bytes may fill: 64 times its size plus 64 MiB."""
    return EXPANSION * size + ALLOWANCE


class _Meter:
    """Counts the memory that a file's contents fill, against `bound`."""

    def __init__(self, size: int):
        self.size, self.left = size, bound(size)

    def take(self, name: str, count: int, *, at_most: bool = False) -> None:
        """Count `count` bytes for `name`; with `at_most`, only check that this many are left. Raises `ResultError`."""
        if count > self.left:
            raise ResultError(
                f"{name}: declares more than a file of {self.size} bytes can hold; allowed: {EXPANSION} times its size"
                f" and {ALLOWANCE} bytes in memory"
            )
        if not at_most:
            self.left -= count


def _opened_attributes(owner: Any, name: str, but: Collection[bytes] = ()) -> Iterator[tuple[bytes, h5a.AttrID]]:
    """Yield the names and handles of an object's attributes, except those in `but`."""
    if h5a.get_num_attrs(owner) > MOST_NAMES:
        raise ResultError(f"{name}: has more than {MOST_NAMES} attributes".removeprefix(": "))
    keys: list[bytes] = []
    # by index HDF5 would copy all of them to open each one
    h5a.iterate(owner, keys.append)
    for key in keys:
        if key not in but:
            yield key, h5a.open(owner, key)


def check(file: h5f.FileID, size: int) -> None:
    """Raise `ResultError`, naming the variable, if reading a file of `size` bytes would go beyond the file or `bound`.

    Links to other files, data in other files, and filters that would have to be loaded all lead beyond the file.
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
                    f"{label}: a link to {target.decode('utf-8', 'replace')!r}, which is not a variable of the file"
                )
        elif types[name] != h5l.TYPE_HARD:
            raise ResultError(f"{label}: a link out of the file; allowed: a file that contains all of its data")
        opened = h5o.open(root, name)
        if isinstance(opened, h5d.DatasetID):
            _check_dataset(opened, label, meter)
    _check_attributes(root, "its attributes", meter)


def _check_dataset(dataset: h5d.DatasetID, name: str, meter: _Meter) -> None:
    settings = dataset.get_create_plist()
    layout, kind = settings.get_layout(), dataset.get_type()
    if layout == h5d.VIRTUAL or settings.get_external_count():
        raise ResultError(f"{name}: its data lie in another file; allowed: a file that contains all of its data")
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
    """True if the dataset only represents a dimension, and is never read."""
    if not h5a.exists(dataset, b"NAME"):
        return False
    attribute = h5a.open(dataset, b"NAME")
    kind = attribute.get_type()
    if not isinstance(kind, h5t.TypeStringID) or kind.is_variable_str() or attribute.shape != ():
        return False
    if not 0 < attribute.get_storage_size() == kind.get_size() < 2**16:
        return False
    value = np.empty((), f"S{kind.get_size()}")
    attribute.read(value, kind)
    return bytes(value[()]).startswith(_NO_VARIABLE)


def _check_type(kind: h5t.TypeID, name: str) -> None:
    if kind.detect_class(h5t.VLEN) or (not isinstance(kind, h5t.TypeStringID) and kind.dtype.hasobject):
        raise ResultError(f"{name}: lists of variable length, or references; allowed: numbers and texts")


def _check_texts(dataset: h5d.DatasetID, name: str, shape: tuple[int, ...], meter: _Meter) -> None:
    """Count texts, each of which may be as long as the file; they may share storage. Reads as many at once as fit."""
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
            texts = np.empty(_shape(attribute.get_space()), _TEXT)
            if count:
                attribute.read(texts)
            meter.take(label, sum(4 * len(text) + _OF_A_TEXT for text in texts.ravel().tolist() if text is not None))
        else:
            _check_type(kind, label)
            meter.take(label, count * max(kind.get_size(), 8))

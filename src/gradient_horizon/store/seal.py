"""A checksum at the end of each file: the SHA-256 of all preceding bytes, as its last line.

HDF5 knows from its own header where its data end, and ignores what follows, so the file remains netCDF-4 for every
reader. When HDF5 writes to the file again it cuts the line off, so a file that was changed on purpose counts as
unchecked, not as damaged. A file is verified before HDF5 reads a byte of it. To check one by hand:
`head -c -128 FILE | sha256sum` and `tail -n 1 FILE`.
"""

import hashlib
from typing import BinaryIO, NamedTuple

_BEFORE, _AFTER = b"\nSHA-256 of the bytes before is ", b" (this line is not part of it).\n"
_DIGEST = 2 * hashlib.sha256().digest_size
LENGTH = len(_BEFORE) + _DIGEST + len(_AFTER)
_PIECE = 2**20  # bytes read at a time


class Seal(NamedTuple):
    """The SHA-256 of all bytes of a file, and whether its last line matches the bytes before it.

    `intact` is None if there is no such line, and False if the line is incomplete or does not match.
    """

    checksum: str
    intact: bool | None


def line(digest: "hashlib._Hash") -> bytes:
    """Return the last line of a file whose other bytes have this digest."""
    return _BEFORE + digest.hexdigest().encode() + _AFTER


def write(stream: BinaryIO) -> str:
    """Append the last line to a file that is open for reading and writing; return the SHA-256 of the whole file."""
    stream.seek(0)
    digest = _digest(stream, stream.seek(0, 2))
    last = line(digest)
    stream.write(last)
    digest.update(last)
    return digest.hexdigest()


def examine(stream: BinaryIO) -> Seal:
    """Read a file once from start to end, and return its `Seal`."""
    size = stream.seek(0, 2)
    digest = _digest(stream, max(size - LENGTH, 0))
    last = stream.read()
    expected = line(digest)
    stream.seek(max(size - 2 * LENGTH, 0))
    end = stream.read()
    digest.update(last)
    marked = any(mark in end for mark in (_BEFORE, _AFTER))
    return Seal(digest.hexdigest(), last == expected if marked else None)


def _digest(stream: BinaryIO, count: int) -> "hashlib._Hash":
    """Return the digest of the first `count` bytes of a file."""
    stream.seek(0)
    digest = hashlib.sha256()
    while count > 0 and (piece := stream.read(min(count, _PIECE))):
        digest.update(piece)
        count -= len(piece)
    return digest

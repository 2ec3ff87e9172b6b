"""The checksum that a file carries itself: SHA-256 of all its bytes, in a last line behind them.

HDF5 knows from its own header where its part ends and ignores what follows, so that the file stays netCDF-4 for every
reader, and it cuts the line off when it writes to the file again: what was changed on purpose counts as unchecked, not
as damaged. Whether a file is whole is known before HDF5 reads a byte of it. By hand:
`head -c -128 FILE | sha256sum` and `tail -n 1 FILE`.
"""

import hashlib
from typing import BinaryIO, NamedTuple

_BEFORE, _AFTER = b"\nSHA-256 of the bytes before is ", b" (this line is not part of it).\n"
_DIGEST = 2 * hashlib.sha256().digest_size
LENGTH = len(_BEFORE) + _DIGEST + len(_AFTER)
_PIECE = 2**20  # bytes that are read at a time


class Seal(NamedTuple):
    """What a file's bytes say: the SHA-256 of all of them, and whether its last line is that of those before it.

    `intact` is None where there is no such line, and false where there is but a part of one.
    """

    checksum: str
    intact: bool | None


def line(digest: "hashlib._Hash") -> bytes:
    """The last line of a file whose other bytes have this digest."""
    return _BEFORE + digest.hexdigest().encode() + _AFTER


def write(stream: BinaryIO) -> str:
    """Write the last line of a file that is open to be read and written; the SHA-256 of the whole."""
    stream.seek(0)
    digest = _digest(stream, stream.seek(0, 2))
    last = line(digest)
    stream.write(last)
    digest.update(last)
    return digest.hexdigest()


def examine(stream: BinaryIO) -> Seal:
    """Read a file once, from its start to its end."""
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
    """The digest of a file's first `count` bytes."""
    stream.seek(0)
    digest = hashlib.sha256()
    while count > 0 and (piece := stream.read(min(count, _PIECE))):
        digest.update(piece)
        count -= len(piece)
    return digest

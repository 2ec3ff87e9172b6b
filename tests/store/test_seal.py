"""A file's own last line tells whether the bytes before it are those that were written."""

import hashlib
import io
import random

import pytest

from gradient_horizon.store import seal


def sealed(content: bytes) -> bytes:
    stream = io.BytesIO(content)
    seal.write(stream)
    return stream.getvalue()


@pytest.mark.parametrize("size", [0, 1, 127, 128, 129, 300, 2**20 + 3])
def test_the_line_holds_the_sha256_of_what_is_before_it(size):
    content = random.Random(size).randbytes(size)
    whole = sealed(content)
    assert whole[:size] == content
    assert len(whole) - size == seal.LENGTH == 128
    assert hashlib.sha256(content).hexdigest().encode() in whole[size:]
    assert seal.examine(io.BytesIO(whole)) == (hashlib.sha256(whole).hexdigest(), True)


def test_the_checksum_of_the_whole_is_returned():
    stream = io.BytesIO(b"some bytes")
    assert seal.write(stream) == hashlib.sha256(stream.getvalue()).hexdigest()


def test_every_flipped_bit_is_found():
    whole = sealed(b"numbers and labels")
    for place in range(8 * len(whole)):
        altered = bytearray(whole)
        altered[place // 8] ^= 1 << place % 8
        assert seal.examine(io.BytesIO(altered)).intact is False, place


def test_a_part_of_the_line_and_bytes_behind_it_are_found():
    whole = sealed(bytes(1000))
    for cut in range(1, seal.LENGTH - 32 + 1):
        assert seal.examine(io.BytesIO(whole[:-cut])).intact is False, cut
    for more in (1, 10, 127):
        assert seal.examine(io.BytesIO(whole + bytes(more))).intact is False, more


@pytest.mark.parametrize("content", [b"", b"short", bytes(500)])
def test_a_file_without_the_line_says_nothing(content):
    assert seal.examine(io.BytesIO(content)) == (hashlib.sha256(content).hexdigest(), None)

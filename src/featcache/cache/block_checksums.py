"""Checksums of a cache's blocks, and raw reads at the places of its datasets, in pieces so that memory stays flat."""

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from featcache.cache.file_parser import Structure
from featcache.cache.layout import CHECKSUM_BYTES, COLUMNS, FEATURE_DTYPE, TapLayout, block_range
from featcache.errors import CacheFormatError

# Read and hashed at once. Less would stay in a core's second-level cache, but each step releases the interpreter's lock and
# takes it again, and while rows are being written that costs more than the cache saves.
_PIECE_BYTES = 2 * 1024 * 1024


def block_checksum(descriptor: int, structure: Structure, block: int) -> bytes:
    """Read a block back from the file; return the checksum (16 bytes) of what is really there.

    Raises:
        CacheFormatError: the file ends before the block does.
    """
    start, stop = block_range(block, structure.block_rows, structure.n)
    state = xxhash.xxh3_128()
    for tap in structure.taps:
        for _, piece in pieces(descriptor, structure, tap, start, stop):
            state.update(piece.data)
    state.update(read_rows(descriptor, structure, "status", start, stop).data)
    return state.digest()


def sound_blocks(descriptor: int, structure: Structure, blocks: Iterable[int]) -> list[int]:
    """Return those of the blocks whose bytes match their checksum in the journal; what the disk can't read does not.

    Raises:
        CacheFormatError: the file ends before a block does.
    """
    stored = read_journal(descriptor, structure)
    return [
        block
        for block in blocks
        if stored[block].any() and _readable_checksum(descriptor, structure, block) == stored[block].tobytes()
    ]


def _readable_checksum(descriptor: int, structure: Structure, block: int) -> bytes | None:
    try:
        return block_checksum(descriptor, structure, block)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return None


def read_journal(descriptor: int, structure: Structure) -> npt.NDArray[np.uint8]:
    """Return the stored checksums, (blocks, 16) u1; a row of zeros is a block that isn't durable.

    Raises:
        CacheFormatError: the file ends before the journal does.
    """
    return read_rows(descriptor, structure, "journal/checksum", 0, structure.blocks).reshape(-1, CHECKSUM_BYTES)


def columns_sha256(descriptor: int, structure: Structure) -> str:
    """Return the SHA-256 of the stored columns' bytes, as the header promises it.

    Raises:
        CacheFormatError: the file ends before a column does.
    """
    state = hashlib.sha256()
    for name in COLUMNS:
        place = structure.places[name]
        for start in range(0, place.nbytes, _PIECE_BYTES):
            state.update(_read(descriptor, structure, place.offset + start, min(_PIECE_BYTES, place.nbytes - start)))
    return state.hexdigest()


def read_rows(descriptor: int, structure: Structure, name: str, start: int, stop: int) -> npt.NDArray[Any]:
    """Return rows [start, stop) of a dataset as a fresh array.

    Raises:
        CacheFormatError: the file ends before these rows do.
    """
    place = structure.places[name]
    row_bytes = int(np.prod(place.shape[1:], dtype=np.int64)) * place.dtype.itemsize
    raw = _read(descriptor, structure, place.offset + start * row_bytes, (stop - start) * row_bytes)
    return np.frombuffer(raw, dtype=place.dtype).reshape(stop - start, *place.shape[1:])


def pieces(
    descriptor: int, structure: Structure, tap: TapLayout, start: int, stop: int
) -> Iterator[tuple[int, npt.NDArray[np.float16]]]:
    """Yield (first row, (k, ...) float16) over rows [start, stop) of a tap, 2 MiB at once, always in the same memory.

    Raises:
        CacheFormatError: the file ends before these rows do.
    """
    offset, step = structure.places[tap.name].offset, max(1, _PIECE_BYTES // tap.row_bytes)
    buffer = np.empty(min(step, stop - start) * tap.row_bytes, np.uint8)  # fresh pages cost more than hashing them
    for first in range(start, stop, step):
        count = min(stop, first + step) - first
        raw = buffer[: count * tap.row_bytes]
        _read_into(descriptor, structure, raw.data, offset + first * tap.row_bytes)
        yield first, raw.view(FEATURE_DTYPE).reshape(count, *tap.shape)


def _read(descriptor: int, structure: Structure, offset: int, length: int) -> bytearray:
    buffer = bytearray(length)
    _read_into(descriptor, structure, memoryview(buffer), offset)
    return buffer


def _read_into(descriptor: int, structure: Structure, view: memoryview, offset: int) -> None:
    while len(view):
        count = os.preadv(descriptor, [view], offset)
        if count == 0:
            short = f"the file ends at byte {offset} of {structure.size}"
            raise CacheFormatError(f"{structure.path}: {short}; delete it and run again")
        view, offset = view[count:], offset + count

"""Checksums and statistics of a cache's blocks, read in pieces of a few MiB so that memory stays flat."""

import errno
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from featcache.cache.file_parser import Extent, Structure
from featcache.cache.layout import CHECKSUM_BYTES, COLUMNS, FEATURE_DTYPE, Status, TapLayout, block_range
from featcache.cache.tap_statistics import TapStatistics, measure, piece_rows
from featcache.errors import CacheFormatError

_COLUMN_BYTES = 512 * 1024
# Hashed and measured at once. 512 KiB would stay in a core's second-level cache; but each step lets go of the interpreter's
# lock and takes it again, and while rows are being written, that costs more than the cache saves.
_SCAN_BYTES = 2 * 1024 * 1024


@dataclass(frozen=True)
class BlockScan:
    """What reading one block found: its checksum (16 bytes) and each tap's statistics."""

    checksum: bytes
    statistics: Mapping[str, TapStatistics]


class ScanBuffer:
    """Memory for the pieces of one file's blocks, used again and again: fresh pages cost more than hashing them."""

    def __init__(self, structure: Structure) -> None:
        self.raw = np.empty(max(_scan_rows(tap) * tap.row_bytes for tap in structure.taps), np.uint8)
        piece_bytes = max(piece_rows(tap) * tap.row_bytes for tap in structure.taps)
        self.wide = np.empty(piece_bytes // FEATURE_DTYPE.itemsize, np.uint32)


def scan_block(descriptor: int, structure: Structure, block: int, scratch: ScanBuffer | None = None) -> BlockScan:
    """Read a block back from the file; checksum and statistics of what is really there.

    Args:
        descriptor: the open file.
        structure: where everything lies in it.
        block: from 0.
        scratch: of the same file, used by no other thread meanwhile; None for fresh memory.

    Raises:
        CacheFormatError: the file ends before the block does.
    """
    scratch = scratch or ScanBuffer(structure)
    start, stop = block_range(block, structure.block_rows, structure.n)
    status = read_rows(descriptor, structure, "status", start, stop)
    state, statistics = xxhash.xxh3_128(), {}
    for tap in structure.taps:
        found = TapStatistics()
        for first, rows in pieces(descriptor, structure, tap, start, stop, scratch, _scan_rows(tap)):
            state.update(rows.data)
            ok = status[first - start : first - start + len(rows)] == Status.OK
            found = measure(found, rows, ok, piece_rows(tap), scratch.wide)
        statistics[tap.name] = found
    state.update(status.data)
    return BlockScan(state.digest(), statistics)


def block_checksum(
    descriptor: int, structure: Structure, block: int, scratch: ScanBuffer | None = None
) -> bytes | None:
    """Read a block back and return its checksum alone; None where the disk can't read it, which costs no other block.

    Raises:
        CacheFormatError: the file ends before the block does.
    """
    scratch = scratch or ScanBuffer(structure)
    start, stop = block_range(block, structure.block_rows, structure.n)
    state = xxhash.xxh3_128()
    try:
        for tap in structure.taps:
            for _, piece in pieces(descriptor, structure, tap, start, stop, scratch):
                state.update(piece.data)
        state.update(read_rows(descriptor, structure, "status", start, stop).data)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return None
    return state.digest()


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
        for start in range(0, place.nbytes, _COLUMN_BYTES):
            length = min(_COLUMN_BYTES, place.nbytes - start)
            state.update(_read(descriptor, structure, place.offset + start, length))
    return state.hexdigest()


def read_rows(descriptor: int, structure: Structure, name: str, start: int, stop: int) -> npt.NDArray[Any]:
    """Return rows [start, stop) of a dataset as a fresh array.

    Raises:
        CacheFormatError: the file ends before these rows do.
    """
    place = structure.places[name]
    row_bytes = _row_bytes(place)
    raw = _read(descriptor, structure, place.offset + start * row_bytes, (stop - start) * row_bytes)
    return np.frombuffer(raw, dtype=place.dtype).reshape(stop - start, *place.shape[1:])


def _row_bytes(place: Extent) -> int:
    return int(np.prod(place.shape[1:], dtype=np.int64)) * place.dtype.itemsize


def pieces(
    descriptor: int, structure: Structure, tap: TapLayout, start: int, stop: int, scratch: ScanBuffer, step: int = 0
) -> Iterator[tuple[int, npt.NDArray[np.float16]]]:
    """Yield (first row, (k, ...) float16) over rows [start, stop) of a tap, again and again in the same memory.

    `step` rows at once, 512 KiB by default.

    Raises:
        CacheFormatError: the file ends before these rows do.
    """
    offset, step = structure.places[tap.name].offset, step or piece_rows(tap)
    for first in range(start, stop, step):
        count = min(stop, first + step) - first
        raw = scratch.raw[: count * tap.row_bytes]
        _read_into(descriptor, structure, raw.data, offset + first * tap.row_bytes)
        yield first, raw.view(FEATURE_DTYPE).reshape(count, *tap.shape)


def _scan_rows(tap: TapLayout) -> int:
    """Rows that are hashed and measured at once: whole pieces of their statistics."""
    each = piece_rows(tap)
    return each * max(1, _SCAN_BYTES // (each * tap.row_bytes))


def _read(descriptor: int, structure: Structure, offset: int, length: int) -> bytearray:
    buffer = bytearray(length)
    _read_into(descriptor, structure, memoryview(buffer), offset)
    return buffer


def _read_into(descriptor: int, structure: Structure, view: memoryview, offset: int) -> None:
    while len(view):
        count = os.preadv(descriptor, [view], offset)
        if count == 0:
            expected = f"expected a file of {structure.size} bytes, got one that ends before byte {offset + len(view)}"
            raise CacheFormatError(f"{structure.path}: {expected}; delete it and run again")
        view, offset = view[count:], offset + count

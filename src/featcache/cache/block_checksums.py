"""Checksums of a cache's blocks, and raw reads at the places of its datasets, in pieces so that memory stays flat.

All raise `CacheFormatError` where the file ends before what they read.
"""

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from featcache.cache.file_parser import Structure
from featcache.cache.layout import block_range
from featcache.errors import CacheFormatError

# Read and hashed at once. Less would stay in a core's second-level cache, but each step releases the interpreter's lock and
# takes it again, and while rows are being written that costs more than the cache saves.
_PIECE_BYTES = 2 * 1024 * 1024


def block_checksum(descriptor: int, structure: Structure, block: int) -> bytes:
    """Read a block back from the file; return the checksum (16 bytes) of what is really there."""
    start, stop = block_range(block, structure.block_rows, structure.n)
    state = xxhash.xxh3_128()
    for name in (*(tap.name for tap in structure.taps), "status"):
        for _, piece in pieces(descriptor, structure, name, start, stop):
            state.update(piece.data)
    return state.digest()


def sound_blocks(descriptor: int, structure: Structure, blocks: Iterable[int]) -> list[int]:
    """Return those of the blocks whose bytes match their checksum in the journal; what the disk can't read does not."""
    stored, sound = read_journal(descriptor, structure), []
    for block in blocks:
        try:
            if stored[block].any() and block_checksum(descriptor, structure, block) == stored[block].tobytes():
                sound.append(block)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
    return sound


def read_journal(descriptor: int, structure: Structure) -> npt.NDArray[np.uint8]:
    """Return the stored checksums, (blocks, 16) u1; a row of zeros is a block that isn't durable."""
    return read_rows(descriptor, structure, "journal/checksum", 0, structure.blocks)


def columns_sha256(descriptor: int, structure: Structure) -> str:
    """Return the SHA-256 of the stored columns' bytes, as the header promises it."""
    state = hashlib.sha256()
    for name in structure.columns:
        for _, piece in pieces(descriptor, structure, name, 0, structure.n):
            state.update(piece.data)
    return state.hexdigest()


def read_rows(descriptor: int, structure: Structure, name: str, start: int, stop: int) -> npt.NDArray[Any]:
    """Return rows [start, stop) of a dataset as a fresh array."""
    place = structure.places[name]
    rows = np.empty((stop - start, *place.shape[1:]), place.dtype)
    _read_into(descriptor, structure, rows, place.offset + start * place.row_bytes)
    return rows


def pieces(
    descriptor: int, structure: Structure, name: str, start: int, stop: int
) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Yield (first row, (k, ...)) over rows [start, stop) of a dataset, 2 MiB at once, always in the same memory."""
    place = structure.places[name]
    step = max(1, _PIECE_BYTES // place.row_bytes)
    # fresh pages cost more than hashing them
    buffer = np.empty((min(step, stop - start), *place.shape[1:]), place.dtype)
    for first in range(start, stop, step):
        piece = buffer[: stop - first]
        _read_into(descriptor, structure, piece, place.offset + first * place.row_bytes)
        yield first, piece


def _read_into(descriptor: int, structure: Structure, array: npt.NDArray[Any], offset: int) -> None:
    view = array.reshape(-1).view(np.uint8).data
    while len(view):
        count = os.preadv(descriptor, [view], offset)
        if count == 0:
            short = f"the file ends at byte {offset} of {structure.size}"
            raise CacheFormatError(f"{structure.path}: {short}; delete it and run again")
        view, offset = view[count:], offset + count

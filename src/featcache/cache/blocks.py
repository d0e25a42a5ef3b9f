"""Checksums and statistics of a cache's blocks, read in pieces of a MiB so that memory stays flat."""

import errno
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from featcache.cache.layout import CHECKSUM_BYTES, COLUMNS, Status, TapLayout, block_range
from featcache.cache.structure import Place, Structure
from featcache.errors import CacheFormatError

_PIECE_BYTES = 1024 * 1024  # stays in a core's second-level cache between hashing and statistics
_MAGNITUDE = np.uint16(0x7FFF)
_BIAS = np.float32(2.0**112)


@dataclass(frozen=True)
class TapStatistics:
    """Exact statistics of one tap over the rows with status ok.

    Attributes:
        rows: how many rows count.
        values: how many numbers they hold.
        zeros: how many of these are 0.
        minimum: smallest value; infinity while `values` is 0.
        maximum: largest value; -infinity while `values` is 0.
        total: sum in float64, added block by block in the file's order.
    """

    rows: int = 0
    values: int = 0
    zeros: int = 0
    minimum: float = float("inf")
    maximum: float = float("-inf")
    total: float = 0.0

    def plus(self, other: "TapStatistics") -> "TapStatistics":
        """Return the statistics of both together."""
        return TapStatistics(
            self.rows + other.rows,
            self.values + other.values,
            self.zeros + other.zeros,
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
            self.total + other.total,
        )

    def record(self) -> dict[str, float | int | None]:
        """Return rows, zeros (a share, 0 to 1), min, max and mean for JSON; None where no row counts."""
        if not self.values:
            return {"rows": self.rows, "zeros": None, "min": None, "max": None, "mean": None}
        share, mean = self.zeros / self.values, self.total / self.values
        return {"rows": self.rows, "zeros": share, "min": self.minimum, "max": self.maximum, "mean": mean}


@dataclass(frozen=True)
class BlockScan:
    """What reading one block found: its checksum (16 bytes) and each tap's statistics."""

    checksum: bytes
    statistics: Mapping[str, TapStatistics]


def scan_block(descriptor: int, structure: Structure, block: int) -> BlockScan:
    """Read a block back from the file; checksum and statistics of what is really there.

    Raises:
        CacheFormatError: the file ends before the block does.
    """
    start, stop = block_range(block, structure.block_rows, structure.n)
    status = read_rows(descriptor, structure, "status", start, stop)
    state, statistics = xxhash.xxh3_128(), {}
    for tap in structure.taps:
        found = TapStatistics()
        for first, piece in _pieces(descriptor, structure, tap, start, stop):
            state.update(piece.data)
            ok = status[first - start : first - start + len(piece)] == Status.OK
            found = found.plus(_measure(piece if ok.all() else piece[ok]))
        statistics[tap.name] = found
    state.update(status.data)
    return BlockScan(state.digest(), statistics)


def block_checksum(descriptor: int, structure: Structure, block: int) -> bytes | None:
    """Read a block back and return its checksum alone; None where the disk can't read it, which costs no other block.

    Raises:
        CacheFormatError: the file ends before the block does.
    """
    start, stop = block_range(block, structure.block_rows, structure.n)
    state = xxhash.xxh3_128()
    try:
        for tap in structure.taps:
            for _, piece in _pieces(descriptor, structure, tap, start, stop):
                state.update(piece.data)
        state.update(read_rows(descriptor, structure, "status", start, stop).data)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return None
    return state.digest()


def journal(descriptor: int, structure: Structure) -> npt.NDArray[np.uint8]:
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
            length = min(_PIECE_BYTES, place.nbytes - start)
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


def _row_bytes(place: Place) -> int:
    return int(np.prod(place.shape[1:], dtype=np.int64)) * place.dtype.itemsize


def _pieces(
    descriptor: int, structure: Structure, tap: TapLayout, start: int, stop: int
) -> Iterator[tuple[int, npt.NDArray[np.float16]]]:
    step = max(1, _PIECE_BYTES // tap.row_bytes)
    for first in range(start, stop, step):
        yield first, read_rows(descriptor, structure, tap.name, first, min(stop, first + step))


def _read(descriptor: int, structure: Structure, offset: int, length: int) -> bytearray:
    buffer = bytearray(length)
    view = memoryview(buffer)
    while len(view):
        count = os.preadv(descriptor, [view], offset)
        if count == 0:
            expected = f"expected a file of {structure.size} bytes, got one that ends before byte {offset + len(view)}"
            raise CacheFormatError(f"{structure.path}: {expected}; delete it and run again")
        view, offset = view[count:], offset + count
    return buffer


def _measure(piece: npt.NDArray[np.float16]) -> TapStatistics:
    if not piece.size:
        return TapStatistics()
    bits = piece.view(np.int16)
    lowest = int(bits.min())
    if lowest < 0:  # negative numbers, rare behind a relu
        wide = widen(piece)
        zeros, total = int(np.count_nonzero(wide == 0)), float(wide.sum(dtype=np.float64))
        return TapStatistics(len(piece), wide.size, zeros, float(wide.min()), float(wide.max()), total)
    # numbers from 0 on are in the order of their bits, and integers are compared several times as fast
    lowest_and_highest = np.array([lowest, bits.max()], np.int16).view(np.float16)
    minimum, maximum = (float(value) for value in lowest_and_highest)
    total = float(_shifted(piece.view(np.uint16)).sum(dtype=np.float64)) * float(_BIAS)  # a power of two: exact
    return TapStatistics(len(piece), piece.size, piece.size - int(np.count_nonzero(bits)), minimum, maximum, total)


def widen(piece: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
    """Return finite float16 as float32, exactly.

    `astype` does this one number at a time, and would take longer than checksum and disk together: shifting the bits
    into place and multiplying by 2**112, the difference of the exponents' biases, runs in vector units.
    """
    bits = np.ascontiguousarray(piece).view(np.uint16)
    values = _shifted(bits & _MAGNITUDE)
    values *= _BIAS
    if bits.max() > _MAGNITUDE:  # rare behind a relu
        np.negative(values, out=values, where=bits > _MAGNITUDE)
    return values


def _shifted(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """The bits of numbers from 0 on as float32, too small by 2**112."""
    wide = bits.astype(np.uint32)
    wide <<= 13
    return wide.view(np.float32)

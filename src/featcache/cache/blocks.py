"""Checksums and statistics of a cache's blocks, read in pieces of a MiB so that memory stays flat."""

import errno
import hashlib
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from featcache.cache.layout import CHECKSUM_BYTES, COLUMNS, FEATURE_DTYPE, Status, TapLayout, block_range
from featcache.cache.structure import Place, Structure
from featcache.errors import CacheFormatError

_PIECE_BYTES = 512 * 1024  # stays in a core's second-level cache between hashing and statistics
_STRETCH = 512  # numbers added in float32
_MAGNITUDE = np.uint16(0x7FFF)
_BIAS = np.float32(2.0**112)


@dataclass(frozen=True)
class TapStatistics:
    """Statistics of one tap over the rows with status ok, exact but for the sum.

    Attributes:
        rows: how many rows count.
        values: how many numbers they hold.
        zeros: how many of these are 0.
        minimum: smallest value; infinity while `values` is 0.
        maximum: largest value; -infinity while `values` is 0.
        total: sum to about 1e-6, added block by block in the file's order.
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


class Scratch:
    """Memory for the pieces of one file's blocks, used again and again: fresh pages cost more than hashing them."""

    def __init__(self, structure: Structure) -> None:
        size = max(_PIECE_BYTES, *(tap.row_bytes for tap in structure.taps))
        self.raw = np.empty(size, np.uint8)
        self.wide = np.empty(size // FEATURE_DTYPE.itemsize, np.uint32)


def scan_block(descriptor: int, structure: Structure, block: int, scratch: Scratch | None = None) -> BlockScan:
    """Read a block back from the file; checksum and statistics of what is really there.

    Args:
        descriptor: the open file.
        structure: where everything lies in it.
        block: from 0.
        scratch: of the same file, used by no other thread meanwhile; None for fresh memory.

    Raises:
        CacheFormatError: the file ends before the block does.
    """
    scratch = scratch or Scratch(structure)
    start, stop = block_range(block, structure.block_rows, structure.n)
    status = read_rows(descriptor, structure, "status", start, stop)
    state, statistics = xxhash.xxh3_128(), {}
    for tap in structure.taps:
        found = TapStatistics()
        for first, piece in pieces(descriptor, structure, tap, start, stop, scratch):
            state.update(piece.data)
            ok = status[first - start : first - start + len(piece)] == Status.OK
            found = found.plus(_measure(piece if ok.all() else piece[ok], scratch))
        statistics[tap.name] = found
    state.update(status.data)
    return BlockScan(state.digest(), statistics)


def block_checksum(descriptor: int, structure: Structure, block: int, scratch: Scratch | None = None) -> bytes | None:
    """Read a block back and return its checksum alone; None where the disk can't read it, which costs no other block.

    Raises:
        CacheFormatError: the file ends before the block does.
    """
    scratch = scratch or Scratch(structure)
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


def pieces(
    descriptor: int, structure: Structure, tap: TapLayout, start: int, stop: int, scratch: Scratch
) -> Iterator[tuple[int, npt.NDArray[np.float16]]]:
    """Yield (first row, (k, ...) float16) over rows [start, stop) of a tap, again and again in the same memory.

    Raises:
        CacheFormatError: the file ends before these rows do.
    """
    offset, step = structure.places[tap.name].offset, max(1, _PIECE_BYTES // tap.row_bytes)
    for first in range(start, stop, step):
        count = min(stop, first + step) - first
        raw = scratch.raw[: count * tap.row_bytes]
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
            expected = f"expected a file of {structure.size} bytes, got one that ends before byte {offset + len(view)}"
            raise CacheFormatError(f"{structure.path}: {expected}; delete it and run again")
        view, offset = view[count:], offset + count


def _measure(piece: npt.NDArray[np.float16], scratch: Scratch) -> TapStatistics:
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
    wide = _shifted(piece.view(np.uint16).reshape(-1), scratch.wide[: piece.size])
    total = _sum(wide) * float(_BIAS)  # a power of two: exact
    return TapStatistics(len(piece), piece.size, piece.size - int(np.count_nonzero(bits)), minimum, maximum, total)


def _sum(wide: npt.NDArray[np.float32]) -> float:
    """The sum, to about 1e-6 of it where nothing is negative: stretches of at most 512 in float32, these in float64.

    A sum in float64 from the start takes four times as long, as long as reading, checksum and all the rest.
    """
    stretches = wide.reshape(-1, math.gcd(wide.size, _STRETCH))
    return float(np.einsum("ij->i", stretches).sum(dtype=np.float64))


def widen(piece: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
    """Return finite float16 as float32, exactly.

    `astype` does this one number at a time, and would take longer than checksum and disk together: shifting the bits
    into place and multiplying by 2**112, the difference of the exponents' biases, runs in vector units.
    """
    bits = np.ascontiguousarray(piece).view(np.uint16)
    values = _shifted(bits & _MAGNITUDE, np.empty(bits.shape, np.uint32))
    values *= _BIAS
    if bits.max() > _MAGNITUDE:  # rare behind a relu
        np.negative(values, out=values, where=bits > _MAGNITUDE)
    return values


def _shifted(bits: npt.NDArray[np.uint16], wide: npt.NDArray[np.uint32]) -> npt.NDArray[np.float32]:
    """The bits of numbers from 0 on as float32, too small by 2**112; they are put into `wide`."""
    np.copyto(wide, bits)
    np.left_shift(wide, 13, out=wide)
    return wide.view(np.float32)

"""What is wrong with a cache file: every fault of its structure, columns, run record and blocks."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featcache.cache.block_checksums import block_checksum, columns_sha256, pieces, read_rows
from featcache.cache.file_parser import Structure, read_structure
from featcache.cache.layout import PARTIAL_SUFFIX, block_range
from featcache.cache.reader import Reader, open_cache
from featcache.core import keys
from featcache.core.disk import system_error
from featcache.core.paths import regular
from featcache.errors import CacheFormatError

_EXPONENT = np.uint16(0x7C00)  # all ones: infinity or NaN
# Files that this process has read and found sound: every bag asks for those of all taps.
_SOUND: set[tuple[int, ...]] = set()


@dataclass(frozen=True)
class CacheFault:
    """One thing that is wrong with a cache file: a line without its path, and the system's error if it can't be read."""

    message: str
    error: OSError | None = None


def check_cache(path: Path) -> Iterator[CacheFault]:
    """Yield every fault of a finished or unfinished cache; none hides another one.

    The file is read in pieces: memory holds its row numbers and a few MiB.
    """
    try:
        with open(path, "rb", opener=regular) as stream:
            os.pread(stream.fileno(), 1, 0)  # HDF5 would report a failing disk as something else
            structure = read_structure(stream, path)
            for check in (_header, _columns):
                yield from _attempted(path, check(stream.fileno(), structure))
            for block in range(structure.blocks):
                start, stop = block_range(block, structure.block_rows, structure.n)
                where = f"block {block} (rows {start} to {stop - 1}): "
                yield from _attempted(path, _block(stream.fileno(), structure, block), where)
    except (CacheFormatError, OSError) as error:
        yield _reading_fault(error, path)


def checked_cache(path: Path) -> Reader:
    """Open a finished cache all of whose blocks match their checksums; a process reads a file only once for that.

    Raises:
        CacheError: it isn't one.
    """
    reader = open_cache(path)
    file = reader.identity
    if file not in _SOUND and (damaged := int((~reader.durable).sum())):
        fault = f"{damaged} rows are in blocks that do not match their checksums"
        raise CacheFormatError(f"{path}: {fault}: run featcache repair {path}")
    if file is not None:
        _SOUND.add(file)
    return reader


def _attempted(path: Path, found: Iterator[str], where: str = "") -> Iterator[CacheFault]:
    """Make faults of messages; a check that can't read the file yields that, and the next one follows."""
    try:
        yield from (CacheFault(where + message) for message in found)
    except (CacheFormatError, OSError) as error:
        yield _reading_fault(error, path, where)


def _reading_fault(error: Exception, path: Path, where: str = "") -> CacheFault:
    cause = system_error(error)
    if cause is not None and cause.errno:
        return CacheFault(f"{where}{path.name} can't be read: {os.strerror(cause.errno)}", cause)
    return CacheFault(where + str(error).removeprefix(f"{path}: "))


def _header(descriptor: int, structure: Structure) -> Iterator[str]:
    partial = structure.path.name.endswith(PARTIAL_SUFFIX)
    if not partial and os.pread(descriptor, 1, structure.places["journal/complete"].offset) != b"\1":
        yield "journal/complete is not 1, as it is in a finished file"
    for tap in structure.taps:
        if keys.digest(tap.settings) != tap.key:
            yield f"tap {tap.name}: its settings do not match its key {keys.short(tap.key)}"
    place = structure.places["record/run"]
    raw = os.pread(descriptor, place.nbytes, place.offset).rstrip(b"\0")
    try:
        json.loads(raw or b"{}" if partial else raw)
    except (ValueError, RecursionError):
        yield f"record/run is not JSON: {raw[:40]!r}"


def _columns(descriptor: int, structure: Structure) -> Iterator[str]:
    if columns_sha256(descriptor, structure) != structure.columns_sha256:
        yield f"{', '.join(structure.columns[:-1])} and digest: checksum mismatch"
    if not np.array_equal(read_rows(descriptor, structure, "row", 0, structure.n), np.arange(structure.n)):
        yield "row: the row numbers do not count from 0"


def _block(descriptor: int, structure: Structure, block: int) -> Iterator[str]:
    stored = read_rows(descriptor, structure, "journal/checksum", block, block + 1).tobytes()
    if not any(stored):
        if not structure.path.name.endswith(PARTIAL_SUFFIX):
            yield "no checksum"
        return
    start, stop = block_range(block, structure.block_rows, structure.n)
    if block_checksum(descriptor, structure, block) != stored:
        yield "checksum mismatch"
    for tap in structure.taps:
        rows = sum(
            int(((piece.view(np.uint16).reshape(len(piece), -1) & _EXPONENT) == _EXPONENT).any(axis=1).sum())
            for _, piece in pieces(descriptor, structure, tap.name, start, stop)
        )
        if rows:
            yield f"NaN or infinity in {rows} rows of {tap.name}"

"""What is wrong with a cache file: every fault of its structure, columns, run record, checksums and values."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from featcache.cache.block_checksums import ScanBuffer, columns_sha256, pieces, read_rows
from featcache.cache.file_parser import Structure, read_structure
from featcache.cache.layout import PARTIAL_SUFFIX, Status, block_range
from featcache.core import keys
from featcache.core.paths import regular
from featcache.core.texts import FixedTexts, first_duplicate
from featcache.errors import CacheFormatError

_EXPONENT = np.uint16(0x7C00)  # all ones: infinity or NaN


@dataclass(frozen=True)
class CacheFault:
    """One thing that is wrong with a cache file.

    Attributes:
        message: one line, without the file's path.
        block: the damaged journal block, if it is one.
        error: what the operating system reported, where the file could not be read.
    """

    message: str
    block: int | None = None
    error: OSError | None = None


def check_cache(path: Path, progress: Callable[[str], None] = lambda _: None) -> Iterator[CacheFault]:
    """Yield every fault of a finished or unfinished cache, in memory for some columns and a few MiB; no fault hides another one.

    Args:
        path: the file.
        progress: called with ``structure``, ``rows`` and ``block N`` before each is read, to tell work from a hang.
    """
    progress("structure")
    try:
        with open(path, "rb", opener=regular) as stream:
            os.pread(stream.fileno(), 1, 0)  # HDF5 would report a failing disk as something else
            structure = read_structure(stream, path)
            progress("rows")
            for check in (_state, _columns, _numbers, _tap_keys, _run_record):
                yield from _attempted(structure, None, check(stream.fileno(), structure))
            scratch = ScanBuffer(structure)
            for block in range(structure.blocks):
                progress(f"block {block}")
                yield from _attempted(structure, block, _block(stream.fileno(), structure, block, scratch))
    except (CacheFormatError, OSError) as error:
        yield _reading_fault(error, path, None)


def _attempted(structure: Structure, block: int | None, found: Iterator[str]) -> Iterator[CacheFault]:
    """Make faults of messages; a check that can't read the file yields that, and the next one follows."""
    where = ""
    if block is not None:
        start, stop = block_range(block, structure.block_rows, structure.n)
        where = f"block {block} (rows {start} to {stop - 1}) "
    try:
        yield from (CacheFault(where + message, block) for message in found)
    except (CacheFormatError, OSError) as error:
        yield _reading_fault(error, structure.path, block, where)


def _reading_fault(error: Exception, path: Path, block: int | None, where: str = "") -> CacheFault:
    cause: BaseException | None = error
    while cause is not None:  # HDF5 wraps what the system reported
        if isinstance(cause, OSError) and cause.errno:
            return CacheFault(f"{where}can't be read: {os.strerror(cause.errno)}", block, cause)
        cause = cause.__cause__ or cause.__context__
    return CacheFault(f"{where}can't be read: {str(error).removeprefix(f'{path}: ')}", block)


def _is_partial(structure: Structure) -> bool:
    return structure.path.name.endswith(PARTIAL_SUFFIX)


def _state(descriptor: int, structure: Structure) -> Iterator[str]:
    complete = os.pread(descriptor, 1, structure.places["journal/complete"].offset)
    if not _is_partial(structure) and complete != b"\1":
        yield f"unfinished although its name is final: journal/complete is {complete.hex() or 'missing'}, not 01"


def _columns(descriptor: int, structure: Structure) -> Iterator[str]:
    found = columns_sha256(descriptor, structure)
    if found != structure.columns_sha256:
        yield f"id, label, group and digest have SHA-256 {keys.short(found)}, not {keys.short(structure.columns_sha256)}"
    twice = first_duplicate(FixedTexts(read_rows(descriptor, structure, "id", 0, structure.n)))
    if twice is not None:
        yield f"id={twice!r} is there twice"


def _numbers(descriptor: int, structure: Structure) -> Iterator[str]:
    rows = read_rows(descriptor, structure, "row", 0, structure.n)
    labels = read_rows(descriptor, structure, "label", 0, structure.n)
    last = len(structure.class_names) - 1
    for values, wrong, what in (
        (rows, rows != np.arange(structure.n), "row number(s) out of order"),
        (labels, (labels < -1) | (labels > last), f"label(s) outside -1 to {last}"),
    ):
        if wrong.any():
            first = int(wrong.argmax())
            yield f"{int(wrong.sum())} {what}, the first is {values[first]} in row {first}"


def _tap_keys(_: int, structure: Structure) -> Iterator[str]:
    for tap in structure.taps:
        if keys.digest(tap.settings) != tap.key:
            yield f"the settings of tap {tap.name} do not match its key {keys.short(tap.key)}"


def _run_record(descriptor: int, structure: Structure) -> Iterator[str]:
    if _is_partial(structure):
        return
    place = structure.places["record/run"]
    raw = os.pread(descriptor, place.nbytes, place.offset).rstrip(b"\0")
    try:
        rows = json.loads(raw)["rows"]
        recorded = rows["total"], rows["rejected"]
    except (ValueError, KeyError, TypeError):
        yield f"record/run is not JSON with counts of rows: {raw[:40]!r}"
        return
    status = read_rows(descriptor, structure, "status", 0, structure.n)
    found = structure.n, int((status == Status.REJECTED).sum())
    if recorded != found:
        yield f"{found[0]} rows, {found[1]} rejected, but record/run has {recorded[0]} and {recorded[1]}"


def _block(descriptor: int, structure: Structure, block: int, scratch: ScanBuffer) -> Iterator[str]:
    stored = read_rows(descriptor, structure, "journal/checksum", block, block + 1).tobytes()
    if not any(stored):
        if not _is_partial(structure):
            yield "has no checksum"
        return
    start, stop = block_range(block, structure.block_rows, structure.n)
    status, state, wrong = read_rows(descriptor, structure, "status", start, stop), xxhash.xxh3_128(), []
    for tap in structure.taps:
        infinite = filled = 0
        for first, piece in pieces(descriptor, structure, tap, start, stop, scratch):
            state.update(piece.data)
            bits = piece.view(np.uint16).reshape(len(piece), -1)
            infinite += int(((bits & _EXPONENT) == _EXPONENT).any(axis=1).sum())
            rejected = status[first - start : first - start + len(piece)] == Status.REJECTED
            filled += int(bits[rejected].any(axis=1).sum())
        wrong += [f"holds NaN or infinity in {infinite} row(s) of {tap.name}"] * bool(infinite)
        wrong += [f"holds other than zeros in {filled} rejected row(s) of {tap.name}"] * bool(filled)
    state.update(status.data)
    if state.digest() != stored:
        yield "does not match its checksum"
    yield from wrong
    unknown = int((~np.isin(status, (Status.OK, Status.REJECTED))).sum())
    if unknown:
        yield f"holds {unknown} row(s) of a status other than 1 (ok) and 2 (rejected)"

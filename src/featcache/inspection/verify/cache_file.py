"""The checks of one feature cache: each yields what it finds wrong, and none stops at the first fault."""

import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from featcache.cache import (
    PARTIAL_SUFFIX,
    ScanBuffer,
    Status,
    Structure,
    block_range,
    columns_sha256,
    pieces,
    read_journal,
    read_rows,
    read_structure,
    texts_of,
)
from featcache.core import keys
from featcache.core.paths import regular
from featcache.core.texts import Texts, first_duplicate
from featcache.errors import CacheFormatError
from featcache.inspection.verify.faults import FILE, Fault, disk_error, reading_fault

_EXPONENT = np.uint16(0x7C00)  # all ones: infinity or NaN
_PIECE_ROWS = 1 << 16

Alive = Callable[[str], None]


def cache_faults(path: Path, alive: Alive) -> Iterator[Fault]:
    """Yield every fault of a published or unfinished feature cache, in flat memory.

    Args:
        path: the file.
        alive: is told what comes next, so that who waits can tell work from a hang.
    """
    alive("structure")
    try:
        with open(path, "rb", opener=regular) as stream:
            os.pread(stream.fileno(), 1, 0)  # HDF5 would say something else of a disk that fails
            structure = read_structure(stream, path)
            alive("rows")
            for check in (_state, _columns, _row_numbers, _labels, _tap_keys, _run_record):
                yield from _guarded(path, check(stream.fileno(), structure))
            yield from _blocks(stream.fileno(), structure, alive)
    except CacheFormatError as error:
        failed = disk_error(error)
        yield reading_fault(path, failed) if failed else Fault(FILE, _without_path(error, path))
    except OSError as error:
        yield reading_fault(path, error)


def _guarded(path: Path, found: Iterator[Fault]) -> Iterator[Fault]:
    """A check that stumbles yields that as a fault, and the next check follows."""
    try:
        yield from found
    except CacheFormatError as error:
        yield Fault(FILE, _without_path(error, path))
    except OSError as error:
        yield reading_fault(path, error)


def _without_path(error: Exception, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")


def is_partial(structure: Structure) -> bool:
    """Whether the file is an unfinished one by its name."""
    return structure.path.name.endswith(PARTIAL_SUFFIX)


def _state(descriptor: int, structure: Structure) -> Iterator[Fault]:
    place = structure.places["journal/complete"]
    complete = os.pread(descriptor, 1, place.offset)
    if not is_partial(structure) and complete != b"\1":
        yield Fault(FILE, f"expected a finished file, journal/complete = 1; got {complete.hex() or 'nothing'}")


def _columns(descriptor: int, structure: Structure) -> Iterator[Fault]:
    found = columns_sha256(descriptor, structure)
    if found != structure.columns_sha256:
        expected = f"expected id, label, group and digest of SHA-256 {keys.short(structure.columns_sha256)}"
        yield Fault(FILE, f"{expected}; got {keys.short(found)}")
    twice = first_duplicate(_Stored(descriptor, structure, "id"))
    if twice is not None:
        yield Fault(FILE, f"expected unique ids; id={twice!r} stands twice")


class _Stored(Texts):
    """A column of texts in a file that is suspected: read, not mapped, so that a file cut short is an error."""

    def __init__(self, descriptor: int, structure: Structure, name: str) -> None:
        self._read = partial(read_rows, descriptor, structure, name)
        self._count = structure.n

    def __len__(self) -> int:
        return self._count

    def decode(self, start: int, stop: int) -> list[str]:
        """Return the texts [start, stop)."""
        return texts_of(self._read(start, stop))


def _numbers(descriptor: int, structure: Structure, name: str) -> Iterator[tuple[int, npt.NDArray[np.int32]]]:
    for start in range(0, structure.n, _PIECE_ROWS):
        yield start, read_rows(descriptor, structure, name, start, min(start + _PIECE_ROWS, structure.n))


def _row_numbers(descriptor: int, structure: Structure) -> Iterator[Fault]:
    count, first = 0, ""
    for start, rows in _numbers(descriptor, structure, "row"):
        wrong = np.flatnonzero(rows != np.arange(start, start + len(rows)))
        if len(wrong) and not count:
            first = f"{rows[wrong[0]]} at {start + wrong[0]}"
        count += len(wrong)
    if count:
        yield Fault(FILE, f"expected row numbers from 0; {count} are others, the first is {first}")


def _labels(descriptor: int, structure: Structure) -> Iterator[Fault]:
    count, first = 0, ""
    for start, labels in _numbers(descriptor, structure, "label"):
        wrong = np.flatnonzero((labels < -1) | (labels >= len(structure.class_names)))
        if len(wrong) and not count:
            first = f"{labels[wrong[0]]} of row {start + wrong[0]}"
        count += len(wrong)
    if count:
        expected = f"expected labels from -1 to {len(structure.class_names) - 1}"
        yield Fault(FILE, f"{expected}; {count} are others, the first is {first}")


def _tap_keys(descriptor: int, structure: Structure) -> Iterator[Fault]:
    del descriptor
    for tap in structure.taps:
        if keys.digest(tap.settings) != tap.key:
            yield Fault(
                FILE, f"expected the settings of tap {tap.name} to have key {keys.short(tap.key)}; they haven't"
            )


def _run_record(descriptor: int, structure: Structure) -> Iterator[Fault]:
    if is_partial(structure):
        return
    place = structure.places["record/run"]
    raw = os.pread(descriptor, place.nbytes, place.offset).rstrip(b"\0")
    try:
        run = json.loads(raw)
        total, rejected = run["rows"]["total"], run["rows"]["rejected"]
        missing = [tap.name for tap in structure.taps if tap.name not in run["statistics"]]
    except (ValueError, KeyError, TypeError):
        yield Fault(FILE, f"expected JSON with rows and statistics in record/run; got {raw[:40]!r}")
        return
    status = read_rows(descriptor, structure, "status", 0, structure.n)
    found = int((status == Status.REJECTED).sum())
    if (total, rejected) != (structure.n, found):
        yield Fault(FILE, f"expected {total} rows, {rejected} rejected; got {structure.n} rows, {found} rejected")
    if missing:
        yield Fault(FILE, f"expected statistics of every tap in record/run; got none of {', '.join(missing)}")


def _blocks(descriptor: int, structure: Structure, alive: Alive) -> Iterator[Fault]:
    try:
        stored = read_journal(descriptor, structure)
    except (CacheFormatError, OSError) as error:
        yield Fault(FILE, f"the journal can't be read: {error}")
        return
    if not structure.blocks:
        return
    scratch = ScanBuffer(structure)
    for block in range(structure.blocks):
        alive(f"block {block}")
        rows = "rows {} to {}".format(*_shown(structure, block))
        if not stored[block].any():
            if not is_partial(structure):
                yield Fault(FILE, f"block {block} ({rows}) has no checksum", block)
            continue
        try:
            found = _scan(descriptor, structure, block, scratch)
        except OSError as error:
            fault = reading_fault(structure.path, error)
            yield Fault(fault.cause, f"block {block} ({rows}): {fault.message}", block)
            continue
        except CacheFormatError as error:
            yield Fault(FILE, f"block {block} ({rows}): {_without_path(error, structure.path)}", block)
            continue
        if found.checksum != stored[block].tobytes():
            yield Fault(FILE, f"block {block} ({rows}) does not match its checksum", block)
        for message in found.wrong:
            yield Fault(FILE, f"block {block} ({rows}): {message}", block)


def _shown(structure: Structure, block: int) -> tuple[int, int]:
    start, stop = block_range(block, structure.block_rows, structure.n)
    return start, stop - 1


class _Scan:
    """Checksum of one block, and which of its values can't be."""

    def __init__(self) -> None:
        self.state = xxhash.xxh3_128()
        self.wrong: list[str] = []

    @property
    def checksum(self) -> bytes:
        return self.state.digest()


def _scan(descriptor: int, structure: Structure, block: int, scratch: ScanBuffer) -> _Scan:
    scan = _Scan()
    start, stop = block_range(block, structure.block_rows, structure.n)
    status = read_rows(descriptor, structure, "status", start, stop)
    for tap in structure.taps:
        bad, filled = 0, 0
        for first, piece in pieces(descriptor, structure, tap, start, stop, scratch):
            scan.state.update(piece.data)
            bits = piece.view(np.uint16).reshape(len(piece), -1)
            bad += int(((bits & _EXPONENT) == _EXPONENT).any(axis=1).sum())
            rejected = status[first - start : first - start + len(piece)] == Status.REJECTED
            filled += int(bits[rejected].any(axis=1).sum())
        if bad:
            scan.wrong.append(f"expected finite features; {bad} rows of {tap.name} hold NaN or infinity")
        if filled:
            scan.wrong.append(f"expected zeros in rejected rows; {filled} rows of {tap.name} hold something")
    scan.state.update(status.data)
    unknown = int((~np.isin(status, (Status.OK, Status.REJECTED))).sum())
    if unknown:
        scan.wrong.append(f"expected status 1 (ok) or 2 (rejected); {unknown} rows have another")
    return scan

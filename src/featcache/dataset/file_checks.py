"""What was found in the files of a listing: digests, faults and when; a million in tens of megabytes."""

import csv
import io
from array import array
from collections.abc import Iterable, Iterator
from itertools import accumulate, pairwise
from typing import IO, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from featcache.core.disk import SETTLE_NS
from featcache.core.joined_texts import PART, joined
from featcache.core.texts import Encoded, Texts, encoded, texts_at
from featcache.dataset.file_stats import FileStat, FileStats

_BYTES = 32  # of a digest
_QUOTED = b'",\r\n'  # what only a cell with quotes around it may have


class Findings(NamedTuple):
    """What was found in some files: content digests ("" if one couldn't be read) and why rows are rejected ("" if not)."""

    rows: npt.NDArray[np.intp]
    locations: Encoded
    digests: Encoded
    reasons: Encoded


class FileChecks:
    """What was found in each of `files`, or is still to be found (`read_ns` 0); 40 bytes a file, and the reasons."""

    def __init__(self, files: FileStats) -> None:
        self.files = files
        self.read_ns = array("q", bytes(8 * len(files)))
        self.digests = bytearray(_BYTES * len(files))
        self.reasons: dict[int, str] = {}

    def append(self, stat: FileStat, read_ns: int, digest: str, reason: str) -> None:
        """Add a file, and what was found in it; an `OverflowError` for a number of more than 64 bits, else as `put`."""
        self.files.append(stat)
        self.read_ns.append(0)
        self.digests += bytes(_BYTES)
        self.put(len(self.files) - 1, read_ns, digest, reason)

    def put(self, row: int, read_ns: int, digest: str, reason: str) -> None:
        """Record what was found in one file; a `ValueError` where `digest` isn't a SHA-256. Thread-safe."""
        raw = bytes.fromhex(digest) or bytes(_BYTES)
        if len(raw) != _BYTES:
            raise ValueError(f"digest={digest!r} is not a SHA-256")
        self.digests[row * _BYTES : (row + 1) * _BYTES] = raw
        if reason:
            self.reasons[row] = reason
        self.read_ns[row] = read_ns

    def put_answer(self, rows: npt.NDArray[np.int64], answer: bytes) -> npt.NDArray[np.int64]:
        """Record what one of `Readers` found in the files of these rows; return the rows that it left."""
        digests = np.frombuffer(answer, np.uint8, offset=8 * len(rows)).reshape(-1, _BYTES)
        sound = digests.any(axis=1)
        _raw_digests(self)[rows[sound]] = digests[sound]
        _times(self)[rows[sound]] = np.frombuffer(answer, np.int64, len(rows))[sound]
        return rows[~sound]

    def take(self, rows: npt.NDArray[np.intp], known: "FileChecks", places: npt.NDArray[np.intp]) -> None:
        """Record for these rows what is known of the files at `places`; not while another thread does anything."""
        _times(self)[rows] = _times(known)[places]
        _raw_digests(self)[rows] = _raw_digests(known)[places]
        for row, place in zip(rows.tolist(), places.tolist(), strict=True) if known.reasons else ():
            if reason := known.reasons.get(place):
                self.reasons[row] = reason

    def digests_of(self, rows: npt.NDArray[np.integer]) -> Encoded:
        """The content digests of some files; "" for one that couldn't be read, and for a row below 0."""
        raw = _raw_digests(self)[rows]
        raw[rows < 0] = 0
        known = raw.any(axis=1)
        return raw[known].tobytes().hex().encode("ascii"), 2 * _BYTES * known

    def settled(self) -> npt.NDArray[np.bool_]:
        """(n,) bool, False while a later change could hide in the clock tick in which a file was read ("racy git").

        A time stamp far in the future is as good as any other, because a change would replace it.
        """
        between = np.abs(_times(self).astype(np.float64) - self.files.numbers[:, 2])  # which an int64 may not hold
        return np.asarray(_raw_digests(self).any(axis=1) & (between >= SETTLE_NS))

    def all_settled(self) -> bool:
        """Whether every file that was looked at is settled, or can't be read anyway."""
        return bool((self.settled() | (self.files.numbers[:, 0] < 0) | ~self.examined()).all())

    def examined(self) -> npt.NDArray[np.bool_]:
        """(n,) bool: which files were looked at."""
        return np.asarray(_times(self) != 0)

    def findings(self, which: npt.NDArray[np.bool_]) -> Iterator[Findings]:
        """Yield what was found in the files of a mask, (n,), some at a time."""
        for start in range(0, len(which), PART):
            rows = start + np.flatnonzero(which[start : start + PART])
            if len(rows):
                locations = self.files.locations
                whole = len(rows) == rows[-1] - rows[0] + 1
                texts = locations.encoded(rows[0], rows[-1] + 1) if whole else encoded(texts_at(locations, rows))
                yield Findings(rows, texts, self.digests_of(rows), encoded(self._reasons(rows)))

    def _reasons(self, rows: npt.NDArray[np.intp]) -> list[str]:
        return [self.reasons.get(row, "") for row in rows.tolist()] if self.reasons else [""] * len(rows)

    def write(self, stream: IO[bytes], which: npt.NDArray[np.bool_]) -> None:
        """Write the same as lines of a CSV: location, size, mtime_ns, ctime_ns, read_ns, digest, reason."""
        for rows, locations, digests, reasons in self.findings(which):
            numbers = np.c_[self.files.numbers[rows], _times(self)[rows]].T
            if any(sign in locations[0] or sign in reasons[0] for sign in _QUOTED):
                stream.write(self._quoted(rows, numbers.tolist()))
            else:  # the same, in a fraction of the time
                cells = [cell for number in numbers for cell in (number, b",")]
                stream.write(joined(locations, b",", *cells, digests, b",", reasons, b"\r\n")[0])

    def _quoted(self, rows: npt.NDArray[np.intp], numbers: list[list[int]]) -> bytes:
        lines = io.StringIO(newline="")
        cells = texts_at(self.files.locations, rows), *numbers, Digests(self, rows), self._reasons(rows)
        csv.writer(lines).writerows(zip(*cells, strict=True))
        return lines.getvalue().encode("utf-8", "surrogateescape")


class Digests(Texts):
    """The content digests of (n,) rows of `checks`, "" for a row below 0."""

    def __init__(self, checks: FileChecks, rows: npt.NDArray[np.integer]) -> None:
        self._checks, self._rows = checks, rows

    def __len__(self) -> int:
        return len(self._rows)

    def encoded(self, start: int, stop: int, errors: str = "") -> Encoded:
        """Return the bytes of the texts [start, stop)."""
        return self._checks.digests_of(self._rows[start:stop])

    def decode(self, start: int, stop: int) -> list[str]:
        """Return the texts [start, stop)."""
        raw, lengths = self.encoded(start, stop)
        whole, bounds = raw.decode("ascii"), accumulate(lengths.tolist(), initial=0)
        return [whole[a:b] for a, b in pairwise(bounds)]


def contents_digest(used: Iterable[FileChecks]) -> str:
    """Return one digest for every location, content and reason, in any order; equal ones give equal manifests."""
    total = 0
    for part in used:
        for _, locations, digests, reasons in part.findings(part.examined()):
            records, bounds = joined(locations, b"\0", digests, b"\0", reasons)
            total += sum(xxhash.xxh3_128_intdigest(records[a:b]) for a, b in pairwise(bounds.tolist()))
    return f"{total % (1 << 128):032x}"


def _times(checks: FileChecks) -> npt.NDArray[np.int64]:
    return np.frombuffer(checks.read_ns, np.int64)


def _raw_digests(checks: FileChecks) -> npt.NDArray[np.uint8]:
    """(n, 32), zeros for a file that couldn't be read."""
    return np.frombuffer(checks.digests, np.uint8).reshape(-1, _BYTES)

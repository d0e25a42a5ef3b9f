"""What a listing is based on: a stat of every file, and the digests known from earlier listings.

An unchanged data set costs a stat a file; a touched one costs a read of what was touched, and never a rerun.
`listing.csv` is no Arrow file, as it is read where Luigi schedules.
"""

import csv
import re
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from threading import Event
from typing import NamedTuple, TextIO

import numpy as np
import numpy.typing as npt
import xxhash

from featcache.core import keys, paths
from featcache.core.disk import SETTLE_NS, replacing
from featcache.core.progress import Progress
from featcache.core.texts import CHUNK, NOT_FOUND, index_of, texts_at
from featcache.dataset.decoding.versions import MOST_BYTES
from featcache.dataset.file_stats import FileStat, FileStats
from featcache.dataset.image_readers import Readers, looked_at
from featcache.errors import SourceChangedError

_THREADS = 8  # reading waits for the disk more than for a core
_CHUNK = 512
_AHEAD = 64
_RECALLED = 1 << 14
_DIGEST_BYTES = 32
_QUOTED = re.compile('[",\r\n]')  # what only a cell with quotes around it may have
_LINE = "%s,%d,%d,%d,%d,%s,%s\r\n"
_COLUMNS = ("location", "size", "mtime_ns", "ctime_ns", "read_ns", "digest", "reason")


class Findings(NamedTuple):
    """What was found in some files: content digests ("" if one couldn't be read) and why rows are rejected ("" if not)."""

    rows: npt.NDArray[np.intp]
    locations: list[str]
    digests: list[str]
    reasons: list[str]


class FileChecks:
    """What was found in each of `files`, or is still to be found (`read_ns` 0); 40 bytes a file, and the reasons."""

    def __init__(self, files: FileStats) -> None:
        self.files = files
        self.read_ns = array("q", bytes(8 * len(files)))
        self.digests = bytearray(_DIGEST_BYTES * len(files))
        self.reasons: dict[int, str] = {}

    def append(self, stat: FileStat, read_ns: int, digest: str, reason: str) -> None:
        """Add a file, and what was found in it; an `OverflowError` for a number of more than 64 bits, else as `put`."""
        self.files.append(stat)
        self.read_ns.append(0)
        self.digests += bytes(_DIGEST_BYTES)
        self.put(len(self.files) - 1, read_ns, digest, reason)

    def put(self, row: int, read_ns: int, digest: str, reason: str) -> None:
        """Record what was found in one file; a `ValueError` where `digest` isn't a SHA-256. Thread-safe."""
        raw = bytes.fromhex(digest) or bytes(_DIGEST_BYTES)
        if len(raw) != _DIGEST_BYTES:
            raise ValueError(f"digest={digest!r} is not a SHA-256")
        self.digests[row * _DIGEST_BYTES : (row + 1) * _DIGEST_BYTES] = raw
        if reason:
            self.reasons[row] = reason
        self.read_ns[row] = read_ns

    def put_answer(self, rows: npt.NDArray[np.int64], answer: bytes) -> npt.NDArray[np.int64]:
        """Record what one of `Readers` found in the files of these rows; return the rows that it left."""
        digests = np.frombuffer(answer, np.uint8, offset=8 * len(rows)).reshape(-1, _DIGEST_BYTES)
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

    def digests_of(self, rows: npt.NDArray[np.integer]) -> list[str]:
        """The content digests of some files; "" for one that couldn't be read, and for a row below 0."""
        raw = _raw_digests(self)[rows]
        raw[rows < 0] = 0
        whole, width = raw.tobytes().hex(), 2 * _DIGEST_BYTES
        texts = [whole[at : at + width] for at in range(0, len(whole), width)]
        for row in np.flatnonzero(~raw.any(axis=1)).tolist():
            texts[row] = ""
        return texts

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
        for start in range(0, len(which), CHUNK):
            rows = start + np.flatnonzero(which[start : start + CHUNK])
            reasons = [self.reasons.get(row, "") for row in rows.tolist()] if self.reasons else [""] * len(rows)
            yield Findings(rows, texts_at(self.files.locations, rows), self.digests_of(rows), reasons)

    def write(self, stream: TextIO, which: npt.NDArray[np.bool_]) -> None:
        """Write the same as lines of `_COLUMNS`."""
        for found in self.findings(which):
            numbers = np.c_[self.files.numbers[found.rows], _times(self)[found.rows]].T.tolist()
            lines = zip(found.locations, *numbers, found.digests, found.reasons, strict=True)
            if _QUOTED.search("".join(found.locations + found.reasons)):
                csv.writer(stream).writerows(lines)
            else:  # the same, in half the time
                stream.write("".join([_LINE % line for line in lines]))


def _times(checks: FileChecks) -> npt.NDArray[np.int64]:
    return np.frombuffer(checks.read_ns, np.int64)


def _raw_digests(checks: FileChecks) -> npt.NDArray[np.uint8]:
    """(n, 32), zeros for a file that couldn't be read."""
    return np.frombuffer(checks.digests, np.uint8).reshape(-1, _DIGEST_BYTES)


class DigestCache:
    """Digests by location; a file with an unchanged stat isn't read again."""

    def __init__(self) -> None:
        self._known = FileChecks(FileStats())
        self.used: list[FileChecks] = []

    @classmethod
    def load(cls, path: Path) -> "DigestCache":
        """Read `listing.csv`; an absent or damaged one knows nothing, which costs a reading and no more."""
        cache = cls()
        try:
            with open(path, encoding="utf-8", errors="surrogateescape", newline="", opener=paths.regular) as stream:
                lines = csv.reader(stream)
                if tuple(next(lines, ())) == _COLUMNS:
                    for location, size, mtime, ctime, read, digest, reason in lines:
                        stat = FileStat(location, int(size), int(mtime), int(ctime))
                        cache._known.append(stat, int(read), digest, reason)
        except (OSError, ValueError, OverflowError, csv.Error):
            return cls()
        return cache

    def digest_all(
        self,
        files: FileStats,
        path: Callable[[str], Path | str],
        look: Callable[[bytes], tuple[str, str]] | None,
        progress: Progress,
        read: Callable[[str], bytes] | None = None,
    ) -> FileChecks:
        """Return digest and reason of many files, reading those whose stat is new, several at a time.

        Args:
            files: their stats from before this call.
            path: from a location, where the file is now.
            look: from the content, its digest and why it can't be used; None to hash the file in flat memory.
            progress: counts the files.
            read: from a location, the content, where that isn't a whole file's.
        """
        found = FileChecks(files)
        self.used.append(found)
        progress.start("listing", len(files), "files")
        self._recall(found)
        unknown = np.flatnonzero(~found.examined())
        progress.advance(len(files) - len(unknown))

        stopped = Event()

        def work(rows: npt.NDArray[np.int64]) -> int:
            count = len(rows)
            if len(readers) and files.numbers[rows, 0].min() >= 0:
                answer = readers.answer([str(path(location)) for location in texts_at(files.locations, rows)])
                rows = found.put_answer(rows, answer) if answer else rows
            locations, sizes = texts_at(files.locations, rows), files.numbers[rows, 0].tolist()
            for row, location, size in zip(rows.tolist(), locations, sizes, strict=True):
                if stopped.is_set():
                    break
                found.put(row, *_examined(path(location), location, size, look, read))
            return count

        chunks = (unknown[start : start + _CHUNK] for start in range(0, len(unknown), _CHUNK))
        with ExitStack() as stack:  # an interrupt waits for the files being read, not for 100,000
            stack.callback(progress.finish)
            readers = stack.enter_context(Readers(len(unknown) if look is looked_at and read is None else 0))
            executor = ThreadPoolExecutor(len(readers) or _THREADS, thread_name_prefix="listing")
            stack.callback(executor.shutdown, cancel_futures=True)
            stack.callback(readers.stop)
            stack.callback(stopped.set)
            for some in iter(lambda: list(islice(chunks, _AHEAD)), []):  # a few at a time: each waits as an object
                for count in executor.map(work, some):
                    progress.advance(count)
        return found

    def _recall(self, found: FileChecks) -> None:
        """Take over what is known of files whose stat is the old one."""
        known = self._known
        places = index_of(found.files.locations, known.files.locations)
        now, then, settled = found.files.numbers, known.files.numbers, known.settled()
        for start in range(0, len(places), _RECALLED):
            rows = start + np.flatnonzero(places[start : start + _RECALLED] != NOT_FOUND)
            rows = rows[(now[rows] == then[places[rows]]).all(axis=1) & settled[places[rows]]]
            found.take(rows, known, places[rows])

    def save(self, path: Path, *, unused: bool = False) -> None:
        """Write what this listing used as `listing.csv`; with `unused`, what it didn't get to as well."""
        with (
            replacing(path) as temporary,
            open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream,
        ):
            csv.writer(stream).writerow(_COLUMNS)
            for part in self.used:
                part.write(stream, part.examined())
            if unused:
                self._known.write(stream, self._unused())

    def _unused(self) -> npt.NDArray[np.bool_]:
        known, kept = self._known, np.ones(len(self._known.files), bool)
        for part in self.used:
            places = index_of(part.files.locations, known.files.locations)
            kept[places[part.examined() & (places != NOT_FOUND)]] = False
        return kept


def contents_digest(used: Iterable[FileChecks]) -> str:
    """Return one digest for every location, content and reason, in any order; equal ones give equal manifests."""
    total = 0
    for part in used:
        for found in part.findings(part.examined()):
            records = zip(found.locations, found.digests, found.reasons, strict=True)
            contents = ("\0".join(record).encode("utf-8", "surrogateescape") for record in records)
            total += sum(map(xxhash.xxh3_128_intdigest, contents))
    return f"{total % (1 << 128):032x}"


def _examined(
    path: Path | str,
    location: str,
    size: int,
    look: Callable[[bytes], tuple[str, str]] | None,
    read: Callable[[str], bytes] | None,
) -> tuple[int, str, str]:
    """When a file was read, its content's digest, and why its row is rejected; `size` is what its stat said."""
    read_ns = time.time_ns()
    try:
        if look is None:
            return read_ns, keys.file_digest(Path(path)), ""
        content = read(location) if read else paths.read_bytes(path, MOST_BYTES)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and size >= 0:
            raise SourceChangedError(f"{str(path)!r} was deleted after indexing: run again") from error
        return read_ns, "", f"can't be read: {paths.fault(error)}"
    return read_ns, *look(content)

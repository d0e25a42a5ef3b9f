"""What a listing is based on: a stat of every file, and the digests known from earlier listings.

An unchanged data set costs a stat a file; a touched one costs a read of what was touched, and never a rerun.
`listing.csv` is no Arrow file, as it is read where Luigi schedules.
"""

import csv
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from threading import Event

import numpy as np
import numpy.typing as npt

from featcache.core import keys, paths
from featcache.core.disk import replacing
from featcache.core.progress import Progress
from featcache.core.texts import NOT_FOUND, index_of, texts_at
from featcache.dataset.decoding.versions import MOST_BYTES
from featcache.dataset.file_checks import FileChecks
from featcache.dataset.file_stats import FileStat, FileStats
from featcache.dataset.image_readers import Readers, looked_at
from featcache.errors import SourceChangedError

_THREADS = 8  # reading waits for the disk more than for a core
_CHUNK = 512
_AHEAD = 64
_RECALLED = 1 << 14
_COLUMNS = ("location", "size", "mtime_ns", "ctime_ns", "read_ns", "digest", "reason")


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
        with replacing(path) as temporary, open(temporary, "wb") as stream:
            stream.write(f"{','.join(_COLUMNS)}\r\n".encode("ascii"))
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

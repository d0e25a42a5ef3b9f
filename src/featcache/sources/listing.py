"""What a listing rests on: a stat of every file, and the digests known from earlier listings.

An unchanged data set costs a stat a file; a touched one costs a read of what was touched, and never a rerun.
"""

import csv
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from featcache import keys
from featcache.disk import replacing, write_text
from featcache.errors import SourceChangedError
from featcache.progress import Progress
from featcache.records import read_json

LISTING_VERSION = 1  # raise it when the same files would be listed, checked or digested differently
SETTLE_NS = 2_000_000_000  # the coarsest time stamps in use (FAT) tick every two seconds
_THREADS = 8  # reading waits for the disk more than for a core
_CHUNK = 32
_COLUMNS = ("location", "size", "mtime_ns", "ctime_ns", "read_ns", "digest", "reason")


class FileStat(NamedTuple):
    """What tells, without reading it, that a file is the one listed before.

    `ctime_ns` catches what `mtime_ns` can't: a change in place whose modification time was set back. A file that can't
    be looked at has size -1.
    """

    location: str
    size: int
    mtime_ns: int
    ctime_ns: int


class Examined(NamedTuple):
    """A file's content digest ("" if it couldn't be read) and why its row is set aside ("" if it isn't)."""

    stat: FileStat
    read_ns: int
    digest: str
    reason: str

    @property
    def settled(self) -> bool:
        """False while a later change could hide in the clock tick in which the file was read ("racy git").

        Only the neighbourhood of the reading counts: a time stamp far in the future is as good as any other, because a
        change would replace it.
        """
        return bool(self.digest) and abs(self.read_ns - self.stat.ctime_ns) >= SETTLE_NS


def stat_file(location: str, path: "Path | os.DirEntry[str]") -> FileStat:
    """Look at one file, through links; a dangling link or a forbidden file is listed with size -1, not skipped."""
    try:
        status = path.stat()
    except OSError:
        return FileStat(location, -1, 0, 0)
    return FileStat(location, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def stats_digest(files: Iterable[FileStat]) -> str:
    """Return one digest for what a stat of all `files` says, in any order."""
    return keys.sequence_digest(["\0".join(map(str, file)) for file in sorted(files)])


class DigestCache:
    """Digests by location; what is asked for again with an unchanged stat isn't read again."""

    def __init__(self, known: Iterable[Examined] = ()):
        self._known = {item.stat.location: item for item in known}
        self._used: dict[str, Examined] = {}

    @classmethod
    def load(cls, path: Path) -> "DigestCache":
        """Read `listing.csv`; an absent or damaged one knows nothing, which costs a reading and no more."""
        try:
            with open(path, encoding="utf-8", errors="surrogateescape", newline="") as stream:
                lines = csv.reader(stream)
                if tuple(next(lines, ())) != _COLUMNS:
                    return cls()
                return cls(_parsed(line) for line in lines)
        except (OSError, ValueError, csv.Error):
            return cls()

    def digest(self, path: Path, stat: FileStat, check: Callable[[bytes], str] | None = None) -> Examined:
        """Return digest and reason of one file, reading it only if its stat is new. Thread-safe.

        Args:
            path: where the file is now.
            stat: what was seen of it before this call.
            check: from the content, why it can't be used; None to hash in flat memory without looking.
        """
        if not self._recall(stat):
            self._used[stat.location] = _examined(path, stat, check)
        return self._used[stat.location]

    def digest_all(
        self, files: Sequence[tuple[Path, FileStat]], check: Callable[[bytes], str] | None, progress: Progress
    ) -> None:
        """Do what `digest` does for many files, several at a time."""

        def work(chunk: list[tuple[Path, FileStat]]) -> int:
            for path, stat in chunk:
                self.digest(path, stat, check)
            return len(chunk)

        progress.start("listing", len(files), "files")
        unknown = [(path, stat) for path, stat in files if not self._recall(stat)]
        progress.advance(len(files) - len(unknown))
        remaining = iter(unknown)
        chunks = iter(lambda: list(islice(remaining, _CHUNK)), [])
        executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="listing")
        try:
            for count in executor.map(work, chunks):
                progress.advance(count)
        finally:
            executor.shutdown(cancel_futures=True)  # an interrupt doesn't wait for 100,000 files
            progress.finish()

    def _recall(self, stat: FileStat) -> bool:
        known = self._known.get(stat.location)
        if known is None or known.stat != stat or not known.settled:
            return False
        self._used[stat.location] = known
        return True

    def __getitem__(self, location: str) -> Examined:
        """The file at `location`, which was asked for in this listing."""
        return self._used[location]

    @property
    def used(self) -> list[Examined]:
        """Every file asked for in this listing."""
        return list(self._used.values())

    def save(self, path: Path, *, unused: bool = False) -> None:
        """Write what this listing used as `listing.csv`; with `unused`, what it didn't come to as well.

        Raises:
            StorageError: the disk is full, read-only or not permitted.
        """
        with (
            replacing(path) as temporary,
            open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream,
        ):
            lines = csv.writer(stream)
            lines.writerow(_COLUMNS)
            lines.writerows(
                (*item.stat, *item[1:]) for item in (self._known | self._used if unused else self._used).values()
            )


class Listing(NamedTuple):
    """`listing.json`: the last listing in few words, so that an unchanged one needs no CSV.

    Attributes:
        asked: the settings that were asked for.
        root: where the files were; a moved data set is read again.
        stats: digest of all stats.
        contents: digest of all locations and contents, which decide the manifest.
        settled: no file was changed in the clock tick in which it was read.
        key: the manifest's key.
    """

    asked: dict[str, str]
    root: str
    stats: str
    contents: str
    settled: bool
    key: str

    @classmethod
    def of(cls, asked: dict[str, str], root: str, used: Sequence[Examined], key: str) -> "Listing":
        """Sum up a listing that used these files and led to `key`."""
        stats = stats_digest(item.stat for item in used)
        return cls(
            asked, root, stats, contents_digest(used), all(item.settled or item.stat.size < 0 for item in used), key
        )

    @classmethod
    def load(cls, path: Path) -> "Listing | None":
        """Read it; None when it is absent, damaged or of another version."""
        stored: dict[str, Any] | None = read_json(path)
        if stored is None or stored.pop("version", None) != LISTING_VERSION:
            return None
        try:
            return cls(**stored)
        except TypeError:  # other fields
            return None

    def save(self, path: Path) -> None:
        """Write it.

        Raises:
            StorageError: the disk is full, read-only or not permitted.
        """
        write_text(path, json.dumps({"version": LISTING_VERSION, **self._asdict()}, indent=1) + "\n")


def contents_digest(used: Iterable[Examined]) -> str:
    """Return one digest for every location, content and reason, in any order; equal ones give equal manifests."""
    lines = sorted((item.stat.location, item.digest, item.reason) for item in used)
    return keys.sequence_digest([text for line in lines for text in line])


def _parsed(line: list[str]) -> Examined:
    location, size, mtime, ctime, read, digest, reason = line
    return Examined(FileStat(location, int(size), int(mtime), int(ctime)), int(read), digest, reason)


def _examined(path: Path, stat: FileStat, check: Callable[[bytes], str] | None) -> Examined:
    read_ns = time.time_ns()
    try:
        if check is None:
            return Examined(stat, read_ns, keys.file_digest(path), "")
        content = path.read_bytes()
    except OSError as error:
        if isinstance(error, FileNotFoundError) and stat.size >= 0:
            raise SourceChangedError(f"{str(path)!r} is gone since it was listed: run again to list anew") from error
        return Examined(stat, read_ns, "", f"can't be read: {os.strerror(error.errno or 0)}")
    return Examined(stat, read_ns, keys.bytes_digest(content), check(content))

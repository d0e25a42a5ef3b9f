"""Files as a listing sees them: a stat each, a million in tens of megabytes."""

import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from featcache.core.texts import PackedTexts

_NUMBERS = 3  # size, mtime_ns, ctime_ns
_LARGEST = (1 << 63) - 1  # nanoseconds in the year 2262; whatever is later or earlier counts as the limit
_NO_FILE = (-1, 0, 0)


class FileStat(NamedTuple):
    """What shows, without reading it, that a file is the one listed before.

    `ctime_ns` catches what `mtime_ns` can't: a change in place whose modification time was set back. What is no
    regular file, or can't be looked at, has size -1.
    """

    location: str
    size: int
    mtime_ns: int
    ctime_ns: int


class FileStats:
    """The n files of a data set, in no particular order."""

    def __init__(self, files: Iterable[FileStat] = ()) -> None:
        self.locations = PackedTexts()  #: n unique texts by which the source finds its files
        self.tables: dict[Path, FileStat] = {}  #: the tables that labels or groups are joined from; none of the n
        self.left_out: Counter[str] = Counter()  #: how many files beside them aren't listed, by suffix or reason
        self.passed_over = False  #: whether that lacks what is in folders that weren't looked into
        self.empty: set[str] = set()  #: the class folders of ``train`` without images, where the source has such
        self._numbers = array("q")
        for file in files:
            self.append(file)

    def append(self, file: FileStat) -> None:
        """Add a file."""
        self.locations.append(file.location)
        self._numbers.extend(file[1:])

    def look_at(self, folder: Path, begin: str, names: Sequence[str]) -> None:
        """Add what `stat_file` finds of some files in a folder, whose locations are `begin` and their names."""
        self.locations.extend([f"{begin}{name}" for name in names])
        try:
            opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:  # removed meanwhile
            self._numbers.extend(_NO_FILE * len(names))
            return
        try:  # from an open folder the system looks no path up: a quarter of the time of a million files
            self._numbers.extend(chain.from_iterable([_look(name, opened) for name in names]))
        finally:
            os.close(opened)

    @property
    def numbers(self) -> npt.NDArray[np.int64]:
        """(n, 3) int64: size, mtime_ns, ctime_ns."""
        return np.frombuffer(self._numbers, np.int64).reshape(-1, _NUMBERS)

    def __len__(self) -> int:
        return len(self.locations)

    def __getitem__(self, index: int) -> FileStat:
        return FileStat(self.locations[index], *self._numbers[index * _NUMBERS : (index + 1) * _NUMBERS])

    def __iter__(self) -> Iterator[FileStat]:
        numbers = iter(self._numbers)
        return map(FileStat, self.locations, numbers, numbers, numbers)


def stat_file(location: str, path: Path) -> FileStat:
    """Look at one file, through links; what is no regular file or can't be looked at has size -1, and isn't skipped."""
    return FileStat(location, *_look(path))


def _look(path: Path | str, folder: int | None = None) -> tuple[int, int, int]:
    """A path's numbers, as seen from an open folder."""
    try:
        status = os.stat(path, dir_fd=folder)
    except OSError:
        return _NO_FILE
    if not S_ISREG(status.st_mode):
        return _NO_FILE
    mtime, ctime = status.st_mtime_ns, status.st_ctime_ns
    if -_LARGEST <= mtime <= _LARGEST and -_LARGEST <= ctime <= _LARGEST:
        return status.st_size, mtime, ctime
    mtime, ctime = (max(-_LARGEST, min(_LARGEST, time)) for time in (mtime, ctime))
    return status.st_size, mtime, ctime


def stats_digest(files: FileStats) -> str:
    """Return one digest of the stats of all files, in their order, in which an unchanged folder is walked again.

    Where a file system gives another order, what is known of each file is looked up, and nothing is read.
    """
    state = xxhash.xxh3_128()
    for part in (files, FileStats(files.tables.values())):
        content, bounds = part.locations.packed()
        for buffer in (part.numbers.tobytes(), content, bounds.tobytes()):
            state.update(buffer)
    return state.hexdigest()

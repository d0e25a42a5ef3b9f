"""The lines of `manifest.csv`, left on the disk: parsed once to be checked, and again, some at a time, when they are asked for.

Of a million rows memory holds the labels and, for every 1,024 rows, where their lines stand and what these hash to.
"""

import csv
import hashlib
import io
import os
import weakref
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from featcache.errors import CacheFormatError
from featcache.rows import SPLITS, UNKNOWN_LABEL, Rows
from featcache.texts import CHUNK, Texts

COLUMNS = ("split", "id", "label", "group", "digest", "status", "reason", "location")
_KEPT = 4  # parsed chunks a split: several threads read near each other
_DIGEST_BYTES = 16


@dataclass
class _Split:
    """One split's lines: its labels, and of every 1,024 the range [start, stop) in the file and these bytes' digest."""

    labels: "array[int]" = field(default_factory=lambda: array("i"))
    ranges: list[tuple[int, int]] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)


class _File:
    """A file that stays open: everything is read from the one that was opened, whatever takes its name."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self.path = path
        self._descriptor = os.dup(stream.fileno())
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes [start, stop), fewer where the file ends before."""
        return os.pread(self._descriptor, stop - start, start)

    def digest(self, start: int, stop: int) -> bytes:
        """Return the digest of the bytes [start, stop)."""
        return _digest(self.read(start, stop))


def read_splits(path: Path, class_names: tuple[str, ...]) -> dict[str, Rows]:
    """Return the rows of every split in a `manifest.csv`, whose columns of texts are read when they are asked for.

    Reading them raises `CacheFormatError` if the file was changed in place meanwhile.

    Raises:
        OSError: it can't be read.
        ValueError, csv.Error: it is damaged.
        SourceError: an id stands twice.
    """
    labels = {name: index for index, name in enumerate(class_names)} | {"": UNKNOWN_LABEL}
    with open(path, "rb") as stream:
        file = _File(path, stream)
        found = _scanned(stream, labels)
    for split in found.values():
        split.digests = [file.digest(*chunk) for chunk in split.ranges]
    return {name: _rows(file, found[name]) for name in SPLITS if name in found}


def _scanned(stream: BinaryIO, labels: Mapping[str, int]) -> dict[str, _Split]:
    """Go through the lines once.

    Raises:
        ValueError, csv.Error: they are damaged.
    """
    lines = _Lines(stream)
    reader = csv.reader(lines)
    if tuple(next(reader, ())) != COLUMNS:
        raise ValueError(f"its header is not {','.join(COLUMNS)}")
    found: dict[str, _Split] = {}
    name, begin = "", lines.end
    for line in reader:
        if len(line) != len(COLUMNS) or line[0] not in SPLITS or line[2] not in labels:
            raise ValueError(f"line {reader.line_num} is damaged")
        if line[0] != name:
            name = line[0]
            if name in found:
                raise ValueError(f"line {reader.line_num}: the rows of {name} stand in two places")
            found[name] = _Split()
        split = found[name]
        if len(split.labels) % CHUNK == 0:
            split.ranges.append((begin, begin))
        split.labels.append(labels[line[2]])
        begin = lines.end
        split.ranges[-1] = (split.ranges[-1][0], begin)
    return found


class _Lines:
    """The lines of a file as texts, and where the last one ended."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.end = 0

    def __iter__(self) -> Iterator[str]:
        for line in self._stream:
            self.end += len(line)
            yield line.decode("utf-8", "surrogateescape")


def _rows(file: _File, split: _Split) -> Rows:
    chunk = lru_cache(_KEPT)(partial(_parsed, file, tuple(split.ranges), tuple(split.digests)))
    count = len(split.labels)
    ids, groups, digests, reasons, locations = (
        _Column(chunk, COLUMNS.index(name), count) for name in ("id", "group", "digest", "reason", "location")
    )
    return Rows(ids, np.frombuffer(split.labels, np.int32), groups, digests, reasons, locations)


def _parsed(
    file: _File, ranges: tuple[tuple[int, int], ...], digests: tuple[bytes, ...], number: int
) -> list[list[str]]:
    """Return the fields of one chunk of lines.

    Raises:
        CacheFormatError: they are no longer those that were checked.
    """
    content = file.read(*ranges[number])
    if _digest(content) != digests[number]:
        raise CacheFormatError(f"{file.path} was changed while it was read: run again")
    return list(csv.reader(io.StringIO(content.decode("utf-8", "surrogateescape"), newline="")))


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()


class _Column(Texts):
    """One field of every line of a split."""

    def __init__(self, chunk: Callable[[int], list[list[str]]], field: int, count: int) -> None:
        self._chunk, self._field, self._count = chunk, field, count

    def __len__(self) -> int:
        return self._count

    def decode(self, start: int, stop: int) -> list[str]:
        """Return the texts [start, stop)."""
        texts: list[str] = []
        while start < stop:
            number, first = divmod(start, CHUNK)
            lines = self._chunk(number)[first : first + stop - start]
            texts += [line[self._field] for line in lines]
            start += len(lines)
        return texts

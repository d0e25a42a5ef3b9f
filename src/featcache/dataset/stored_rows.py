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
from functools import lru_cache, partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from featcache.core.paths import regular
from featcache.core.rows import SPLITS, UNKNOWN_LABEL, Rows, RowsKey
from featcache.core.texts import CHUNK, ConstantText, Texts
from featcache.errors import CacheFormatError

COLUMNS = ("split", "id", "label", "group", "digest", "status", "reason", "location")
_KEPT = 4  # parsed chunks a split: several threads read near each other
_DIGEST_BYTES = 16


class _Split:
    """What one look at a split's lines leaves in memory.

    Attributes:
        labels: n class indices.
        ranges: of every 1,024 lines, the bytes [start, stop) in the file.
        key: `Rows.key`.
        hashes: of n ids.
        groups, reasons: the texts that occur, or two and more of them.
    """

    def __init__(self) -> None:
        self.labels, self.hashes, self.key = array("i"), array("q"), RowsKey()
        self.ranges: list[tuple[int, int]] = []
        self.groups: set[str] = set()
        self.reasons: set[str] = set()

    def take(self, lines: list[list[str]], labels: Mapping[str, int], start: int, stop: int) -> None:
        """Take in the next lines, which stand from byte `start` to `stop`."""
        _, ids, names, groups, digests, _, reasons, _ = zip(*lines, strict=True)
        numbers = [labels[name] for name in names]
        self.labels.extend(numbers)
        self.hashes.extend(map(hash, ids))
        self.key.update(numbers, ids, groups, digests, reasons)
        self.ranges.append((start, stop))
        for seen, column in ((self.groups, groups), (self.reasons, reasons)):
            if len(seen) < 2:
                seen.update(column)

    def has_unique_ids(self) -> bool:
        """Whether no two ids have one hash; where two have, the ids themselves tell."""
        hashes = np.frombuffer(self.hashes, np.int64).copy()
        hashes.sort()
        return not (hashes[1:] == hashes[:-1]).any()


class _File:
    """A file that stays open: everything is read from the one that was opened, whatever takes its name."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self.path = path
        self._descriptor = os.dup(stream.fileno())
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes [start, stop), fewer where the file ends before."""
        return os.pread(self._descriptor, stop - start, start)


def read_splits(path: Path, class_names: tuple[str, ...]) -> dict[str, Rows]:
    """Return the rows of every split in a `manifest.csv`, whose columns of texts are read when they are asked for.

    Reading them raises `CacheFormatError` if the file was changed in place meanwhile.

    Raises:
        OSError: it can't be read.
        ValueError, csv.Error: it is damaged.
        SourceError: an id stands twice.
    """
    labels = {name: index for index, name in enumerate(class_names)} | {"": UNKNOWN_LABEL}
    with open(path, "rb", opener=regular) as stream:
        file = _File(path, stream)
        found = _scanned(stream, labels)
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
    chunk: list[list[str]] = []
    begin = end = lines.end
    for line in reader:
        if len(line) != len(COLUMNS) or line[0] not in SPLITS or line[2] not in labels:
            raise ValueError(f"line {reader.line_num} is damaged")
        if chunk and (line[0] != chunk[0][0] or len(chunk) == CHUNK):
            found[chunk[0][0]].take(chunk, labels, begin, end)
            begin, chunk = end, []
        if line[0] not in found:
            found[line[0]] = _Split()
        elif not chunk and len(found[line[0]].labels) % CHUNK:
            raise ValueError(f"line {reader.line_num}: the rows of {line[0]} stand in two places")
        chunk.append(line)
        end = lines.end
    if chunk:
        found[chunk[0][0]].take(chunk, labels, begin, end)
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
    digests = tuple(_digest(file.read(*chunk)) for chunk in split.ranges)
    chunk = lru_cache(_KEPT)(partial(_parsed, file, tuple(split.ranges), digests))
    count, ids = len(split.labels), _Column(chunk, "id", len(split.labels))
    ids.is_unique = split.has_unique_ids()
    groups, reasons = (
        ConstantText(next(iter(seen)), count) if len(seen) == 1 else _Column(chunk, name, count)
        for name, seen in (("group", split.groups), ("reason", split.reasons))
    )
    labels = np.frombuffer(split.labels, np.int32)
    rows = Rows(ids, labels, groups, _Column(chunk, "digest", count), reasons, _Column(chunk, "location", count))
    rows.__dict__["key"] = split.key.hexdigest()  # as the cached property would find it, at the cost of another reading
    return rows


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

    def __init__(self, chunk: Callable[[int], list[list[str]]], name: str, count: int) -> None:
        self._chunk, self._field, self._count = chunk, COLUMNS.index(name), count

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

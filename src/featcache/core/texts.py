"""Columns of texts that cost bytes, not Python objects: decoded on demand, some at a time.

A million row ids as a list of `str` take 80 MB; here they take what a mapped file or one buffer holds anyway.
"""

from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from operator import index as as_index
from typing import overload

import numpy as np
import numpy.typing as npt

CHUNK = 1024  # texts decoded together: their objects stay in a core's cache, and Python's cost a chunk vanishes
NOT_FOUND = -1
_SHOWN = 20

Encoded = tuple[bytes, npt.NDArray[np.int64]]
"""Texts as bytes, one behind the other, and how many bytes each has."""


class Texts(Sequence[str]):
    """n texts; compares like a list, and prints like one that is cut short.

    Attributes:
        is_unique: True where it is known that none occurs twice, so that `first_duplicate` needn't look.
    """

    is_unique = False

    @abstractmethod
    def decode(self, start: int, stop: int) -> list[str]:
        """Return the texts [start, stop), 0 <= start <= stop <= n."""

    def encoded(self, start: int, stop: int, errors: str = "surrogateescape") -> Encoded:
        """Return the UTF-8 of the texts [start, stop)."""
        return encoded(self.decode(start, stop), errors)

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), CHUNK):
            yield from self.decode(start, min(start + CHUNK, len(self)))

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return self.decode(start, max(start, stop))
            return [self[i] for i in range(start, stop, step)]
        at = as_index(index)
        at += len(self) if at < 0 else 0
        if not 0 <= at < len(self):
            raise IndexError(f"index={index} is out of range for {len(self)} texts")
        return self.decode(at, at + 1)[0]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (Texts, list, tuple)):
            return NotImplemented
        return self is other or (len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True)))

    __hash__ = None  # type: ignore[assignment]  # as of a list

    def __repr__(self) -> str:
        shown = repr(self[:_SHOWN])
        return shown if len(self) <= _SHOWN else f"{shown[:-1]}, ... ({len(self)} in all)]"


class ConstantText(Texts):
    """One text, n times: groups where there are none, reasons where every row is fine."""

    def __init__(self, text: str, count: int) -> None:
        self._text, self._count = text, count

    def __len__(self) -> int:
        return self._count

    def decode(self, start: int, stop: int) -> list[str]:
        """Return the texts [start, stop)."""
        return [self._text] * (stop - start)

    def encoded(self, start: int, stop: int, errors: str = "surrogateescape") -> Encoded:
        """Return the UTF-8 of the texts [start, stop)."""
        raw = self._text.encode("utf-8", errors)
        return raw * (stop - start), np.full(stop - start, len(raw))


class FixedTexts(Texts):
    """The texts of an (n,) array of fixed-length UTF-8, NUL-padded, such as a mapped column of a cache."""

    def __init__(self, column: npt.NDArray[np.bytes_]) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    def decode(self, start: int, stop: int) -> list[str]:
        """Return the texts [start, stop); bytes that aren't UTF-8 come as Python's file names have them."""
        return [raw.decode("utf-8", "surrogateescape") for raw in self._column[start:stop].tolist()]


class PackedTexts(Texts):
    """Texts one after the other in one buffer: their bytes, and eight for where each ends."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._buffer: bytes | bytearray = bytearray()
        self._ends = array("q")
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        """Add a text."""
        self._buffer += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._buffer))

    def extend(self, texts: Sequence[str]) -> None:
        """Add some texts."""
        raw, lengths = encoded(texts, "surrogatepass")
        self._ends.frombytes((len(self._buffer) + np.cumsum(lengths)).tobytes())
        self._buffer += raw

    def __len__(self) -> int:
        return len(self._ends)

    def decode(self, start: int, stop: int) -> list[str]:
        """Return the texts [start, stop)."""
        bounds = [self._ends[start - 1] if start else 0, *self._ends[start:stop]]
        first, raw = bounds[0], self._buffer[bounds[0] : bounds[-1]]
        if raw.isascii():  # so that a text is a slice of them all
            whole = raw.decode("ascii")
            return [whole[a - first : b - first] for a, b in pairwise(bounds)]
        return [self._buffer[a:b].decode("utf-8", "surrogatepass") for a, b in pairwise(bounds)]

    def encoded(self, start: int, stop: int, errors: str = "surrogateescape") -> Encoded:
        """Return the UTF-8 of the texts [start, stop)."""
        first = self._ends[start - 1] if start else 0
        ends = np.frombuffer(self._ends[start:stop], np.int64)
        raw = bytes(self._buffer[first : ends[-1]]) if start < stop else b""
        return (raw, np.diff(ends, prepend=first)) if raw.isascii() else super().encoded(start, stop, errors)

    def taken(self, rows: npt.NDArray[np.uint32]) -> "PackedTexts":
        """Return the texts of some rows: they are read faster in their order. None can be added."""
        import pyarrow as pa

        content, bounds = self.packed()
        own = [None, pa.py_buffer(bounds), pa.py_buffer(content)]
        places = pa.Array.from_buffers(pa.uint32(), len(rows), [None, pa.py_buffer(rows)])
        taken = PackedTexts()
        if len(rows):
            _, ends, content = pa.Array.from_buffers(pa.large_binary(), len(self), own).take(places).buffers()
            taken._buffer, taken._ends = content.to_pybytes(), array("q", ends.to_pybytes()[8 : 8 + 8 * len(rows)])
        return taken

    def packed(self) -> tuple[bytes | bytearray, npt.NDArray[np.int64]]:
        """Return the texts' bytes, and (n + 1,) where each begins and the last ends; while they are used, none can be added."""
        return self._buffer, np.r_[0, np.frombuffer(self._ends, np.int64)]


class ChosenTexts(Texts):
    """The texts of an (n,) array of rows of others, "" for a row below 0."""

    def __init__(self, texts: PackedTexts, rows: npt.NDArray[np.integer]) -> None:
        (self._buffer, self._bounds), self._rows = texts.packed(), rows

    def __len__(self) -> int:
        return len(self._rows)

    def decode(self, start: int, stop: int) -> list[str]:
        """Return the texts [start, stop)."""
        rows = self._rows[start:stop]
        ends = np.where(rows < 0, self._bounds[rows], self._bounds[rows + 1])
        places = zip(self._bounds[rows].tolist(), ends.tolist(), strict=True)
        return [self._buffer[a:b].decode("utf-8", "surrogatepass") for a, b in places]


class ComputedTexts(Texts):
    """Texts that are computed from their number, 0 to `count` - 1."""

    def __init__(self, count: int, text: Callable[[int], str]) -> None:
        self._count, self._text = count, text

    def __len__(self) -> int:
        return self._count

    def decode(self, start: int, stop: int) -> list[str]:
        """Return the texts [start, stop)."""
        return [self._text(row) for row in range(start, stop)]


class DecodedTexts(Texts):
    """Texts that are computed some at a time, by a function from `start` and `stop` to the texts [start, stop) of `count`."""

    def __init__(self, count: int, texts: Callable[[int, int], list[str]]) -> None:
        self._count, self._texts = count, texts

    def __len__(self) -> int:
        return self._count

    def decode(self, start: int, stop: int) -> list[str]:
        """Return the texts [start, stop)."""
        return self._texts(start, stop)


def encoded(texts: Sequence[str], errors: str = "surrogateescape") -> Encoded:
    """Return the UTF-8 of texts."""
    whole = "".join(texts)
    if whole.isascii():
        return whole.encode("ascii"), np.fromiter(map(len, texts), np.int64, len(texts))
    raw = [text.encode("utf-8", errors) for text in texts]
    return b"".join(raw), np.fromiter(map(len, raw), np.int64, len(raw))


def encoded_part(texts: Sequence[str], start: int, stop: int, errors: str = "surrogateescape") -> Encoded:
    """Return the UTF-8 of the texts [start, stop) of a column of any kind."""
    return texts.encoded(start, stop, errors) if isinstance(texts, Texts) else encoded(texts[start:stop], errors)


def texts_at(texts: Sequence[str], rows: npt.NDArray[np.integer]) -> list[str]:
    """Return the texts of k ascending rows; rows near each other are decoded together."""
    if not len(rows) or rows[-1] - rows[0] >= CHUNK:
        return [texts[row] for row in rows.tolist()]
    near = list(texts[int(rows[0]) : int(rows[-1]) + 1])
    return near if len(near) == len(rows) else [near[row] for row in (rows - rows[0]).tolist()]


def first_duplicate(texts: Sequence[str]) -> str | None:
    """Return a text that occurs twice, or None; takes 8 bytes a text."""
    if isinstance(texts, Texts) and texts.is_unique:
        return None
    hashes = _hashes(texts)
    hashes.sort()
    suspects = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    seen: set[str] = set()
    for text in texts if suspects else ():
        if hash(text) in suspects:
            if text in seen:
                return text
            seen.add(text)
    return None


def index_of(wanted: Sequence[str], among: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return (k,) the index of each of k wanted texts among n others, of the first if it occurs there more than once.

    It is -1 for a text that isn't among them. Takes 24 bytes a text.
    """
    found = np.full(len(wanted), NOT_FOUND, np.int64)
    if not len(wanted) or not len(among):
        return found
    theirs = _hashes(among)
    order = np.argsort(theirs, kind="stable")
    theirs.sort(kind="stable")
    for start in range(0, len(wanted), CHUNK):
        texts = wanted[start : start + CHUNK]
        hashes = _hashes(texts)
        first = np.searchsorted(theirs, hashes).tolist()
        for offset, (text, value, at) in enumerate(zip(texts, hashes.tolist(), first, strict=True)):
            candidate = at
            while candidate < len(theirs) and theirs[candidate] == value:  # more than once only where hashes collide
                if among[int(order[candidate])] == text:
                    found[start + offset] = order[candidate]
                    break
                candidate += 1
    return found


def _hashes(texts: Sequence[str]) -> npt.NDArray[np.int64]:
    return np.fromiter(map(hash, texts), np.int64, len(texts))

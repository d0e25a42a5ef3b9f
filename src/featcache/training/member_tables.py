"""What several members say of the same rows: tables that may be larger than memory, read in parts of rows. NumPy only."""

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Float32s = npt.NDArray[np.float32]
RowNumbers = npt.NDArray[np.integer]

_PART_VALUES = 4_000_000  # about 16 MB of float32 at a time


@dataclass(frozen=True, eq=False)
class JoinedTables:
    """The members of several tables side by side, on the same n rows, which each table may have in an order of its own.

    It is indexed as an (m, n, C) array is, by a member, or by ``[member, rows]`` and ``[:, rows]``; nothing is read
    before.

    Attributes:
        tables: (m_i, n_i, C) float32 each, in memory or in a mapped file.
        rows: for each table the (n,) rows that are meant, or None for all of them in its order.
    """

    tables: tuple[Float32s, ...]
    rows: tuple[RowNumbers | None, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Members, rows, classes."""
        first, rows = self.tables[0], self.rows[0]
        return len(self), first.shape[1] if rows is None else len(rows), first.shape[2]

    def __len__(self) -> int:
        """The number of members."""
        return sum(map(len, self.tables))

    def __iter__(self) -> Iterator[Float32s]:
        """Member by member, (n, C) each."""
        return (self[member] for member in range(len(self)))

    def __getitem__(self, key: Any) -> Float32s:
        """Read one member, (n, C), or of one or all members some rows."""
        member, rows = key if isinstance(key, tuple) else (key, slice(None))
        pairs = zip(self.tables, self.rows, strict=True)
        if member == slice(None):
            return np.concatenate([table[:, rows if own is None else own[rows]] for table, own in pairs])
        at = range(len(self))[operator.index(member)]  # raises IndexError and TypeError as an array does
        for table, own in pairs:
            if at < len(table):
                return np.asarray(table[at, rows if own is None else own[rows]])
            at -= len(table)
        raise AssertionError("a member in range is in one of the tables")


Tables = Float32s | JoinedTables


def joined(several: Sequence[Tables]) -> Tables:
    """Return the members of `several` side by side; all have the same rows and classes."""
    if len(several) == 1:
        return several[0]
    pairs = [pair for each in several for pair in _pairs(each)]
    return JoinedTables(tuple(table for table, _ in pairs), tuple(rows for _, rows in pairs))


def selected(tables: Tables, rows: RowNumbers) -> JoinedTables:
    """Return these rows of all members, unread."""
    pairs = _pairs(tables)
    return JoinedTables(
        tuple(table for table, _ in pairs), tuple(rows if own is None else own[rows] for _, own in pairs)
    )


def _pairs(tables: Tables) -> list[tuple[Float32s, RowNumbers | None]]:
    if isinstance(tables, JoinedTables):
        return list(zip(tables.tables, tables.rows, strict=True))
    return [(tables, None)]


def label_probabilities(tables: Tables, rows: RowNumbers, labels: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Return (m, r): what each member gives the label of each of r `rows`, whose `labels` these are."""
    found = [table[:, rows if own is None else own[rows], labels] for table, own in _pairs(tables)]
    return np.concatenate(found).astype(np.float64)


def row_parts(rows: int, values: int, least: int = 1) -> Iterator[slice]:
    """Yield slices that cover `rows` rows of `values` values each, some megabytes or `least` rows at a time."""
    step = max(least, _PART_VALUES // max(1, values))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def table_parts(tables: Tables, rows: RowNumbers | None = None) -> Iterator[tuple[slice, Float32s]]:
    """Yield (place, (m, r, C) float32): a part of `rows` of all members after the other; None for all rows.

    The place counts within `rows`.
    """
    members, count, classes = tables.shape
    for place in row_parts(count if rows is None else len(rows), members * classes):
        yield place, tables[:, place if rows is None else rows[place]]

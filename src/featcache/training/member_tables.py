"""Several members' probabilities of the same rows: tables that may be larger than memory, read by rows. NumPy only."""

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
    """The members of several tables, (m_i, N, C) float32 each, of the same rows side by side, or of n `rows` of them.

    It is indexed as an (m, n, C) array is, by a member, or by ``[member, rows]`` and ``[:, rows]``; nothing is read
    before.
    """

    tables: tuple[Float32s, ...]
    rows: RowNumbers | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Members, rows, classes."""
        _, rows, classes = self.tables[0].shape
        return len(self), rows if self.rows is None else len(self.rows), classes

    def __len__(self) -> int:
        """The number of members."""
        return sum(map(len, self.tables))

    def __iter__(self) -> Iterator[Float32s]:
        """Member by member, (n, C) each."""
        return (self[member] for member in range(len(self)))

    def __getitem__(self, key: Any) -> Float32s:
        """Read one member, (n, C), or of one or all members some rows."""
        member, rows = key if isinstance(key, tuple) else (key, slice(None))
        rows = rows if self.rows is None else self.rows[rows]
        if member == slice(None):
            return np.concatenate([table[:, rows] for table in self.tables])
        at = range(len(self))[operator.index(member)]  # raises IndexError and TypeError as an array does
        for table in self.tables:
            if at < len(table):
                return np.asarray(table[at, rows])
            at -= len(table)
        raise AssertionError("a member in range is in one of the tables")


Tables = Float32s | JoinedTables


def joined(several: Sequence[Tables]) -> Tables:
    """Return the members of `several` side by side; all have the same rows and classes. A selection of rows is read."""
    if len(several) == 1:
        return several[0]
    whole = (each[:, :] if isinstance(each, JoinedTables) and each.rows is not None else each for each in several)
    return JoinedTables(tuple(table for each in whole for table in _tables(each)))


def selected(tables: Tables, rows: RowNumbers) -> JoinedTables:
    """Return these rows of all members, unread."""
    own = tables.rows if isinstance(tables, JoinedTables) else None
    return JoinedTables(_tables(tables), rows if own is None else own[rows])


def _tables(tables: Tables) -> tuple[Float32s, ...]:
    return tables.tables if isinstance(tables, JoinedTables) else (tables,)


def label_probabilities(tables: Tables, rows: RowNumbers, labels: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Return (m, r): what each member gives the label of each of r `rows`, whose `labels` these are."""
    chosen = selected(tables, rows)
    return np.concatenate([table[:, chosen.rows, labels] for table in chosen.tables]).astype(np.float64)


def row_parts(rows: int, values: int, least: int = 1) -> Iterator[slice]:
    """Yield slices that cover `rows` rows of `values` values each, some megabytes or `least` rows at a time."""
    step = max(least, _PART_VALUES // max(1, values))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def table_parts(tables: Tables, rows: RowNumbers | None = None) -> Iterator[tuple[slice, Float32s]]:
    """Yield (place in `rows`, (m, r, C) float32): a part of the rows, or of all, of all members after the other."""
    members, count, classes = tables.shape
    for place in row_parts(count if rows is None else len(rows), members * classes):
        yield place, tables[:, place if rows is None else rows[place]]

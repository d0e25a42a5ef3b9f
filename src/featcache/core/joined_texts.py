"""Columns of texts and numbers joined row by row, a million rows in a second: lines of a file, and what digests take.

pyarrow takes a moment to import. Where work is done it is there; where Luigi schedules, Python joins in four times the time.
"""

import hashlib
import sys
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise, repeat
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.texts import Encoded, encoded_part

PART = 1 << 13  # rows joined at once: the bytes of as many are in memory
Column = bytes | Encoded | npt.NDArray[np.int64]


def joined(*columns: Column) -> tuple[bytes, npt.NDArray[np.integer]]:
    """Return n rows, one behind the other, and (n + 1,) where each begins and the last ends.

    A row has each column's text, or the decimals of its number, in the columns' order; plain bytes are the same in all rows.
    """
    return _by_arrow(*columns) if "pyarrow.compute" in sys.modules else _by_python(*columns)


def _by_python(*columns: Column) -> tuple[bytes, npt.NDArray[np.integer]]:
    rows = [b"".join(cells) for cells in zip(*map(_cells, columns), strict=False)]  # plain bytes never end
    return b"".join(rows), np.cumsum([0, *map(len, rows)])


def _cells(column: Column) -> Iterator[bytes]:
    if isinstance(column, bytes):
        return repeat(column)
    if isinstance(column, np.ndarray):
        return map(b"%d".__mod__, column.tolist())
    return (column[0][a:b] for a, b in pairwise(accumulate(column[1].tolist(), initial=0)))


def _by_arrow(*columns: Column) -> tuple[bytes, npt.NDArray[np.integer]]:
    from pyarrow.compute import binary_join_element_wise

    rows = binary_join_element_wise(*map(_column, columns), _column(b""))
    _, ends, content = rows.buffers()
    return content.to_pybytes(), np.frombuffer(ends, np.int32)[: len(rows) + 1]


def _column(column: Column) -> Any:
    import pyarrow as pa

    if isinstance(column, bytes):  # `pyarrow.scalar` would import pandas, as `pyarrow.array`
        return arrow_column((column, np.array([len(column)])), pa.binary())[0]
    if isinstance(column, np.ndarray):
        numbers = [None, pa.py_buffer(np.ascontiguousarray(column))]
        return pa.Array.from_buffers(pa.int64(), len(column), numbers).cast(pa.string()).cast(pa.binary())
    return arrow_column(column, pa.binary())


def arrow_column(texts: Encoded, kind: Any) -> Any:
    """Return texts as Arrow's array of that kind, string or binary."""
    import pyarrow as pa

    ends = np.zeros(len(texts[1]) + 1, np.int32)
    np.cumsum(texts[1], out=ends[1:])
    return pa.Array.from_buffers(kind, len(texts[1]), [None, pa.py_buffer(ends), pa.py_buffer(texts[0])])


def column_digest(texts: Sequence[str]) -> str:
    """Return the key of a sequence of texts without building its JSON (length-prefixed, so unambiguous)."""
    state = hashlib.sha256()
    for start in range(0, len(texts), PART):
        some = encoded_part(texts, start, min(start + PART, len(texts)))
        state.update(joined(some[1], b":", some)[0])
    return state.hexdigest()

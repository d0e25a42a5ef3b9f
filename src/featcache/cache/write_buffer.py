"""Rows of unfinished blocks, held in memory until their block is whole: it goes to the file in one long write.

Only whole blocks count, so a kill costs nothing that it would not have cost anyway. And the system can map most of what came
in long writes in large pages; a file that came batch by batch is read up to a fifth slower until it has left the page cache.
"""

import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from featcache.cache.encoding import StoredRows


class WriteBuffer:
    """Collects pieces and decides what is to be written now. Its methods may be called from several threads.

    Args:
        block_rows: rows of a block.
        missing: (blocks,), how many rows of each are still to come.
        most: bytes of features to hold; with more, all go to the file as they are. With 0 nothing is held.
    """

    def __init__(self, block_rows: int, missing: npt.NDArray[np.int64], most: int) -> None:
        self._block_rows = block_rows
        self._missing = missing.copy()
        self._most = most
        self._pieces: defaultdict[int, list[StoredRows]] = defaultdict(list)
        self._bytes = 0
        self._lock = threading.Lock()

    def add(self, parts: Mapping[int, StoredRows]) -> list[StoredRows]:
        """Take rows by block and return what is to be written: the pieces of blocks that are whole now, or all that are held.

        Args:
            parts: from `StoredRows.by_block`.
        """
        with self._lock:
            for block, part in parts.items():
                self._missing[block] -= len(part.rows)
                self._pieces[block].append(part)
                self._bytes += part.nbytes
            ready = self._take([block for block in parts if not self._missing[block]])
            return ready + self._take(list(self._pieces)) if self._bytes > self._most else ready

    def forget(self, rows: npt.NDArray[np.int64]) -> None:
        """Expect (k,) rows that `add` returned once more: they could not be written."""
        with self._lock:
            np.add.at(self._missing, rows // self._block_rows, 1)

    def _take(self, blocks: Sequence[int]) -> list[StoredRows]:
        taken = [piece for block in blocks for piece in self._pieces.pop(block)]
        self._bytes -= sum(piece.nbytes for piece in taken)
        return taken

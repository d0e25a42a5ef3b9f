"""Writing one feature cache: any rows in any order, durable block by block, published whole."""

import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from featcache.cache import partial_file
from featcache.cache.block_checksums import read_rows
from featcache.cache.encoding import StoredRows, put_rows, stored_rows
from featcache.cache.journal import Journal
from featcache.cache.layout import (
    BLOCK_BYTES,
    HOLDER_BYTES,
    PARTIAL_SUFFIX,
    CacheHeader,
    Status,
    partial_path,
    run_bytes,
)
from featcache.cache.write_buffer import WriteBuffer
from featcache.core.disk import disk, storage_errors
from featcache.errors import CacheError

_HELD_BYTES = 4 * BLOCK_BYTES  # of rows whose blocks aren't whole
_LOG = logging.getLogger(__name__)


class CacheWriter:
    """Writes the cache `path` through its partial file, which it holds while the ``with`` block lasts.

    Leaving the block without `publish`, or being killed, keeps the partial: the next writer of the same header
    resumes at its last durable block. `write` may be called from several threads.

    Args:
        path: the finished file's path, ``*.h5``; it is not touched before `publish`.
        header: what the file holds. A partial of the same key keeps its own `block_rows` and settings.
        fresh: drop what an earlier try left in the partial, and compute everything again.
        shared: other processes write rows, too (`write_block`), maybe on other machines.

    Attributes:
        path: the finished file's path.
        partial: where the file grows meanwhile.
        durable: (n,) bool, rows that are in verified blocks already; they must not be written again.
        block_rows: rows of a block as the file has it.
        holder: what the file records of this process, by which others recognise it.
    """

    def __init__(self, path: Path, header: CacheHeader, *, fresh: bool = False, shared: bool = False) -> None:
        if path.suffix != ".h5" or path.name.endswith(PARTIAL_SUFFIX):
            raise ValueError(f"path={str(path)!r} is not the path of a finished cache: name it *.h5")
        self.path = path
        self.partial = partial_path(path, header.key)
        self.durable: npt.NDArray[np.bool_] = np.zeros(len(header.rows), dtype=bool)
        self.block_rows = header.block_rows
        self._header = header
        self._fresh, self._shared = fresh, shared
        self._descriptor: int | None = None
        self.holder = b""
        self._lock = threading.Lock()

    def __enter__(self) -> "CacheWriter":
        """Take hold of the partial file, make or resume it, and reserve its space.

        Raises:
            CacheLockedError: another live process is writing it.
            StorageError: not enough space, no permission, a failing disk.
        """
        taken = partial_file.take(self.partial, self._header, fresh=self._fresh, shared=self._shared)
        self._descriptor, structure, durable = taken
        try:
            self._structure, self.block_rows = structure, structure.block_rows
            self.holder = os.pread(self._descriptor, HOLDER_BYTES, structure.places["journal/holder"].offset)
            blocks = np.arange(structure.n) // self.block_rows
            self.durable = np.isin(blocks, durable)
            self._missing = np.bincount(blocks[~self.durable], minlength=structure.blocks)
            self._claimed = self.durable.copy()
            # other processes read whole blocks back, and need what is in them
            self._held = WriteBuffer(self.block_rows, self._missing, 0 if self._shared else _HELD_BYTES)
            self._journal = Journal(self._descriptor, structure)
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Journal what is finished, keep the partial and let go of it.

        Raises:
            StorageError: the disk refused what was written last, and no other error is on its way.
        """
        if self._descriptor is None:
            return
        try:
            self._journal.close()
            self._journal.check()
            with storage_errors(self.partial, "could not write"):
                disk.fsync(self._descriptor)
        except Exception:
            if kind is None:
                raise
            _LOG.exception("the last blocks of %s are not durable", self.partial)
        finally:
            self._release()

    def write(
        self,
        rows: npt.NDArray[np.integer],
        features: Mapping[str, npt.NDArray[np.floating]],
        status: npt.NDArray[np.uint8],
    ) -> None:
        """Write k rows; a block whose last row this is becomes durable soon after. Rows of other blocks may wait in memory.

        Args:
            rows: (k,) integers, positions in the header's rows, each written once in a file's life.
            features: every tap's (k, h, w, c) or (k, c) float16 or float32; not to be changed afterwards, as float16 is
                held as it is. Values of rejected rows are ignored, zeros are stored.
            status: (k,), 1 ok or 2 rejected.

        Raises:
            FeatureValueError: NaN, infinity or a value beyond float16's range, with its row id and tap.
            StorageError: the disk refused, now or when an earlier block was made durable. Rows that it refused now
                count as never written: those of the blocks that were to go out, earlier calls' among them. This
                call's other rows are kept.
            ValueError: arrays that don't fit each other or the header, or a row that was written before.
        """
        with self._own_descriptor() as descriptor:
            self._journal.check()
            stored = stored_rows(self._structure, np.asarray(rows), features, np.asarray(status), self._header.rows.ids)
            parts = stored.by_block(self.block_rows)
            self._claim(stored.rows)
            self._put(descriptor, self._held.add(parts))

    def accept_block(self, rows: npt.NDArray[np.integer], checksum: bytes) -> None:
        """Take over k rows that another process wrote and made durable, the last ones of one block (`write_block`).

        Args:
            rows: (k,) integers, all of one block.
            checksum: of the whole block, as it was read back there.

        Raises:
            StorageError: the disk refused when an earlier block was made durable.
            ValueError: a row was written before, or the block lacks other rows.
        """
        self._open_descriptor()
        self._journal.check()
        block = int(rows[0]) // self.block_rows
        if (rows // self.block_rows != block).any() or int(self._missing[block]) != len(rows):
            raise ValueError(f"{len(rows)} rows are not the {self._missing[block]} that block {block} lacks")
        self._claim(rows.astype(np.int64))
        self._count_down([rows], checksum)

    def publish(self, run: Mapping[str, object]) -> Path:
        """Give the finished file its name, and return that; afterwards it is never changed.

        Args:
            run: JSON-able facts about how the file was made; `rows` is added.

        Raises:
            CacheError: a row was never written.
            StorageError: the disk refused.
            ValueError: `run` is longer than 64 KiB as JSON.
        """
        descriptor = self._open_descriptor()
        self._journal.check()
        self._refuse_gaps()
        self._journal.close()
        self._journal.check()
        places, n = self._structure.places, self._structure.n
        status = read_rows(descriptor, self._structure, "status", 0, n)
        counts = {"total": n, **{s.text: int((status == s).sum()) for s in (Status.OK, Status.REJECTED)}}
        content = run_bytes({**run, "rows": counts})
        with storage_errors(self.partial, "could not publish"):
            disk.pwrite(descriptor, content, places["record/run"].offset)
            disk.pwrite(descriptor, bytes(HOLDER_BYTES), places["journal/holder"].offset)
            disk.fsync(descriptor)
            disk.pwrite(descriptor, b"\1", places["journal/complete"].offset)
            disk.fsync(descriptor)
            disk.replace(self.partial, self.path)
        self._release()
        partial_file.remove_superseded(self.path)
        return self.path

    def _put(self, descriptor: int, pieces: Sequence[StoredRows]) -> None:
        try:
            put_rows(descriptor, self._structure, pieces)
        except BaseException:
            for piece in pieces:
                self._held.forget(piece.rows)
                with self._lock:
                    self._claimed[piece.rows] = False
            raise
        self._count_down([piece.rows for piece in pieces])

    def _claim(self, rows: npt.NDArray[np.int64]) -> None:
        """Mark rows as this call's own, so that a row counts once in its block."""
        with self._lock:
            again = rows[self._claimed[rows]]
            if len(again) or len(np.unique(rows)) != len(rows):
                twice = self._header.rows.ids[int(again[0] if len(again) else rows[0])]
                raise ValueError(f"id={twice!r} or a neighbour comes twice: write every row once")
            self._claimed[rows] = True

    def _count_down(self, written: Sequence[npt.NDArray[np.integer]], checksum: bytes | None = None) -> None:
        """Count rows that are in the file, one block's at a time, and hand over the blocks that are complete."""
        with self._lock:  # to the end: `publish` must not find a whole block that nobody has handed over
            for rows in written:
                block = int(rows[0]) // self.block_rows
                self._missing[block] -= len(rows)
                if not self._missing[block]:
                    self._journal.submit(block, checksum)

    def _refuse_gaps(self) -> None:
        gaps = np.flatnonzero(~self._claimed)
        if len(gaps):
            first = self._header.rows.ids[int(gaps[0])]
            missing = f"{len(gaps)} of {self._structure.n} rows are missing, the first is id={first!r}"
            raise CacheError(f"{self.partial} can't be published: {missing}")
        with self._lock:
            under_way = self._missing.any()
        if under_way:
            raise ValueError(f"a write of {self.partial} is still under way: publish when all have returned")

    def _open_descriptor(self) -> int:
        if self._descriptor is None:
            raise ValueError(f"{self.partial} is not open: write inside its with block, before it is published")
        return self._descriptor

    @contextmanager
    def _own_descriptor(self) -> Iterator[int]:
        """Yield a copy of the descriptor, for as long as a thread writes."""
        # a second Ctrl-C may release the file meanwhile, and whatever is opened next gets its number
        with self._lock:
            descriptor = os.dup(self._open_descriptor())
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _release(self) -> None:
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)  # the lock goes with it, or with the last copy
                self._descriptor = None

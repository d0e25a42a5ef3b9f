"""The thread that makes finished blocks durable: bytes first, then the checksum that says so."""

import os
import queue
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from featcache.cache.block_checksums import BlockScan, ScanBuffer, scan_block
from featcache.cache.file_parser import Structure
from featcache.cache.layout import CHECKSUM_BYTES
from featcache.core.disk import disk, storage_errors
from featcache.core.system import core_numbers

# Blocks read back at once, where several wait. One core is left to who writes: with two readers on two cores they fight for
# the cores and the interpreter's lock, and the same work takes a fifth more processor time.
_READERS = 2


class Journal:
    """Takes blocks whose rows are all written, in any order, and journals them in the background.

    A block's checksum is written only after an fsync that began when all of the block's bytes were in the file, so
    whatever a power loss leaves, a whole checksum stands for whole bytes. The checksum itself becomes durable with the
    next fsync; losing it costs one block's work and no more.

    The checksum is of the bytes as they were read back, as a rule from the system's cache. So it tells, later, what the disk
    lost or anyone changed from then on. What changed on its way into the file it takes for true.
    """

    def __init__(self, descriptor: int, structure: Structure, scans: dict[int, BlockScan]) -> None:
        """Journal into the file behind `descriptor`; `scans` receives what each block's reading back found."""
        self.scans = scans
        self._structure = structure
        self._blocks: queue.SimpleQueue[tuple[int, Future[BlockScan]] | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name=f"journal of {structure.path.name}", daemon=True)
        self._scratches: queue.SimpleQueue[ScanBuffer] = queue.SimpleQueue()
        readers = max(1, min(_READERS, len(core_numbers()) - 1))
        for _ in range(readers):
            self._scratches.put(ScanBuffer(structure))
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="featcache-checksum")
        # its own: who closes the file while this still works must not let it write into whatever gets that number next
        self._descriptor = os.dup(descriptor)
        self._thread.start()

    def submit(self, block: int, scan: BlockScan | None = None) -> None:
        """Hand over a block whose bytes are all in the file; returns at once.

        With `scan`, who wrote it has made it durable and read it back. Otherwise a thread begins to read it at once, while
        the disk still syncs the blocks before it.

        Raises:
            RuntimeError: the journal is closed.
            StorageError: the disk refused an earlier block.
        """
        if scan is None:
            try:
                found = self._readers.submit(self._scan, block)
            except RuntimeError:
                self.check()
                raise
        else:
            found = Future()
            found.set_result(scan)
        self._blocks.put((block, found))

    def check(self) -> None:
        """Raise what went wrong in the background, if anything did."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Wait until every block handed over is journaled or something went wrong; `check` tells which."""
        self._blocks.put(None)
        self._thread.join()

    def _work(self) -> None:
        try:
            while (first := self._blocks.get()) is not None:
                waiting, last = self._waiting(first)
                self._make_durable(waiting)
                if last:
                    return
        except BaseException as error:  # noqa: BLE001 - it is raised where the user's call is, by `check`
            self._error = error
        finally:  # here, as a Ctrl-C may end the waiting in `close`: whoever holds a descriptor holds the file's lock
            self._readers.shutdown(cancel_futures=self._error is not None)
            os.close(self._descriptor)

    def _scan(self, block: int) -> BlockScan:
        scratch = self._scratches.get()
        try:
            with storage_errors(self._structure.path, "could not read back"):
                return scan_block(self._descriptor, self._structure, block, scratch)
        finally:
            self._scratches.put(scratch)

    def _waiting(self, first: tuple[int, Future[BlockScan]]) -> tuple[dict[int, Future[BlockScan]], bool]:
        """Return `first` and all that wait behind it (one fsync serves them all), and whether the end was among them."""
        waiting = dict([first])
        while not self._blocks.empty():
            following = self._blocks.get()
            if following is None:
                return waiting, True
            waiting.update([following])
        return waiting, False

    def _make_durable(self, waiting: dict[int, Future[BlockScan]]) -> None:
        path: Path = self._structure.path
        offset = self._structure.places["journal/checksum"].offset
        with storage_errors(path, "could not write"):
            disk.fsync(self._descriptor)
            scans = {block: found.result() for block, found in waiting.items()}
            for block, scan in scans.items():
                disk.pwrite(self._descriptor, scan.checksum, offset + block * CHECKSUM_BYTES)
        self.scans.update(scans)

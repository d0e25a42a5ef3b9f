"""The thread that makes finished blocks durable: bytes first, then the checksum that says so."""

import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from featcache.cache.blocks import BlockScan, Scratch, scan_block
from featcache.cache.layout import CHECKSUM_BYTES
from featcache.cache.structure import Structure
from featcache.disk import disk, storage_errors

_READERS = 2  # blocks read back at once, where several wait


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
        self._descriptor = descriptor
        self._structure = structure
        self._blocks: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._scanned: dict[int, BlockScan] = {}
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name=f"journal of {structure.path.name}", daemon=True)
        self._scratches: queue.SimpleQueue[Scratch] = queue.SimpleQueue()
        for _ in range(_READERS):
            self._scratches.put(Scratch(structure))
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="featcache-checksum")
        self._thread.start()

    def submit(self, block: int, scan: BlockScan | None = None) -> None:
        """Hand over a block whose bytes are all in the file; returns at once.

        With `scan`, who wrote it has made it durable and read it back.
        """
        if scan is not None:
            self._scanned[block] = scan
        self._blocks.put(block)

    def check(self) -> None:
        """Raise what went wrong in the background, if anything did."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Wait until every block handed over is journaled or something went wrong; `check` tells which."""
        if self._thread.is_alive():
            self._blocks.put(None)
            self._thread.join()
        self._readers.shutdown()

    def _work(self) -> None:
        try:
            while (block := self._blocks.get()) is not None:
                blocks, last = self._waiting(block)
                self._make_durable(blocks)
                if last:
                    return
        except BaseException as error:  # noqa: BLE001 - it is raised where the user's call is, by `check`
            self._error = error

    def _scan(self, block: int) -> BlockScan:
        if block in self._scanned:
            return self._scanned.pop(block)
        scratch = self._scratches.get()
        try:
            return scan_block(self._descriptor, self._structure, block, scratch)
        finally:
            self._scratches.put(scratch)

    def _waiting(self, block: int) -> tuple[list[int], bool]:
        """Return `block` and all that wait behind it (one fsync serves them all), and whether the end was among them."""
        blocks = [block]
        while not self._blocks.empty():
            following = self._blocks.get()
            if following is None:
                return blocks, True
            blocks.append(following)
        return blocks, False

    def _make_durable(self, blocks: list[int]) -> None:
        path: Path = self._structure.path
        offset = self._structure.places["journal/checksum"].offset
        reading = self._readers.map(self._scan, blocks)  # begins at once, and goes on while the disk syncs
        with storage_errors(path, "could not write"):
            disk.fsync(self._descriptor)
            scans = dict(zip(blocks, reading, strict=True))
            for block, scan in scans.items():
                disk.pwrite(self._descriptor, scan.checksum, offset + block * CHECKSUM_BYTES)
        self.scans.update(scans)

"""The thread that makes finished blocks durable: bytes first, then the checksum that makes them count."""

import os
import queue
import threading
from concurrent.futures import Future, ThreadPoolExecutor

from featcache.cache.block_checksums import block_checksum
from featcache.cache.file_parser import Structure
from featcache.core.disk import disk, storage_errors
from featcache.core.system import core_numbers

# Blocks read back at once, where several wait. One core is left to who writes: with two readers on two cores they fight for
# the cores and the interpreter's lock, and the same work takes a fifth more processor time.
_READERS = 2


class Journal:
    """Takes blocks whose rows are all written, in any order, and journals them in the background.

    A block's checksum is written only after an fsync that began when all of the block's bytes were in the file, so
    whatever a power loss leaves, a whole checksum means whole bytes. The checksum itself becomes durable with the
    next fsync; losing it costs one block's work and no more.

    The checksum is of the bytes as they were read back, as a rule from the system's cache. So it reveals what the disk lost or
    anyone changed from then on, and not what changed on its way into the file.
    """

    def __init__(self, descriptor: int, structure: Structure) -> None:
        self._structure = structure
        self._blocks: queue.SimpleQueue[tuple[int, Future[bytes]] | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name=f"journal of {structure.path.name}", daemon=True)
        readers = max(1, min(_READERS, len(core_numbers()) - 1))
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="featcache-checksum")
        # its own: who closes the file while this still works must not let it write into whatever gets that number next
        self._descriptor = os.dup(descriptor)
        self._thread.start()

    def submit(self, block: int, checksum: bytes | None = None) -> None:
        """Hand over a block whose bytes are all in the file; returns at once.

        Without the `checksum` of a writer that made it durable and read it back, a thread begins to read it at once, while
        the disk still syncs the blocks before it.

        Raises:
            RuntimeError: the journal is closed.
            StorageError: the disk refused an earlier block.
        """
        try:
            found = self._readers.submit(self._checksum, block, checksum)
        except RuntimeError:
            self.check()
            raise
        self._blocks.put((block, found))

    def check(self) -> None:
        """Raise what went wrong in the background, if anything did."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Wait until every block handed over is journaled or something went wrong; `check` raises it."""
        self._blocks.put(None)
        self._thread.join()

    def _work(self) -> None:
        try:
            waiting: list[tuple[int, Future[bytes]] | None] = []
            while None not in waiting:
                waiting = [self._blocks.get()]
                while not self._blocks.empty():  # one fsync serves all that wait
                    waiting.append(self._blocks.get())
                self._make_durable(dict(filter(None, waiting)))
        except BaseException as error:  # noqa: BLE001 - it is raised where the user's call is, by `check`
            self._error = error
        finally:  # here, as a Ctrl-C may end the waiting in `close`: whoever holds a descriptor holds the file's lock
            self._readers.shutdown(cancel_futures=self._error is not None)
            os.close(self._descriptor)

    def _checksum(self, block: int, known: bytes | None) -> bytes:
        if known is not None:
            return known
        with storage_errors(self._structure.path, "could not read back"):
            return block_checksum(self._descriptor, self._structure, block)

    def _make_durable(self, waiting: dict[int, Future[bytes]]) -> None:
        if not waiting:
            return
        place = self._structure.places["journal/checksum"]
        with storage_errors(self._structure.path, "could not write"):
            disk.fsync(self._descriptor)
            checksums = {block: found.result() for block, found in waiting.items()}
            for block, checksum in checksums.items():
                disk.pwrite(self._descriptor, checksum, place.offset + block * place.row_bytes)

"""Writing rows of one block into a partial file that another process holds: what workers do for a `CacheWriter`."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from featcache.cache.block_checksums import BlockScan, scan_block
from featcache.cache.encoding import StoredRows, put_rows, stored_features
from featcache.cache.file_parser import read_structure
from featcache.cache.layout import HOLDER_BYTES, Status
from featcache.cache.partial_file import SHARED_FLAGS
from featcache.core.disk import disk, storage_errors
from featcache.errors import CacheMismatchError

Features = Mapping[str, npt.NDArray[np.floating]]


class BlockWriter:
    """Writes rows into the partial file `path`, and never a byte of anyone else's.

    The journal is the holder's alone: rows count once it has put their block's checksum there (`CacheWriter.adopt`).
    The file is opened anew for each block, so that an NFS client sees what the others wrote before.

    Args:
        path: the partial file.
        holder: `CacheWriter.holder` of who has it; another one's file is not touched.
        ids: row number -> id, for messages.
    """

    def __init__(self, path: Path, holder: bytes, ids: Sequence[str]) -> None:
        self.path = path
        self._holder = holder
        self._ids = ids

    def __enter__(self) -> "BlockWriter":
        """Open the file.

        Raises:
            CacheFormatError: it is damaged.
            CacheMismatchError: it is gone, or someone else holds it.
            StorageError: it may not be written.
        """
        with storage_errors(self.path, "could not open"):
            try:
                self._descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | SHARED_FLAGS)
            except FileNotFoundError as error:
                raise CacheMismatchError(f"{self.path} is gone: its run has ended or was replaced") from error
        try:
            with open(os.dup(self._descriptor), "rb") as stream:
                self.structure = read_structure(stream, self.path)
            self._check_holder()
        except BaseException:
            os.close(self._descriptor)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def write(self, rows: npt.NDArray[np.int64], features: Features, status: npt.NDArray[np.uint8]) -> BlockScan:
        """Write the rows that a block still lacks, make them durable, and read the whole block back.

        Args:
            rows: (k,) ascending, all of one block.
            features: every tap's (k, ...) float16 or float32; of rejected rows zeros are stored.
            status: (k,), 1 ok or 2 rejected.

        Raises:
            CacheMismatchError: someone else holds the file meanwhile.
            FeatureValueError: NaN, infinity or a value beyond float16's range, with its row id and tap.
            StorageError: the disk refused.
            ValueError: features of other taps or shapes than the file's.
        """
        structure, ok = self.structure, status == Status.OK
        expected = {tap.name: (len(rows), *tap.shape) for tap in structure.taps}
        if (found := {name: np.shape(array) for name, array in features.items()}) != expected:
            raise ValueError(f"{self.path}: expected features of shapes {expected}; got {found}")
        stored = {tap.name: stored_features(tap, features[tap.name], ok, rows, self._ids) for tap in structure.taps}
        self._check_holder()
        put_rows(self._descriptor, structure, [StoredRows(rows, stored, status)])
        with storage_errors(self.path, "could not write"):
            disk.fsync(self._descriptor)
        return scan_block(self._descriptor, structure, int(rows[0]) // structure.block_rows)

    def _check_holder(self) -> None:
        found = os.pread(self._descriptor, HOLDER_BYTES, self.structure.places["journal/holder"].offset)
        if found != self._holder:
            raise CacheMismatchError(f"{self.path} is no longer written by the run that asked for it")

"""Writing rows of one block into a partial file that another process holds: what workers do for a `CacheWriter`."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.cache.block_checksums import block_checksum
from featcache.cache.encoding import put_rows, stored_rows
from featcache.cache.file_parser import read_structure
from featcache.cache.layout import HOLDER_BYTES
from featcache.cache.partial_file import SHARED_FLAGS
from featcache.core.disk import disk, storage_errors
from featcache.errors import CacheMismatchError


def write_block(
    path: Path,
    holder: bytes,
    ids: Sequence[str],
    rows: npt.NDArray[np.int64],
    features: Mapping[str, npt.NDArray[np.floating]],
    status: npt.NDArray[np.uint8],
) -> bytes:
    """Write the rows that a block still lacks, make them durable, read the whole block back and return its checksum.

    Never a byte of anyone else's is written. The journal is the holder's alone: the rows count once it has put the block's
    checksum there (`CacheWriter.accept_block`). The file is opened for each block, so that an NFS client sees what others wrote.

    Args:
        path: the partial file.
        holder: `CacheWriter.holder` of the process that has it; another one's file is not touched.
        ids: row number -> id, for messages.
        rows: (k,) ascending, all of one block.
        features: every tap's (k, ...) float16 or float32; of rejected rows zeros are stored.
        status: (k,), 1 ok or 2 rejected.

    Raises:
        CacheFormatError: the file is damaged.
        CacheMismatchError: it is gone, or someone else holds it.
        FeatureValueError: NaN, infinity or a value beyond float16's range, with its row id and tap.
        StorageError: the disk refused, or it may not be written.
        ValueError: features of other taps or shapes than the file's.
    """
    with storage_errors(path, "could not open"):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | SHARED_FLAGS)
        except FileNotFoundError as error:
            raise CacheMismatchError(f"{path} is gone: its run has ended or was replaced") from error
    try:
        with open(descriptor, "rb", closefd=False) as stream:
            structure = read_structure(stream, path)
        stored = stored_rows(structure, rows, features, status, ids)
        if os.pread(descriptor, HOLDER_BYTES, structure.places["journal/holder"].offset) != holder:
            raise CacheMismatchError(f"another run took over {path}: stop this one")
        put_rows(descriptor, structure, [stored])
        with storage_errors(path, "could not write"):
            disk.fsync(descriptor)
        return block_checksum(descriptor, structure, int(rows[0]) // structure.block_rows)
    finally:
        os.close(descriptor)

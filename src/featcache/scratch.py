"""Arrays that stand in memory while they are small, and in a file without a name when they aren't. NumPy only."""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.disk import storage_errors

MEMORY_BYTES = 1 << 26
"""Up to so many bytes stand in memory; a table of probabilities of more is for a million rows of hundreds of classes."""


def space(
    shape: tuple[int, ...], dtype: npt.DTypeLike, folder: Path | None, memory_bytes: int = MEMORY_BYTES
) -> npt.NDArray[Any]:
    """Return a writable array of zeros.

    Args:
        shape: its shape.
        dtype: its dtype.
        folder: where the file is made, which goes with the array; None: memory whatever its size.
        memory_bytes: up to this size it stands in memory.

    Raises:
        StorageError: there is no room for the file.
    """
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if folder is None or size <= memory_bytes:
        return np.zeros(shape, dtype)
    with storage_errors(folder, "could not keep a scratch file in"), tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, size)  # writing through a map to a full disk would kill the process
        return np.memmap(file, dtype, "r+", shape=shape)  # keeps the file alive

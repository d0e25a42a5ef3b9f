"""Arrays that are in memory while they are small, and in a file without a name when they aren't. NumPy only."""

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.disk import reserve, storage_errors

MEMORY_BYTES = 1 << 26
"""Up to so many bytes are in memory: a member's probabilities of 16 classes for a million rows."""
_PIECE_BYTES = 1 << 20


def allocate(
    shape: tuple[int, ...], dtype: npt.DTypeLike, folder: Path | None, memory_bytes: int | None = None
) -> npt.NDArray[Any]:
    """Return a writable array of zeros.

    Args:
        shape: its shape.
        dtype: its dtype.
        folder: where the file is made, which goes with the array; None: memory whatever its size.
        memory_bytes: up to this size it is in memory; None: `MEMORY_BYTES`.

    Raises:
        StorageError: there is no room for the file.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if folder is None or size <= (MEMORY_BYTES if memory_bytes is None else memory_bytes):
        return np.zeros(shape, dtype)
    with storage_errors(folder, "could not keep a scratch file in"), tempfile.TemporaryFile(dir=folder) as file:
        # writing through a map to a full disk would kill the process, and where none can be reserved only writing shows it
        if not reserve(file.fileno(), size):
            for start in range(0, size, _PIECE_BYTES):
                file.write(bytes(min(_PIECE_BYTES, size - start)))
            file.flush()
        return np.memmap(file, dtype, "r+", shape=shape)  # keeps the file alive

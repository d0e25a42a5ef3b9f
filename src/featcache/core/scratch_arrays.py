"""Arrays that are in memory while they are small, and in a file without a name when they aren't. NumPy only."""

import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from featcache.core.disk import reserve, storage_errors

MEMORY_BYTES = 1 << 26
"""Up to so many bytes are in memory: a member's probabilities of 16 classes for a million rows."""


def fits(shape: tuple[int, ...], dtype: npt.DTypeLike, memory_bytes: int | None = None) -> bool:
    """Whether an array is in memory."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    return size <= (MEMORY_BYTES if memory_bytes is None else memory_bytes)


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
    if folder is None or fits(shape, dtype, memory_bytes):
        return np.zeros(shape, dtype)
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    with storage_errors(folder, "could not keep a scratch file in"), tempfile.TemporaryFile(dir=folder) as file:
        _reserve(file, size)  # writing through a map to a full disk would kill the process
        return np.memmap(file, dtype, "r+", shape=shape)  # keeps the file alive


def _reserve(file: IO[bytes], size: int) -> None:
    if reserve(file.fileno(), size):
        return
    for start in range(0, size, len(_ZEROS)):  # only writing shows whether there is room
        file.write(_ZEROS[: size - start])
    file.flush()


_ZEROS = bytes(1 << 20)

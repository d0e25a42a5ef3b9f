"""A split's images as one array, decoded once, for what is trained on pixels: small images, many passes. NumPy only."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.core.progress import Progress
from featcache.core.rows import Rows
from featcache.core.scratch_arrays import allocate
from featcache.core.system import core_numbers
from featcache.errors import RejectedImageError

MEMORY_BYTES = 1 << 30
"""Up to so many bytes of RGB images are kept in memory, beyond that in a scratch file: 456,000 images of 28x28."""

Images = npt.NDArray[np.uint8]
Loader = Callable[[str, str, int], Images]

_BLOCK = 256
LUMA = np.array([299, 587, 114])
"""What red, green and blue count for in a grey value: ITU-R 601 in thousandths, as in Pillow."""


@dataclass(frozen=True, eq=False)
class Pixels:
    """The n images of a split."""

    images: Images  #: (n, size, size, channels) uint8, 0 to 255; rows that can't be used are black
    usable: npt.NDArray[np.bool_]  #: (n,), False for rows that listing or decoding rejected


def load_pixels(
    rows: Rows, load: Loader, size: int, scratch: Path, progress: Progress, name: str, channels: int | None = None
) -> Pixels:
    """Decode the images of a split by several threads.

    Args:
        rows: of the split.
        load: location, content digest and size -> (size, size, 3) uint8 RGB; called from several threads.
        size: side of the square in pixels.
        scratch: the folder for the scratch file, which has no name and goes with the array; the images are in
            memory up to `MEMORY_BYTES`.
        progress: counts images.
        name: what `progress` calls it.
        channels: 1 for grey values, 3 for RGB; None takes 1 where every image is grey.

    Raises:
        SourceChangedError: an image is no longer the one in the manifest.
        StorageError: there is no room for the scratch file.
    """
    images, usable = allocate((len(rows), size, size, 3), np.uint8, scratch, MEMORY_BYTES), rows.listed.copy()

    def decode(first: int) -> tuple[int, bool]:
        """Fill a block of rows; return how many, and whether all of them are grey."""
        part = range(first, min(first + _BLOCK, len(rows)))
        for row in part:
            if usable[row]:
                try:
                    images[row] = load(rows.locations[row], rows.digests[row], size)
                except RejectedImageError:
                    usable[row] = False
        block = images[part.start : part.stop]
        return len(part), bool((block == block[..., :1]).all())

    grey = True
    progress.start(name, len(rows), "images")
    pool = ThreadPoolExecutor(len(core_numbers()), thread_name_prefix="featcache-decode")
    try:
        for count, block_is_grey in pool.map(decode, range(0, len(rows), _BLOCK)):
            grey = grey and block_is_grey
            progress.advance(count)
    finally:
        pool.shutdown(cancel_futures=True)
        progress.finish()
    return Pixels(_with_channels(images, channels or (1 if grey else 3), grey), usable)


def luminance(images: Images) -> Images:
    """Return (..., 1) uint8 grey values of (..., 3) uint8 RGB; a grey pixel keeps its value."""
    grey: Images = ((images @ LUMA[:, None] + 500) // 1000).astype(np.uint8)
    return grey


def _with_channels(images: Images, channels: int, grey: bool) -> Images:
    if channels == images.shape[-1]:
        return images
    if not grey:
        for start in range(0, len(images), _BLOCK):
            block = images[start : start + _BLOCK]
            block[..., :1] = luminance(block)
    single = images[..., :1]
    return single if isinstance(images, np.memmap) else np.ascontiguousarray(single)

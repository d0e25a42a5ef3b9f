"""Images as people have them in a notebook: paths, folders, Pillow images, arrays."""

import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from featcache.core.paths import expanded, read_bytes
from featcache.dataset import MOST_BYTES
from featcache.errors import SourceError
from featcache.inference import find_images

Images = str | os.PathLike[str] | Image.Image | npt.NDArray[Any] | Iterable[Any]
_GIVE = "give uint8 from 0 to 255, of shape (h, w), (h, w, 3) or (h, w, 4), or n of them in one array"
_CHANNELS = (3, 4)  # RGB, RGBA
_AS_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


@dataclass(frozen=True, eq=False)
class Picture:
    """One image: what it is called, and where its bytes are."""

    name: str
    image: Path | Image.Image | npt.NDArray[np.uint8]

    def content(self) -> bytes:
        """The bytes of its file; of what is no file those of a PNG, from which it is decoded as any file is.

        Raises:
            OSError: the file can't be read.
        """
        if isinstance(self.image, Path):
            return read_bytes(self.image, MOST_BYTES)
        image = self.image if isinstance(self.image, Image.Image) else Image.fromarray(np.ascontiguousarray(self.image))
        image = ImageOps.exif_transpose(image)
        stream = io.BytesIO()
        (image if image.mode in _AS_PNG else image.convert("RGB")).save(stream, "PNG", compress_level=1)
        return stream.getvalue()


def pictures(images: Images) -> list[Picture]:
    """Return every image: of a folder all that are in and below it, of an array with one dimension more its n.

    A file is called by its path, any other image by its place, from 0.

    Raises:
        SourceError: there is no such file or folder, a folder without images, no image at all, or an array of another
            kind.
    """
    found: list[Picture] = []
    for image in _single(images):
        if isinstance(image, str | os.PathLike):
            path = expanded(Path(image), "image")
            found += [Picture(str(file), file) for file in find_images([path])]
        elif isinstance(image, Image.Image):
            found.append(Picture(str(len(found)), image))
        else:
            found += [Picture(str(len(found) + place), each) for place, each in enumerate(_stack(image, len(found)))]
    if not found:
        raise SourceError("images=[] has no image: give paths, a folder, Pillow images or arrays")
    return found


def _single(images: Images) -> Iterator[Any]:
    if isinstance(images, str | os.PathLike | Image.Image | np.ndarray) or not isinstance(images, Iterable):
        yield images
    else:
        yield from images


def _stack(array: Any, place: int) -> npt.NDArray[np.uint8]:
    """An array as images, (n, h, w) or (n, h, w, c)."""
    found = np.asarray(array)
    if found.dtype != np.uint8:
        given = f"type={type(array).__name__}" if found.dtype == object else f"dtype={found.dtype}"
        raise SourceError(f"images[{place}]: {given} is no image: {_GIVE}")
    if found.ndim == 2 or (found.ndim == 3 and found.shape[-1] in _CHANNELS):
        found = found[None]
    if found.ndim not in (3, 4) or (found.ndim == 4 and found.shape[-1] not in _CHANNELS) or 0 in found.shape[1:]:
        raise SourceError(f"images[{place}]: shape={np.shape(array)} is no image: {_GIVE}")
    return found

"""Small pictures of rows, decoded as for the backbone and packed into the page itself."""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from PIL import Image

from featcache.core.rows import Rows
from featcache.dataset import Loader

RowRef = tuple[str, int]
"""Split and row of the manifest."""

_QUALITIES = (70, 45, 25, 10)


def thumbnails(
    splits: Mapping[str, Rows], load: Loader, places: Sequence[RowRef], size: int, most_bytes: int
) -> dict[RowRef, str]:
    """Return place -> its image as a data URI: WebP, `size` pixels a side, stretched to a square as the backbone sees it.

    All have the highest of four qualities at which their base64 fits into `most_bytes`; if the lowest doesn't fit, the last
    places get none.

    Of several equal `places`, which are usable rows, the important ones first, one counts. `load` is called from several
    threads.

    Raises:
        SourceChangedError: an image is no longer what the manifest says.
    """
    wanted = list(dict.fromkeys(places))

    def image(place: RowRef) -> npt.NDArray[np.uint8]:
        split, row = place
        return load(splits[split].locations[row], splits[split].digests[row], size)

    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="featcache-thumbnail") as pool:
        images = list(pool.map(image, wanted))
    return packed(dict(zip(wanted, images, strict=True)), size, most_bytes)


def packed(images: Mapping[RowRef, npt.NDArray[np.uint8]], size: int, most_bytes: int) -> dict[RowRef, str]:
    """Return (h, w, 3) `images` as data URIs as `thumbnails` does, none larger than `size` pixels a side."""
    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="featcache-thumbnail") as pool:
        for quality in _QUALITIES:
            uris = list(pool.map(_packed, images.values(), [size] * len(images), [quality] * len(images)))
            if sum(map(len, uris)) <= most_bytes:
                break
    ends = np.cumsum([len(each) for each in uris])
    return {place: uri for place, uri, end in zip(images, uris, ends, strict=True) if end <= most_bytes}


def _packed(image: npt.NDArray[np.uint8], size: int, quality: int) -> str:
    stream, picture = io.BytesIO(), Image.fromarray(image)
    picture.thumbnail((size, size))
    picture.save(stream, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")

"""The order in which people expect names: ``img_2`` before ``img_10``, whatever the case."""

import re
from array import array
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

_NUMBER = re.compile(r"([0-9]+)")
_LONGER_THAN_END = 256  # a number's length begins with a byte above the zero that ends a part


def natural(path: str) -> bytes:
    """Return a sort key by which ``img_2`` comes before ``img_10`` whatever the case, part by part of a path."""
    folder, slash, name = path.rpartition("/")
    return (_natural_folder(folder) if slash else b"") + _natural_part(name)


@lru_cache(maxsize=1024)  # files come folder by folder
def _natural_folder(path: str) -> bytes:
    return b"".join(map(_natural_part, path.split("/")))


def _natural_part(part: str) -> bytes:
    pieces = _NUMBER.split(part.casefold())
    raw = [piece.encode("utf-8", "surrogatepass") + b"\0" for piece in pieces]
    for index in range(1, len(pieces), 2):
        digits = pieces[index].lstrip("0").encode("ascii")
        raw[index] = (len(digits) + _LONGER_THAN_END).to_bytes(2, "big") + digits
    return b"%b\0%b\0" % (b"".join(raw), part.encode("utf-8", "surrogatepass"))


def natural_order(locations: Sequence[str]) -> npt.NDArray[np.uint32]:
    """Return (n,) the order in which the natural keys of n paths ascend; the keys' bytes are in memory meanwhile."""
    import pyarrow as pa
    from pyarrow.compute import array_sort_indices

    content, ends = bytearray(), array("q", [0])
    for location in locations:
        content += natural(location)
        ends.append(len(content))
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(content)]  # `pyarrow.array` would import pandas
    order = array_sort_indices(pa.Array.from_buffers(pa.large_binary(), len(locations), buffers))
    return np.frombuffer(order.buffers()[1] or b"", np.uint64)[: len(order)].astype(np.uint32)

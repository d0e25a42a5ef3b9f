"""The order in which people expect names: ``img_2`` before ``img_10``, whatever the case."""

import re
from array import array
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, islice

import numpy as np
import numpy.typing as npt

from featcache.core.texts import CHUNK

_NUMBER = re.compile(rb"[0-9]+")
_LONGER_THAN_END = 256  # a number's length begins with a byte above the zero that ends a part


def natural(path: str) -> bytes:
    """Return a sort key by which ``img_2`` comes before ``img_10`` whatever the case, part by part of a path."""
    folder, slash, name = path.rpartition("/")
    return (_natural_folder(folder) if slash else b"") + _natural_part(name)


@lru_cache(maxsize=1024)  # files come folder by folder
def _natural_folder(path: str) -> bytes:
    return b"".join(map(_natural_part, path.split("/")))


def _natural_part(part: str) -> bytes:
    folded = _NUMBER.sub(_number, part.casefold().encode("utf-8", "surrogatepass"))
    return b"%b\0\0%b\0" % (folded, part.encode("utf-8", "surrogatepass"))


def _number(found: re.Match[bytes]) -> bytes:
    digits = found[0].lstrip(b"0")
    return b"\0" + (len(digits) + _LONGER_THAN_END).to_bytes(2, "big") + digits


def natural_order(locations: Sequence[str]) -> npt.NDArray[np.uint32]:
    """Return (n,) the order in which the natural keys of n paths ascend; the keys' bytes are in memory meanwhile."""
    import pyarrow as pa
    from pyarrow.compute import array_sort_indices

    content, ends = bytearray(), array("q", [0])
    for start in range(0, len(locations), CHUNK):
        some = list(map(natural, locations[start : start + CHUNK]))
        ends.extend(islice(accumulate(map(len, some), initial=len(content)), 1, None))
        content += b"".join(some)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(content)]  # `pyarrow.array` would import pandas
    order = array_sort_indices(pa.Array.from_buffers(pa.large_binary(), len(locations), buffers))
    return np.frombuffer(order.buffers()[1] or b"", np.uint64)[: len(order)].astype(np.uint32)

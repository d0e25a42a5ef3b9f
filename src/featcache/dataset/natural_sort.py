"""The order in which people expect names: ``img_2`` before ``img_10``, whatever the case."""

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from featcache.core.texts import sorted_rows

_NUMBER = re.compile(r"([0-9]+)")
_LONGER_THAN_END = 256  # a number's length begins with a byte above the zero that ends a part


def natural(name: str) -> tuple[list[str | int], str]:
    """Return a sort key by which ``img_2`` stands before ``img_10``, whatever the case."""
    pieces = _NUMBER.split(name.casefold())
    return [int(piece) if index % 2 else piece for index, piece in enumerate(pieces)], name


def sort_key(location: str) -> bytes:
    """Return bytes that ascend as the `natural` keys of a path's parts do."""
    return b"".join([_part_key(part) for part in location.split("/")])


def _part_key(part: str) -> bytes:
    pieces = _NUMBER.split(part.casefold())
    raw = [piece.encode("utf-8", "surrogatepass") + b"\0" for piece in pieces]
    for index in range(1, len(pieces), 2):
        digits = pieces[index].lstrip("0").encode("ascii")
        raw[index] = (len(digits) + _LONGER_THAN_END).to_bytes(2, "big") + digits
    return b"%b\0%b\0" % (b"".join(raw), part.encode("utf-8", "surrogatepass"))


def natural_order(locations: Sequence[str]) -> npt.NDArray[np.uint32]:
    """Return (n,) the order in which the natural keys of n paths ascend, found folder by folder.

    Beside 16 bytes a path memory holds only what sorts one folder; a split with images in no folder counts as one.
    """
    flat = {location.partition("/")[0] for location in locations if location.count("/") == 1}

    def folder(location: str) -> str:
        split, name, *_ = location.split("/", 2)
        return split if split in flat else f"{split}/{name}"

    folders = sorted({folder(location) for location in locations}, key=sort_key)
    numbers = {name: number for number, name in enumerate(folders)}
    of_row = np.fromiter((numbers[folder(location)] for location in locations), np.uint32, len(locations))
    order = np.argsort(of_row, kind="stable").astype(np.uint32)
    ends = np.cumsum(np.bincount(of_row, minlength=len(folders)))
    for start, stop in pairwise((0, *ends.tolist())):
        rows = order[start:stop]
        order[start:stop] = rows[sorted_rows(sort_key(locations[row]) for row in rows.tolist())]
    return order

"""A cache as dask arrays and as an xarray data set; imported only when asked for, as both take a second to import."""

import math
import os
import platform
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
from dask.base import tokenize
from dask.delayed import delayed

from featcache.cache.encoding import widen
from featcache.cache.file_parser import Extent, Structure
from featcache.cache.layout import Status, TapLayout
from featcache.core.paths import fault, regular
from featcache.errors import CacheMismatchError

if TYPE_CHECKING:
    from featcache.cache.reader import Reader

_CHUNK_BYTES = 32 * 1024 * 1024  # between a scheduler's overhead a task and a worker's memory


_Stamp = tuple[int, int]  # a file's size and mtime_ns


def dask_array(structure: Structure, tap: TapLayout) -> da.Array:
    """Return a tap as (n, h, w, c) or (n, c), in chunks along the rows, each a task that maps its slice of the file itself.

    float32: sums and squares of features that reach thousands overflow float16, and dask adds up in an array's own dtype.
    """
    counts = [stop - start for start, stop in _chunks(structure, tap)]
    return _from_slices(structure, tap, counts, tap.shape, usable=False)


def finite_rows(structure: Structure, tap: TapLayout, status: npt.NDArray[np.uint8]) -> da.Array:
    """Return the m rows with status ok of one tap, in the file's order, as (m, d) float32: d numbers an image."""
    counts = [int(np.count_nonzero(status[start:stop] == Status.OK)) for start, stop in _chunks(structure, tap)]
    return _from_slices(structure, tap, counts, (math.prod(tap.shape),), usable=True)


def _from_slices(
    structure: Structure, tap: TapLayout, counts: Sequence[int], shape: tuple[int, ...], *, usable: bool
) -> da.Array:
    """Join a task for each chunk that gives rows: nothing of the file travels, and memory stays flat."""
    path, stamp = str(structure.path.absolute()), (structure.size, structure.mtime_ns)
    token, slices = tokenize(path, stamp, tap.name, usable), []
    for (start, stop), count in zip(_chunks(structure, tap), counts, strict=True):
        if count:
            parts = [_rows_of(structure, name, start, stop) for name in (tap.name, *["status"] * usable)]
            task = delayed(_wide_slice)(
                path, stamp, shape, *parts, dask_key_name=f"featcache-{tap.name}-{token}-{start}"
            )
            slices.append(da.from_delayed(task, (count, *shape), dtype=np.float32))  # type: ignore[no-untyped-call]  # dask has few types
    if not slices:  # left to choose chunks for no rows of more than some thousand numbers, dask divides by zero
        slices = [da.zeros((0, *shape), dtype=np.float32, chunks=(0, *shape))]
    whole: da.Array = da.concatenate(slices)  # type: ignore[no-untyped-call]  # dask has few types
    return whole


def dataset(reader: "Reader") -> xr.Dataset:
    """Return all taps, lazily, with the columns as coordinates of ``row``."""
    features = {name: (("row", *tap.dimensions), reader.dask(name)) for name, tap in reader.taps.items()}
    columns = {
        "id": np.array(list(reader.ids), dtype=object),
        "label": np.array(reader.labels),
        "group": np.array(list(reader.groups), dtype=object),
        "digest": np.array(list(reader.digests), dtype=object),
        "status": np.array(reader.status),
    }
    attributes = {"name": reader.name, "split": reader.split, "copy": reader.copy, "key": reader.key}
    coordinates = {name: ("row", column) for name, column in columns.items()}
    return xr.Dataset(features, coordinates, {**attributes, "class_names": list(reader.class_names)})


def _chunks(structure: Structure, tap: TapLayout) -> Iterator[tuple[int, int]]:
    """Yield the rows [start, stop) of each chunk."""
    step = max(1, _CHUNK_BYTES // tap.row_bytes)
    for start in range(0, structure.n, step):
        yield start, min(structure.n, start + step)


def _rows_of(structure: Structure, name: str, start: int, stop: int) -> Extent:
    """Where rows [start, stop) of a dataset lie."""
    place = structure.places[name]
    row_bytes = place.nbytes // structure.n
    return Extent(place.offset + start * row_bytes, (stop - start, *place.shape[1:]), place.dtype)


def _wide_slice(
    path: str, stamp: _Stamp, shape: tuple[int, ...], features: Extent, status: Extent | None = None
) -> npt.NDArray[np.float32]:
    """One chunk as float32, only the rows with status ok where `status` is given."""
    rows = _mapped_slice(path, stamp, features)
    if status is None:
        return rows.astype(np.float32)  # maybe of a damaged file: infinity stays infinity
    ok = _mapped_slice(path, stamp, status) == Status.OK
    return widen(rows if ok.all() else rows[ok]).reshape(-1, *shape)


def _mapped_slice(path: str, stamp: _Stamp, part: Extent) -> npt.NDArray[Any]:
    """Map one chunk.

    Raises:
        CacheMismatchError: `path` is another file than when the array was made, or can't be read here.
    """
    try:
        stream = open(path, "rb", opener=regular)  # noqa: SIM115  # closed below
    except OSError as error:
        where = f"on {platform.node()}: the file must be there on every machine that computes"
        raise CacheMismatchError(f"{path} can't be read ({fault(error)}) {where}") from error
    with stream:
        stat = os.fstat(stream.fileno())
        if (stat.st_size, stat.st_mtime_ns) != stamp:
            raise CacheMismatchError(
                f"{path} was replaced since it was opened; open it again and repeat the computation"
            )
        return np.asarray(np.memmap(stream, mode="r", dtype=part.dtype, offset=part.offset, shape=part.shape))

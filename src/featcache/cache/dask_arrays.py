"""A cache as dask arrays and as an xarray data set; imported only when asked for, as each takes half a second to import."""

import math
import os
import platform
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import numpy.typing as npt
from dask.base import tokenize
from dask.delayed import delayed

from featcache.cache.file_parser import Extent, Structure
from featcache.cache.layout import Status, TapLayout
from featcache.core.float16 import as_float32
from featcache.core.paths import fault, regular
from featcache.errors import CacheMismatchError

if TYPE_CHECKING:
    import xarray as xr

    from featcache.cache.reader import Reader

_CHUNK_BYTES = 32 * 1024 * 1024  # between a scheduler's overhead a task and a worker's memory


def dask_array(structure: Structure, tap: TapLayout, status: npt.NDArray[np.uint8] | None = None) -> da.Array:
    """Return a tap as (n, h, w, c) or (n, c), in chunks along the rows, each a task that maps its slice of the file itself.

    float32: sums and squares of features that reach thousands overflow float16, and dask adds up in an array's own dtype.
    With `status` only the m rows with status ok, in the file's order, as (m, d): d numbers an image.
    """
    path, stamp = str(structure.path.absolute()), (structure.size, structure.mtime_ns)
    shape = tap.shape if status is None else (math.prod(tap.shape),)
    token, step, slices = tokenize(path, stamp, tap.name, status is None), max(1, _CHUNK_BYTES // tap.row_bytes), []
    for start in range(0, structure.n, step):
        stop = min(structure.n, start + step)
        count = stop - start if status is None else int(np.count_nonzero(status[start:stop] == Status.OK))
        if count:
            names = (tap.name,) if status is None else (tap.name, "status")
            parts = [_rows_of(structure.places[name], start, stop) for name in names]
            key = f"featcache-{tap.name}-{token}-{start}"
            task = delayed(_wide_slice)(path, stamp, shape, *parts, dask_key_name=key)
            slices.append(da.from_delayed(task, (count, *shape), dtype=np.float32))  # type: ignore[no-untyped-call]  # dask has few types
    if not slices:  # left to choose chunks for no rows of more than some thousand numbers, dask divides by zero
        slices = [da.zeros((0, *shape), dtype=np.float32, chunks=(0, *shape))]
    whole: da.Array = da.concatenate(slices)  # type: ignore[no-untyped-call]  # dask has few types
    return whole


def dataset(reader: "Reader") -> "xr.Dataset":
    """Return all taps, lazily, with the columns as coordinates of ``row``."""
    import xarray as xr

    features = {name: (("row", *tap.dimensions), reader.dask(name)) for name, tap in reader.taps.items()}
    columns = {
        "id": np.array(list(reader.ids), dtype=object),
        "group": np.array(list(reader.groups), dtype=object),
        "digest": np.array(list(reader.digests), dtype=object),
        "status": np.array(reader.status),
    }
    attributes = {"name": reader.name, "split": reader.split, "copy": reader.copy, "key": reader.key}
    coordinates: dict[str, Any] = {name: ("row", column) for name, column in columns.items()}
    if reader.several:
        names = np.array(reader.class_names, dtype=object)
        coordinates |= {"labels": (("row", "class_name"), np.array(reader.labels)), "class_name": names}
    else:
        coordinates["label"] = ("row", np.array(reader.labels))
    return xr.Dataset(features, coordinates, {**attributes, "class_names": list(reader.class_names)})


def _rows_of(place: Extent, start: int, stop: int) -> Extent:
    return Extent(place.offset + start * place.row_bytes, (stop - start, *place.shape[1:]), place.dtype)


def _wide_slice(
    path: str, stamp: tuple[int, int], shape: tuple[int, ...], features: Extent, status: Extent | None = None
) -> npt.NDArray[np.float32]:
    """One chunk as float32, only the rows with status ok where the place of their `status` is given."""
    rows = _mapped_slice(path, stamp, features)
    if status is None:
        return rows.astype(np.float32)  # maybe of a damaged file: infinity stays infinity
    ok = _mapped_slice(path, stamp, status) == Status.OK
    return as_float32(rows if ok.all() else rows[ok]).reshape(-1, *shape)


def _mapped_slice(path: str, stamp: tuple[int, int], part: Extent) -> npt.NDArray[Any]:
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

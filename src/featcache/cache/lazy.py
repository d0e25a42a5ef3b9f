"""A cache as dask arrays and as an xarray data set; imported only when asked for, as both take a second to import."""

import os
from typing import TYPE_CHECKING

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
from dask.base import tokenize
from dask.delayed import delayed

from featcache.cache.layout import TapLayout
from featcache.cache.structure import Place, Structure
from featcache.errors import CacheMismatchError

if TYPE_CHECKING:
    from featcache.cache.reader import Reader

_CHUNK_BYTES = 32 * 1024 * 1024  # between a scheduler's overhead a task and a worker's memory


def dask_array(structure: Structure, tap: TapLayout) -> da.Array:
    """Return a tap as an array of chunks along the rows, each a task that maps its slice of the file for itself."""
    place = structure.places[tap.name]
    if structure.n == 0:
        empty: da.Array = da.zeros(place.shape, dtype=place.dtype)
        return empty
    step = max(1, _CHUNK_BYTES // tap.row_bytes)
    path, stamp = str(structure.path.absolute()), (structure.size, structure.mtime_ns)
    token = tokenize(path, stamp, tap.name)
    slices = []
    for start in range(0, structure.n, step):
        part = Place(place.offset + start * tap.row_bytes, (min(step, structure.n - start), *tap.shape), place.dtype)
        task = delayed(_mapped_slice)(path, stamp, part, dask_key_name=f"featcache-{tap.name}-{token}-{start}")
        slices.append(da.from_delayed(task, part.shape, dtype=part.dtype))  # type: ignore[no-untyped-call]  # dask has few types
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


def _mapped_slice(path: str, stamp: tuple[int, int], part: Place) -> npt.NDArray[np.float16]:
    """Map one chunk.

    Raises:
        CacheMismatchError: another file stands at `path` now than when the array was made.
    """
    with open(path, "rb") as stream:
        stat = os.fstat(stream.fileno())
        if (stat.st_size, stat.st_mtime_ns) != stamp:
            raise CacheMismatchError(
                f"{path} was replaced since it was opened; open it again and repeat the computation"
            )
        return np.asarray(np.memmap(stream, mode="r", dtype=part.dtype, offset=part.offset, shape=part.shape))

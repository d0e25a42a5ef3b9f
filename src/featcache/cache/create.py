"""Creating a cache file: every group, dataset and attribute, once, before the first feature.

Afterwards only raw bytes are written at the datasets' offsets, so no kill can damage what HDF5 keeps.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from featcache.cache.layout import (
    CHECKSUM_BYTES,
    FEATURE_DTYPE,
    FORMAT,
    HOLDER_BYTES,
    RUN_BYTES,
    SCHEMA,
    SCHEMA_OF_SEVERAL,
    CacheHeader,
    TapLayout,
    block_count,
    text_column,
)
from featcache.core.disk import storage_errors
from featcache.errors import StorageError

_ATTRIBUTE_LIMIT = 60_000  # HDF5 keeps an attribute in an object header message of at most 64 KiB
_ALIGNMENT = 64  # a cache line: memmaps of every dataset are aligned whatever the lengths before them
DESCRIPTIONS: Mapping[str, str] = {
    "row": "position of the row in the manifest, from 0",
    "id": "row id, unique, UTF-8",
    "label": "index into class_name, -1 where unknown",
    "labels": "1 for each class_name that is one of the row's labels, else 0; 255 in all cells of a row where unknown",
    "group": "rows of one group stay in one fold; UTF-8, empty where there is none",
    "digest": "SHA-256 of the image's content as hexadecimal digits, empty where it could not be read",
    "status": "0 not written, 1 ok, 2 rejected (features are zeros)",
    "class_name": "class names in label order, UTF-8",
    "journal/checksum": "XXH3-128 of each block: bytes of every tap in the order of the attribute taps, then of status; all zeros: not durable",
    "journal/complete": "1 once every row is written, checked and durable",
    "journal/holder": "JSON: pid, host and start of the process that is writing this file, empty when published",
    "record/settings": "JSON: settings of the file under the empty name, of each tap under its name",
    "record/run": "JSON: when, where and by what the file was made, timings, versions",
}


def create(path: Path, header: CacheHeader) -> None:
    """Write a whole, empty cache file: every group, dataset and attribute, the columns, and zeros elsewhere.

    Raises:
        StorageError: the disk refused.
    """
    try:
        with (
            storage_errors(path, "could not create"),
            h5py.File(path, "w", alignment_threshold=1, alignment_interval=_ALIGNMENT, locking=False) as file,
        ):
            _create_all(file, header)
    except StorageError:
        raise
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise StorageError(f"could not create {path}: {reason}; fix this and run again") from error


def _create_all(file: h5py.File, header: CacheHeader) -> None:
    n = len(header.rows)
    row = _dataset(file, "row", (n,), np.dtype("<i4"), np.arange(n, dtype="<i4"))
    row.make_scale("row")
    names = text_column(header.class_names)
    class_name = _dataset(file, "class_name", names.shape, _utf8(names.itemsize), names)
    class_name.make_scale("class_name")
    for name, stored in header.column_dtypes.items():
        utf8 = _utf8(stored.itemsize) if stored.kind == "S" else stored
        dtype = h5py.string_dtype("ascii", stored.itemsize) if name == "digest" else utf8
        column = _dataset(file, name, (n, len(names)) if name == "labels" else (n,), dtype)
        column.dims[0].attach_scale(row)
        if name == "labels":
            column.dims[1].attach_scale(class_name)
    for pieces in zip(*map(header.column_pieces, header.column_dtypes), strict=True):
        for name, (start, piece) in zip(header.column_dtypes, pieces, strict=True):
            _write(file[name], start, piece)
    _dataset(file, "status", (n,), np.dtype("u1")).dims[0].attach_scale(row)
    texts = header.texts
    coordinates = " ".join((*header.columns, "status"))  # CF: these describe the rows, and are no data of their own
    for tap in header.taps:
        _create_tap(file, tap, row, n, {"coordinates": coordinates, "settings": texts[tap.name]})
    _create_groups(file, header, json.dumps(texts, ensure_ascii=True, sort_keys=True).encode("ascii"))
    _root_attributes(file, header, texts[""])


def _create_tap(file: h5py.File, tap: TapLayout, row: h5py.Dataset, n: int, attributes: Mapping[str, str]) -> None:
    dataset = _dataset(file, tap.name, (n, *tap.shape), FEATURE_DTYPE)
    dataset.dims[0].attach_scale(row)
    for axis, (dimension, length) in enumerate(zip(tap.dimensions, tap.shape, strict=True), 1):
        scale = _dataset(file, dimension, (length,), np.dtype("<i4"), np.arange(length, dtype="<i4"))
        _attribute(scale, "description", f"index along an axis of {tap.name}, from 0")
        scale.make_scale(dimension)
        dataset.dims[axis].attach_scale(scale)
    axes = ", ".join(("row", *(name.removeprefix(f"{tap.name}_") for name in tap.dimensions)))
    _attribute(dataset, "description", f"output of the tap {tap.name}, axes ({axes})")
    _attribute(dataset, "units", "1")
    _attribute(dataset, "key", tap.key)
    for name, text in attributes.items():
        _attribute(dataset, name, text)


def _create_groups(file: h5py.File, header: CacheHeader, texts: bytes) -> None:
    journal, record = file.create_group("journal"), file.create_group("record")
    _dataset(journal, "checksum", (block_count(header.block_rows, len(header.rows)), CHECKSUM_BYTES), np.dtype("u1"))
    _dataset(journal, "complete", (), np.dtype("u1"))
    _dataset(journal, "holder", (), _utf8(HOLDER_BYTES))
    _dataset(record, "settings", (), _utf8(len(texts)), np.array(texts))
    _dataset(record, "run", (), _utf8(RUN_BYTES))


def _root_attributes(file: h5py.File, header: CacheHeader, settings: str) -> None:
    _attribute(file, "format", FORMAT)
    file.attrs.create("schema", SCHEMA_OF_SEVERAL if header.several else SCHEMA, dtype="<i4")
    for name in ("split", "key", "name", "columns_sha256"):
        _attribute(file, name, getattr(header, name))
    file.attrs.create("copy", header.copy, dtype="<i4")
    file.attrs.create("block_rows", header.block_rows, dtype="<i8")
    _attribute(file, "taps", " ".join(tap.name for tap in header.taps))
    _attribute(file, "settings", settings)


def _dataset(
    parent: h5py.Group,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    content: npt.NDArray[Any] | None = None,
) -> h5py.Dataset:
    """Create a contiguous dataset that is allocated now, never filled and carries no time."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)
    space = h5py.h5s.create_simple(shape) if shape else h5py.h5s.create(h5py.h5s.SCALAR)
    kind = h5py.h5t.py_create(dtype, logical=True)
    dataset = h5py.Dataset(h5py.h5d.create(parent.id, name.encode(), kind, space, dcpl=properties))
    if content is not None and content.size:
        dataset.id.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(content), mtype=kind)
    description = DESCRIPTIONS.get(dataset.name.lstrip("/"))
    if description:
        _attribute(dataset, "description", description)
    return dataset


def _write(dataset: h5py.Dataset, start: int, piece: npt.NDArray[Any]) -> None:
    """Write rows of a column, from `start` on; of their bytes' type, as HDF5 makes no UTF-8 of texts."""
    space = dataset.id.get_space()
    space.select_hyperslab((start,) + (0,) * (piece.ndim - 1), piece.shape)
    dataset.id.write(h5py.h5s.create_simple(piece.shape), space, piece, mtype=dataset.id.get_type())


def _attribute(target: h5py.Group | h5py.Dataset, name: str, text: str) -> None:
    """Attach a text of at most 60,000 bytes; longer settings are in record/settings only."""
    raw = text.encode("utf-8", "surrogateescape")
    if len(raw) <= _ATTRIBUTE_LIMIT:
        target.attrs.create(name, np.array(raw), dtype=_utf8(len(raw)))


def _utf8(length: int) -> np.dtype[Any]:
    dtype: np.dtype[Any] = h5py.string_dtype("utf-8", max(1, length))
    return dtype

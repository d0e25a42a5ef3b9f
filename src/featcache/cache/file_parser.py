"""Finding where the datasets of a cache file lie, without trusting the file.

HDF5 is opened, read and closed in one call; everything after goes by offsets, so no HDF5 handle crosses a fork or a
thread, and what a forged file could make HDF5 follow (links, outside storage, virtual sources) is refused.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from featcache.cache.layout import (
    CHECKSUM_BYTES,
    COLUMNS,
    FEATURE_DTYPE,
    FORMAT,
    HOLDER_BYTES,
    RUN_BYTES,
    SCHEMA,
    TapLayout,
    block_count,
    texts_of,
)
from featcache.errors import CacheFormatError

_FIXED = {
    "row": np.dtype("<i4"),
    "label": np.dtype("<i4"),
    "digest": np.dtype("S64"),
    "status": np.dtype("u1"),
    "journal/checksum": np.dtype("u1"),
    "journal/complete": np.dtype("u1"),
    "journal/holder": np.dtype(f"S{HOLDER_BYTES}"),
    "record/run": np.dtype(f"S{RUN_BYTES}"),
}


@dataclass(frozen=True)
class Extent:
    """Where a dataset's bytes lie: `shape` and `dtype` in C order from byte `offset` on."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Length in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class Structure:
    """A file's header without its rows, and the place of every dataset (``journal/checksum`` and the like by path)."""

    path: Path
    size: int
    mtime_ns: int
    split: str
    copy: int
    key: str
    name: str
    settings: Mapping[str, object]
    class_names: tuple[str, ...]
    taps: tuple[TapLayout, ...]
    n: int
    block_rows: int
    columns_sha256: str
    places: Mapping[str, Extent]

    @property
    def blocks(self) -> int:
        """The number of journal blocks."""
        return block_count(self.block_rows, self.n)

    @property
    def feature_bytes(self) -> int:
        """Bytes of all features."""
        return self.n * sum(tap.row_bytes for tap in self.taps)


def read_structure(stream: BinaryIO, path: Path) -> Structure:
    """Return where everything lies in an open file; HDF5 is closed again before this returns.

    Args:
        stream: the file, open for reading; HDF5 reads through it, so both see one inode even if `path` is replaced.
        path: its name, for messages.

    Raises:
        CacheFormatError: not a feature cache, of another schema, or damaged or forged (links, outside storage,
            datasets that are not contiguous or reach beyond the end of the file).
    """
    stat = os.fstat(stream.fileno())
    with _format_errors(path), h5py.File(stream, "r") as file:
        _check_kind(file)
        texts = json.loads(_scalar_text(file, "record/settings"))
        taps = tuple(_tap(file, name, texts[name]) for name in _text(file, "taps").split())
        n, block_rows = len(_dataset(file, "row")), _integer(file, "block_rows")
        if block_rows < 1:
            raise CacheFormatError(f"block_rows={block_rows} is below 1")
        return Structure(
            path=path,
            size=stat.st_size,
            mtime_ns=stat.st_mtime_ns,
            split=_text(file, "split"),
            copy=_integer(file, "copy"),
            key=_text(file, "key"),
            name=_text(file, "name"),
            settings=json.loads(texts[""]),
            class_names=_class_names(file),
            taps=taps,
            n=n,
            block_rows=block_rows,
            columns_sha256=_text(file, "columns_sha256"),
            places=_places(file, taps, n, block_rows, stat.st_size),
        )


@contextmanager
def _format_errors(path: Path) -> Iterator[None]:
    """Whatever goes wrong in a damaged file becomes one line with its path."""
    advice = "if it was one, delete it and run again"
    try:
        yield
    except CacheFormatError as error:
        raise CacheFormatError(f"{path}: {error}; {advice}") from error
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise CacheFormatError(f"{path}: can't be read as a feature cache: {reason}; {advice}") from error


def _check_kind(file: h5py.File) -> None:
    if "format" not in file.attrs or _text(file, "format") != FORMAT:
        raise CacheFormatError("not a feature cache, but another HDF5 file")
    schema = _integer(file, "schema")
    if schema != SCHEMA:
        raise CacheFormatError(f"schema={schema} is of another featcache version, not {SCHEMA}")
    for group in (file, _hard(file, "journal"), _hard(file, "record")):
        for name in group:
            _hard(group, name)


def _hard(parent: h5py.Group, name: str) -> Any:
    """Return a member that lies in this file itself."""
    if parent.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
        raise CacheFormatError(f"{name!r} is a link to somewhere else")
    return parent[name]


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """Return a dataset whose bytes are contiguous, unfiltered and in this file."""
    parent, _, leaf = name.rpartition("/")
    dataset = _hard(file[parent] if parent else file, leaf)
    if not isinstance(dataset, h5py.Dataset):
        raise CacheFormatError(f"{name!r} is a group, not a dataset")
    properties = dataset.id.get_create_plist()
    plain = properties.get_layout() == h5py.h5d.CONTIGUOUS and properties.get_external_count() == 0
    if not plain or properties.get_nfilters():
        raise CacheFormatError(f"{name!r} is not stored as contiguous, unfiltered bytes in this file")
    return dataset


def _text(target: h5py.Group | h5py.Dataset, name: str) -> str:
    attribute = target.attrs.get_id(name)
    if attribute.shape != () or attribute.dtype.kind != "S":
        raise CacheFormatError(f"attribute {name!r} is {attribute.dtype}, not a text of fixed length")
    return bytes(target.attrs[name]).decode("utf-8", "surrogateescape")


def _integer(target: h5py.Group, name: str) -> int:
    attribute = target.attrs.get_id(name)
    if attribute.shape != () or attribute.dtype.kind != "i":
        raise CacheFormatError(f"attribute {name!r} is {attribute.dtype}, not an integer")
    return int(target.attrs[name])


def _scalar_text(file: h5py.File, name: str) -> str:
    dataset = _dataset(file, name)
    if dataset.shape != () or dataset.dtype.kind != "S":
        raise CacheFormatError(f"{name!r} is {dataset.dtype} {dataset.shape}, not one text of fixed length")
    return bytes(dataset[()]).decode("utf-8")


def _class_names(file: h5py.File) -> tuple[str, ...]:
    dataset = _dataset(file, "class_name")
    if dataset.dtype.kind != "S" or dataset.ndim != 1:
        raise CacheFormatError(f"'class_name' is {dataset.dtype}, not fixed-length texts")
    return tuple(texts_of(np.asarray(dataset[()])))


def _tap(file: h5py.File, name: str, settings: str) -> TapLayout:
    dataset = _dataset(file, name)
    if dataset.dtype != FEATURE_DTYPE:
        raise CacheFormatError(f"{name!r} has {dataset.dtype} features, not {FEATURE_DTYPE}")
    return TapLayout(name, tuple(dataset.shape[1:]), _text(dataset, "key"), json.loads(settings))


def _places(file: h5py.File, taps: tuple[TapLayout, ...], n: int, block_rows: int, size: int) -> dict[str, Extent]:
    """Return the place of every dataset that is read or written raw, each checked against what it must be."""
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("row", *COLUMNS, "status"), (n,))
    shapes |= {tap.name: (n, *tap.shape) for tap in taps}
    shapes |= {"journal/complete": (), "journal/holder": (), "record/run": ()}
    shapes["journal/checksum"] = (block_count(block_rows, n), CHECKSUM_BYTES)
    places = {}
    for name, shape in shapes.items():
        dataset = _dataset(file, name)
        kind = _FIXED.get(name, FEATURE_DTYPE if name not in COLUMNS else dataset.dtype)
        if dataset.shape != shape or dataset.dtype != kind or kind.kind not in "Sifu":
            raise CacheFormatError(f"{name!r} is {dataset.dtype} {dataset.shape}, not {kind} {shape}")
        place = Extent(dataset.id.get_offset() or 0, shape, np.dtype(kind))
        if place.nbytes and not 0 < place.offset <= size - place.nbytes:
            raise CacheFormatError(f"{name!r} at offset={place.offset} is not inside the file of {size} bytes")
        places[name] = place
    return places

"""Finding where the datasets of a cache file lie, without trusting the file.

HDF5 is opened, read and closed in one call; everything after goes by offsets, so no HDF5 handle crosses a fork or a
thread, and what a forged file could make HDF5 follow (links, outside storage, virtual sources) is refused.
"""

import json
import math
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
    COLUMNS_OF_SEVERAL,
    FORMAT,
    HOLDER_BYTES,
    RUN_BYTES,
    SCHEMA,
    SCHEMA_OF_SEVERAL,
    TapLayout,
    block_count,
)
from featcache.core.texts import FixedTexts
from featcache.errors import CacheFormatError


@dataclass(frozen=True)
class Extent:
    """Where a dataset's bytes lie: `shape` and `dtype` in C order from byte `offset` on."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Length in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize


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
    def columns(self) -> tuple[str, ...]:
        """The names of the columns that describe rows, in the order of their checksum."""
        return COLUMNS_OF_SEVERAL if "labels" in self.places else COLUMNS


def read_structure(stream: BinaryIO, path: Path) -> Structure:
    """Return where everything lies in an open file; HDF5 reads through it, and is closed again before this returns.

    Raises:
        CacheFormatError: not a feature cache, of another schema, or damaged or forged (links, outside storage,
            datasets that are not contiguous or reach beyond the end of the file).
    """
    stat = os.fstat(stream.fileno())
    with _format_errors(path), h5py.File(stream, "r") as file:
        _check_kind(file)
        texts = json.loads(_texts(file, "record/settings", 0))
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
            class_names=tuple(FixedTexts(_texts(file, "class_name", 1))[:]),
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
    if schema not in (SCHEMA, SCHEMA_OF_SEVERAL):
        known = f"{SCHEMA} or {SCHEMA_OF_SEVERAL}"
        raise CacheFormatError(f"schema={schema} is of another featcache version, not {known}")
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
    return bytes(_attribute(target, name, "S")).decode("utf-8", "surrogateescape")


def _integer(file: h5py.File, name: str) -> int:
    return int(_attribute(file, name, "i"))


def _attribute(target: h5py.Group | h5py.Dataset, name: str, kind: str) -> Any:
    attribute = target.attrs.get_id(name)
    if attribute.shape != () or attribute.dtype.kind != kind:
        wanted = {"S": "a text of fixed length", "i": "an integer"}[kind]
        raise CacheFormatError(f"attribute {name!r} is {attribute.dtype}, not {wanted}")
    return target.attrs[name]


def _texts(file: h5py.File, name: str, ndim: int) -> Any:
    """Return the bytes of a dataset of fixed-length texts."""
    dataset = _dataset(file, name)
    if dataset.ndim != ndim or dataset.dtype.kind != "S":
        raise CacheFormatError(f"{name!r} is {dataset.dtype} {dataset.shape}, not texts of fixed length")
    return dataset[()]


def _tap(file: h5py.File, name: str, settings: str) -> TapLayout:
    dataset = _dataset(file, name)
    return TapLayout(name, tuple(dataset.shape[1:]), _text(dataset, "key"), json.loads(settings))


def _places(file: h5py.File, taps: tuple[TapLayout, ...], n: int, block_rows: int, size: int) -> dict[str, Extent]:
    """Return the place of every dataset that is read or written raw, each checked against what it must be."""
    wanted: dict[str, tuple[str, tuple[int, ...]]] = {
        "row": ("<i4", (n,)),
        "id": ("S", (n,)),  # of any length
        "group": ("S", (n,)),
        "digest": ("S64", (n,)),
        "status": ("u1", (n,)),
        **{tap.name: ("<f2", (n, *tap.shape)) for tap in taps},
        "journal/checksum": ("u1", (block_count(block_rows, n), CHECKSUM_BYTES)),
        "journal/complete": ("u1", ()),
        "journal/holder": (f"S{HOLDER_BYTES}", ()),
        "record/run": (f"S{RUN_BYTES}", ()),
    }
    several = _integer(file, "schema") == SCHEMA_OF_SEVERAL
    wanted |= {"labels": ("u1", (n, len(_dataset(file, "class_name"))))} if several else {"label": ("<i4", (n,))}
    places = {}
    for name, (kind, shape) in wanted.items():
        dataset = _dataset(file, name)
        dtype = np.dtype(dataset.dtype.str)  # without what HDF5 knows beyond it
        if dataset.shape != shape or (dtype.kind if kind == "S" else dtype) != kind:
            raise CacheFormatError(f"{name!r} is {dataset.dtype} {dataset.shape}, not {np.dtype(kind)} {shape}")
        place = Extent(dataset.id.get_offset() or 0, shape, dtype)
        if place.nbytes and not 0 < place.offset <= size - place.nbytes:
            raise CacheFormatError(f"{name!r} at offset={place.offset} is not inside the file of {size} bytes")
        places[name] = place
    return places

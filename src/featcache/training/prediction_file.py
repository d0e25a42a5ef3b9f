"""The file of members' predictions: HDF5 behind a line of JSON that vouches for it. No Keras."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
import numpy.typing as npt

from featcache.core.disk import replacing, settled
from featcache.core.paths import regular
from featcache.core.texts import CHUNK, first_duplicate
from featcache.errors import CacheFormatError, CacheMismatchError

SCHEMA = 3
_HEAD_LIMIT = 1 << 20
_DIMENSIONS = {"ids": ("row",), "labels": ("row",), "folds": ("row",), "probabilities": ("member", "row", "class")}


def check_unique(texts: Mapping[str, Sequence[str]]) -> None:
    """Refuse ``ids`` or ``members`` that stand twice.

    Raises:
        CacheMismatchError: some do.
    """
    for what in ("ids", "members"):
        twice = first_duplicate(texts[what])
        if twice is not None:
            raise CacheMismatchError(f"expected unique {what}; {twice!r} stands twice: run TrainHeads with --rerun")


@contextmanager
def writing(
    path: Path,
    texts: Mapping[str, Sequence[str]],
    columns: Mapping[str, npt.NDArray[np.int32]],
    record: Mapping[str, object],
) -> Iterator[h5py.Dataset]:
    """Replace `path`, atomically, once the (m, n, C) float32 dataset that this yields is filled.

    Args:
        path: the file.
        texts: ``ids``, ``members`` and ``class_names``: n, m and C of them, held to `check_unique`.
        columns: ``labels`` and, for training rows, ``folds``: (n,) each.
        record: what `stored_record` gives back; its values may be replaced by others as long until the end.

    Raises:
        StorageError: the disk is full, read-only or not permitted.
    """
    size = 512  # HDF5 leaves so much to others at the beginning of a file: a power of two
    while size < len(_head(record, 0, "", texts["members"])) + 64:
        size *= 2
    with replacing(path) as temporary:
        with _created(temporary, size) as file:
            file.attrs["schema"] = SCHEMA
            for name in ("ids", "members", "class_names"):
                dataset = file.create_dataset(name, len(texts[name]), dtype=h5py.string_dtype())
                for start in range(0, len(texts[name]), CHUNK):
                    dataset[start : start + CHUNK] = np.array(texts[name][start : start + CHUNK], object)
            file["labels"] = columns["labels"]
            shape = tuple(len(texts[name]) for name in ("members", "ids", "class_names"))
            dataset = file.create_dataset("probabilities", shape, np.float32)
            if "folds" in columns:
                file["folds"] = columns["folds"]
            for name in _DIMENSIONS.keys() & file.keys():
                for axis, dimension in enumerate(_DIMENSIONS[name]):
                    file[name].dims[axis].label = dimension
            yield dataset
        with open(temporary, "rb+") as stream:
            length, digest = os.fstat(stream.fileno()).st_size, _rest_digest(stream, size)
            head = _head(record, length, digest, texts["members"])
            if len(head) >= size:
                raise ValueError(f"expected a record of at most {size} bytes at the end; got {len(head)}")
            stream.write(head.ljust(size - 1) + b"\n")


def _created(path: Path, userblock: int) -> h5py.File:
    """Return a new, empty file: the same content gives the same bytes, so no times are kept."""
    properties, order = h5py.h5p.create(h5py.h5p.FILE_CREATE), h5py.h5p.CRT_ORDER_TRACKED | h5py.h5p.CRT_ORDER_INDEXED
    properties.set_userblock(userblock)
    properties.set_link_creation_order(order)
    properties.set_attr_creation_order(order)
    properties.set_obj_track_times(False)
    return h5py.File(h5py.h5f.create(os.fsencode(path), h5py.h5f.ACC_TRUNC, properties))


def mapped(dataset: h5py.Dataset) -> npt.NDArray[Any]:
    """Map a dataset of an open file, read-only: what is never looked at is never read, and nothing counts as memory.

    The map outlives the name, so another file that is published under it changes nothing.
    """
    if not dataset.size:
        return np.empty(dataset.shape, dataset.dtype)
    offset = dataset.id.get_offset()
    if offset is None:
        raise ValueError(f"{dataset.name} is not stored in one piece")
    # of the file that is open: its name may be another's by now; HDF5 reads at offsets, so the shared position is free
    with os.fdopen(os.dup(dataset.file.id.get_vfd_handle()), "rb") as stream:
        # as a plain array: each slice of a np.memmap would be one, too, at some microseconds each
        return np.asarray(np.memmap(stream, dataset.dtype, "r", offset, dataset.shape))


def stored_members(path: Path) -> tuple[str, ...]:
    """Return the members' names alone of what `writing` wrote: from its first line, so that no more is read.

    Raises:
        CacheFormatError: the file is absent, damaged or something else.
    """
    try:
        with open(path, "rb", opener=regular) as stream:
            return tuple(map(str, _read_head(stream)["members"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass  # written before its first line had them, or damaged
    with reading(path) as file:
        return tuple(stored_texts(file["members"]))


@contextmanager
def reading(path: Path) -> Iterator[h5py.File]:
    """Open predictions whose bytes are those that were written.

    Raises:
        CacheFormatError: they can't be read, or what is done with them fails.
    """
    try:
        _check_seal(path)
        with h5py.File(path, "r") as file:
            if file.attrs["schema"] != SCHEMA:
                raise ValueError(f"schema={file.attrs['schema']!r} is not the expected {SCHEMA}")
            yield file
    except (
        OSError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        RuntimeError,
        RecursionError,
        CacheMismatchError,
    ) as error:
        reason = " ".join(str(error).split())
        raise CacheFormatError(f"{path}: expected predictions; {reason}: remove it and run again") from error


def stored_texts(dataset: h5py.Dataset) -> Iterator[str]:
    """Yield the texts of ``ids``, ``members`` or ``class_names``."""
    for start in range(0, len(dataset), CHUNK):
        yield from dataset.asstr()[start : start + CHUNK]


def stored_record(path: Path) -> dict[str, Any] | None:
    """Return what `writing` was told of the stage, reading nothing else; None where there is no such file."""
    try:
        with open(path, "rb", opener=regular) as stream:
            record = _read_head(stream)["record"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


# A damaged HDF5 file can hang or crash who opens it. So the file begins with a line of JSON, in the space that HDF5
# leaves there, with the SHA-256 of all behind it: HDF5 sees only what was written.


def _head(record: Mapping[str, object], length: int, digest: str, members: Sequence[str]) -> bytes:
    line = {"featcache": "predictions", "schema": SCHEMA, "bytes": length, "sha256": digest.ljust(64)}
    return json.dumps({**line, "members": list(members), "record": record}).encode("ascii")


def _read_head(stream: BinaryIO) -> dict[str, Any]:
    """Read the first line; the stream then stands where HDF5's part begins."""
    line = json.loads(stream.readline(_HEAD_LIMIT))
    if not isinstance(line, dict) or (line["featcache"], line["schema"]) != ("predictions", SCHEMA):
        raise ValueError(f"its first line is not that of predictions of schema {SCHEMA}")
    if line["bytes"] != os.fstat(stream.fileno()).st_size:
        raise ValueError(f"it should have {line['bytes']} bytes")
    return line


def _rest_digest(stream: BinaryIO, start: int) -> str:
    """SHA-256 of all from `start` on; the stream stands at the beginning afterwards."""
    stream.seek(start)
    state = hashlib.sha256()
    while piece := stream.read(1 << 20):
        state.update(piece)
    stream.seek(0)
    return state.hexdigest()


_SEALED: set[tuple[int, ...]] = set()  # files, as they were, that this process has read and found whole


def _check_seal(path: Path) -> None:
    with open(path, "rb", opener=regular) as stream:
        seen = settled(os.fstat(stream.fileno()))
        expected = _read_head(stream)["sha256"]
        if seen in _SEALED:
            return
        if _rest_digest(stream, stream.tell()) != expected:
            raise ValueError("its bytes are not those that were written")
        if seen is not None:
            _SEALED.add(seen)

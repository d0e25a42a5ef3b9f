"""Members' probabilities by row id, and their file. No Keras."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
import numpy.typing as npt

from featcache.disk import replacing
from featcache.errors import CacheFormatError, CacheMismatchError
from featcache.texts import CHUNK, NOWHERE, PackedTexts, positions, repeated

SCHEMA = 3
_HEAD_LIMIT = 1 << 20
_NEXT = "run TrainHeads with --rerun"


@dataclass(frozen=True, eq=False)
class Predictions:
    """What m members say of n rows.

    Attributes:
        ids: n unique row ids; any sequence, `featcache.texts` for many rows.
        labels: (n,) int32 class indices, -1 where unknown.
        members: m names.
        probabilities: (m, n, C) float32; NaN throughout a row that a member has no prediction for.
        class_names: C names.
        folds: (n,) int32, the fold that a row was scored in, -1 for none; None for rows that nothing is trained on.
    """

    ids: Sequence[str]
    labels: npt.NDArray[np.int32]
    members: tuple[str, ...]
    probabilities: npt.NDArray[np.float32]
    class_names: tuple[str, ...]
    folds: npt.NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        """Refuse parts that don't fit together."""
        shape = (len(self.members), len(self.ids), len(self.class_names))
        if self.probabilities.shape != shape or self.labels.shape != (len(self.ids),):
            got = f"probabilities{self.probabilities.shape}, labels{self.labels.shape}"
            raise CacheMismatchError(f"expected probabilities{shape} and labels({shape[1]},); got {got}: {_NEXT}")
        if self.folds is not None and self.folds.shape != self.labels.shape:
            raise CacheMismatchError(f"expected folds{self.labels.shape}; got folds{self.folds.shape}: {_NEXT}")
        for what, names in (("row ids", self.ids), ("members", self.members)):
            twice = repeated(names)
            if twice is not None:
                raise CacheMismatchError(f"expected unique {what}; {twice!r} stands twice: {_NEXT}")

    def align(self, ids: Sequence[str]) -> "Predictions":
        """Return the rows `ids`, in that order.

        Raises:
            CacheMismatchError: some of them aren't here.
        """
        if self.ids == ids:
            return self
        rows = positions(ids, self.ids)
        missing = np.flatnonzero(rows == NOWHERE).tolist()
        if missing:
            raise CacheMismatchError(
                f"expected predictions for {len(ids)} rows; {len(missing)} are missing, "
                f"first id={ids[int(missing[0])]!r}: {_NEXT}"
            )
        return self._taken(ids, rows)

    def scored(self) -> "Predictions":
        """Return the rows whose label is known and that every member has a prediction for."""
        complete = self.labels >= 0
        for member in self.probabilities:
            complete &= ~np.isnan(member).any(axis=1)
        if complete.all():
            return self
        rows = np.flatnonzero(complete)
        ids = PackedTexts(self.ids[int(row)] for row in rows)
        return self._taken(ids, rows)

    def _taken(self, ids: Sequence[str], rows: npt.NDArray[np.integer]) -> "Predictions":
        folds = None if self.folds is None else self.folds[rows]
        return replace(self, ids=ids, labels=self.labels[rows], probabilities=self.probabilities[:, rows], folds=folds)

    def save(self, path: Path, record: Mapping[str, object] | None = None) -> None:
        """Replace `path`, atomically; `record` says of the stage what `stored_record` gives back, its ``key`` above all.

        Raises:
            StorageError: the disk is full, read-only or not permitted.
        """
        text, head = h5py.string_dtype(), _head(record or {}, 0, "")
        size = 512  # HDF5 leaves so much to others at the beginning of a file: a power of two
        while size < len(head) + 64:
            size *= 2
        with replacing(path) as temporary:
            with h5py.File(temporary, "w", track_order=True, userblock_size=size) as file:
                file.attrs["schema"] = SCHEMA
                for name in ("ids", "members", "class_names"):
                    texts: Sequence[str] = getattr(self, name)
                    dataset = file.create_dataset(name, len(texts), dtype=text)
                    for start in range(0, len(texts), CHUNK):
                        dataset[start : start + CHUNK] = np.array(texts[start : start + CHUNK], object)
                file["labels"], file["probabilities"] = self.labels, self.probabilities
                if self.folds is not None:
                    file["folds"] = self.folds
                for name in _DIMENSIONS.keys() & file.keys():
                    dimensions = _DIMENSIONS[name]
                    for axis, dimension in enumerate(dimensions):
                        file[name].dims[axis].label = dimension
            with open(temporary, "rb+") as stream:
                length, digest = os.fstat(stream.fileno()).st_size, _rest_digest(stream, size)
                stream.write(_head(record or {}, length, digest).ljust(size - 1) + b"\n")

    @classmethod
    def load(cls, path: Path) -> "Predictions":
        """Read what `save` wrote.

        Raises:
            CacheFormatError: the file is absent, damaged or something else.
        """
        with _reading(path) as file:
            ids = PackedTexts(_texts(file["ids"]))
            members, names = (tuple(_texts(file[name])) for name in ("members", "class_names"))
            labels, probabilities = file["labels"][()], file["probabilities"][()]
            folds = file["folds"][()] if "folds" in file else None
            integers = labels.dtype == np.int32 and (folds is None or folds.dtype == np.int32)
            if not integers or probabilities.dtype != np.float32:
                raise TypeError(f"labels are {labels.dtype}, probabilities {probabilities.dtype}")
            return cls(ids, labels, members, probabilities, names, folds)


def stored_members(path: Path) -> tuple[str, ...]:
    """Return the members' names alone of what `Predictions.save` wrote.

    Raises:
        CacheFormatError: the file is absent, damaged or something else.
    """
    with _reading(path) as file:
        return tuple(_texts(file["members"]))


@contextmanager
def _reading(path: Path) -> Iterator[h5py.File]:
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


def _texts(dataset: h5py.Dataset) -> Iterator[str]:
    for start in range(0, len(dataset), CHUNK):
        yield from dataset.asstr()[start : start + CHUNK]


_DIMENSIONS = {"ids": ("row",), "labels": ("row",), "folds": ("row",), "probabilities": ("member", "row", "class")}


def stored_record(path: Path) -> dict[str, Any] | None:
    """Return what `Predictions.save` was told of the stage, reading nothing else; None where there is no such file."""
    try:
        with open(path, "rb") as stream:
            record = _read_head(stream)["record"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


# A damaged HDF5 file can hang or crash who opens it. So the file begins with a line of JSON, in the space that HDF5
# leaves there, with the SHA-256 of all behind it: HDF5 sees only what was written.


def _head(record: Mapping[str, object], length: int, digest: str) -> bytes:
    line = {"featcache": "predictions", "schema": SCHEMA, "bytes": length, "sha256": digest.ljust(64), "record": record}
    return json.dumps(line).encode("ascii")


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


def _check_seal(path: Path) -> None:
    with open(path, "rb") as stream:
        expected = _read_head(stream)["sha256"]
        if _rest_digest(stream, stream.tell()) != expected:
            raise ValueError("its bytes are not those that were written")


def joined_members(parts: Sequence[Predictions]) -> Predictions:
    """Return the members of all `parts` side by side, on the rows of the first, joined by row id.

    Raises:
        CacheMismatchError: a part lacks a row, has other classes, or scored a row in another fold.
    """
    first, *rest = parts
    if not rest:
        return first
    aligned = [first, *(part.align(first.ids) for part in rest)]
    if any(part.class_names != first.class_names for part in rest):
        raise CacheMismatchError(f"expected members of the same classes; got others in {len(parts)} bags: {_NEXT}")
    if not all(_same_folds(first.folds, part.folds) for part in aligned):
        raise CacheMismatchError(f"expected members of the same folds; got others in {len(parts)} bags: {_NEXT}")
    members = tuple(member for part in aligned for member in part.members)
    probabilities = np.concatenate([part.probabilities for part in aligned])
    return replace(first, members=members, probabilities=probabilities)


def _same_folds(one: npt.NDArray[np.int32] | None, other: npt.NDArray[np.int32] | None) -> bool:
    """Whether the rows that both scored were in the same folds: an ensemble of fold k must not have seen fold k."""
    if one is None or other is None:
        return one is other
    return bool(np.all((one == other) | (one < 0) | (other < 0)))

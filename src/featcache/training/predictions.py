"""Members' probabilities of a split's rows, and their files: ``.npy`` beside a JSON record with their checksums. No Keras."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.json_records import read_json
from featcache.core.keys import file_digest, file_digest_once
from featcache.core.rows import Rows, is_several, known_labels
from featcache.core.texts import PackedTexts, first_duplicate
from featcache.errors import CacheFormatError, CacheMismatchError
from featcache.training.member_tables import Float32s, RowNumbers, Tables, joined, selected, table_parts

OUT_OF_FOLD_FILE = "out_of_fold.npy"
FOLDS_FILE = "folds.npy"
RECORDED = "predictions"
"""Where the record of a bag, a convnet or `PredictRows` keeps what `write_predictions` returns."""
_AGAIN = "run TrainHeads with --rerun"


@dataclass(frozen=True, eq=False)
class Predictions:
    """The probabilities that m members give n rows.

    Attributes:
        ids: n unique row ids, in the manifest's order.
        labels: (n,) int32 class indices, -1 where unknown; or, where a row may have several, (n, C) int8 of 0 and 1, -1 throughout a row whose labels are unknown.
        members: m names.
        probabilities: (m, n, C) float32, in memory, mapped or joined; NaN throughout a row that a member has no
            prediction for.
        class_names: C names.
        folds: (n,) int32, the fold that a row was scored in, or negative, as `assign_folds` returns them; None for rows
            that nothing is trained on.
        groups: n texts, "" where there is none; empty where no row has one.
        rows_key: `Rows.key` of the rows; "" for some of them.
    """

    ids: Sequence[str]
    labels: npt.NDArray[np.integer]
    members: tuple[str, ...]
    probabilities: Tables
    class_names: tuple[str, ...]
    folds: npt.NDArray[np.int32] | None = None
    groups: Sequence[str] = ()
    rows_key: str = ""

    def __post_init__(self) -> None:
        """Refuse parts that don't fit together, by `CacheMismatchError`."""
        shape = (len(self.members), len(self.ids), len(self.class_names))
        of_labels = shape[1:] if is_several(self.labels) else shape[1:2]
        if self.probabilities.shape != shape or self.labels.shape != of_labels:
            got = f"probabilities{self.probabilities.shape} and labels{self.labels.shape}"
            raise CacheMismatchError(f"{got} are not of {shape} members, rows and classes: {_AGAIN}")
        if self.folds is not None and self.folds.shape != self.labels.shape[:1]:
            raise CacheMismatchError(f"folds{self.folds.shape} are not of {len(self.ids)} rows: {_AGAIN}")
        check_members(self.members)

    def take(self, rows: RowNumbers) -> "Predictions":
        """Return these rows, in this order."""
        return replace(
            self,
            ids=PackedTexts(self.ids[row] for row in rows.tolist()),
            labels=self.labels[rows],
            probabilities=selected(self.probabilities, rows),
            folds=None if self.folds is None else self.folds[rows],
            groups=[self.groups[row] for row in rows.tolist()] if len(self.groups) else (),
            rows_key="",
        )

    def scored(self) -> "Predictions":
        """Return the rows whose label is known and that every member has a prediction for."""
        known = known_labels(self.labels) & self.predicted()
        return self if known.all() else self.take(np.flatnonzero(known))

    def predicted(self) -> npt.NDArray[np.bool_]:
        """Return (n,) whether every member has a prediction for a row."""
        found = np.ones(len(self.ids), bool)
        for rows, values in table_parts(self.probabilities):
            found[rows] = ~np.isnan(values).any(axis=(0, 2))
        return found

    def save(self, folder: Path) -> dict[str, Any]:
        """Write `OUT_OF_FOLD_FILE`, and `FOLDS_FILE` where there are folds, into a folder that isn't published yet.

        Returns:
            what `load` finds in the record beside them, under `RECORDED`.
        """
        parts = ((0, rows, values) for rows, values in table_parts(self.probabilities))
        path = folder / OUT_OF_FOLD_FILE
        record = write_predictions(path, self.members, self.class_names, (len(self.ids), self.rows_key), parts)
        if self.folds is not None:
            np.save(folder / FOLDS_FILE, self.folds, allow_pickle=False)
            record["files"] |= {FOLDS_FILE: file_digest(folder / FOLDS_FILE)}
        return record

    @classmethod
    def load(cls, record: Path, *candidates: Rows) -> "Predictions":
        """Map what is recorded in a JSON file; the probabilities are not read, but for their checksum once a process.

        Args:
            record: of a bag, a convnet or `PredictRows`.
            candidates: rows of the manifest, those that were predicted among them.

        Raises:
            CacheFormatError: something is absent or damaged, or of other rows.
        """
        with _reading(record) as stored:
            rows = next((each for each in candidates if each.key == stored["rows"]), None)
            if rows is None:
                raise ValueError("they are of other rows than the manifest's")
            probabilities, *folds = _arrays(record, stored)
            if any(each.dtype != np.int32 for each in folds):
                raise TypeError(f"folds are {folds[0].dtype}")
            members, names = tuple(map(str, stored["members"])), tuple(map(str, stored["class_names"]))
            fold = folds[0] if folds else None
            return cls(rows.ids, rows.labels, members, probabilities, names, fold, rows.known_groups, rows.key)


def stored_members(record: Path) -> tuple[str, ...]:
    """Return the names of the members whose predictions are recorded in a JSON file; nothing else is read.

    Raises:
        CacheFormatError: it is absent or damaged.
    """
    with _reading(record) as stored:
        return tuple(map(str, stored["members"]))


def stored_probabilities(record: Path) -> Float32s:
    """Return the recorded (m, n, C) float32 alone, for which no rows are needed.

    Raises:
        CacheFormatError: something is absent or damaged.
    """
    with _reading(record) as stored:
        return _arrays(record, stored)[0]


def check_members(members: Sequence[str]) -> None:
    """Raise `CacheMismatchError` for a member's name that is there twice."""
    twice = first_duplicate(members)
    if twice is not None:
        raise CacheMismatchError(f"two members are called {twice!r}: {_AGAIN}")


def write_predictions(
    path: Path,
    members: Sequence[str],
    class_names: Sequence[str],
    rows: tuple[int, str],
    parts: Iterable[tuple[int, slice, Float32s]],
) -> dict[str, Any]:
    """Write (m, n, C) float32 probabilities as ``.npy`` into a folder that isn't published yet.

    Args:
        path: the file.
        members: m names.
        class_names: C names.
        rows: how many, n, and their `Rows.key`.
        parts: (first member, rows, (k, r, C)) each, all of them together the whole array.

    Returns:
        what `Predictions.load` finds in the record beside it, under `RECORDED`.
    """
    shape = len(members), rows[0], len(class_names)
    with open(path, "wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
        start, row_bytes = stream.tell(), 4 * shape[2]
        for first, place, values in parts:
            for member, probabilities in enumerate(values, first):
                stream.seek(start + row_bytes * (member * shape[1] + place.start))
                stream.write(np.ascontiguousarray(probabilities, "<f4").data)
    files = {path.name: file_digest(path)}
    return {"members": list(members), "class_names": list(class_names), "rows": rows[1], "files": files}


def joined_members(several: Sequence[Predictions]) -> Predictions:
    """Return the members of all `several`, which are of the same rows, side by side.

    Raises:
        CacheMismatchError: a part is of other rows or classes, or scored a row in another fold.
    """
    first, *rest = several
    for part in rest:
        if part.ids is not first.ids and part.ids != first.ids:
            differ = "predicted different rows"
        elif part.class_names != first.class_names:
            differ = "predicted different classes"
        elif not _same_folds(first.folds, part.folds):
            differ = "have different folds"
        else:
            continue
        raise CacheMismatchError(f"the members of {len(several)} bags {differ}: {_AGAIN}")
    members = tuple(member for part in several for member in part.members)
    return replace(first, members=members, probabilities=joined([part.probabilities for part in several]))


def _same_folds(one: npt.NDArray[np.int32] | None, other: npt.NDArray[np.int32] | None) -> bool:
    """Whether the rows that both scored were in the same folds: an ensemble of fold k must not have seen fold k."""
    if one is None or other is None:
        return one is other
    return bool(np.all((one == other) | (one < 0) | (other < 0)))


@contextmanager
def _reading(record: Path) -> Iterator[dict[str, Any]]:
    """Yield what is recorded; whatever is wrong with it or its files becomes one error."""
    try:
        stored: Any = (read_json(record) or {}).get(RECORDED)
        if not isinstance(stored, dict):
            raise TypeError("it is absent, damaged or of an older version")
        yield stored
    except (OSError, KeyError, ValueError, TypeError, AttributeError, EOFError, CacheMismatchError) as error:
        reason = " ".join(str(error).split())
        raise CacheFormatError(
            f"{record}: its predictions can't be used: {reason}: remove {record.parent} and run again"
        ) from error


def _arrays(record: Path, stored: dict[str, Any]) -> list[npt.NDArray[Any]]:
    """The recorded arrays, mapped; a map outlives the name, so what is published under it later changes nothing.

    Raises:
        OSError, ValueError, TypeError: a file is absent, is not the one that was written, or holds something else.
    """
    arrays = []
    for name, digest in stored["files"].items():
        path = record.with_name(Path(name).name)
        if file_digest_once(path) != digest:
            raise ValueError(f"{path.name}: checksum mismatch")
        # as a plain array: each slice of a np.memmap would be one, too, at some microseconds each
        arrays.append(np.asarray(np.load(path, mmap_mode="r", allow_pickle=False)))
    if not arrays or arrays[0].dtype != np.float32 or arrays[0].ndim != 3:
        raise TypeError(f"{[(each.shape, str(each.dtype)) for each in arrays]} are not (m, n, C) float32")
    return arrays

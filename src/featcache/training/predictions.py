"""Members' probabilities by row id. No Keras."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.core.texts import NOT_FOUND, PackedTexts, index_of
from featcache.errors import CacheMismatchError
from featcache.training.member_tables import Tables, joined, selected, table_parts
from featcache.training.prediction_file import check_unique, mapped, reading, stored_texts, writing

_NEXT = "run TrainHeads with --rerun"


@dataclass(frozen=True, eq=False)
class Predictions:
    """What m members say of n rows.

    Attributes:
        ids: n unique row ids; any sequence, `featcache.core.texts` for many rows.
        labels: (n,) int32 class indices, -1 where unknown.
        members: m names.
        probabilities: (m, n, C) float32, in memory, mapped or joined; NaN throughout a row that a member has no
            prediction for.
        class_names: C names.
        folds: (n,) int32, the fold that a row was scored in, -1 for none; None for rows that nothing is trained on.
    """

    ids: Sequence[str]
    labels: npt.NDArray[np.int32]
    members: tuple[str, ...]
    probabilities: Tables
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
        check_unique({"ids": self.ids, "members": self.members})

    def align(self, ids: Sequence[str]) -> "Predictions":
        """Return the rows `ids`, in that order.

        Raises:
            CacheMismatchError: some of them aren't here.
        """
        if self.ids == ids:
            return self
        rows = index_of(ids, self.ids)
        missing = np.flatnonzero(rows == NOT_FOUND).tolist()
        if missing:
            raise CacheMismatchError(
                f"expected predictions for {len(ids)} rows; {len(missing)} are missing, "
                f"first id={ids[int(missing[0])]!r}: {_NEXT}"
            )
        return self._taken(ids, rows)

    def scored(self) -> "Predictions":
        """Return the rows whose label is known and that every member has a prediction for."""
        complete = self.labels >= 0
        for place, said in table_parts(self.probabilities):
            complete[place] &= ~np.isnan(said).any(axis=(0, 2))
        if complete.all():
            return self
        rows = np.flatnonzero(complete)
        ids = PackedTexts(self.ids[int(row)] for row in rows)
        return self._taken(ids, rows)

    def _taken(self, ids: Sequence[str], rows: npt.NDArray[np.integer]) -> "Predictions":
        folds = None if self.folds is None else self.folds[rows]
        return replace(
            self, ids=ids, labels=self.labels[rows], probabilities=selected(self.probabilities, rows), folds=folds
        )

    def save(self, path: Path, record: Mapping[str, object] | None = None) -> None:
        """Replace `path`, atomically; `record` says of the stage what `stored_record` gives back, its ``key`` above all.

        Raises:
            StorageError: the disk is full, read-only or not permitted.
        """
        texts = {"ids": self.ids, "members": self.members, "class_names": self.class_names}
        columns = {"labels": self.labels} | ({} if self.folds is None else {"folds": self.folds})
        with writing(path, texts, columns, record or {}) as dataset:
            for place, said in table_parts(self.probabilities):
                dataset[:, place] = said

    @classmethod
    def load(cls, path: Path) -> "Predictions":
        """Read what `save` wrote; the probabilities are mapped, not read.

        Raises:
            CacheFormatError: the file is absent, damaged or something else.
        """
        with reading(path) as file:
            ids = PackedTexts(stored_texts(file["ids"]))
            members, names = (tuple(stored_texts(file[name])) for name in ("members", "class_names"))
            labels, probabilities = file["labels"][()], mapped(file["probabilities"])
            folds = file["folds"][()] if "folds" in file else None
            integers = labels.dtype == np.int32 and (folds is None or folds.dtype == np.int32)
            if not integers or probabilities.dtype != np.float32:
                raise TypeError(f"labels are {labels.dtype}, probabilities {probabilities.dtype}")
            return cls(ids, labels, members, probabilities, names, folds)


def joined_members(several: Sequence[Predictions]) -> Predictions:
    """Return the members of all `several` side by side, on the rows of the first, joined by row id.

    Raises:
        CacheMismatchError: a part lacks a row, has other classes, or scored a row in another fold.
    """
    first, *rest = several
    if not rest:
        return first
    aligned = [first, *(part.align(first.ids) for part in rest)]
    if any(part.class_names != first.class_names for part in rest):
        raise CacheMismatchError(f"expected members of the same classes; got others in {len(several)} bags: {_NEXT}")
    if not all(_same_folds(first.folds, part.folds) for part in aligned):
        raise CacheMismatchError(f"expected members of the same folds; got others in {len(several)} bags: {_NEXT}")
    members = tuple(member for part in aligned for member in part.members)
    return replace(first, members=members, probabilities=joined([part.probabilities for part in aligned]))


def _same_folds(one: npt.NDArray[np.int32] | None, other: npt.NDArray[np.int32] | None) -> bool:
    """Whether the rows that both scored were in the same folds: an ensemble of fold k must not have seen fold k."""
    if one is None or other is None:
        return one is other
    return bool(np.all((one == other) | (one < 0) | (other < 0)))

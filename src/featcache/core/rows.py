"""The rows of one split, column by column: what a manifest lists and a feature cache stores."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core import keys
from featcache.core.joined_texts import column_digest
from featcache.core.texts import ConstantText, DecodedTexts, PackedTexts, first_duplicate
from featcache.errors import SourceError

SPLITS = ("train", "valid", "test")
UNKNOWN_LABEL = -1
BETWEEN_NAMES = "|"
"""What separates the names of a row's labels where they are one text."""

Labels = npt.NDArray[np.integer]


def is_several(labels: Labels) -> bool:
    """Return whether rows have any number of labels, (n, L) of 0 and 1, and not one class each, (n,)."""
    return labels.ndim == 2


def known_labels(labels: Labels) -> npt.NDArray[np.bool_]:
    """Return (n,) bool, False for a row whose class or labels are unknown."""
    known = np.asarray(labels >= 0)
    return np.asarray(known.all(axis=1)) if known.ndim == 2 else known


def has_label(labels: Labels, label: int) -> npt.NDArray[np.bool_]:
    """Return (n,) bool: which rows are of this class, or have this label."""
    has: npt.NDArray[np.bool_] = labels[:, label] == 1 if is_several(labels) else labels == label
    return has


def label_counts(labels: Labels, classes: int) -> npt.NDArray[np.intp]:
    """Return (classes,) the rows of each class, or with each label."""
    if is_several(labels):
        return np.asarray((labels == 1).sum(axis=0), np.intp)
    return np.bincount(labels[labels >= 0], minlength=classes)


def masked_labels(labels: npt.NDArray[Any], usable: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """Return labels, of the same shape and dtype, that are unknown where a row isn't `usable`, (n,) bool."""
    return np.where(usable[:, None] if is_several(labels) else usable, labels, labels.dtype.type(UNKNOWN_LABEL))


def label_names(labels: Labels, row: int, class_names: Sequence[str]) -> list[str] | None:
    """Return the names of a row's labels, or of its class alone; None where they are unknown."""
    own = labels[row]
    if is_several(labels):
        return None if own.min(initial=0) < 0 else [class_names[label] for label in np.flatnonzero(own == 1).tolist()]
    return [class_names[own]] if 0 <= own < len(class_names) else None


def label_text(labels: Labels, row: int, class_names: Sequence[str]) -> str:
    """Return the `label_names` of a row with ``|`` between them; "" where there are none."""
    return BETWEEN_NAMES.join(label_names(labels, row, class_names) or ())


@dataclass(frozen=True, eq=False)
class Rows:
    """n rows in the manifest's order. Columns of texts are any sequences: lists, or `featcache.core.texts` for many rows.

    Attributes:
        ids: n unique texts; for files the path below the split's folder, with ``/``.
        labels: (n,) int32, an index into the manifest's class names, or -1 where unknown. Of several labels a row
            (n, L) int8, 0 or 1 for each of the class names, or -1 in all of a row's cells where they are unknown.
        groups: n texts; images that share one stay in one fold; "" where there is none.
        digests: n SHA-256 hex digests of the image's content (of the file's bytes, or of the raw pixels);
            "" where the content could not be read.
        reasons: n texts; "" for a row that is fine, otherwise why listing rejected it.
        locations: n texts by which the source finds the image again; never part of a key.
        cases: n texts, the case that each image is one of several of; () where each row is a case by itself. Predictions
            are averaged by case before anything is made of them.
    """

    ids: Sequence[str]
    labels: npt.NDArray[Any]
    groups: Sequence[str]
    digests: Sequence[str]
    reasons: Sequence[str]
    locations: Sequence[str] = field(default=())
    cases: Sequence[str] = field(default=())

    def __post_init__(self) -> None:
        """Refuse columns of different lengths and repeated ids."""
        if not len(self.locations):
            object.__setattr__(self, "locations", ConstantText("", len(self)))
        for name in ("labels", "groups", "digests", "reasons", "locations"):
            if (count := len(getattr(self, name))) != len(self):
                raise SourceError(f"len({name})={count} differs from the number of row ids, {len(self)}")
        if len(self.cases) not in (0, len(self)):
            raise SourceError(f"len(cases)={len(self.cases)} differs from the number of row ids, {len(self)}")
        twice = first_duplicate(self.ids)
        if twice is not None:
            raise SourceError(f"id={twice!r} occurs twice: row ids must be unique")

    def __len__(self) -> int:
        """The number of rows, rejected ones included."""
        return len(self.ids)

    @cached_property
    def case_ids(self) -> Sequence[str]:
        """The ids that are predicted and submitted: each case once, in the order of its first row; else the rows' ids."""
        return PackedTexts(dict.fromkeys(self.cases)) if len(self.cases) else self.ids

    @cached_property
    def known_groups(self) -> Sequence[str]:
        """`groups`, or () where no row has one."""
        return self.groups if any(self.groups) else ()

    @cached_property
    def listed(self) -> npt.NDArray[np.bool_]:
        """(n,) bool, True where listing found nothing wrong with the row."""
        return np.fromiter((not reason for reason in self.reasons), bool, len(self))

    def _label_keys(self, start: int, stop: int) -> list[str]:
        """The number of each row's class, or those of its labels, each with a comma behind it; -1 where unknown."""
        labels = self.labels[start:stop]
        if not is_several(labels):
            return list(map(str, labels.tolist()))
        own = ("".join(f"{label}," for label in np.flatnonzero(row).tolist()) for row in labels)
        known = known_labels(labels).tolist()
        return [text if is_known else str(UNKNOWN_LABEL) for text, is_known in zip(own, known, strict=True)]

    @cached_property
    def key(self) -> str:
        """The digest of ids, labels, groups, digests, reasons and any cases in this order; locations don't count."""
        labels = DecodedTexts(len(self), self._label_keys)
        columns = [
            self.ids,
            labels,
            self.groups,
            self.digests,
            self.reasons,
            *([self.cases] if len(self.cases) else []),
        ]
        return keys.digest([column_digest(column) for column in columns])

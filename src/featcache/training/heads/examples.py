"""The rows that a bag is trained on, pseudo-labelled ones included. NumPy only."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.rows import is_several, known_labels
from featcache.core.scratch_arrays import allocate
from featcache.errors import TrainingError
from featcache.training.class_weights import class_weights
from featcache.training.folds import NO_FOLD
from featcache.training.heads.forward import Float32s
from featcache.training.heads.inputs import HeadInput
from featcache.training.heads.partition import Partition
from featcache.training.heads.presets import HeadPlan
from featcache.training.several_labels import balance, label_weights


@dataclass(frozen=True, eq=False)
class PseudoLabels:
    """Unlabelled rows that heads are trained on beside the labelled ones; never scored.

    Attributes:
        copies: features of m rows each, as those of the training rows; any number of copies, at least one.
        labels: (P, m, C) float32, each part's soft labels, in the order of its numbers. For honest scores they must
            come from heads that were never trained on what the part is scored on.
        weight: what a pseudo-labelled row counts for beside a labelled one.
    """

    copies: Sequence[npt.NDArray[Any]]
    labels: Float32s
    weight: float


@dataclass(frozen=True, eq=False)
class Examples:
    """The rows that a bag is trained on.

    Attributes:
        seen_as: how features became the values below.
        copies: (n, F) values each, as `seen_as` makes them; copy 0 plain, then the mirrored one where there is one, then
            augmented ones. Memory-mapped arrays stay on the disk.
        labels: (n,) class indices, or (n, C) of 0 and 1 where a row may have several.
        parts: which of them each head is trained on.
        pseudo: more rows, with soft labels.
        views: so many of the copies, the first ones, a row is scored by: the mean of their probabilities.
    """

    seen_as: HeadInput
    copies: Sequence[npt.NDArray[Any]]
    labels: npt.NDArray[np.integer]
    parts: Partition
    pseudo: PseudoLabels | None = None
    views: int = 1

    @property
    def several(self) -> bool:
        """Whether a row may have several labels."""
        return is_several(self.labels)

    def check(self, plan: HeadPlan) -> None:
        """Raise `TrainingError` for features, labels or soft labels of another shape or range than the plan's."""
        pseudo = self.pseudo
        sets = [(self.copies, len(self.labels))] + ([(pseudo.copies, pseudo.labels.shape[1])] if pseudo else [])
        for copies, rows in sets:
            shapes = [tuple(copy.shape) for copy in copies]
            if len(set(shapes)) != 1 or shapes[0][0] != rows or np.prod(shapes[0][1:]) != plan.features:
                raise TrainingError(
                    f"features of shapes={shapes} don't fit: every copy needs {rows} rows of {plan.features} values"
                )
        known = self.labels[self.parts.units != NO_FOLD]
        if plan.several != self.several or known.shape[1:] not in ((), (plan.classes,)):
            raise TrainingError(f"labels{self.labels.shape} are not those of a plan with several={plan.several}")
        most = 1 if self.several else plan.classes - 1
        if len(known) and not (known_labels(known).all() and known.max() <= most):
            raise TrainingError(f"labels from {known.min()} to {known.max()} are outside 0..{most}")
        if pseudo is not None:
            if pseudo.labels.shape[::2] != (len(self.parts.numbers), plan.classes):
                raise TrainingError(
                    f"soft labels of shape={pseudo.labels.shape} don't fit {len(self.parts.numbers)} parts and "
                    f"{plan.classes} classes"
                )
            if not pseudo.weight > 0:
                raise TrainingError(f"weight={pseudo.weight} of soft labels is not above 0")

    def some(self, most: int, scratch: Path | None) -> "Examples":
        """Return at most so many of the rows, evenly spaced as they may be sorted by class; all, unread, if there are fewer.

        Raises:
            StorageError: there is no room for them in `scratch`.
        """
        if len(self.labels) <= most:
            return self
        rows = np.linspace(0, len(self.labels) - 1, most).astype(np.intp)
        parts = replace(self.parts, units=self.parts.units[rows])
        taken = [allocate((most, *copy.shape[1:]), copy.dtype, scratch) for copy in self.copies]
        for copy, own in zip(self.copies, taken, strict=True):
            np.take(copy, rows, axis=0, out=own, mode="clip")  # which writes into it without a buffer
        return replace(self, copies=taken, labels=self.labels[rows], parts=parts)

    def count(self, part: int) -> int:
        """The number of rows that heads of `part` are trained on, copies and pseudo-labelled ones included."""
        labelled = int(self.parts.trained(part).sum()) * len(self.copies)
        return labelled + (self.pseudo.labels.shape[1] * len(self.pseudo.copies) if self.pseudo else 0)

    def row_weights(self, classes: int) -> Float32s:
        """(P, n) float32: what each row counts for in each part's training where all classes count the same.

        Of several labels a row (P, n, C): what each of its cells counts for.
        """
        weights = np.zeros((len(self.parts.numbers), *self.labels.shape), np.float32)
        for own, part in zip(weights, self.parts.numbers, strict=True):
            rows = self.parts.trained(part)
            labels = self.labels[rows]
            own[rows] = (
                balance(labels, label_weights(labels)) if self.several else class_weights(labels, classes)[labels]
            )
        return weights

    def seen_classes(self, classes: int) -> npt.NDArray[np.bool_]:
        """(P, C) bool: whether heads of each part are trained on any row of each of C `classes`; all of several labels.

        A label that no row has says as much as one that some have: it is rare.
        """
        if self.several:
            return np.ones((len(self.parts.numbers), classes), bool)
        labels = (self.labels[self.parts.trained(part)] for part in self.parts.numbers)
        seen = np.stack([np.bincount(own, minlength=classes) > 0 for own in labels])
        return seen | (self.pseudo.labels.any(axis=1) if self.pseudo else False)

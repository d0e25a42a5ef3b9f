"""What probabilities and labels come to, class by class: confusions, precision and recall, reliability. NumPy only."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]

BINS = 10


@dataclass(frozen=True, eq=False)
class ClassScores:
    """How well each of C classes is told; NaN where there is nothing to divide by.

    Attributes:
        rows: (C,) int64, rows of the class.
        precision: (C,) of the rows told to be of the class, the share that are.
        recall: (C,) of the rows of the class, the share told so.
        f1: (C,) the harmonic mean of both.
    """

    rows: Counts
    precision: Float64s
    recall: Float64s
    f1: Float64s


@dataclass(frozen=True, eq=False)
class Reliability:
    """Whether probabilities are as often right as they say, by the probability of the class that is told.

    Attributes:
        rows: (`BINS`,) int64, rows whose probability is in the bin; bins are equally wide, from 0 to 1.
        confidence: (`BINS`,) their mean probability, NaN in an empty bin.
        accuracy: (`BINS`,) the share of them told right, NaN in an empty bin.
        error: the expected calibration error: the mean distance of the two, weighted by rows.
    """

    rows: Counts
    confidence: Float64s
    accuracy: Float64s
    error: float


@dataclass(frozen=True, eq=False)
class Collapsed:
    """A confusion matrix small enough to look at.

    Attributes:
        classes: the classes that are shown, ascending; all others are one last row and column.
        counts: (k, k) int64 of them, or (k + 1, k + 1) with the others.
        others: how many classes the last row and column stand for; 0: there is none.
    """

    classes: list[int]
    counts: Counts
    others: int


def confusion(labels: npt.NDArray[np.integer], predicted: npt.NDArray[np.integer], classes: int) -> Counts:
    """Return (C, C) int64: rows of class i (line) told to be j (column)."""
    flat = np.bincount(labels.astype(np.int64) * classes + predicted, minlength=classes * classes)
    return flat.reshape(classes, classes).astype(np.int64)


def class_scores(counts: Counts) -> ClassScores:
    """Return precision, recall and F1 of each class of a confusion matrix (C, C)."""
    right, rows, told = np.diag(counts).astype(np.float64), counts.sum(axis=1), counts.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return ClassScores(rows, right / told, right / rows, 2 * right / (rows + told))


def collapse(counts: Counts, most: int) -> Collapsed:
    """Keep the `most` classes with the most confusions, of equals the first, and add up the others."""
    classes = len(counts)
    if classes <= most:
        return Collapsed(list(range(classes)), counts, 0)
    wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * np.diag(counts)
    kept = np.sort(np.argsort(-wrong, kind="stable")[:most])
    place = np.full(classes, most)
    place[kept] = np.arange(most)
    small = np.zeros((most + 1, most + 1), np.int64)
    np.add.at(small, (place[:, None], place[None, :]), counts)
    return Collapsed(kept.tolist(), small, classes - most)


def top_confusions(counts: Counts, most: int) -> list[tuple[int, int, int]]:
    """Return (class, told as, rows) of the most frequent mistakes, of equals the first."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [(int(i), int(j), int(wrong[i, j])) for i, j in pairs if wrong[i, j]]


def reliability(probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> Reliability:
    """Compare how sure rows are told with how often they are told right.

    Args:
        probabilities: (n, C), rows sum to 1, n at least 1.
        labels: (n,) class indices.
    """
    sure, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
    rows = np.bincount(bins, minlength=BINS)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(bins, sure, minlength=BINS) / rows
        accuracy = np.bincount(bins, right, minlength=BINS) / rows
    error = float(np.nansum(np.abs(confidence - accuracy) * rows) / len(labels))
    return Reliability(rows.astype(np.int64), confidence, accuracy, error)


def macro(values: Sequence[float] | Float64s) -> float:
    """Return the mean over classes, those without a value left out; NaN where none has one."""
    known = np.asarray(values)[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")

"""Confusions between classes, and reliability of probabilities. NumPy only."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]

BINS = 10


@dataclass(frozen=True, eq=False)
class Reliability:
    """How often predictions are right, by the probability of the predicted class.

    Attributes:
        rows: (`BINS`,) int64, rows whose probability is in the bin; bins are equally wide, from 0 to 1.
        confidence: (`BINS`,) their mean probability, NaN in an empty bin.
        accuracy: (`BINS`,) the share of them predicted correctly, NaN in an empty bin.
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
        classes: the classes shown, ascending; all others are the last row and column.
        counts: (k, k) int64 of them, or (k + 1, k + 1) with the others.
        others: how many classes the last row and column combine; 0: there is no such row.
    """

    classes: list[int]
    counts: Counts
    others: int


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
    """Return (class, predicted class, rows) of the most frequent mistakes, of equals the first."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [(int(i), int(j), int(wrong[i, j])) for i, j in pairs if wrong[i, j]]


def reliability(probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> Reliability:
    """Compare the probability of predictions with how often they are right.

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

"""Which rows to check: misclassified, uncertain, or with a label that is likely wrong. NumPy only."""

import numpy as np
import numpy.typing as npt

from featcache.training import row_parts

Floats = npt.NDArray[np.floating]
_LEAST = 1e-15
_SURE = 0.8  # another class with this probability is always suspected, even where models are usually surer


def most_wrong(probabilities: Floats, labels: npt.NDArray[np.integer], most: int) -> npt.NDArray[np.int64]:
    """Return (k,) the misclassified rows, those whose label has the lowest probability first.

    Args:
        probabilities: (n, C), rows sum to 1, by models that weren't trained on the row.
        labels: (n,) class indices; -1 where unknown: never among them.
        most: how many at most.
    """
    rows = np.flatnonzero((labels >= 0) & (probabilities.argmax(axis=1) != labels))
    of_label = probabilities[rows, labels[rows]]
    found: npt.NDArray[np.int64] = rows[np.argsort(of_label, kind="stable")[:most]]
    return found


def least_sure(probabilities: Floats, most: int) -> npt.NDArray[np.int64]:
    """Return (k,) the rows of the highest entropy, highest first."""
    found: npt.NDArray[np.int64] = np.argsort(-entropy(probabilities), kind="stable")[:most]
    return found


def entropy(probabilities: Floats) -> Floats:
    """Return (n,) the entropy of each row, in 0..1: 0 for one class alone, 1 for all C classes alike."""
    spread: Floats = np.empty(len(probabilities))
    for rows in row_parts(*probabilities.shape):
        some = probabilities[rows]
        spread[rows] = -(some * np.log(np.maximum(some, _LEAST))).sum(axis=1)
    spread /= np.log(probabilities.shape[1])
    return spread


def label_errors(
    probabilities: Floats, labels: npt.NDArray[np.integer]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Find labels that are likely wrong, by confident learning (Northcutt, Jiang and Chuang 2021).

    A row is suspected where another class is more probable than the label, and at least as probable as it is, on average,
    for the rows that are labelled with it (capped at `_SURE`), so classes with lower probabilities need less to be suggested.

    Args:
        probabilities: (n, C), rows sum to 1, by models that weren't trained on the row.
        labels: (n,) class indices.

    Returns:
        (k,) their rows, the most likely first, and (k,) the classes that they seem to be of.
    """
    classes = probabilities.shape[1]
    of_label = probabilities[np.arange(len(labels)), labels]
    counts = np.bincount(labels, minlength=classes)
    thresholds = np.bincount(labels, of_label, minlength=classes) / np.maximum(counts, 1)
    thresholds = np.where(counts == 0, np.inf, np.minimum(thresholds, _SURE))
    suggested, margins = np.empty(len(labels), np.int64), np.empty(len(labels))
    for part in row_parts(*probabilities.shape):
        sure = np.where(probabilities[part] >= thresholds, probabilities[part], -np.inf)
        places = np.arange(len(sure))
        sure[places, labels[part]] = -np.inf
        suggested[part] = sure.argmax(axis=1)
        margins[part] = sure[places, suggested[part]] - of_label[part]
    rows = np.flatnonzero(margins > 0)
    rows = rows[np.argsort(-margins[rows], kind="stable")]
    return rows, suggested[rows]

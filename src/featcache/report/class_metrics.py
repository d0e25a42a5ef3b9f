"""Confusions between classes, their scores, and the reliability of probabilities, as JSON-able values."""

from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.rows import is_several
from featcache.report.predictions import EnsemblePredictions

Counts = npt.NDArray[np.int64]

BINS = 10
MATRIX_CLASSES = 20
"""The most classes that a confusion matrix shows one by one."""
_CONFUSIONS = 10


def class_table(predictions: EnsemblePredictions, names: tuple[str, ...]) -> dict[str, Any]:
    """Return confusions, precision and recall of the rows whose label is known, of which there is one at least."""
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    known, classes = predictions.labels >= 0, np.arange(len(names))
    labels, predicted = predictions.labels[known], predictions.predicted[known]
    counts = confusion_matrix(labels, predicted, labels=classes)  # of class i (line) predicted as j (column)
    columns = precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=np.nan)
    kept, small = collapse(counts, MATRIX_CLASSES)
    others = len(names) - len(kept)
    table = [
        {"name": name, "rows": int(rows), "precision": _number(p), "recall": _number(r), "f1": _number(f)}
        for name, p, r, f, rows in zip(names, *columns, strict=True)
    ]
    shown = [names[each] for each in kept] + [f"{others} others"] * bool(others)
    return {
        "rows": len(labels),
        "wrong": int((predicted != labels).sum()),
        "table": table,
        "f1": _number(np.nanmean(columns[2])),
        "matrix": {"names": shown, "counts": small.tolist(), "others": others},
        "confusions": [
            [names[i], names[j], rows, int(counts[i].sum())] for i, j, rows in top_confusions(counts, _CONFUSIONS)
        ],
    }


def collapse(counts: Counts, most: int) -> tuple[list[int], Counts]:
    """Make a confusion matrix small enough to look at.

    Returns:
        The `most` classes with the most confusions, of equals the first, ascending; and their int64 counts, with all
        other classes together as the last row and column, if there are any.
    """
    classes = len(counts)
    if classes <= most:
        return list(range(classes)), counts
    wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * np.diag(counts)
    kept = np.sort(np.argsort(-wrong, kind="stable")[:most])
    place = np.full(classes, most)
    place[kept] = np.arange(most)
    small = np.zeros((most + 1, most + 1), np.int64)
    np.add.at(small, (place[:, None], place[None, :]), counts)
    return kept.tolist(), small


def top_confusions(counts: Counts, most: int) -> list[tuple[int, int, int]]:
    """Return (class, predicted class, rows) of the most frequent mistakes, of equals the first."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [(int(i), int(j), int(wrong[i, j])) for i, j in pairs if wrong[i, j]]


def reliability(probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> dict[str, Any]:
    """Compare (n, C) probabilities of predictions, n at least 1, with how often they are right by (n,) labels.

    Returns:
        ``bins`` of the probability of the predicted class, equally wide, each with ``low`` and ``high`` in %, ``rows``,
        their mean probability ``confidence``, and the share of them predicted correctly, ``accuracy`` (both None in an
        empty bin). Of several labels a row they are of all cells: the probability of a label, and how often it is there; and ``error``, the expected calibration error: the mean distance of the two, weighted by rows.
    """
    if is_several(labels):
        sure, right = probabilities.ravel(), labels.ravel() > 0
    else:
        sure, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    places = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
    rows = np.bincount(places, minlength=BINS)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(places, sure, minlength=BINS) / rows
        accuracy = np.bincount(places, right, minlength=BINS) / rows
    bins = [
        {
            "low": 100 * i // BINS,
            "high": 100 * (i + 1) // BINS,
            "rows": int(rows[i]),
            "confidence": _number(confidence[i]),
            "accuracy": _number(accuracy[i]),
        }
        for i in range(BINS)
    ]
    return {"error": float(np.nansum(np.abs(confidence - accuracy) * rows) / len(right)), "bins": bins}


def _number(value: float) -> float | None:
    """`value`, or None for NaN, which JSON doesn't have."""
    return None if np.isnan(value) else float(value)

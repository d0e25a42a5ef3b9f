"""What the report shows where a row may have several labels: scores a label, sets of labels, suspected cells."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.rows import known_labels
from featcache.report.predictions import EnsemblePredictions

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]
_PAIRS = 10


def label_table(predictions: EnsemblePredictions, names: Sequence[str], thresholds: Sequence[float]) -> dict[str, Any]:
    """Return the scores of each label over the rows whose labels are known, of which there is one at least.

    ``pairs``: the labels that are most often together, [label, other, rows with both, rows with the first].
    """
    from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

    known = known_labels(predictions.labels)
    labels, predicted = predictions.labels[known], predictions.predicted[known]
    table, probabilities = [], predictions.probabilities[known]
    columns = precision_recall_fscore_support(labels, predicted, average=None, zero_division=np.nan)
    for label, (name, threshold, *scores) in enumerate(zip(names, thresholds, *columns[:3], strict=True)):
        rows = int(labels[:, label].sum())
        area = roc_auc_score(labels[:, label], probabilities[:, label]) if 0 < rows < len(labels) else None
        shown = [None if np.isnan(score) else float(score) for score in scores]
        row = {"name": name, "rows": rows, "auc": area, "threshold": float(threshold)}
        table.append(row | dict(zip(("precision", "recall", "f1"), shown, strict=True)))
    known_f1 = [row["f1"] for row in table if row["f1"] is not None]
    return {
        "rows": len(labels),
        "wrong": int((predicted != labels).any(axis=1).sum()),
        "table": table,
        "f1": float(np.mean(known_f1)) if known_f1 else None,
        "matrix": None,
        "pairs": _pairs(labels, names),
    }


def _pairs(labels: Labels, names: Sequence[str]) -> list[list[Any]]:
    together = np.triu(labels.astype(np.int64).T @ labels, 1)
    order = np.argsort(-together, axis=None, kind="stable")[:_PAIRS]
    counts, pairs = labels.sum(axis=0), zip(*np.unravel_index(order, together.shape), strict=True)
    return [[names[i], names[j], int(together[i, j]), int(counts[i])] for i, j in pairs if together[i, j]]


def set_probabilities(probabilities: Floats, sets: Labels) -> Floats:
    """Return (n,) the probability of exactly these labels, (n, L) of 0 and 1, if labels are independent."""
    return np.asarray(np.where(sets > 0, probabilities, 1 - probabilities).prod(axis=1))


def leading_labels(labels: Labels) -> Labels:
    """Return (n,) of each row's labels the one that most rows have; L for a row without any."""
    order = np.argsort(-(labels > 0).sum(axis=0), kind="stable")
    first = order[(labels[:, order] > 0).argmax(axis=1)]
    return np.asarray(np.where((labels > 0).any(axis=1), first, labels.shape[1]))

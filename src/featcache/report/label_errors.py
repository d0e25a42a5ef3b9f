"""Labels of training rows that are likely wrong, by models that haven't seen them."""

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from featcache.report.predictions import EnsemblePredictions
from featcache.training import cells, row_parts

Floats = npt.NDArray[np.floating]
Rows = npt.NDArray[np.int64]
_SURE = 0.8


def suspected(train: EnsemblePredictions, reviewed: Collection[str] = ()) -> tuple[Rows, Rows, int]:
    """Return (k,) the misclassified training rows, (k,) their suggested classes, and how many are `label_errors`.

    These come first; the others, too, are ordered by how much more probable the suggested class is. Rows whose ids were
    `reviewed` are left out.
    """
    likely, suggested = label_errors(train.probabilities, train.labels)
    others, theirs = label_errors(train.probabilities, train.labels, cap=0)
    more = ~np.isin(others, likely)
    rows, suggested = np.concatenate([likely, others[more]]), np.concatenate([suggested, theirs[more]])
    left = _not_reviewed(train, rows, reviewed)
    return rows[left], suggested[left], int(left[: len(likely)].sum())


def label_errors(probabilities: Floats, labels: npt.NDArray[np.integer], cap: float = _SURE) -> tuple[Rows, Rows]:
    """Find labels that are likely wrong, by confident learning (Northcutt, Jiang and Chuang 2021).

    A row is suspected where another class is more probable than the label, and at least as probable as it is, on average,
    for the rows that are labelled with it (at most `cap`), so classes with lower probabilities need less to be suggested.

    Args:
        probabilities: (n, C), rows sum to 1, by models that weren't trained on the row.
        labels: (n,) class indices.
        cap: another class with this probability is always suspected, even where models are usually surer.

    Returns:
        (k,) their rows, the most likely first, and (k,) the classes that they seem to be of.
    """
    classes = probabilities.shape[1]
    of_label = probabilities[np.arange(len(labels)), labels]
    counts = np.bincount(labels, minlength=classes)
    thresholds = np.bincount(labels, of_label, minlength=classes) / np.maximum(counts, 1)
    thresholds = np.where(counts == 0, np.inf, np.minimum(thresholds, cap))
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


def suspected_cells(train: EnsemblePredictions, reviewed: Collection[str] = ()) -> tuple[Rows, Rows]:
    """Find cells of several labels a row that are likely wrong, the most likely first, by confident learning label by label.

    Rows whose ids were `reviewed` are left out.

    Returns:
        (k,) rows and (k,) labels; what a row has of the label is to be looked at.
    """
    probabilities, labels = train.probabilities, train.labels
    rows, columns, margins = [], [], []
    for label in range(labels.shape[1]):
        pair = cells(probabilities[:, label : label + 1])
        found, suggested = label_errors(pair, labels[:, label].astype(np.intp), cap=1.0)
        rows.append(found)
        columns.append(np.full(len(found), label))
        margins.append(pair[found, suggested] - pair[found, 1 - suggested])
    order = np.argsort(-np.concatenate(margins), kind="stable")
    found, cells_of = np.concatenate(rows)[order], np.concatenate(columns)[order]
    left = _not_reviewed(train, found, reviewed)
    return found[left], cells_of[left]


def _not_reviewed(train: EnsemblePredictions, rows: Rows, reviewed: Collection[str]) -> npt.NDArray[np.bool_]:
    return np.array([train.ids[row] not in reviewed for row in rows.tolist()], bool)

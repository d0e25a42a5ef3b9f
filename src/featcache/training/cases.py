"""Several images a case: members' probabilities averaged, so that whatever follows has one row a case. NumPy only."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from featcache.core.scratch_arrays import allocate
from featcache.core.texts import PackedTexts
from featcache.training.folds import NO_FOLD
from featcache.training.member_tables import Float32s, table_parts
from featcache.training.predictions import Predictions

_UNKNOWN = -3  # below all that folds can be


def by_case(predictions: Predictions, cases: Sequence[str], folder: Path) -> Predictions:
    """Return predictions with one row a case, in the order of the first row of each.

    A member's probabilities are the mean over the rows that it has a prediction for. A case's rows share label, group
    and fold, but for rows that could not be used.

    Args:
        predictions: of n rows.
        cases: n texts, or none: each row is a case by itself, and `predictions` are returned as they are.
        folder: where a large table is kept in a file without a name.

    Raises:
        StorageError: there is no room for the table.
    """
    if not len(cases):
        return predictions
    numbers: dict[str, int] = {}
    case = np.fromiter((numbers.setdefault(text, len(numbers)) for text in cases), np.intp, len(cases))
    _, first = np.unique(case, return_index=True)
    members, _, classes = predictions.probabilities.shape
    table: Float32s = allocate((members, len(numbers), classes), np.float32, folder)
    counts = np.zeros((members, len(numbers), 1), np.float32)
    for rows, values in table_parts(predictions.probabilities):
        known = ~np.isnan(values[..., 0])  # NaN throughout a row without a prediction
        for member, predicted in enumerate(known):
            np.add.at(table[member], case[rows][predicted], values[member, predicted])
            np.add.at(counts[member], case[rows][predicted], 1)
    counts[counts == 0] = np.nan  # no row of the case could be used
    table /= counts
    labels = np.full((len(numbers), *predictions.labels.shape[1:]), -1, predictions.labels.dtype)
    np.maximum.at(labels, case, predictions.labels)
    folds = None
    if predictions.folds is not None:
        folds = np.full(len(numbers), _UNKNOWN, np.int32)
        np.maximum.at(folds, case, np.where(predictions.folds == NO_FOLD, _UNKNOWN, predictions.folds))
        folds[folds == _UNKNOWN] = NO_FOLD
    groups = [predictions.groups[row] for row in first.tolist()] if len(predictions.groups) else ()
    return replace(
        predictions,
        ids=PackedTexts(numbers),
        labels=labels,
        probabilities=table,
        folds=folds,
        groups=groups,
        rows_key="",
    )

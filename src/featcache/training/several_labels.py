"""Several labels a row: (n, L) labels of 0 and 1 and (n, L) probabilities, a two-class question a cell. NumPy only.

Losses are means over labels of binary cross-entropy, so that a row's is comparable whatever L is.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.rows import is_several

_EPSILON = float(np.finfo(np.float64).eps)


def cells(probabilities: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return (..., n L, 2) of (..., n, L): of each cell what it gives 0 and 1, whose logarithms are a pair of logits."""
    flat = probabilities.reshape(*probabilities.shape[:-2], -1).astype(np.float64)
    return np.stack([1 - flat, flat], axis=-1)


def cell_logits(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return (n L, 2) logits of two classes of (n, L) logits of being 1."""
    flat = logits.astype(np.float64).ravel()
    return np.stack([np.zeros_like(flat), flat], axis=-1)


def cell_losses(
    probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer], least: float = _EPSILON
) -> npt.NDArray[np.float64]:
    """Return (n, L) binary cross-entropies; what is below `least` counts as that."""
    given = np.where(labels > 0, probabilities, 1 - probabilities.astype(np.float64))
    return np.asarray(-np.log(np.clip(given, least, 1)))


def right_rows(probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """Return (n,) whether a row is right: its label the most probable class; of several, all on their side of 0.5."""
    if is_several(labels):
        return np.asarray(((probabilities > 0.5) == (labels > 0)).all(axis=1))
    return np.asarray(probabilities.argmax(axis=1) == labels)


def label_weights(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
    """Return (2, L) what a 0 and a 1 of each label count for, so that both count the same.

    It is scikit-learn's ``class_weight="balanced"`` label by label; 1 for a label that has only one of them.
    """
    rows, ones = len(labels), (labels > 0).sum(axis=0)
    counts = np.stack([rows - ones, ones])
    return np.where((counts > 0).all(axis=0), rows / (2 * np.maximum(counts, 1)), 1).astype(np.float32)


def balance(labels: npt.NDArray[np.integer], weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return (..., L) what each cell of (..., L) labels counts for by `label_weights`."""
    return np.asarray(np.where(labels > 0, weights[1], weights[0]), np.float32)

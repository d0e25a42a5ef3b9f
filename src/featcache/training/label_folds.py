"""Folds of rows with several labels each: iterative stratification (Sechidis, Tsoumakas, Vlahavas 2011) of units."""

import numpy as np
import numpy.typing as npt

_DRAWS = 5

Numbers = npt.NDArray[np.intp]


def deal_sets(labels: npt.NDArray[np.integer], units: Numbers, folds: int, seed: int) -> npt.NDArray[np.int32]:
    """Deal rows out to at most `folds` parts, none empty, so that each label has its share of rows in each part.

    Args:
        labels: (k, L) 0 or 1.
        units: (k,) numbers from 0 on, each of them; rows of one unit share a fold.
        folds: the number of parts.
        seed: decides the shuffling.

    Returns:
        (k,) int32 folds from 0 on. Of a few shufflings the one by which the fewest labels are in one part alone.
    """
    sizes = np.bincount(units)
    sets: npt.NDArray[np.float64] = np.stack(
        [np.bincount(units, of_label) for of_label in labels.T], axis=1
    )  # (units, L) rows with each label
    best, least = np.empty(0, np.int32), labels.shape[1] + folds
    for draw in range(seed, seed + _DRAWS):
        dealt = _iterative(sets, sizes, min(folds, len(sizes)), np.random.default_rng(draw))
        alone = unseen_labels(dealt, sets > 0) & ((sets > 0).sum(axis=0) > 1)
        lost = int(alone.sum()) + min(folds, len(sizes)) - len(np.unique(dealt))
        if lost < least:
            best, least = dealt, lost
        if not lost:
            break
    return np.unique(best, return_inverse=True)[1].astype(np.int32)[units]


def unseen_labels(
    assigned: npt.NDArray[np.int32], labels: npt.NDArray[np.integer] | npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Return (L,) bool: which labels have all their rows in one fold, so that no model knows them that is scored on them.

    Args:
        assigned: (n,) the fold of each row, negative for none.
        labels: (n, L) 1 for each label that a row has.
    """
    parts = (assigned == fold for fold in range(int(assigned.max(initial=-1)) + 1))
    there = sum(((labels[part] == 1).any(axis=0).astype(np.intp) for part in parts), np.zeros(labels.shape[1], np.intp))
    unscored: npt.NDArray[np.bool_] = there < 2
    return unscored


def _iterative(
    sets: npt.NDArray[np.float64], sizes: Numbers, folds: int, draw: np.random.Generator
) -> npt.NDArray[np.int32]:
    """(units,) int32 folds: the rarest label's units first, each to the fold that lacks most rows with this label."""
    order = draw.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]  # large groups while there is room for them
    lacking, room = np.tile(sets.sum(axis=0) / folds, (folds, 1)), np.full(folds, sizes.sum() / folds)
    dealt, ties, has = np.full(len(sizes), -1, np.int32), draw.permutation(folds), sets > 0
    left = has.sum(axis=0)
    while left.any():
        label = int(np.where(left, left, len(sizes) + 1).argmin())
        own = order[has[order, label] & (dealt[order] < 0)]
        for unit in own.tolist():
            fold = np.lexsort((ties, room, lacking @ sets[unit], lacking[:, label]))[-1]
            dealt[unit] = fold
            lacking[fold] -= sets[unit]
            room[fold] -= sizes[unit]
        left -= has[own].sum(axis=0)
    for unit in order[dealt[order] < 0].tolist():
        dealt[unit] = fold = room.argmax()
        room[fold] -= sizes[unit]
    return dealt

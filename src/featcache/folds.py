"""Which fold each training row is scored in: stratified by class, never splitting a group."""

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from featcache.errors import TrainingError

NO_FOLD = -1
_LONE = -1  # a row without a group, until it has a number of its own


def assign_folds(
    labels: npt.NDArray[np.integer],
    groups: Sequence[str],
    folds: int,
    seed: int,
    class_names: Sequence[str] = (),
) -> npt.NDArray[np.int32]:
    """Deal the rows out to `folds` parts of like class proportions.

    Args:
        labels: (n,) class indices; a negative label is unknown, its row gets `NO_FOLD`.
        groups: n texts; rows of one non-empty group share a fold. A row with "" is a group of its own where any
            other row has a group.
        folds: the number of parts, at least 2.
        seed: decides the shuffling; the same seed, rows and order give the same folds.
        class_names: what errors call the classes; their indices where it is empty.

    Returns:
        (n,) int32 in 0..folds-1, or `NO_FOLD`. A class with fewer rows than folds is missing from some folds.

    Raises:
        TrainingError: fewer rows or groups than folds, or a class that can't be trained on and scored: one row,
            or all rows in one group.
    """
    labels = np.asarray(labels)
    known = np.flatnonzero(labels >= 0)
    units = _units(groups, known)
    _check(labels[known], units, folds, class_names)
    assigned = np.full(len(labels), NO_FOLD, np.int32)
    assigned[known] = _deal(labels[known], units, folds, seed)
    return assigned


def _units(groups: Sequence[str], known: npt.NDArray[np.intp]) -> npt.NDArray[np.int64] | None:
    """(k,) the number of each known row's group, or None where no row has one."""
    wanted = np.zeros(len(groups), bool)
    wanted[known] = True
    numbers: dict[str, int] = {}
    units = np.fromiter(
        (numbers.setdefault(name, len(numbers)) if name else _LONE for name, is_known in zip(groups, wanted, strict=True) if is_known),
        np.int64,
        len(known),
    )  # fmt: skip
    if not numbers:
        return None
    lone = units == _LONE
    units[lone] = len(numbers) + np.arange(lone.sum())
    return units


def _check(
    labels: npt.NDArray[np.integer], units: npt.NDArray[np.int64] | None, folds: int, class_names: Sequence[str]
) -> None:
    rows = len(labels)
    if rows < folds:
        raise TrainingError(f"expected at least one labelled row a fold; got rows={rows}, folds={folds}: {_FEWER}")
    if units is not None and len(np.unique(units)) < folds:
        count = len(np.unique(units))
        raise TrainingError(f"expected at least one group a fold; got groups={count}, folds={folds}: {_FEWER}")
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        name = class_names[label] if class_names else int(label)
        if len(members) < 2:
            raise TrainingError(
                f"expected at least 2 usable images of each class, one to train on and one to score; "
                f"got rows=1 for class {name!r}: add images of it or remove its folder"
            )
        if units is not None and len(np.unique(units[members])) < 2:
            raise TrainingError(
                f"expected each class in at least 2 groups, or it is never trained on when it is scored; got groups=1 "
                f"for class {name!r}: add rows of it from another group or set [Dataset] groups to none"
            )


_FEWER = "add rows or lower [Heads] folds"


def _deal(
    labels: npt.NDArray[np.integer], units: npt.NDArray[np.int64] | None, folds: int, seed: int
) -> npt.NDArray[np.int32]:
    if units is None:
        return _stratified(labels, folds, seed)
    from sklearn.model_selection import StratifiedGroupKFold

    assigned = np.full(len(labels), NO_FOLD, np.int32)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # a class in fewer groups than folds is allowed; _check has refused those that can't be scored
        warnings.simplefilter("ignore", UserWarning)
        for fold, (_, held_out) in enumerate(splitter.split(np.zeros(len(labels)), labels, units)):
            assigned[held_out] = fold
    if len(np.unique(assigned)) < folds:
        raise TrainingError(
            f"expected rows in each fold; the groups are too uneven for folds={folds}: lower [Heads] folds"
        )
    return assigned


def _stratified(labels: npt.NDArray[np.integer], folds: int, seed: int) -> npt.NDArray[np.int32]:
    """Shuffle each class and deal on where the class before stopped: class and fold sizes differ by at most one.

    scikit-learn's StratifiedKFold refuses what this must allow: every class with fewer rows than folds.
    """
    generator = np.random.default_rng(seed)
    order = np.concatenate([generator.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)])
    assigned = np.empty(len(labels), np.int32)
    assigned[order] = np.arange(len(order)) % folds
    return assigned

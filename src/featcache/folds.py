"""Which fold each training row is scored in: stratified by class, never splitting a group nor copies of one image."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.errors import TrainingError

NO_FOLD = -1


def assign_folds(
    labels: npt.NDArray[np.integer],
    groups: Sequence[str],
    folds: int,
    seed: int,
    class_names: Sequence[str] = (),
    digests: Sequence[str] | npt.NDArray[np.bytes_] = (),
) -> npt.NDArray[np.int32]:
    """Deal the rows out to `folds` parts of like class proportions.

    Args:
        labels: (n,) class indices; a negative label is unknown, its row gets `NO_FOLD`.
        groups: n texts; rows of one non-empty group share a fold. A row with "" is a group of its own where any
            other row has a group.
        folds: the number of parts, at least 2.
        seed: decides the shuffling; the same seed, rows and order give the same folds.
        class_names: what errors call the classes; their indices where it is empty.
        digests: n texts, equal where the images are the same bytes: copies of one image, like rows of one group,
            share a fold, or what is scored was seen in training. Empty: all images differ.

    Returns:
        (n,) int32 in 0..folds-1, or `NO_FOLD`. A class with fewer rows than folds is missing from some folds.

    Raises:
        TrainingError: fewer rows or groups than folds, or a class that can't be trained on and scored: one row,
            or all rows in one group.
    """
    labels = np.asarray(labels)
    known = np.flatnonzero(labels >= 0)
    images = _by_first(np.asarray(digests)[known]) if len(digests) else np.arange(len(known))
    units = _units([groups[row] for row in known.tolist()], images)
    _check(labels[known], images, units, folds, class_names)
    assigned = np.full(len(labels), NO_FOLD, np.int32)
    if units is None:
        assigned[known] = _stratified(labels[known], images, folds, seed)
    else:
        assigned[known] = _grouped(labels[known], units, folds, seed)
    return assigned


def check_rows(rows: int, folds: int) -> None:
    """Refuse fewer labelled rows than folds.

    Raises:
        TrainingError: there are fewer.
    """
    if rows < folds:
        raise TrainingError(f"expected at least one labelled row a fold; got rows={rows}, folds={folds}: {_FEWER}")


def _by_first(values: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """(k,) the number of each value, in the order in which they first appear."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    numbers: npt.NDArray[np.intp] = np.argsort(np.argsort(first))[inverse]
    return numbers


def _units(groups: Sequence[str], images: npt.NDArray[np.intp]) -> npt.NDArray[np.intp] | None:
    """(k,) the number of what must stay together: rows joined by group or image; None where no row has a group."""
    if not any(groups):
        return None
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    names = {name: number for number, name in enumerate(dict.fromkeys(filter(None, groups)))}
    inside = np.flatnonzero([bool(name) for name in groups])
    numbers = np.array([names[groups[row]] for row in inside.tolist()])
    # one node an image and one a group; a row of a group is the edge between its own two
    nodes = images.max() + 1 + len(names)
    edges = coo_matrix((np.ones(len(inside)), (images[inside], images.max() + 1 + numbers)), (nodes, nodes))
    return _by_first(connected_components(edges, directed=False)[1][images])


def _check(
    labels: npt.NDArray[np.integer],
    images: npt.NDArray[np.intp],
    units: npt.NDArray[np.intp] | None,
    folds: int,
    class_names: Sequence[str],
) -> None:
    check_rows(len(np.unique(images)), folds)
    if units is not None and len(np.unique(units)) < folds:
        count = len(np.unique(units))
        raise TrainingError(f"expected at least one group a fold; got groups={count}, folds={folds}: {_FEWER}")
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        name = class_names[label] if class_names else int(label)
        if len(np.unique(images[members])) < 2:
            raise TrainingError(
                f"expected at least 2 usable images of each class, one to train on and one to score; "
                f"got rows=1 for class {name!r}, copies of it aside: add images of it or remove its folder"
            )
        if units is not None and len(np.unique(units[members])) < 2:
            raise TrainingError(
                f"expected each class in at least 2 groups, or it is never trained on when it is scored; got groups=1 "
                f"for class {name!r}: add rows of it from another group or set [Dataset] groups to none"
            )


_FEWER = "add rows or lower [Heads] folds"


def _grouped(
    labels: npt.NDArray[np.integer], units: npt.NDArray[np.intp], folds: int, seed: int
) -> npt.NDArray[np.int32]:
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


def _stratified(
    labels: npt.NDArray[np.integer], images: npt.NDArray[np.intp], folds: int, seed: int
) -> npt.NDArray[np.int32]:
    """Shuffle each class and deal on where the class before stopped: class and fold sizes differ by at most one image.

    scikit-learn's StratifiedKFold refuses what this must allow: every class with fewer rows than folds.
    """
    _, first = np.unique(images, return_index=True)
    classes = labels[first]
    generator = np.random.default_rng(seed)
    order = np.concatenate([generator.permutation(np.flatnonzero(classes == label)) for label in np.unique(classes)])
    assigned = np.empty(len(first), np.int32)
    assigned[order] = np.arange(len(order)) % folds
    return assigned[images]

"""Which fold each training row is scored in: stratified by class, never splitting a group nor duplicates of one image."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.errors import TrainingError

NO_FOLD = -1
_DRAWS = 20

Labels = npt.NDArray[np.integer]
Numbers = npt.NDArray[np.intp]


def assign_folds(
    labels: Labels,
    groups: Sequence[str],
    folds: int,
    seed: int = 0,
    class_names: Sequence[str] = (),
    digests: Sequence[str] | npt.NDArray[np.bytes_] = (),
) -> npt.NDArray[np.int32]:
    """Deal the rows out to `folds` parts of like class proportions.

    Args:
        labels: (n,) class indices; a negative label is unknown, its row gets `NO_FOLD`.
        groups: n texts; rows of one non-empty group share a fold. A row with "" is a group of its own where any
            other row has a group.
        folds: the number of parts, at least 2.
        seed: decides the shuffling; the same seed, rows and order give the same folds. Every stage has the same: rows
            are in the same folds for all members.
        class_names: names for errors, of the classes that must have rows; empty: indices, of those that occur.
        digests: n texts, equal where the images are the same bytes: duplicates, like rows of one group, share a
            fold, or rows would be scored that were seen in training. Empty: all images differ.

    Returns:
        (n,) int32 in 0..folds-1, or `NO_FOLD`. A class with fewer rows than folds is missing from some folds, and in
        at least two.

    Raises:
        TrainingError: fewer rows or groups than folds, or a class that can't be trained on and scored: less than two
            different images, all rows in one group, or always in one fold.

    Example:
        >>> labels = np.array([0, 0, 1, 1, -1])
        >>> folds = assign_folds(labels, [""] * 5, folds=2)
        >>> sorted(folds[:2].tolist()), sorted(folds[2:4].tolist()), int(folds[4])
        ([0, 1], [0, 1], -1)
    """
    labels = np.asarray(labels)
    known = np.flatnonzero(labels >= 0)
    own, every = (
        labels[known],
        list(groups),
    )  # a manifest's texts are read in their order many times as fast as one by one
    images = np.arange(len(known))
    if len(digests):  # as bytes, which take a quarter of the memory of texts
        column = digests if isinstance(digests, np.ndarray) else np.fromiter(digests, "S64", len(digests))
        images = _by_first(column[known])
    units = _units([every[row] for row in known.tolist()], images)
    _check(own, images, units, folds, class_names)
    assigned, fault = np.full(len(labels), NO_FOLD, np.int32), ""
    for draw in range(seed, seed + _DRAWS):
        assigned[known] = _stratified(own, images, folds, draw) if units is None else _grouped(own, units, folds, draw)
        fault = _fault(own, assigned[known], folds, class_names)
        if not fault:
            return assigned
    raise TrainingError(fault)


def _fault(labels: Labels, assigned: npt.NDArray[np.int32], folds: int, class_names: Sequence[str]) -> str:
    """What is wrong with these folds: one is empty, or has all rows of a class, which is untrained when it is scored."""
    if len(np.unique(assigned)) < folds:
        return f"a fold has no rows, as the groups are too uneven for folds={folds}: lower [Heads] folds"
    pairs = np.unique(labels.astype(np.int64) * folds + assigned)  # each class and fold that occur together
    classes, counts = np.unique(pairs // folds, return_counts=True)
    if (counts > 1).all():
        return ""
    return (
        f"class {_name(class_names, int(classes[counts.argmin()]))} is in one fold alone, as its images are joined by "
        "groups or by duplicates in other classes: add images of it or lower [Heads] folds"
    )


def _by_first(values: npt.NDArray[Any]) -> Numbers:
    """(k,) the number of each value, in the order in which they first appear."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    numbers: Numbers = np.argsort(np.argsort(first))[inverse]
    return numbers


def _units(groups: Sequence[str], images: Numbers) -> Numbers | None:
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


def _check(labels: Labels, images: Numbers, units: Numbers | None, folds: int, class_names: Sequence[str]) -> None:
    rows, different = len(labels), len(np.unique(images))
    if not rows:
        raise TrainingError("no training row has a label and a usable image: add images")
    if different == 1 < rows:
        raise TrainingError(f"all {rows:,} training images are duplicates of one: add others")
    if units is not None and (count := len(np.unique(units))) < folds:
        raise TrainingError(f"groups={count} are fewer than folds={folds}: add rows of other groups{_or_fewer(count)}")
    if units is not None and (most := int(np.bincount(labels).max())) < folds:
        raise TrainingError(
            f"no class has more than rows={most}, too few to deal out groups to folds={folds}: "
            f"add images{_or_fewer(most)}"
        )
    for label in range(len(class_names)) if class_names else np.unique(labels).tolist():
        own, name = labels == label, _name(class_names, label)
        if len(np.unique(images[own])) < 2:
            count = int(own.sum())
            raise TrainingError(
                f"class {name} has usable images={count}{', all duplicates of one' if count > 1 else ''}; one is "
                "trained on and another scored: add images of it or remove its folder"
            )
        if units is not None and len(np.unique(units[own])) < 2:
            raise TrainingError(
                f"class {name} is in one group alone, so never trained on when it is scored: add rows of it from "
                "another group or set [Dataset] groups to none"
            )
    if different < folds:
        raise TrainingError(
            f"labelled images={different} (duplicates count once) are fewer than folds={folds}: add images{_or_fewer(different)}"
        )


def _or_fewer(folds: int) -> str:
    return f" or lower [Heads] folds to {folds}" if folds > 1 else ""


def _name(class_names: Sequence[str], label: int) -> str:
    return repr(class_names[label]) if class_names else str(label)


def _grouped(labels: Labels, units: Numbers, folds: int, seed: int) -> npt.NDArray[np.int32]:
    from sklearn.model_selection import StratifiedGroupKFold

    assigned = np.full(len(labels), NO_FOLD, np.int32)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # a class in fewer groups than folds is allowed; _check has refused those that can't be scored
        warnings.simplefilter("ignore", UserWarning)
        for fold, (_, held_out) in enumerate(splitter.split(np.zeros(len(labels)), labels, units)):
            assigned[held_out] = fold
    return assigned


def _stratified(labels: Labels, images: Numbers, folds: int, seed: int) -> npt.NDArray[np.int32]:
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

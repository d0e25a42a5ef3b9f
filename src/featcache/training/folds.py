"""Which fold each training row is scored in: stratified by class, never splitting a group nor duplicates of one image."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.formatting import pluralize
from featcache.core.rows import is_several, known_labels, label_counts
from featcache.errors import TrainingError
from featcache.training.label_folds import deal_sets, unseen_labels

NO_FOLD = -1
"""The fold of a row that is neither trained on nor scored."""
ALWAYS = -2
"""The fold of a row that is trained on in every fold and scored in none."""
_DRAWS = 20
_NAMED = 3

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
    """Deal the rows out to at most `folds` parts of like class proportions.

    A class with one image, or with all rows in one group, can't be trained on where it is scored: its rows are trained
    on in every fold and scored in none. `fold_notices` says so. Rows with several labels are all in folds, dealt so that
    each label has its share in each (`label_folds`).

    Args:
        labels: (n,) class indices, or (n, L) 0 or 1; a negative label is unknown, its row gets `NO_FOLD`.
        groups: n texts; rows of one non-empty group share a fold. A row with "" is a group of its own where any
            other row has a group.
        folds: the number of parts, at least 2; fewer where there are fewer different images, or groups, to score.
        seed: decides the shuffling; the same seed, rows and order give the same folds. Every stage has the same: rows
            are in the same folds for all members.
        class_names: names for errors, of the classes that must have rows; empty: indices, of those that occur.
        digests: n texts, equal where the images are the same bytes: duplicates, like rows of one group, share a
            fold, or rows would be scored that were seen in training. Empty: all images differ.

    Returns:
        (n,) int32: 0 to the number of folds - 1, none of them empty, `NO_FOLD` or `ALWAYS`. A class is in two folds at
        least, in some of them if it has fewer rows than folds, or all its rows are `ALWAYS`. Of several labels none is
        `ALWAYS`, and a label may be in one fold only (`unseen_labels`).

    Raises:
        TrainingError: a class has no rows, or no class has two different images, in two groups where there are groups.

    Example:
        >>> labels = np.array([0, 0, 1, 1, 2, -1])
        >>> folds = assign_folds(labels, [""] * 6, folds=2)
        >>> sorted(folds[:2].tolist()), sorted(folds[2:4].tolist()), folds[4:].tolist()
        ([0, 1], [0, 1], [-2, -1])
    """
    labels = np.asarray(labels)
    known = np.flatnonzero(known_labels(labels))
    own = labels[known]
    every = list(groups)  # a manifest's texts are read in their order many times as fast as one by one
    images = np.arange(len(known))
    if len(digests):  # as bytes, which take a quarter of the memory of texts
        column = digests if isinstance(digests, np.ndarray) else np.fromiter(digests, "S64", len(digests))
        images = _by_first(column[known])
    units = _units([every[row] for row in known.tolist()], images)
    _check(own, images, class_names)
    assigned = np.full(len(labels), NO_FOLD, np.int32)
    if is_several(labels):
        assigned[known] = deal_sets(own, images if units is None else units, folds, seed)
    else:
        scored = np.flatnonzero(~_alone(own, images if units is None else units))
        assigned[known] = ALWAYS
        if len(scored):
            units = None if units is None else units[scored]
            assigned[known[scored]] = _dealt(own[scored], _by_first(images[scored]), units, folds, seed)
    if assigned.max(initial=NO_FOLD) < 1:
        where = "2 different images" if units is None else "images in 2 groups"
        raise TrainingError(f"no class has {where}, one to train on and one to score: add images")
    return assigned


def fold_notices(assigned: npt.NDArray[np.int32], labels: Labels, class_names: Sequence[str], folds: int) -> list[str]:
    """Return a line about classes that are not scored and one about folds that there aren't, as far as there are any.

    Of several labels a row, a line about those that are scored only by models which aren't trained on them.

    Args:
        assigned: (n,) what `assign_folds` returned.
        labels: (n,) class indices, or (n, L) 0 or 1.
        class_names: of the classes.
        folds: how many parts were asked for.
    """
    if is_several(labels):
        lost, own, what = unseen_labels(assigned, labels), labels[assigned >= 0], "scored too low: label"
        why = "whose rows are all in one fold, so that models are scored on it which are not trained on it"
    else:
        own, lost, what = labels[assigned == ALWAYS], np.ones(len(class_names), bool), "not scored: class"
        why = "trained on in every fold, as one image or one group can't be both trained on and scored"
    counts, lines = label_counts(own, len(class_names)), []
    named = np.flatnonzero(lost & (counts > 0)).tolist()
    if names := [f"{class_names[label]!r} ({pluralize(int(counts[label]), 'row')})" for label in named]:
        more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
        lines.append(f"{what} {', '.join(names[:_NAMED])}{more}, {why}: add images, of other groups")
    if (count := int(assigned.max()) + 1) < folds:
        lines.append(f"folds={count}, not [Heads] folds={folds}: there are no more images or groups to score")
    return lines


def _alone(labels: Labels, numbers: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """(k,) whether all rows of a row's class have one number; `numbers` are not negative."""
    base = int(numbers.max(initial=0)) + 1
    pairs = np.unique(labels.astype(np.int64) * base + numbers)  # each class and number that occur together
    single: npt.NDArray[np.bool_] = (np.bincount(pairs // base) == 1)[labels]
    return single


def _dealt(labels: Labels, images: Numbers, units: Numbers | None, folds: int, seed: int) -> npt.NDArray[np.int32]:
    """(k,) int32 folds, none empty; `ALWAYS` for a class that each draw puts into one fold, as it hangs on others."""
    rows, most = (images, folds) if units is None else (units, int(np.bincount(labels).max()))  # as scikit-learn needs
    folds = min(folds, most, len(np.unique(rows)))
    best, least = np.empty(0, np.int32), (len(labels) + 1, 0)
    for draw in range(seed, seed + _DRAWS):
        dealt = _stratified(labels, images, folds, draw) if units is None else _grouped(labels, units, folds, draw)
        dealt[_alone(labels, dealt)] = ALWAYS
        lost = int((dealt < 0).sum()), folds - len(np.unique(dealt[dealt >= 0]))
        if lost < least:
            best, least = dealt, lost
        if lost == (0, 0):
            break
    best[best >= 0] = np.unique(best[best >= 0], return_inverse=True)[1]
    return best


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


def _check(labels: Labels, images: Numbers, class_names: Sequence[str]) -> None:
    rows = len(labels)
    if not rows:
        raise TrainingError("no training row has a label and a usable image: add images")
    if rows > 1 and images.max() == 0:
        raise TrainingError(f"all {rows:,} training images are duplicates of one: add others")
    absent = np.flatnonzero(label_counts(labels, len(class_names))[: len(class_names)] == 0)
    if len(absent):
        raise TrainingError(
            f"class {class_names[absent[0]]!r} has no usable image: add images of it or remove its folder"
        )


def _grouped(labels: Labels, units: Numbers, folds: int, seed: int) -> npt.NDArray[np.int32]:
    from sklearn.model_selection import StratifiedGroupKFold

    assigned = np.full(len(labels), NO_FOLD, np.int32)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # a class in fewer groups than folds is allowed; in one alone it is not scored
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

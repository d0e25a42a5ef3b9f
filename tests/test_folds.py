"""Folds: stratified, grouped, repeatable; what can't be scored is trained on in each, and a notice says so."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from featcache.errors import TrainingError
from featcache.training.folds import ALWAYS, NO_FOLD, assign_folds, fold_notices
from featcache.training.label_folds import unseen_labels


def ungrouped(labels):
    return [""] * len(labels)


@given(st.lists(st.integers(2, 30), min_size=1, max_size=6), st.integers(2, 6), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_classes_and_folds_differ_by_at_most_one_row(counts, folds, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    if len(labels) < folds:
        return
    assigned = assign_folds(labels, ungrouped(labels), folds, seed)
    assert np.ptp(np.bincount(assigned, minlength=folds)) <= 1
    for label in range(len(counts)):
        assert np.ptp(np.bincount(assigned[labels == label], minlength=folds)) <= 1


def test_seed_decides_and_repeats():
    labels = np.arange(100) % 4
    first = assign_folds(labels, ungrouped(labels), 5, 0)
    assert np.array_equal(first, assign_folds(labels, ungrouped(labels), 5, 0))
    assert not np.array_equal(first, assign_folds(labels, ungrouped(labels), 5, 1))


def test_unknown_labels_have_no_fold():
    labels = np.array([0, 1, -1, 0, 1, 0, 1])
    assigned = assign_folds(labels, ungrouped(labels), 2, 0)
    assert assigned[2] == NO_FOLD
    assert (np.delete(assigned, 2) >= 0).all()


def test_groups_are_never_split_and_rows_without_one_are_their_own():
    generator = np.random.default_rng(0)
    numbers = generator.integers(0, 12, 120)
    groups = [f"driver{number}" if number else "" for number in numbers]
    assigned = assign_folds(np.arange(120) % 3, groups, 4, 0)
    for number in range(1, 12):
        assert len(set(assigned[numbers == number])) == 1
    assert len(set(assigned[numbers == 0])) > 1
    assert set(assigned) == {0, 1, 2, 3}


def test_a_class_smaller_than_the_folds_is_allowed():
    labels = np.array([0] * 20 + [1] * 2)
    assigned = assign_folds(labels, ungrouped(labels), 5, 0)
    assert len(set(assigned[20:])) == 2


def test_a_class_in_fewer_groups_than_folds_is_allowed_without_a_warning():
    labels = np.array([0] * 20 + [1] * 2)
    assigned = assign_folds(labels, [f"g{i}" for i in range(22)], 5, 0)
    assert len(set(assigned[20:])) == 2


@pytest.mark.parametrize(
    ("duplicates", "groups", "digest"),
    [
        (0, 0, "331cd850269f07ad"),
        (150, 0, "68502cd5315d7dcd"),
        (0, 17, "932fd537a2457fc5"),
        (3000, 60, "91456ae2e00b7f54"),
    ],
)
def test_rows_that_can_all_be_scored_are_dealt_as_ever(duplicates, groups, digest):
    """Folds are part of what was trained before: other ones would not belong to its features' and heads' keys."""
    generator = np.random.default_rng(7)
    labels, copies, few = (
        generator.integers(-1, 4, 200),
        generator.integers(0, 150, 200),
        generator.integers(0, 17, 200),
    )
    names = [""] * 200
    if groups == 17:
        names = [f"g{number}" if number else "" for number in few]
    elif groups:
        names = [f"g{number}" for number in generator.integers(0, groups, 200)]
        copies = generator.integers(0, duplicates, 200)
    digests = [f"{number:064}" for number in copies] if duplicates else ()
    assigned = assign_folds(labels, names, 5, 3, "abcd", digests)
    assert hashlib.sha256(assigned.astype("<i4").tobytes()).hexdigest()[:16] == digest
    assert fold_notices(assigned, labels, "abcd", 5) == []


@pytest.mark.parametrize(
    ("labels", "groups", "digests", "always"),
    [
        ([0, 0, 0, 1], "", "", [3]),
        ([0, 0, 1, 1, 1], "", "abccc", [2, 3, 4]),
        ([0, 0, 1, 1, 0, 0], "abccab", "", [2, 3]),
        ([0, 0, 1, 1, 0, 0, -1], "abccabd", "", [2, 3]),
        ([0, 0, 0, 1], "aabc", "", [3]),
    ],
    ids=["one image", "duplicates of one", "one group", "unknown rows", "one image of a group"],
)
def test_a_class_of_one_image_or_group_is_always_trained_on(labels, groups, digests, always):
    labels, groups = np.array(labels), list(groups) or [""] * len(labels)
    assigned = assign_folds(labels, groups, 2, 0, ("ant", "bee"), list(digests))
    assert np.flatnonzero(assigned == ALWAYS).tolist() == always
    assert set(assigned[labels == 0]) == {0, 1}
    (line,) = fold_notices(assigned, labels, ("ant", "bee"), 2)
    assert line.startswith(f"not scored: class 'bee' ({len(always)} row{'s' * (len(always) > 1)}), trained on in every")


@pytest.mark.parametrize(
    ("labels", "groups", "digests", "left"),
    [
        ([0, 0, 1, 1], "", "", 4),
        ([0, 0, 1, 1, 1], "", "abccd", 4),
        ([0, 1, 0, 1, 0, 1], "aabbcc", "", 3),
        ([0, 0, 1], "", "", 2),
        ([0, 0, 0, 0, 1, 1], "abcdef", "", 4),
    ],
    ids=["images", "different images", "groups", "scored images", "a class' rows"],
)
def test_folds_are_no_more_than_there_is_to_score(labels, groups, digests, left):
    labels, groups = np.array(labels), list(groups) or [""] * len(labels)
    assigned = assign_folds(labels, groups, 5, 0, (), list(digests))
    assert set(assigned[assigned >= 0]) == set(range(left))
    assert fold_notices(assigned, labels, ("ant", "bee"), 5)[-1].startswith(f"folds={left}, not [Heads] folds=5: there")


def test_one_notice_names_some_of_many_classes():
    labels = np.array([0, 0, 0, 1, 2, 3, 4, 5, 5])
    assigned = assign_folds(labels, [""] * 9, 2, 0, (), ["x"] * 3 + [f"{row}" for row in range(6)])
    (line,) = fold_notices(assigned, labels, [f"c{label}" for label in range(6)], 2)
    assert "class 'c0' (3 rows), 'c1' (1 row), 'c2' (1 row) and 2 more, trained" in line


@pytest.mark.parametrize(
    ("labels", "groups", "digests", "message"),
    [
        ([-1, -1], "", "", "no training row has a label"),
        ([0, 0, 0], "", "", "class 'bee' has no usable image: add images of it or remove"),
        ([0, 0, 1, 1], "", "aaaa", "all 4 training images are duplicates of one: add others"),
        ([0, 1], "", "", "no class has 2 different images.*: add images"),
        ([0, 0, 1, 1], "aabb", "", "no class has images in 2 groups.*: add images"),
    ],
)
def test_refusals_say_what_to_do(labels, groups, digests, message):
    with pytest.raises(TrainingError, match=message):
        assign_folds(np.array(labels), list(groups) or [""] * len(labels), 2, 0, ("ant", "bee"), list(digests))


def test_duplicates_share_a_fold_and_the_rest_is_dealt_as_ever():
    labels = np.arange(60) % 3
    digests = [f"{row}" for row in range(60)]
    assert np.array_equal(assign_folds(labels, [""] * 60, 4, 0, (), digests), assign_folds(labels, [""] * 60, 4, 0))
    digests[3:60:4] = ["same"] * 15
    assigned = assign_folds(labels, [""] * 60, 4, 0, (), np.array(digests, "S64"))
    assert len(set(assigned[3:60:4])) == 1
    assert set(np.delete(assigned, range(3, 60, 4))) == {0, 1, 2, 3}


def test_duplicates_join_their_groups():
    groups = [f"driver{row // 5}" for row in range(60)]
    digests = [f"{row}" for row in range(60)]
    digests[0] = digests[30] = "in driver0 and driver6"
    digests[31] = digests[59] = "in driver6 and driver11"
    assigned = assign_folds(np.arange(60) % 3, groups, 3, 0, (), digests)
    for group in range(12):
        assert len(set(assigned[5 * group : 5 * group + 5])) == 1
    assert assigned[0] == assigned[30] == assigned[55]


def drawn_sets(rows, labels=12, seed=0):
    """Rows with several labels, of very uneven shares."""
    draw = np.random.default_rng(seed)
    return (draw.random((rows, labels)) < np.geomspace(0.5, 4 / rows, labels)).astype(np.int8)


def test_several_labels_have_their_share_in_each_fold():
    labels = drawn_sets(400)
    labels[7] = -1
    folds = assign_folds(labels, [""] * 400, 5, seed=3)
    assert np.array_equal(folds, assign_folds(labels, [""] * 400, 5, seed=3))
    assert not np.array_equal(folds, assign_folds(labels, [""] * 400, 5, seed=4))
    assert folds[7] == NO_FOLD
    assert np.ptp(np.bincount(folds[folds >= 0])) <= 3
    shares = np.array([(labels[folds == fold] == 1).sum(axis=0) for fold in range(5)])
    assert np.ptp(shares, axis=0).max() <= 2
    random = np.random.default_rng(0).permutation(400) % 5
    drawn = np.array([(labels[random == fold] == 1).sum(axis=0) for fold in range(5)])
    assert np.ptp(shares, axis=0).sum() < np.ptp(drawn, axis=0).sum() / 4


def test_several_labels_of_groups_and_duplicates():
    labels, draw = drawn_sets(300), np.random.default_rng(1)
    groups = [f"g{number}" for number in draw.integers(60, size=300)]
    digests = [f"{row % 290}" for row in range(300)]
    folds = assign_folds(labels, groups, 4, digests=digests)
    for texts in (groups, digests):
        assert all(len({folds[row] for row in range(300) if texts[row] == text}) == 1 for text in set(texts))
    assert sorted(set(folds.tolist())) == list(range(int(folds.max()) + 1))
    apart = assign_folds(labels, groups, 4)
    assert np.ptp(np.bincount(apart)) <= 20  # groups have 5 rows on average


def test_labels_that_cannot_be_scored():
    labels = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 0, 0]], np.int8)
    folds = assign_folds(labels, [""] * 6, 5, class_names="abc")
    assert set(folds.tolist()) == set(range(5))
    assert unseen_labels(folds, labels).tolist() == [False, True, False]
    [line] = fold_notices(folds, labels, "abc", 5)
    assert line.startswith(
        "scored too low: label 'b' (1 row), whose rows are all in one fold, so that models are scored"
    )
    assert fold_notices(assign_folds(labels[:2, :2], [""] * 2, 3), labels[:2, :2], "ab", 3)[1].startswith(
        "folds=2, not"
    )
    with pytest.raises(TrainingError, match="class 'b' has no usable image"):
        assign_folds(labels[[0, 2, 3]], [""] * 3, 2, class_names="abc")
    with pytest.raises(TrainingError, match="no class has images in 2 groups"):
        assign_folds(labels, ["g"] * 6, 2)

"""Folds: stratified, grouped, repeatable, and refusals that say what to do."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from featcache.errors import TrainingError
from featcache.training.folds import NO_FOLD, assign_folds


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
    ("labels", "groups", "folds", "message"),
    [
        ([0, 0, 0, 1], "", 2, "class 'bee'.*add images"),
        ([0, 0, 1, 1], "", 5, "images=4 .* are fewer than folds=5.*lower"),
        ([0, 0, 1, 1, 0, 1], "aabbab", 3, "groups=2 are fewer than folds=3.*lower"),
        ([0, 0, 1, 1, 0, 0], "abccab", 2, "class 'bee' is in one group alone"),
    ],
)
def test_refusals_say_what_to_do(labels, groups, folds, message):
    groups = list(groups) or [""] * len(labels)
    with pytest.raises(TrainingError, match=message):
        assign_folds(np.array(labels), groups, folds, 0, ("ant", "bee"))


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


def test_a_class_of_duplicates_is_refused():
    with pytest.raises(TrainingError, match="class 0 has usable images=2, all duplicates of one"):
        assign_folds(np.array([0, 0, 1, 1, 1]), [""] * 5, 2, 0, (), ["a", "a", "b", "c", "d"])

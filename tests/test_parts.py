"""Which rows a head is trained and scored on."""

import numpy as np
import pytest

from featcache.errors import TrainingError
from featcache.training.folds import ALWAYS
from featcache.training.heads.partition import by_folds, by_groups

USABLE = np.array([True] * 8 + [False, True])
FOLDS = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, -1])
DRIVERS = ["b", "a", "c", "b", "a", "c", "b", "a", "c", "c"]


def test_by_folds_each_part_is_trained_on_the_others_and_scored_on_itself():
    parts = by_folds(FOLDS, USABLE)
    assert parts.numbers == (0, 1, 2)
    assert np.flatnonzero(parts.scored(0)).tolist() == [0, 3, 6]
    assert np.flatnonzero(parts.trained(0)).tolist() == [1, 2, 4, 5, 7]
    assert np.array_equal(parts.evaluated(2), parts.scored(2))
    assert sum(parts.scored(part).sum() for part in parts.numbers) == 8


def test_by_groups_each_part_is_trained_on_itself_and_scored_on_the_others():
    parts = by_groups(DRIVERS, USABLE)
    assert np.flatnonzero(parts.trained(0)).tolist() == [0, 3, 6]
    assert np.flatnonzero(parts.scored(0)).tolist() == [1, 2, 4, 5, 7, 9]
    assert np.flatnonzero(parts.trained(2)).tolist() == [2, 5, 9]


def test_by_groups_one_part_evaluates_each_row_and_never_its_own():
    generator = np.random.default_rng(0)
    parts = by_groups([f"driver{number}" for number in generator.integers(0, 7, 400)], np.ones(400, bool))
    evaluated = np.array([parts.evaluated(part) for part in parts.numbers])
    assert (evaluated.sum(axis=0) == 1).all()
    assert not any((parts.evaluated(part) & parts.trained(part)).any() for part in parts.numbers)
    assert evaluated.sum(axis=1).min() > 20


@pytest.mark.parametrize("split", [by_folds(FOLDS, USABLE), by_groups(DRIVERS, USABLE)], ids=["folds", "groups"])
def test_no_row_is_trained_on_and_scored_by_one_part(split):
    for part in split.numbers:
        assert not (split.trained(part) & split.scored(part)).any()
        assert not (split.trained(part) | split.scored(part))[8]


def test_what_cannot_be_split_says_why():
    with pytest.raises(TrainingError, match="folds=1"):
        by_folds(np.zeros(5, int), np.ones(5, bool))
    with pytest.raises(TrainingError, match="2 rows to train on"):
        by_folds(np.array([0, 0, 0, 1]), np.ones(4, bool))
    with pytest.raises(TrainingError, match="rows without a group=1"):
        by_groups(["a", "a", "", "b", "b"], np.ones(5, bool))
    with pytest.raises(TrainingError, match="groups=2, usable rows=4"):
        by_groups(["a", "a", "b", "a"], np.ones(4, bool))


def test_rows_that_are_always_trained_on_are_scored_by_no_part():
    folds = np.where(np.arange(10) == 4, ALWAYS, FOLDS)
    for split in (by_folds(folds, USABLE), by_groups(DRIVERS, USABLE, folds)):
        assert split.numbers == (0, 1, 2)
        for part in split.numbers:
            assert split.trained(part)[4]
            assert not split.scored(part)[4]
            assert not split.evaluated(part)[4]
            assert not split.trained(part)[8]
    assert np.flatnonzero(by_groups(DRIVERS, USABLE, folds).trained(0)).tolist() == [0, 3, 4, 6]

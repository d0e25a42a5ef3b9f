"""Shrunken discriminant analysis: scikit-learn's solution, few rows like many, absent classes, weights and memory."""

import numpy as np
import pytest
from head_rows import examples_of
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from featcache.core.progress import Silent
from featcache.settings.specs import HeadsSpec
from featcache.training.folds import ALWAYS
from featcache.training.heads import lda
from featcache.training.heads.lda import SHRINKAGES, train_lda
from featcache.training.heads.linear_path import Coordinates
from featcache.training.heads.partition import by_folds
from featcache.training.heads.presets import LDA, resolve_heads

FOLDS = 3


def rows(n=150, features=12, counts=(0.6, 0.3, 0.1), seed=0):
    """Uneven classes whose values are correlated."""
    draw = np.random.default_rng(seed)
    labels = draw.choice(len(counts), n, p=counts)
    mixed = draw.normal(size=(features, features)) / np.sqrt(features)
    values = draw.normal(size=(n, features)) @ mixed + draw.normal(size=(len(counts), features))[labels]
    return (values - values.mean(axis=0)).astype(np.float32), labels


def examples(values, labels, folds=None, usable=None, copies=(), views=1):
    folds = np.arange(len(labels)) % FOLDS if folds is None else folds
    parts = by_folds(folds, np.ones(len(labels), bool) if usable is None else usable)
    return examples_of([values, *copies], labels, parts, views=views)


def plan_of(given, classes=3, **settings):
    return resolve_heads(HeadsSpec(folds=FOLDS, **settings), LDA, given.copies[0].shape[1], len(given.labels), classes)


def step_of(given, shrinkage, classes=3, **settings):
    """The models of one shrinkage, as kernels of the values, and what is added to their logits."""
    coordinates = Coordinates(given.copies)
    step = lda._Moments(given, coordinates, plan_of(given, classes, **settings)).step(shrinkage)
    return coordinates.kernels(step.kernels), step.bias, step.prior


@pytest.mark.parametrize(("n", "features"), [(150, 12), (150, 200), (60, 400)])
@pytest.mark.parametrize("shrinkage", [0.1, 0.5, 0.95])
def test_it_is_scikit_learns(n, features, shrinkage):
    """Which shrinks each class' covariance towards its trace / F times the identity, and weights them by the priors."""
    values, labels = rows(n, features)
    kernels, bias, prior = step_of(examples(values, labels), shrinkage)
    for fold in range(FOLDS):
        own = np.arange(n) % FOLDS != fold
        theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(values[own], labels[own])
        expected = theirs.decision_function(values)
        ours = values @ kernels[fold] + bias[fold] + prior[fold]
        # scikit-learn's are those of the means as they are, ours too: no constant is left out
        assert np.allclose(ours, expected, rtol=5e-3, atol=5e-3 * np.abs(expected).max())
        assert np.allclose(prior[fold], np.log(theirs.priors_))


def test_few_rows_in_their_own_coordinates_are_like_many_values(monkeypatch):
    values, labels = rows(60, 100)
    turned = step_of(examples(values, labels), 0.3)
    monkeypatch.setattr("featcache.training.heads.linear_path._MOST_TURNED", 0)
    for few, many in zip(turned, step_of(examples(values, labels), 0.3), strict=True):
        assert np.allclose(few, many, rtol=1e-3, atol=1e-3 * np.abs(many).max())


def test_blocks_and_copies_are_summed_up(monkeypatch):
    values, labels = rows()
    again, _ = rows(seed=0)
    once = step_of(examples(values, labels), 0.3)
    twice = step_of(examples(values, labels, copies=[again]), 0.3)
    monkeypatch.setattr("featcache.training.heads.forward._BLOCK_VALUES", 300)
    blockwise = step_of(examples(values, labels), 0.3)
    for name, each in (("twice the same rows", twice), ("blocks", blockwise)):
        for array, expected in zip(each, once, strict=True):
            assert np.allclose(array, expected, rtol=1e-4, atol=1e-4), name


def test_rows_that_are_always_trained_on_or_never_are_counted_so():
    values, labels = rows()
    folds = np.where(np.arange(150) < 12, ALWAYS, np.arange(150) % FOLDS)
    usable = np.arange(150) % 7 != 0
    kernels, bias, prior = step_of(examples(values, labels, folds, usable), 0.5)
    for fold in range(FOLDS):
        own = usable & (folds != fold)
        theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.5).fit(values[own], labels[own])
        ours = values @ kernels[fold] + bias[fold] + prior[fold]
        assert np.allclose(ours, theirs.decision_function(values), rtol=5e-3, atol=5e-2)


@pytest.mark.parametrize("class_weight", ["none", "balanced"])
def test_a_class_that_a_fold_has_not_seen_is_never_likely(class_weight):
    """All rows of the third class are in fold 0: its own head gives them next to nothing, and doesn't count there."""
    values, labels = rows(counts=(0.45, 0.45, 0.1))
    folds = np.where(labels == 2, 0, np.arange(150) % FOLDS)
    given = examples(values, labels, folds)
    kernels, bias, prior = step_of(given, 0.5, class_weight=class_weight)
    logits = values @ kernels[0] + bias[0]
    assert (logits[:, 2] < logits.max(axis=1)).all()
    assert (prior[0, 2] < prior[0, :2] - 4).all()
    bag = train_lda(given, plan_of(given, class_weight=class_weight), Silent())
    assert bag.seen_classes.tolist() == [[True, True, False], [True] * 3, [True] * 3]
    assert bag.predict({"tap": values})[0, :, 2].max() < 0.02
    assert np.array_equal(bag.out_of_fold[0, folds == 0, 2], np.zeros((folds == 0).sum()))
    assert np.allclose(bag.out_of_fold.sum(axis=2), 1, atol=1e-5)
    found = bag.member_predictions({"tap": values})[0][labels == 2].argmax(axis=1) == 2
    assert found.mean() > 0.5


def test_balanced_classes_have_even_priors_and_the_same_kernels():
    values, labels = rows()
    plain, balanced = (step_of(examples(values, labels), 0.5, class_weight=each) for each in ("none", "balanced"))
    assert np.array_equal(plain[0], balanced[0])
    assert np.array_equal(plain[1], balanced[1])
    assert (plain[2].min(axis=1) < -1.5).all()
    assert not balanced[2].any()


def test_the_path_ends_once_it_gets_worse_and_out_of_fold_rows_are_each_folds_own():
    values, labels = rows(150, 40)
    given = examples(values, labels)
    bag = train_lda(given, plan_of(given), Silent())
    means = bag.history.fold_loss.mean(axis=1)
    worse = means > lda._WORSE * np.minimum.accumulate(means)
    assert worse.tolist() == [False] * (len(means) - 1) + [len(means) < len(SHRINKAGES)]
    predicted = bag.predict({"tap": values})
    for fold in range(FOLDS):
        own = np.arange(150) % FOLDS == fold
        assert np.allclose(bag.out_of_fold[0, own], predicted[fold, own], atol=1e-6)
    again = train_lda(given, plan_of(given), Silent())
    assert again.out_of_fold.tobytes() == bag.out_of_fold.tobytes()


def test_a_mirrored_copy_is_trained_on_and_averaged():
    values, labels = rows()
    mirrored = values[:, ::-1].copy()
    given = examples(values, labels, copies=[mirrored], views=2)
    bag = train_lda(given, plan_of(given), Silent())
    both = [bag.predict({"tap": view}) for view in (values, mirrored)]
    own = np.arange(150) % FOLDS == 1
    assert np.allclose(bag.out_of_fold[0, own], (both[0] + both[1])[1, own] / 2, atol=1e-6)


def test_of_many_rows_or_values_some_are_taken_and_all_are_predicted(tmp_path, monkeypatch):
    monkeypatch.setattr("featcache.core.scratch_arrays.MEMORY_BYTES", 100)
    values, labels = rows(1200, 12)
    given = examples(values, labels)
    assert given.some(1200, tmp_path) is given
    some = given.some(100, tmp_path)
    assert isinstance(some.copies[0], np.memmap)
    assert np.array_equal(some.copies[0][[0, 50, 99]], values[[0, 605, 1199]])
    assert (some.labels[99], some.parts.units[50]) == (labels[1199], 605 % FOLDS)
    whole = train_lda(given, plan_of(given), Silent(), scratch=tmp_path)
    for name, limit in (("_MOST_ROWS", 300), ("_MOST_VALUES", 11)):
        monkeypatch.setattr(lda, name, limit)
        bag = train_lda(given, plan_of(given), Silent(), scratch=tmp_path)
        assert np.isfinite(bag.out_of_fold).all()
        assert (bag.out_of_fold.argmax(axis=2) == whole.out_of_fold.argmax(axis=2)).mean() > (
            0.95 if limit > 11 else 0.5
        )


def test_rows_that_are_all_equal_are_not_divided_by_zero():
    labels = np.arange(30) % 2
    values = np.repeat(np.eye(2, 5, dtype=np.float32) - 0.5, 15, axis=0)[np.argsort(np.argsort(labels, kind="stable"))]
    given = examples(values, labels)
    bag = train_lda(given, plan_of(given, 2), Silent())
    assert (bag.out_of_fold[0].argmax(axis=1) == labels).all()

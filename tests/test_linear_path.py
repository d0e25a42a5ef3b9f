"""Coordinates for few rows, and steps that are chosen and tempered by other folds' rows alone."""

import numpy as np
import pytest
from head_rows import examples_of

from featcache.settings.specs import HeadsSpec
from featcache.training.folds import ALWAYS
from featcache.training.heads.linear_path import Coordinates, ScoredPath, Step
from featcache.training.heads.partition import by_folds
from featcache.training.heads.presets import LINEAR, resolve_heads

FOLDS, CLASSES = 3, 3


def centred(n, features, seed=0):
    values = np.random.default_rng(seed).normal(size=(n, features))
    return (values - values.mean(axis=0)).astype(np.float16)


@pytest.mark.parametrize("copies", [1, 2])
def test_few_rows_have_as_many_coordinates_and_the_same_logits(copies, monkeypatch):
    monkeypatch.setattr("featcache.training.heads.linear_path._BLOCK_VALUES", 1000)  # some values at a time
    given = [centred(20, 90, seed) for seed in range(copies)]
    coordinates = Coordinates(given)
    assert [turned.shape for turned in coordinates.copies] == [(20, 20 * copies)] * copies
    assert coordinates.values == 90
    turned = np.random.default_rng(5).normal(size=(FOLDS, 20 * copies, CLASSES))
    kernels = coordinates.kernels(turned)
    assert (kernels.shape, kernels.dtype) == ((FOLDS, 90, CLASSES), np.float32)
    for copy, values in zip(coordinates.copies, given, strict=True):
        expected = np.matmul(copy, turned)
        assert np.allclose(np.matmul(values.astype(np.float64), kernels), expected, atol=0.01 * np.abs(expected).max())
        assert np.allclose(copy @ copy.T, values.astype(np.float64) @ values.T.astype(np.float64), rtol=1e-3, atol=1e-3)


def test_a_kernels_length_stays_so_that_penalties_mean_the_same():
    turned = np.random.default_rng(5).normal(size=(1, 20, CLASSES))
    values = np.random.default_rng(6).normal(size=(20, 300)).astype(np.float32)  # not centred: of full rank
    kernels = Coordinates([values]).kernels(turned)
    assert np.linalg.norm(kernels) == pytest.approx(np.linalg.norm(turned), rel=1e-3)


def test_duplicates_and_rows_of_zeros_have_coordinates():
    values = np.repeat(centred(10, 90), 2, axis=0)
    values[3] = 0
    turned = Coordinates([values]).copies[0]
    assert np.isfinite(turned).all()
    assert np.allclose(turned @ turned.T, values.astype(np.float64) @ values.T.astype(np.float64), rtol=1e-3, atol=1e-2)
    assert np.isfinite(Coordinates([np.zeros((5, 9), np.float16)]).copies[0]).all()


def test_more_rows_than_values_are_left_as_they_are():
    given = [centred(50, 90), centred(50, 90, 1)]
    coordinates = Coordinates(given)
    assert all(own is copy for own, copy in zip(coordinates.copies, given, strict=True))
    kernels = np.ones((FOLDS, 90, CLASSES))
    assert np.array_equal(coordinates.kernels(kernels), kernels)


# ---- steps


def path_of(labels, values, folds=None):
    parts = by_folds(np.arange(len(labels)) % FOLDS if folds is None else folds, np.ones(len(labels), bool))
    examples = examples_of([values], labels, parts)
    return examples, ScoredPath(examples, Coordinates(examples.copies), CLASSES)


def steps(count, features=6):
    draw = np.random.default_rng(3)
    shapes = (FOLDS, features, CLASSES), (FOLDS, CLASSES), (FOLDS, CLASSES)
    return [Step(*(draw.normal(size=shape) for shape in shapes)) for _ in range(count)]


def test_a_folds_own_rows_have_no_part_in_its_step_and_temperature():
    """Other labels in fold 0 alone change what the other folds choose by, and nothing that fold 0 does."""
    values, labels = centred(90, 6), np.random.default_rng(0).integers(0, CLASSES, 90)
    wrong = np.where(np.arange(90) % FOLDS == 0, (labels + 1) % CLASSES, labels)
    losses, temperatures = [], []
    for each in (labels, wrong):
        _, path = path_of(each, values)
        for step in steps(4):
            path.add(step)
        losses.append(np.array(path._losses))
        temperatures.append(np.array(path.temperatures))
    for plain, other in (losses, temperatures):
        assert np.array_equal(plain[:, 0], other[:, 0])
        assert not np.isclose(plain[:, 1:], other[:, 1:]).any()


def test_a_step_is_chosen_by_the_rows_of_the_other_folds(monkeypatch):
    """By a plain formula, which looks at one row after the other."""
    monkeypatch.setattr("featcache.training.heads.linear_path._BLOCK_VALUES", 40)  # six rows at a time
    values, labels = centred(90, 6), np.random.default_rng(0).integers(0, CLASSES, 90)
    examples, path = path_of(labels, values)
    tried, fold_of = steps(5), np.arange(90) % FOLDS
    returned = [path.add(step) for step in tried]
    losses = np.empty((5, FOLDS))
    for number, step in enumerate(tried):
        logits = np.array([values[row].astype(float) @ step.kernels[k] + step.bias[k] for row, k in enumerate(fold_of)])
        for fold in range(FOLDS):
            scores = logits / path.temperatures[number][fold] + step.prior[fold_of]
            shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
            losses[number, fold] = -np.log(shares[np.arange(90), labels])[fold_of != fold].mean()
    assert np.allclose(returned, losses.mean(axis=1), rtol=1e-5)
    plan = resolve_heads(HeadsSpec(folds=FOLDS), LINEAR, 6, 90, CLASSES)
    bag = path.bag(plan, examples, None)
    assert bag.history.best_epoch.tolist() == losses.argmin(axis=0).tolist()
    assert np.allclose(bag.history.fold_loss, losses, rtol=1e-5)
    for fold, number in enumerate(losses.argmin(axis=0)):
        step, temperature = tried[number], path.temperatures[number][fold]
        assert np.allclose(bag.weights["kernel_0"][fold], step.kernels[fold] / temperature, rtol=1e-5)
        assert np.allclose(bag.weights["bias_0"][fold], step.bias[fold] / temperature + step.prior[fold], rtol=1e-5)


def test_rows_that_every_fold_is_trained_on_choose_nothing():
    values, labels = centred(90, 6), np.random.default_rng(0).integers(0, CLASSES, 90)
    folds = np.where(np.arange(90) < 9, ALWAYS, np.arange(90) % FOLDS)
    losses = []
    for changed in (0, 1):
        own = np.where(folds == ALWAYS, (labels + changed) % CLASSES, labels)
        examples, path = path_of(own, values, folds)
        losses.append([path.add(step) for step in steps(3)])
    assert losses[0] == losses[1]
    bag = path.bag(resolve_heads(HeadsSpec(folds=FOLDS), LINEAR, 6, 90, CLASSES), examples, None)
    assert np.isnan(bag.out_of_fold[:, :9]).all()
    assert np.isfinite(bag.out_of_fold[:, 9:]).all()


def test_out_of_fold_rows_are_the_mean_over_views():
    draw = np.random.default_rng(0)
    plain, mirrored = draw.normal(size=(2, 60, 6)).astype(np.float16)
    labels = draw.integers(0, CLASSES, 60)
    parts = by_folds(np.arange(60) % FOLDS, np.ones(60, bool))
    bags = []
    for views in (1, 2):
        examples = examples_of([plain, mirrored, plain], labels, parts, views=views)
        path = ScoredPath(examples, Coordinates(examples.copies), CLASSES)
        path.add(steps(1)[0])
        bags.append(path.bag(resolve_heads(HeadsSpec(folds=FOLDS), LINEAR, 6, 60, CLASSES), examples, None))
    both = [bags[0].predict({"tap": view}) for view in (plain, mirrored)]
    for fold in range(FOLDS):
        own = np.arange(60) % FOLDS == fold
        assert np.allclose(bags[0].out_of_fold[0, own], both[0][fold, own], atol=1e-6)
        assert np.allclose(bags[1].out_of_fold[0, own], (both[0] + both[1])[fold, own] / 2, atol=1e-6)
    assert not np.allclose(bags[0].out_of_fold, bags[1].out_of_fold, atol=1e-2)

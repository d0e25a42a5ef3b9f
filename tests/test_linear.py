"""The logistic regression: scikit-learn's solution, honest strengths, the same bytes twice."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from featcache.core.progress import Silent
from featcache.settings.specs import HeadsSpec
from featcache.training.folds import assign_folds
from featcache.training.heads.examples import Examples, input_statistics
from featcache.training.heads.forward import forward
from featcache.training.heads.lbfgs import Regressions
from featcache.training.heads.logistic_regression import VARIANCES, chosen_steps, train_linear
from featcache.training.heads.partition import by_folds
from featcache.training.heads.presets import LINEAR, resolve_heads

FOLDS = 3


def rows(n, features, classes, seed=0):
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, n)
    values = (
        draw.normal(size=(n, features)) * draw.uniform(0.5, 3, features) + draw.normal(size=(classes, features))[labels]
    )
    return values.astype(np.float16), labels


def fitted(features, labels, copies=(), usable=None):
    usable = np.ones(len(labels), bool) if usable is None else usable
    folds = assign_folds(np.where(usable, labels, -1), [""] * len(labels), FOLDS, 0)
    plan = resolve_heads(HeadsSpec(folds=FOLDS), LINEAR, features[0].size, len(labels), int(labels.max()) + 1)
    examples = Examples([features, *copies], labels, by_folds(folds, usable))
    return train_linear(examples, plan, Silent()), folds


@pytest.mark.parametrize(("n", "features", "classes"), [(150, 12, 3), (150, 12, 2), (60, 400, 4)])
@pytest.mark.parametrize("strength", [0.003, 0.3])
def test_it_is_scikit_learns_solution(n, features, classes, strength):
    values, labels = rows(n, features, classes)
    folds = assign_folds(labels, [""] * n, FOLDS, 0)
    parts = by_folds(folds, folds >= 0)
    own, by_fold = np.stack([parts.trained(fold) for fold in range(FOLDS)]), input_statistics([values], parts)
    statistics = {name: np.stack([by_fold[fold][name] for fold in range(FOLDS)]) for name in by_fold[0]}
    weights = Regressions([values], labels, own, statistics, classes).fit(strength, tolerance=1e-7)
    said = forward({**weights, **statistics}, values.astype(np.float32), 0)
    for fold in range(FOLDS):
        standard = (values.astype(float) - statistics["input_mean"][fold]) / np.sqrt(statistics["input_variance"][fold])
        theirs = LogisticRegression(C=strength, tol=1e-10, max_iter=10_000).fit(standard[own[fold]], labels[own[fold]])
        assert np.allclose(said[fold], theirs.predict_proba(standard), atol=2e-4)


def test_blocks_and_copies_give_the_same_solution(monkeypatch):
    values, labels = rows(200, 10, 3)
    bag, _ = fitted(values, labels)
    twice, _ = fitted(values, labels, copies=[values])
    monkeypatch.setattr("featcache.training.heads.forward._BLOCK_VALUES", 700)
    monkeypatch.setattr("featcache.training.heads.lbfgs._HELD_VALUES", 0)
    blockwise, _ = fitted(values, labels)
    assert np.allclose(bag.out_of_fold, blockwise.out_of_fold, atol=1e-3)
    assert not np.array_equal(bag.out_of_fold, twice.out_of_fold), "twice the rows is half the penalty"


def test_the_strength_of_a_fold_is_the_other_folds_choice():
    loss = np.array([[1.0, 1.0, 5.0], [2.0, 2.0, 1.0], [3.0, 1.5, 1.5]])
    assert chosen_steps(loss, [10, 10, 10]) == [1, 1, 0]
    assert chosen_steps(loss, [10, 10, 1]) == [0, 0, 0]


def test_out_of_fold_rows_are_what_each_folds_head_says():
    values, labels = rows(120, 30, 3)
    usable = np.arange(120) != 7
    bag, folds = fitted(values, labels, usable=usable)
    said = bag.predict(values)
    assert np.isnan(bag.out_of_fold[0, 7]).all()
    for fold in range(FOLDS):
        assert np.allclose(bag.out_of_fold[0, folds == fold], said[fold, folds == fold], atol=1e-6)
    steps = len(bag.history.loss)
    assert bag.history.fold_loss.shape == (steps, FOLDS)
    assert steps <= len(VARIANCES)
    assert (np.diff(bag.history.loss.mean(axis=1)) < 0).all(), "a weaker penalty fits the training rows better"


def test_the_same_rows_give_the_same_bytes_and_a_folds_labels_do_not_matter_to_its_head():
    values, labels = rows(120, 30, 3)
    bag, folds = fitted(values, labels)
    again, _ = fitted(values, labels)
    assert all(np.array_equal(bag.weights[name], again.weights[name]) for name in bag.weights)
    wrong = np.where(folds == 0, (labels + 1) % 3, labels)
    plan = resolve_heads(HeadsSpec(folds=FOLDS), LINEAR, 30, 120, 3)
    other = train_linear(Examples([values], wrong, by_folds(folds, folds >= 0)), plan, Silent())
    assert np.allclose(bag.history.loss[:2, 0], other.history.loss[:2, 0], atol=1e-3)
    assert not np.allclose(bag.history.loss[:2, 1], other.history.loss[:2, 1], atol=1e-3)


def test_a_head_without_hidden_layers_is_a_keras_model_like_any_other(tmp_path):
    keras = pytest.importorskip("keras")
    from featcache.training.heads.keras_models import head_model

    values, labels = rows(90, 8, 3)
    bag, _ = fitted(values.reshape(90, 2, 2, 2), labels)
    model = head_model(bag, 1)
    said = keras.ops.convert_to_numpy(model(values.reshape(90, 2, 2, 2).astype(np.float32)))
    assert np.allclose(said, bag.predict(values.reshape(90, 2, 2, 2))[1], atol=1e-6)


def test_many_rows_times_features_get_fewer_passes_and_still_learn(monkeypatch):
    from featcache.training.heads import lbfgs

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    features = rng.standard_normal((300, 20)).astype(np.float16) + labels[:, None].astype(np.float16)
    own = np.ones((1, 300), bool)
    values = features.astype(np.float32)
    statistics = {"input_mean": values.mean(axis=0)[None], "input_variance": values.var(axis=0)[None]}
    regressions = lbfgs.Regressions([features], labels, own, statistics, 3)
    whole = regressions.fit(1.0)
    assert regressions.passes > lbfgs._FEWEST_PASSES
    monkeypatch.setattr(lbfgs, "_WORK", 0)
    early = regressions.fit(1.0)
    assert regressions.passes <= lbfgs._FEWEST_PASSES + 1
    standard = (values - statistics["input_mean"]) / np.sqrt(statistics["input_variance"])
    for found in (whole, early):
        told = (standard @ found["kernel_0"][0] + found["bias_0"][0]).argmax(axis=1)
        assert (told == labels).mean() > 0.9

"""The logistic regression: scikit-learn's solution, honest strengths, the same bytes twice."""

import numpy as np
import pytest
from head_rows import examples_of
from sklearn.linear_model import LogisticRegression

from featcache.core.progress import Silent
from featcache.settings.specs import HeadsSpec
from featcache.training.folds import assign_folds
from featcache.training.heads.forward import forward
from featcache.training.heads.lbfgs import Regressions
from featcache.training.heads.logistic_regression import _WORSE, VARIANCES, train_linear
from featcache.training.heads.partition import by_folds
from featcache.training.heads.presets import LINEAR, resolve_heads

FOLDS = 3


def rows(n, features, classes, seed=0):
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, n)
    values = draw.normal(size=(n, features)) + draw.normal(size=(classes, features))[labels]
    values = (values - values.mean(axis=0)) / values.std(axis=0)
    return values.astype(np.float16), labels


def fitted(features, labels, copies=(), usable=None):
    usable = np.ones(len(labels), bool) if usable is None else usable
    folds = assign_folds(np.where(usable, labels, -1), [""] * len(labels), FOLDS, 0)
    plan = resolve_heads(HeadsSpec(folds=FOLDS), LINEAR, features[0].size, len(labels), int(labels.max()) + 1)
    examples = examples_of([features, *copies], labels, by_folds(folds, usable))
    return train_linear(examples, plan, Silent()), folds


@pytest.mark.parametrize(("n", "features", "classes"), [(150, 12, 3), (150, 12, 2), (60, 400, 4)])
@pytest.mark.parametrize("strength", [0.003, 0.3])
def test_it_is_scikit_learns_solution(n, features, classes, strength):
    values, labels = rows(n, features, classes)
    folds = assign_folds(labels, [""] * n, FOLDS, 0)
    parts = by_folds(folds, folds >= 0)
    own = np.stack([parts.trained(fold) for fold in range(FOLDS)])
    kernels, bias = Regressions([values], labels, own, classes).fit(strength, tolerance=1e-7)
    said = forward({"kernel_0": kernels, "bias_0": bias}, values.astype(np.float32), 0)
    for fold in range(FOLDS):
        theirs = LogisticRegression(C=strength, tol=1e-10, max_iter=10_000).fit(values[own[fold]], labels[own[fold]])
        assert np.allclose(said[fold], theirs.predict_proba(values), atol=2e-4)


def test_blocks_and_copies_give_the_same_solution(monkeypatch):
    values, labels = rows(200, 10, 3)
    bag, _ = fitted(values, labels)
    twice, _ = fitted(values, labels, copies=[values])
    monkeypatch.setattr("featcache.training.heads.forward._BLOCK_VALUES", 700)
    monkeypatch.setattr("featcache.training.heads.lbfgs._HELD_VALUES", 0)
    blockwise, _ = fitted(values, labels)
    assert np.allclose(bag.out_of_fold, blockwise.out_of_fold, atol=1e-3)
    assert not np.array_equal(bag.out_of_fold, twice.out_of_fold), "twice the rows is half the penalty"


def test_out_of_fold_rows_are_what_each_folds_head_says():
    values, labels = rows(120, 30, 3)
    usable = np.arange(120) != 7
    bag, folds = fitted(values, labels, usable=usable)
    said = bag.predict({"tap": values})
    assert np.isnan(bag.out_of_fold[0, 7]).all()
    for fold in range(FOLDS):
        assert np.allclose(bag.out_of_fold[0, folds == fold], said[fold, folds == fold], atol=1e-6)
    losses = bag.history.fold_loss
    assert losses.shape[1] == FOLDS
    assert len(losses) <= len(VARIANCES)
    assert np.array_equal(losses.argmin(axis=0), bag.history.best_epoch)
    means = losses.mean(axis=1)
    worse = means > _WORSE * np.minimum.accumulate(means)
    assert worse.tolist() == [False] * (len(means) - 1) + [len(means) < len(VARIANCES)], (
        "the path ends once it gets worse"
    )


def test_the_same_rows_give_the_same_bytes():
    values, labels = rows(120, 30, 3)
    bags = [fitted(values, labels)[0] for _ in range(2)]
    assert all(array.tobytes() == bags[1].weights[name].tobytes() for name, array in bags[0].weights.items())
    assert bags[0].out_of_fold.tobytes() == bags[1].out_of_fold.tobytes()


def test_a_head_without_hidden_layers_is_a_keras_model_like_any_other():
    keras = pytest.importorskip("keras")
    from featcache.training.heads.keras_models import head_model

    values, labels = rows(90, 8, 3)
    bag, _ = fitted(values.reshape(90, 2, 2, 2), labels)
    said = keras.ops.convert_to_numpy(head_model(bag, 1)(values.astype(np.float32)))
    assert np.allclose(said, bag.predict({"tap": values.reshape(90, 2, 2, 2)})[1], atol=1e-6)


def test_many_rows_times_features_get_fewer_passes_and_still_learn(monkeypatch):
    from featcache.training.heads import lbfgs

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    features = rng.standard_normal((300, 20)).astype(np.float16) + labels[:, None].astype(np.float16)
    own = np.ones((1, 300), bool)
    regressions = lbfgs.Regressions([features], labels, own, 3)
    whole = regressions.fit(1.0)
    assert regressions.passes > lbfgs._FEWEST_PASSES
    monkeypatch.setattr(lbfgs, "_WORK", 0)
    early = regressions.fit(1.0)
    assert regressions.passes <= lbfgs._FEWEST_PASSES + 1
    for kernels, bias in (whole, early):
        predicted = (features.astype(np.float32) @ kernels[0] + bias[0]).argmax(axis=1)
        assert (predicted == labels).mean() > 0.9

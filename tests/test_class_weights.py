"""`[Heads] class_weight = balanced`: scikit-learn's weights and solution, in each head's own rows; off it changes nothing."""

from dataclasses import replace

import numpy as np
import pytest
from head_rows import examples_of
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_class_weight

from featcache.core.progress import Silent
from featcache.errors import SettingsError
from featcache.settings.schedules import Phase
from featcache.settings.specs import ConvNetSpec, HeadsSpec
from featcache.training.class_weights import class_weights
from featcache.training.convnet.plan import member_settings
from featcache.training.heads.bag import HeadId
from featcache.training.heads.batches import Batches, HeadStream
from featcache.training.heads.examples import PseudoLabels
from featcache.training.heads.forward import forward
from featcache.training.heads.lbfgs import Regressions
from featcache.training.heads.lda import train_lda
from featcache.training.heads.logistic_regression import train_linear
from featcache.training.heads.partition import by_folds
from featcache.training.heads.presets import LDA, LINEAR, PATHS, HeadPlan, head_type_settings, resolve_heads
from featcache.training.heads.trainer import train_heads
from featcache.training.metrics import log_loss

FEATURES, FOLDS = 6, 3
DENSE = HeadPlan(FEATURES, 3, (8,), (0.0, 0.0), (Phase(1e-2, 12),), 16)


def uneven(counts=(150, 40, 10), pseudo=None):
    """Overlapping classes of these sizes, in folds that are dealt in turn."""
    generator = np.random.default_rng(0)
    labels = generator.permutation(np.repeat(np.arange(len(counts)), counts))
    centres = np.random.default_rng(1).normal(size=(len(counts), FEATURES))
    features = (generator.normal(size=(len(labels), FEATURES)) + centres[labels]).astype(np.float16)
    parts = by_folds(np.arange(len(labels)) % FOLDS, np.ones(len(labels), bool))
    return examples_of([features], labels, parts, pseudo)


def recalls(bag, labels):
    predicted = bag.out_of_fold.mean(axis=0).argmax(axis=1)
    return np.array([(predicted[labels == label] == label).mean() for label in range(3)])


def test_they_are_scikit_learns_and_their_mean_is_one():
    labels = np.random.default_rng(0).choice(5, 300, p=[0.5, 0.3, 0.1, 0, 0.1])
    weights = class_weights(labels, 6)
    present = np.unique(labels)
    assert np.allclose(weights[present], compute_class_weight("balanced", classes=present, y=labels))
    assert weights[[3, 5]].tolist() == [0, 0]
    assert weights[labels].mean() == pytest.approx(1)


@pytest.mark.parametrize("counts", [(150, 40, 10), (170, 30)])
@pytest.mark.parametrize("strength", [0.003, 0.3])
def test_the_regression_is_scikit_learns_balanced_one(counts, strength):
    examples = uneven(counts)
    values, labels, classes = examples.copies[0], examples.labels, len(counts)
    regressions = Regressions([values], labels, examples.row_weights(classes), classes)
    kernels, bias = regressions.fit(strength, tolerance=1e-7)
    fitted = forward({"kernel_0": kernels, "bias_0": bias}, values.astype(np.float32), 0)
    for fold in range(FOLDS):
        own = examples.parts.trained(fold)
        theirs = LogisticRegression(C=strength, class_weight="balanced", tol=1e-10, max_iter=10_000)
        assert np.allclose(fitted[fold], theirs.fit(values[own], labels[own]).predict_proba(values), atol=5e-4)


def test_rows_that_all_count_one_are_rows_without_weights():
    examples = uneven((60, 60, 60))
    own = np.stack([examples.parts.trained(fold) for fold in range(FOLDS)])
    fits = [Regressions(examples.copies, examples.labels, rows, 3).fit(1.0) for rows in (own, own * 1.0)]
    assert all(np.array_equal(plain, weighted) for plain, weighted in zip(*fits, strict=True))


def test_each_head_weights_rows_by_the_classes_of_its_own_rows():
    examples, heads = uneven(), [HeadId(0, fold) for fold in range(FOLDS)]
    streams = [HeadStream(head, examples.count(head.fold)) for head in heads]
    for batch in Batches(examples, heads, streams, replace(DENSE, balanced=True)).epoch():
        for fold in range(FOLDS):
            weights = class_weights(examples.labels[examples.parts.trained(fold)], 3)
            assert np.array_equal(batch.weights[fold], weights[batch.truth[fold]])
    assert next(Batches(examples, heads, streams, DENSE).epoch()).weights is None


def test_pseudo_labelled_rows_count_by_their_likeliest_class():
    soft = np.random.default_rng(2).dirichlet(np.ones(3), (FOLDS, 30)).astype(np.float32)
    features = np.zeros((30, FEATURES), np.float16)
    examples, heads = uneven(pseudo=PseudoLabels([features], soft, 0.5)), [HeadId(0, 0)]
    weights = class_weights(examples.labels[examples.parts.trained(0)], 3)
    drawn = 0
    for batch in Batches(
        examples, heads, [HeadStream(heads[0], examples.count(0))], replace(DENSE, balanced=True)
    ).epoch():
        pseudo = (batch.values[0] == 0).all(axis=1)
        assert np.allclose(batch.weights[0], weights[batch.truth[0]] * np.where(pseudo, 0.5, 1))
        drawn += pseudo.sum()
    assert drawn


@pytest.mark.parametrize("kind", ["dense", LINEAR, LDA])
def test_rare_classes_are_found_more_often_and_log_loss_is_higher(kind):
    examples = uneven()

    def trained(class_weight):
        spec = HeadsSpec(folds=FOLDS, class_weight=class_weight)
        plan = resolve_heads(spec, kind, FEATURES, len(examples.labels), 3)
        assert plan.balanced == (class_weight == "balanced")
        if kind in PATHS:
            return (train_linear if kind == LINEAR else train_lda)(examples, plan, Silent())
        return train_heads(examples, plan, range(2), Silent())

    bags = [trained(each) for each in ("none", "balanced")]
    plain, balanced = (recalls(bag, examples.labels) for bag in bags)
    assert balanced[2] > plain[2]
    assert balanced.mean() > plain.mean()
    losses = [log_loss(bag.out_of_fold.mean(axis=0), examples.labels) for bag in bags]
    assert losses[0] < losses[1]


def test_only_balanced_is_in_keys():
    plain, balanced = HeadsSpec(), HeadsSpec(class_weight="balanced")
    for kind in ("dense", LINEAR, LDA, "dense-pseudo"):
        assert "class_weight" not in head_type_settings(plain, kind)
        assert head_type_settings(balanced, kind) == {**head_type_settings(plain, kind), "class_weight": "balanced"}
    assert member_settings(ConvNetSpec(), 0, plain)["Heads"] == {"folds": 5}
    assert member_settings(ConvNetSpec(), 0, balanced)["Heads"] == {"folds": 5, "class_weight": "balanced"}


def test_another_word_is_refused():
    with pytest.raises(SettingsError, match=r"\[Heads\] class_weight"):
        HeadsSpec(class_weight="even")

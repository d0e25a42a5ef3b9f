"""Temperatures: the best one is found, and none is fitted to rows of its own fold."""

import numpy as np
import pytest
from head_rows import examples_of

from featcache.core.progress import Silent
from featcache.settings.schedules import Phase
from featcache.training.heads.bag import HeadId
from featcache.training.heads.evaluation import HeadEvaluator
from featcache.training.heads.partition import by_folds
from featcache.training.heads.presets import HeadPlan
from featcache.training.heads.trainer import train_heads
from featcache.training.temperature import best_temperature, tempered_losses

FOLDS, CLASSES = 3, 3


def drawn(n, temperature, prior=0.0, seed=0):
    """Logits, and labels that are as sure as the logits divided by `temperature` are."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(size=(n, CLASSES)) * 3 * temperature
    gumbels = draw.gumbel(size=(n, CLASSES))
    return logits, (logits / temperature + prior + gumbels).argmax(axis=1)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 20.0])
@pytest.mark.parametrize("prior", [(0.0, 0.0, 0.0), (2.0, 0.0, -2.0)])
def test_a_known_one_is_found(temperature, prior):
    prior = np.tile(prior, (20_000, 1))
    logits, labels = drawn(20_000, temperature, prior)
    assert best_temperature(logits, labels, prior) == pytest.approx(temperature, rel=0.04)


def test_its_loss_is_the_lowest_and_that_of_a_softmax():
    logits, labels = drawn(500, 4.0)
    best = best_temperature(logits, labels)
    losses = [tempered_losses(logits, labels, 0.0, best * times).mean() for times in (0.9, 1, 1.1)]
    assert losses[1] == min(losses)
    shares = np.exp(logits / best) / np.exp(logits / best).sum(axis=1, keepdims=True)
    assert np.allclose(tempered_losses(logits, labels, 0.0, best), -np.log(shares[np.arange(500), labels]))


def test_no_rows_and_rows_without_a_fault_have_finite_ones():
    assert best_temperature(np.empty((0, 3)), np.empty(0, int)) == 1
    assert 0.09 < best_temperature(np.eye(3) * 9, np.arange(3)) < 0.3
    assert 90 < best_temperature(np.eye(3) * 9, (np.arange(3) + 1) % 3) < 101


def bag_of(labels, **settings):
    features = np.random.default_rng(1).normal(size=(len(labels), 6)).astype(np.float16)
    features[:, 0] += labels
    parts = by_folds(np.arange(len(labels)) % FOLDS, np.ones(len(labels), bool))
    plan = HeadPlan(6, CLASSES, (16,), (0.0, 0.0), (Phase(2e-2, 20),), 16, **settings)
    examples = examples_of([features], labels, parts)
    return examples, train_heads(examples, plan, (0, 1), Silent())


def test_heads_that_are_too_sure_become_less_so_and_nothing_else_changes():
    labels = np.random.default_rng(0).integers(0, CLASSES, 150)
    examples, plain = bag_of(labels)
    _, tempered = bag_of(labels, tempered=True)
    for name, array in plain.weights.items():
        if name in ("kernel_1", "bias_1"):
            temperatures = (array / tempered.weights[name]).reshape(len(array), -1)
            assert np.allclose(temperatures, temperatures[:, :1], rtol=1e-4)
            assert (temperatures > 1.5).all()
        else:
            assert np.array_equal(array, tempered.weights[name])
    assert np.array_equal(plain.out_of_fold.argmax(axis=2), tempered.out_of_fold.argmax(axis=2))
    rows = np.arange(150)
    losses = [-np.log(bag.out_of_fold[:, rows, labels]).mean() for bag in (plain, tempered)]
    assert losses[1] < losses[0] - 0.1
    predicted = tempered.predict({"tap": examples.copies[0]})
    for number, head in enumerate(tempered.heads):
        own = rows % FOLDS == head.fold
        assert np.allclose(tempered.out_of_fold[head.seed, own], predicted[number, own], atol=1e-6)


def test_a_folds_own_rows_have_no_part_in_its_temperature():
    """The same predictions with other labels in fold 0 alone: its own heads' temperature stays, the others' don't."""
    labels = np.random.default_rng(0).integers(0, CLASSES, 150)
    features = np.zeros((150, 4), np.float16)
    parts = by_folds(np.arange(150) % FOLDS, np.ones(150, bool))
    heads = [HeadId(seed, fold) for seed in (0, 1) for fold in range(FOLDS)]
    table = np.random.default_rng(2).dirichlet(np.ones(CLASSES), (2, 150)).astype(np.float32)

    def temperatures(labels):
        weights = {"kernel_0": np.ones((6, 4, CLASSES), np.float32), "bias_0": np.ones((6, CLASSES), np.float32)}
        HeadEvaluator(examples_of([features], labels, parts), 0).temper(weights, heads, table)
        assert np.array_equal(weights["kernel_0"][:, 0], weights["bias_0"])
        return 1 / weights["bias_0"][:, 0]

    plain, wrong = temperatures(labels), temperatures(np.where(np.arange(150) % FOLDS == 0, (labels + 1) % 3, labels))
    assert (plain == wrong).tolist() == [True, False, False] * 2
    assert len(set(plain.tolist())) == 6, "each head's is of its own seed's rows"


def test_rows_that_every_part_is_trained_on_have_no_part_in_any():
    from featcache.training.folds import ALWAYS

    labels = np.random.default_rng(0).integers(0, CLASSES, 90)
    table = np.random.default_rng(2).dirichlet(np.ones(CLASSES), (1, 90)).astype(np.float32)
    folds = np.where(np.arange(90) < 9, ALWAYS, np.arange(90) % FOLDS)
    table[:, :9] = np.nan
    weights = {"kernel_0": np.ones((3, 4, CLASSES), np.float32), "bias_0": np.ones((3, CLASSES), np.float32)}
    examples = examples_of([np.zeros((90, 4), np.float16)], labels, by_folds(folds, np.ones(90, bool)))
    HeadEvaluator(examples, 0).temper(weights, [HeadId(0, fold) for fold in range(FOLDS)], table)
    assert np.isfinite(weights["bias_0"]).all()

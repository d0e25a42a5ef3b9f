"""Mixing, temperature, clip and selection: literal answers and relations."""

import numpy as np
import pytest

from featcache.ensemble.combination import (  # fmt: skip
    COMBINATIONS,
    apply_temperature,
    bagged_weights,
    clipped,
    combine,
    find_clip,
    find_temperature,
    greedy_weights,
    mix,
    normalised,
)
from featcache.training.metrics import log_loss

TINY = 1e-37
GOOD = np.array([[0.8, 0.2], [0.4, 0.6], [0.1, 0.9], [0.5, 0.5]])


def noisy(seed, n=300, classes=3, strength=1.0, labels_seed=0):
    labels = np.random.default_rng(labels_seed).integers(0, classes, n).astype(np.int32)
    logits = np.random.default_rng(seed).normal(size=(n, classes)) + strength * np.eye(classes)[labels]
    return apply_temperature(np.exp(logits), 1), labels


def test_mean_of_one_is_itself_and_order_does_not_matter():
    a, _ = noisy(1)
    b, _ = noisy(2)
    assert np.allclose(mix(np.stack([a]), [1]), a)
    assert np.allclose(mix(np.stack([a, b]), [0.25, 0.75]), mix(np.stack([b, a]), [0.75, 0.25]))
    assert np.allclose(mix(np.stack([a, b]), [0.25, 0.75]), a / 4 + 3 * b / 4)


def test_the_geometric_mean_is_that_of_the_odds():
    a, b = np.array([[0.8, 0.2]]), np.array([[0.5, 0.5]])
    assert np.allclose(mix(np.stack([a, b]), [0.5, 0.5], TINY), [[2 / 3, 1 / 3]])
    assert np.allclose(mix(np.stack([a, b]), [1, 0], TINY), a)


def test_temperature_one_is_identity_and_high_ones_flatten():
    assert np.allclose(apply_temperature(GOOD, 1), GOOD)
    assert np.allclose(apply_temperature(np.array([[0.8, 0.2]]), 2), [[2 / 3, 1 / 3]])
    assert apply_temperature(np.array([[1.0, 0.0]]), 1)[0] == pytest.approx([1.0, 0.0])


def test_temperature_found_undoes_overconfidence():
    honest, labels = noisy(1, n=4000)
    too_sure = apply_temperature(honest, 0.5)
    found = find_temperature(too_sure, labels) / find_temperature(honest, labels)
    assert found == pytest.approx(2, rel=0.03)


def test_clip_is_the_recipes():
    bounded = clipped(np.array([[1.0, 0.0, 0.0], [0.5, 0.3, 0.2]]), 0.93)
    assert np.allclose(bounded, [[0.93, 0.035, 0.035], [0.5, 0.3, 0.2]])
    assert np.array_equal(clipped(GOOD, 1.0), GOOD)


def test_clip_found_is_the_share_that_is_right():
    # 100 rows, all certain, 5 of them wrong: being sure to 0.95 is best
    sure = np.tile([1.0, 0.0], (100, 1))
    labels = np.r_[np.zeros(95, int), np.ones(5, int)]
    assert find_clip(sure, labels) == pytest.approx(0.95, abs=0.005)
    assert find_clip(sure, np.zeros(100, int)) == 1.0


def told(members, labels):
    """What each member gives the labels."""
    return members[:, np.arange(len(labels)), labels]


def test_greedy_drops_the_useless_and_keeps_one_of_equals():
    good, labels = noisy(1, strength=3)
    useless = np.full_like(good, 1 / 3)
    assert greedy_weights(told(np.stack([useless, good]), labels)).tolist() == [0, 1]
    assert greedy_weights(told(np.stack([good, good]), labels)).tolist() == [1, 0]


def test_greedy_is_at_least_as_good_as_the_best_and_order_does_not_matter():
    members = np.stack([noisy(seed, strength=1.5)[0] for seed in range(5)])
    labels = noisy(0)[1]
    weights = greedy_weights(told(members, labels))
    mixed = log_loss(mix(members, weights), labels)
    assert mixed < min(log_loss(member, labels) for member in members)
    assert np.allclose(greedy_weights(told(members[::-1], labels))[::-1], weights)
    assert weights.sum() == pytest.approx(1)


def test_a_temperature_is_the_best_of_all_that_there_are():
    probabilities, labels = noisy(3, n=200, strength=0.7)
    found = find_temperature(probabilities, labels)
    every = {t: log_loss(apply_temperature(probabilities, t), labels) for t in np.geomspace(0.25, 4.0, 161)}
    assert every[min(every, key=lambda t: abs(t - found))] == pytest.approx(min(every.values()), abs=2e-6)
    assert find_temperature(np.full((9, 3), 1 / 3), np.zeros(9, int)) == 1.0


def test_bagged_selection_spreads_weight_over_the_good_and_repeats():
    members = np.stack([noisy(seed, strength=1.5)[0] for seed in range(5)] + [np.full((300, 3), 1 / 3)])
    labels = noisy(0)[1]
    weights = bagged_weights(told(members, labels))
    assert weights.sum() == pytest.approx(1)
    assert weights[:5].min() > weights[5] == 0
    assert np.array_equal(weights, bagged_weights(told(members, labels)))


@pytest.mark.parametrize("method", COMBINATIONS)
def test_a_combination_is_no_worse_than_its_parts_on_its_own_rows(method):
    members = np.stack([noisy(seed, strength=1.5)[0] for seed in range(4)])
    labels = noisy(0)[1]
    found = combine(members, labels, method, np.arange(len(labels)))
    assert (found.method, len(found.weights)) == (method, 4)
    assert sum(found.weights) == pytest.approx(1)
    assert log_loss(normalised(found.apply(members)), labels) < min(log_loss(member, labels) for member in members)
    assert found.apply(members, clip=0.4).max() <= 0.4


def test_of_many_rows_some_are_enough(monkeypatch):
    members = np.stack([noisy(seed, n=4000, strength=1.5)[0] for seed in range(3)])
    labels = noisy(0, n=4000)[1]
    every = combine(members, labels, "greedy", np.arange(len(labels)))
    monkeypatch.setattr("featcache.ensemble.combination._ROWS", 2000)
    some = combine(members, labels, "greedy", np.arange(len(labels)))
    assert some != every
    losses = [log_loss(normalised(each.apply(members)), labels) for each in (every, some)]
    assert losses[1] == pytest.approx(losses[0], rel=0.03)

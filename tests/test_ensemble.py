"""The ensemble's arithmetic: literal answers and relations."""

import json

import numpy as np
import pytest

from featcache import ensemble, scoring
from featcache.errors import CacheFormatError, CacheMismatchError, SettingsError, TrainingError
from featcache.predictions import Predictions

LABELS = np.array([0, 1, 1, 0], np.int32)
GOOD = np.array([[0.8, 0.2], [0.4, 0.6], [0.1, 0.9], [0.5, 0.5]])


def predictions(*members, labels=LABELS):
    values = np.array(members, np.float32)
    n, c = values.shape[1:]
    names = tuple(f"m{i}" for i in range(len(members)))
    return Predictions(tuple(f"r{i}" for i in range(n)), labels, names, values, tuple("abcdefghij"[:c]))


def noisy(seed, n=300, classes=3, strength=1.0, labels_seed=0):
    labels = np.random.default_rng(labels_seed).integers(0, classes, n).astype(np.int32)
    logits = np.random.default_rng(seed).normal(size=(n, classes)) + strength * np.eye(classes)[labels]
    return scoring.temper(np.exp(logits), 1), labels


def test_scores_of_a_small_case():
    assert scoring.accuracy(GOOD, LABELS) == 1.0
    assert scoring.log_loss(GOOD, LABELS) == pytest.approx(-np.log([0.8, 0.6, 0.9, 0.5]).mean())
    assert scoring.log_loss(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(36.0436533891)


@pytest.mark.parametrize(
    ("values", "labels", "message"),
    [
        ([[np.nan, 1]], [0], "NaN or infinity in 1 rows, first row=0"),
        ([[0.5, 0.5]], [2], r"labels in 0\.\.1"),
        (np.empty((0, 2)), [], "at least one row"),
    ],
)
def test_what_cannot_be_scored_is_refused(values, labels, message):
    with pytest.raises(TrainingError, match=message):
        scoring.log_loss(np.array(values, float), np.array(labels, int))


def test_mean_of_one_is_itself_and_order_does_not_matter():
    a, _ = noisy(1)
    b, _ = noisy(2)
    assert np.allclose(scoring.mean(np.stack([a])), a)
    assert np.allclose(scoring.mean(np.stack([a, b]), [1, 3]), scoring.mean(np.stack([b, a]), [3, 1]))
    assert np.allclose(scoring.mean(np.stack([a, b]), [1, 3]), a / 4 + 3 * b / 4)


def test_temperature_one_is_identity_and_high_ones_flatten():
    assert np.allclose(scoring.temper(GOOD, 1), GOOD)
    assert np.allclose(scoring.temper(np.array([[0.8, 0.2]]), 2), [[2 / 3, 1 / 3]])
    assert scoring.temper(np.array([[1.0, 0.0]]), 1)[0] == pytest.approx([1.0, 0.0])


def test_temperature_found_undoes_overconfidence():
    honest, labels = noisy(1, n=4000)
    too_sure = scoring.temper(honest, 0.5)
    found = scoring.find_temperature(too_sure, labels) / scoring.find_temperature(honest, labels)
    assert found == pytest.approx(2, rel=0.03)


def test_clip_is_the_recipes():
    clipped = scoring.clipped(np.array([[1.0, 0.0, 0.0], [0.5, 0.3, 0.2]]), 0.93)
    assert np.allclose(clipped, [[0.93, 0.035, 0.035], [0.5, 0.3, 0.2]])
    assert np.array_equal(scoring.clipped(GOOD, 1.0), GOOD)


def test_clip_found_is_the_share_that_is_right():
    # 100 rows, all certain, 5 of them wrong: being sure to 0.95 is best
    sure = np.tile([1.0, 0.0], (100, 1))
    labels = np.r_[np.zeros(95, int), np.ones(5, int)]
    assert scoring.find_clip(sure, labels) == pytest.approx(0.95, abs=0.005)
    assert scoring.find_clip(sure, np.zeros(100, int)) == 1.0


def test_greedy_drops_the_useless_and_keeps_one_of_equals():
    good, labels = noisy(1, strength=3)
    useless = np.full_like(good, 1 / 3)
    assert scoring.greedy_weights(np.stack([useless, good]), labels).tolist() == [0, 1]
    assert scoring.greedy_weights(np.stack([good, good]), labels).tolist() == [1, 0]


def test_greedy_is_at_least_as_good_as_the_best_and_order_does_not_matter():
    members = np.stack([noisy(seed, strength=1.5)[0] for seed in range(5)])
    labels = noisy(0)[1]
    weights = scoring.greedy_weights(members, labels)
    mixed = scoring.log_loss(scoring.mean(members, weights), labels)
    assert mixed < min(scoring.log_loss(member, labels) for member in members)
    assert np.allclose(scoring.greedy_weights(members[::-1], labels)[::-1], weights)
    assert weights.sum() == pytest.approx(1)


@pytest.mark.parametrize("method", ["mean", "greedy"])
def test_build_shows_the_best_single_and_never_does_worse(method):
    members = [noisy(seed, strength=2)[0] for seed in range(3)]
    built = ensemble.build_ensemble(predictions(*members, labels=noisy(0)[1]), method)
    assert set(built.member_scores) == {"m0", "m1", "m2"}
    best = built.member_scores[built.best_single].log_loss
    assert best == min(scores.log_loss for scores in built.member_scores.values())
    assert built.scores.log_loss <= best
    assert all(weight > 0 for weight in built.weights)


def test_a_single_certain_member_is_handed_through():
    single = ensemble.build_ensemble(predictions(GOOD), "greedy")
    assert (single.members, single.weights, single.best_single) == (("m0",), (1.0,), "m0")


def test_apply_takes_members_by_name_and_sums_to_one():
    a, labels = noisy(1)
    b, _ = noisy(2)
    built = ensemble.build_ensemble(predictions(a, b, labels=labels), "mean")
    swapped = Predictions(
        tuple(f"r{i}" for i in range(len(a))), labels, ("m1", "m0"), np.array([b, a], np.float32), ("a", "b", "c")
    )
    assert np.allclose(built.apply(swapped), built.apply(predictions(a, b, labels=labels)))
    assert np.allclose(built.apply(swapped, clip=1.0).sum(axis=1), 1)
    with pytest.raises(CacheMismatchError, match="member='m1' is missing"):
        built.apply(predictions(a, labels=labels))


def test_saved_ensembles_load_and_damage_is_refused(tmp_path):
    built = ensemble.build_ensemble(predictions(GOOD, GOOD[:, ::-1]), "greedy")
    path = tmp_path / "ensemble.json"
    built.save(path, {"key": "key"})
    assert ensemble.Ensemble.load(path) == built
    assert json.loads(path.read_text())["key"] == "key"
    path.write_text("{}")
    with pytest.raises(CacheFormatError, match=r"ensemble\.json.*--rerun"):
        ensemble.Ensemble.load(path)


def test_build_refuses_what_it_cannot_score():
    with pytest.raises(SettingsError, match="did you mean greedy"):
        ensemble.build_ensemble(predictions(GOOD), "gredy")
    with pytest.raises(TrainingError, match="rows=0"):
        ensemble.build_ensemble(predictions(GOOD, labels=np.full(4, -1, np.int32)), "mean")

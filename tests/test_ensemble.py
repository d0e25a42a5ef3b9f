"""The ensemble: honest nested scores, what it is compared with, and its file."""

import dataclasses
import json

import numpy as np
import pytest

from featcache.ensemble.combination import COMBINATIONS, apply_temperature, mix, normalised
from featcache.ensemble.ensemble import Ensemble
from featcache.ensemble.selection import select_ensemble
from featcache.errors import CacheFormatError, CacheMismatchError, SettingsError, TrainingError
from featcache.training.metrics import judge_parts, log_loss
from featcache.training.predictions import Predictions

FOLDS = 5


def noisy(seed, n=300, classes=3, strength=1.0, labels_seed=0):
    labels = np.random.default_rng(labels_seed).integers(0, classes, n).astype(np.int32)
    logits = np.random.default_rng(seed).normal(size=(n, classes)) + strength * np.eye(classes)[labels]
    return apply_temperature(np.exp(logits), 1), labels


def predictions(*members, labels, folds=None):
    values = np.array(members, np.float32)
    n, c = values.shape[1:]
    names = tuple(f"m{i}" for i in range(len(members)))
    folds = (np.arange(n) % FOLDS).astype(np.int32) if folds is None else folds
    return Predictions(tuple(f"r{i}" for i in range(n)), labels, names, values, tuple("abcdefghij"[:c]), folds)


@pytest.fixture(scope="module")
def known():
    return predictions(*(noisy(seed, strength=2)[0] for seed in range(3)), labels=noisy(0)[1])


@pytest.mark.parametrize("method", ["auto", *COMBINATIONS])
def test_it_shows_the_best_single_and_is_better(known, method):
    built = select_ensemble(known, method)
    assert list(built.member_scores) == ["m0", "m1", "m2"] == list(built.candidates)
    best = built.member_scores[built.best_single].log_loss
    assert best == min(scores.log_loss for scores in built.member_scores.values())
    assert best <= built.single_scores.log_loss
    assert built.scores.log_loss < best
    low, high = built.interval.log_loss
    assert low < built.scores.log_loss < high
    assert built.whole.method == ("weighted" if method == "auto" else method)
    assert sum(built.weights) == pytest.approx(1)
    assert all(weight > 0 for weight in built.weights)


@pytest.mark.parametrize("method", ["weighted", "greedy"])
def test_nested_scores_are_those_of_each_fold_by_the_combination_of_the_others(known, method):
    built = select_ensemble(known, method)
    nested = ((rows, normalised(part)) for rows, part in built.nested_parts(known))
    assert judge_parts(nested, known.labels).scores() == built.scores
    for fold in range(FOLDS):
        # whatever the labels of a fold are, the combination that it is scored by stays as it is
        labels = np.where(known.folds == fold, (known.labels + 1) % 3, known.labels).astype(np.int32)
        other = select_ensemble(dataclasses.replace(known, labels=labels), method)
        assert other.folds[fold] == built.folds[fold]
        assert other.folds[(fold + 1) % FOLDS] != built.folds[(fold + 1) % FOLDS]


def named(names, *members, labels, groups=()):
    return dataclasses.replace(predictions(*members, labels=labels), members=names, groups=groups)


def test_members_of_a_bag_share_its_weight():
    tables, labels = [noisy(seed, strength=2)[0] for seed in range(4)], noisy(0)[1]
    names = ("pooled/dense/seed0", "pooled/linear/seed0", "pooled/dense/seed1", "pooled/dense/seed2")
    whole = select_ensemble(named(names, *tables, labels=labels)).whole
    assert whole.weights[0] == whole.weights[2] == whole.weights[3]
    bag = mix(np.stack([tables[0], tables[2], tables[3]]), [1 / 3] * 3, 1e-9)
    two = select_ensemble(predictions(tables[1], bag, labels=labels)).whole
    assert np.allclose(two.weights, [whole.weights[1], 3 * whole.weights[0]], atol=1e-5)


def test_it_is_compared_with_a_regression_and_the_majority_class():
    tables, labels = [noisy(seed, strength=2)[0] for seed in range(4)], noisy(0)[1]
    names = ("pooled/dense/seed0", "pooled/linear/seed0", "tap/linear/seed0", "convnet/seed0")
    known = named(names, *tables, labels=labels)
    regression, majority = select_ensemble(known).baselines
    assert (regression.name, regression.member) == ("regression on pooled features", "pooled/linear/seed0")
    assert regression.scores == judge_parts([(slice(None), known.probabilities[1])], labels).scores()
    assert (majority.name, majority.member) == ("majority class", "")
    others = [np.bincount(labels[known.folds != fold], minlength=3) for fold in range(FOLDS)]
    right = [(labels[known.folds == fold] == other.argmax()).sum() for fold, other in enumerate(others)]
    assert majority.scores.accuracy == sum(right) / len(labels)
    assert majority.scores.log_loss == pytest.approx(np.log(3), abs=0.02)
    assert [each.name for each in select_ensemble(predictions(*tables, labels=labels)).baselines] == ["majority class"]


def test_a_class_that_only_one_fold_has_does_not_make_the_majority_class_infinitely_bad():
    member, labels = noisy(1, n=60)
    labels[:] = np.arange(60) % 2
    labels[0] = 2
    (majority,) = select_ensemble(predictions(member, labels=labels)).baselines
    assert majority.scores.log_loss < np.log(2) + 0.2


def test_differences_are_paired_and_groups_are_drawn_together():
    """The regression and the ensemble fail on the same rows: their difference is far surer than either."""
    tables, labels = [noisy(seed, strength=2)[0] for seed in range(2)], noisy(0)[1]
    tables[1] = normalised(tables[0] ** 1.2)
    names = ("a/dense/seed0", "a/linear/seed0")
    built = select_ensemble(
        named(names, *tables, labels=labels), "mean"
    )  # fitted to rows ten times over it is the same
    (low, high), gain = built.baselines[0].difference.log_loss, built.scores.log_loss
    gain -= built.baselines[0].scores.log_loss
    assert low <= gain <= high
    assert high - low < (built.interval.log_loss[1] - built.interval.log_loss[0]) / 2
    # ten rows of a group are one: the same rows ten times, once as they are and once grouped
    tens = [np.repeat(table, 10, axis=0) for table in tables]
    folds, groups = np.repeat(np.arange(300) % FOLDS, 10).astype(np.int32), [f"g{row // 10}" for row in range(3000)]
    many = dataclasses.replace(named(names, *tens, labels=np.repeat(labels, 10)), folds=folds)
    loose, grouped = (
        select_ensemble(dataclasses.replace(many, groups=each), "mean").baselines[0].difference.log_loss
        for each in ((), groups)
    )
    assert grouped[1] - grouped[0] == pytest.approx(high - low, rel=0.15)
    assert loose[1] - loose[0] < (high - low) / 2


def test_nested_scores_do_not_flatter_where_the_fitted_ones_do():
    """Forty members of pure noise: what is chosen among them is worth nothing, and only the nested score says so."""
    draw = np.random.default_rng(0)
    noise, labels = draw.dirichlet([1, 1], (40, 60)), draw.integers(0, 2, 60).astype(np.int32)
    known = predictions(*noise, labels=labels)
    built = select_ensemble(known, "greedy")
    fitted = log_loss(normalised(built.apply(known)), labels)
    assert fitted < np.log(2) < built.scores.log_loss
    assert built.member_scores[built.best_single].log_loss < built.single_scores.log_loss


@pytest.mark.parametrize("method", ["auto", "greedy"])
def test_a_single_member_is_handed_through(method):
    member, labels = noisy(1, n=60)
    single = select_ensemble(predictions(member, labels=labels), method)
    assert (single.members, single.weights, single.best_single) == (("m0",), (1.0,), "m0")
    assert single.single_scores == single.member_scores["m0"]


def test_apply_takes_members_by_name_and_sums_to_one():
    a, labels = noisy(1)
    b, _ = noisy(2)
    built = select_ensemble(predictions(a, b, labels=labels), "mean")
    swapped = Predictions(
        tuple(f"r{i}" for i in range(len(a))), labels, ("m1", "m0"), np.array([b, a], np.float32), ("a", "b", "c")
    )
    assert np.allclose(built.apply(swapped), built.apply(predictions(a, b, labels=labels)))
    assert np.allclose(built.apply(swapped, clip=1.0).sum(axis=1), 1)
    with pytest.raises(CacheMismatchError, match="have no folds"):
        list(built.nested_parts(swapped))
    with pytest.raises(CacheMismatchError, match="member='m1' is missing"):
        built.apply(predictions(a, labels=labels))


def test_saved_ensembles_load_and_damage_is_refused(known, tmp_path):
    built = select_ensemble(dataclasses.replace(known, members=("a/dense/seed0", "a/linear/seed0", "convnet/seed0")))
    path = tmp_path / "ensemble.json"
    built.save(path, {"key": "key"})
    assert Ensemble.load(path) == built
    assert json.loads(path.read_text())["key"] == "key"
    path.write_text("{}")
    with pytest.raises(CacheFormatError, match=r"ensemble\.json.*--rerun"):
        Ensemble.load(path)


def test_build_refuses_what_it_cannot_score(known):
    with pytest.raises(SettingsError, match="did you mean greedy"):
        select_ensemble(known, "gredy")
    with pytest.raises(TrainingError, match="rows=0"):
        select_ensemble(dataclasses.replace(known, labels=np.full(300, -1, np.int32)))
    for folds in (None, np.zeros(300, np.int32)):
        with pytest.raises(TrainingError, match=r"folds=[01]"):
            select_ensemble(dataclasses.replace(known, folds=folds))

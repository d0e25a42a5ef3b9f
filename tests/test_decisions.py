"""Metrics by name as scikit-learn defines them, and the decisions and methods that they choose without looking ahead."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics

from featcache.ensemble.decisions import Decision, decided, find_decision
from featcache.ensemble.ensemble import Ensemble
from featcache.ensemble.selection import metric_members, score_record, select_ensemble
from featcache.errors import CacheFormatError, SettingsError
from featcache.inference.predictor import Prediction, prediction_lines, prediction_record
from featcache.settings import parse_settings
from featcache.training.metrics import bootstrap, judge
from featcache.training.named_metrics import Judged, Metric, metric_spans, surely_better
from featcache.training.predictions import Predictions

FOLDS = 5


def rows(seed=0, n=400, classes=4, places=2):
    """Rows of unlike classes, with equal probabilities among them."""
    generator = np.random.default_rng(seed)
    labels = generator.choice(classes, n, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    logits = generator.normal(size=(n, classes)) + 1.5 * np.eye(classes)[labels]
    table = np.exp(logits).round(places) + 0.01
    return labels, table / table.sum(axis=1, keepdims=True)


def ordinal(seed, n=600, classes=5):
    """Rare high grades that are seen through noise, as the probabilities of a model that knows the noise."""
    generator = np.random.default_rng(seed)
    shares = np.array([0.5, 0.1, 0.25, 0.08, 0.07])
    labels = generator.choice(classes, n, p=shares)
    seen = labels + generator.normal(scale=1.0, size=n)
    table = shares * np.exp(-((seen[:, None] - np.arange(classes)) ** 2) / 2)
    return labels.astype(np.int32), table / table.sum(axis=1, keepdims=True)


def predictions(*tables, labels, names=None):
    tables = np.array(tables, np.float32)
    names = names or tuple(f"m{i}/dense/seed0" for i in range(len(tables)))
    folds = (np.arange(len(labels)) % FOLDS).astype(np.int32)
    classes = tuple("abcdefgh"[: tables.shape[2]])
    return Predictions([f"r{i}" for i in range(len(labels))], labels.astype(np.int32), names, tables, classes, folds)


THEIRS = {
    "accuracy": lambda own, p, t: metrics.accuracy_score(own, p),
    "balanced_accuracy": lambda own, p, t: metrics.balanced_accuracy_score(own, p),
    "f1_macro": lambda own, p, t: metrics.f1_score(own, p, average="macro"),
    "f1_micro": lambda own, p, t: metrics.f1_score(own, p, average="micro"),
    "qwk": lambda own, p, t: metrics.cohen_kappa_score(own, p, weights="quadratic"),
    "roc_auc": lambda own, p, t: metrics.roc_auc_score(own, t[:, 1] if t.shape[1] == 2 else t, multi_class="ovr"),
}


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("name", THEIRS)
def test_a_metric_is_scikit_learns_also_of_rows_that_are_drawn(name, classes):
    labels, table = rows(classes=classes)
    predicted = table.argmax(axis=1)
    metric = Metric(name, Judged(labels, predicted, table))
    assert metric.value() == pytest.approx(THEIRS[name](labels, predicted, table), abs=1e-12)
    drawn = np.random.default_rng(1).integers(0, len(labels), len(labels))
    weights = np.bincount(drawn, minlength=len(labels)).astype(float)
    assert metric.value(weights) == pytest.approx(
        THEIRS[name](labels[drawn], predicted[drawn], table[drawn]), abs=1e-12
    )


def test_a_class_that_is_neither_there_nor_predicted_is_left_out():
    labels, predicted = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    judged = Judged(labels, predicted, np.eye(3)[predicted])
    assert Metric("f1_macro", judged).value() == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    assert Metric("balanced_accuracy", judged).value() == pytest.approx(0.75)
    assert Metric("qwk", Judged(labels * 0, labels * 0, np.eye(3)[labels])).value() == 0


def test_mean_precision_at_k_is_one_by_the_rank_of_the_label_and_of_equals_the_first_is_first():
    table = np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.2, 0.4, 0.4], [0.1, 0.2, 0.7]])
    judged = Judged(np.array([0, 1, 2, 0]), table.argmax(axis=1), table)
    assert Metric("map@1", judged).value() == pytest.approx(1 / 4)
    assert Metric("map@2", judged).value() == pytest.approx((1 + 1 / 2 + 1 / 2 + 0) / 4)
    assert Metric("map@5", judged).value() == pytest.approx((1 + 1 / 2 + 1 / 2 + 1 / 3) / 4)


def test_intervals_are_of_the_draws_by_which_accuracy_has_its_own():
    labels, table = rows()
    groups = [f"g{row // 5}" for row in range(len(labels))]
    other = Judged(labels, np.zeros_like(labels), table)
    for each in ((), groups):
        (own, _), (gained,) = metric_spans("accuracy", [Judged(labels, table.argmax(axis=1), table), other], each)
        first, second = judge(table, labels), judge(np.eye(4)[other.predicted], labels)
        interval, difference = bootstrap([first, first.minus(second)], each)
        assert own == pytest.approx(interval.accuracy)
        assert gained == pytest.approx(difference.accuracy)


@pytest.mark.parametrize("name", ["balanced_accuracy", "f1_macro", "qwk"])
def test_a_decision_is_no_worse_on_its_own_rows_than_the_most_probable_class(name):
    for seed in range(3):
        labels, table = ordinal(seed, n=2000)
        decision = find_decision(name, table, labels)
        plain, better = (
            Metric(name, Judged(labels, each.classes(table), table)).value() for each in (Decision(), decision)
        )
        assert better > plain + 0.01


@pytest.mark.parametrize("seed", range(3))
def test_cut_points_gain_out_of_fold_more_than_chance_moves_the_gain(seed):
    labels, table = ordinal(seed, n=1500)
    cut = decided("qwk", table, labels, np.arange(len(labels)) % FOLDS)
    _, ((low, _),) = metric_spans("qwk", [cut, Judged(labels, table.argmax(axis=1), table)])
    assert low > 0


def test_what_gains_no_more_than_chance_is_left_as_it_is():
    labels, table = rows(n=2000)
    plain = table.argmax(axis=1)
    lucky, better = plain.copy(), plain.copy()
    wrong = np.flatnonzero(plain != labels)
    lucky[wrong[:1]], better[wrong[:100]] = labels[wrong[:1]], labels[wrong[:100]]
    judged = [Judged(labels, each, table) for each in (plain, lucky, better)]
    assert [surely_better("f1_macro", each, judged[0]) for each in judged] == [False, False, True]


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("Ensemble", "metric", "map@K", "leaves open how many: write a number for K, map@5"),
        ("Ensemble", "metric", "map@0", "is unknown"),
        ("Ensemble", "metric", "kappa", "is unknown"),
        ("Submission", "format", "topk", "leaves open how many: write a number for K, top5"),
        ("Submission", "format", "labels3", "is unknown"),
    ],
)
def test_a_metric_or_format_that_is_none_is_one_line(section, key, value, said):
    with pytest.raises(SettingsError, match=said):
        parse_settings({section: {key: value}})


def test_metrics_and_formats_with_a_number_are_read():
    settings = parse_settings({"Ensemble": {"metric": "MAP@12"}, "Submission": {"format": "top3"}})
    assert (settings.ensemble.metric, settings.submission.format) == ("map@12", "top3")


def test_a_file_is_shown_as_the_class_that_is_decided_for():
    item = Prediction(Path("a.png"), np.array([0.5, 0.2, 0.3]), decided=2)
    assert prediction_record(item, "abc")["class"] == "c"
    assert prediction_record(item, "abc")["probability"] == 0.3
    assert [*prediction_lines([item], "abc", 6)][1].split() == ["a.png", "c", "0.3000", "a", "0.5000"]


def test_metrics_of_probabilities_and_accuracy_decide_nothing():
    labels, table = rows()
    for name in ("accuracy", "f1_micro", "roc_auc", "map@3"):
        assert find_decision(name, table, labels) == Decision()


def test_few_values_and_absent_classes_still_have_cut_points():
    table = np.tile([[0.2, 0.3, 0.5]], (4, 1))
    cuts = find_decision("qwk", table, np.array([2, 2, 2, 2])).cuts
    assert len(cuts) == 2
    assert list(cuts) == sorted(cuts)


@pytest.fixture(scope="module")
def known():
    labels, table = ordinal(0, n=300)
    other = ordinal(0, n=300)[1] ** 2
    return predictions(table, other / other.sum(axis=1, keepdims=True), labels=labels)


def test_what_a_fold_is_scored_by_knows_nothing_of_its_labels(known):
    built = select_ensemble(known, metric="qwk")
    for fold in (0, 3):
        labels = np.where(known.folds == fold, (known.labels + 2) % 5, known.labels).astype(np.int32)
        other = select_ensemble(dataclasses.replace(known, labels=labels), metric="qwk")
        assert other.folds[fold] == built.folds[fold]
        assert other.decided.folds[fold] == built.decided.folds[fold]


def test_the_metric_is_shown_with_its_interval_and_gains(known):
    built = select_ensemble(known, metric="qwk")
    own = built.decided
    assert own.interval[0] < own.score < own.interval[1]
    assert own.baselines == (0.0,)  # one prediction for all rows of a fold agrees by chance
    assert own.differences[0][0] > 0
    record = score_record(built, {"valid": dataclasses.replace(known, folds=None)})
    assert record["scores"]["out of fold"]["qwk"] == own.score
    table = built.apply(known)
    expected = metrics.cohen_kappa_score(known.labels, built.decision.classes(table), weights="quadratic")
    assert record["scores"]["valid"]["qwk"] == pytest.approx(expected)
    (member, _) = metric_members(known, "qwk")
    assert np.array_equal(member.labels, known.labels)


def test_log_loss_leaves_the_ensemble_and_its_file_as_they_were(known, tmp_path):
    built = select_ensemble(known)
    assert built == select_ensemble(known, metric="log_loss")
    built.save(tmp_path / "e.json", {})
    assert "decided" not in json.loads((tmp_path / "e.json").read_text())["ensemble"]
    assert "metric" not in score_record(built, {})


def test_two_folds_are_enough_and_a_method_that_is_set_stays(known):
    two = dataclasses.replace(known, folds=(known.folds % 2).astype(np.int32))
    built = select_ensemble(two, "mean", "f1_macro")
    assert {each.method for each in (built.whole, *built.folds.values())} == {"mean"}


def test_the_file_comes_back_and_decisions_that_do_not_fit_are_refused(known, tmp_path):
    built = select_ensemble(known, "geometric", "qwk")
    built.save(tmp_path / "e.json", {})
    assert Ensemble.load(tmp_path / "e.json") == built
    stored = json.loads((tmp_path / "e.json").read_text())
    for cuts in ([1.0], [4.0, 3.0, 2.0, 1.0]):
        stored["ensemble"]["decided"]["whole"]["cuts"] = cuts
        (tmp_path / "e.json").write_text(json.dumps(stored))
        with pytest.raises(CacheFormatError, match="decision"):
            Ensemble.load(tmp_path / "e.json")

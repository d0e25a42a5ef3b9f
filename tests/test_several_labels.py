"""Several labels a row: heads, regressions, the ensemble, metrics and thresholds, on made (n, L) arrays."""

import numpy as np
import pytest
from head_rows import examples_of
from sklearn import metrics
from sklearn.linear_model import LogisticRegression

from featcache.core.progress import Silent
from featcache.ensemble.columns import layout_of, submission_format
from featcache.ensemble.combination import COMBINATIONS, combine, submission_clip
from featcache.ensemble.decisions import Decision, find_decision
from featcache.ensemble.ensemble import Decided, Ensemble
from featcache.ensemble.expected_f1 import best_sets
from featcache.ensemble.sample_submission import read_sample
from featcache.ensemble.selection import score_record, select_ensemble
from featcache.ensemble.submission import write_submission_file
from featcache.errors import SettingsError, SubmissionError, TrainingError
from featcache.settings.specs import HeadsSpec, SubmissionSpec
from featcache.training.cases import by_case
from featcache.training.heads.bag import load_bag, save_bag
from featcache.training.heads.examples import PseudoLabels
from featcache.training.heads.lbfgs import Regressions
from featcache.training.heads.logistic_regression import train_linear
from featcache.training.heads.partition import by_folds
from featcache.training.heads.presets import head_types, resolve_heads
from featcache.training.heads.trainer import train_heads
from featcache.training.metrics import judge, log_loss
from featcache.training.named_metrics import Judged, Metric
from featcache.training.predictions import Predictions

ROWS, LABELS, VALUES = 150, 4, 12
FOLDS = np.arange(ROWS, dtype=np.int32) % 3
NAMES = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def made():
    """Features, and labels that they tell: the later the rarer; some rows have none, some all."""
    generator = np.random.default_rng(0)
    values = generator.normal(size=(ROWS, VALUES)).astype(np.float16)
    scores = values @ generator.normal(size=(VALUES, LABELS)) + generator.normal(size=(ROWS, LABELS))
    return values, (scores > (0, 1, 2, 4)).astype(np.int8)


def trained(made, kind="linear", **settings):
    values, labels = made
    pseudo = settings.pop("pseudo", None)
    spec = HeadsSpec(folds=3, hidden=(8,), schedule=((1e-2, 8),), batch_size=16, **settings)
    plan = resolve_heads(spec, kind, VALUES, ROWS, LABELS, several=True)
    examples = examples_of([values], labels, by_folds(FOLDS, np.ones(ROWS, bool)), pseudo)
    return train_linear(examples, plan, Silent()) if kind == "linear" else train_heads(examples, plan, (0, 1), Silent())


@pytest.fixture(scope="module")
def known(made):
    """Predictions out of fold of a regression and two dense heads."""
    tables = np.concatenate([trained(made).out_of_fold, trained(made, "dense").out_of_fold])
    members = ("tap/linear/seed0", "tap/dense/seed0", "tap/dense/seed1")
    return Predictions([f"{row:03}" for row in range(ROWS)], made[1], members, tables, NAMES, FOLDS)


# ---- heads


@pytest.mark.parametrize("kind", ["linear", "dense"])
@pytest.mark.parametrize("class_weight", ["none", "balanced"])
def test_heads_learn_each_label(made, kind, class_weight):
    labels = made[1]
    table = trained(made, kind, class_weight=class_weight).out_of_fold[0]
    assert not np.allclose(table.sum(axis=1), 1)
    if class_weight == "none":
        assert log_loss(table, labels) < 0.95 * log_loss(np.tile(labels.mean(axis=0), (ROWS, 1)), labels)
    else:  # which finds the rarest label more often
        plain = trained(made, kind).out_of_fold[0]
        assert table[:, 3].mean() > plain[:, 3].mean()


def test_regressions_are_scikit_learns_one_a_label(made):
    values, labels = made[0].astype(np.float32), made[1]
    values -= values.mean(axis=0)
    own = np.arange(2)[:, None] != FOLDS
    kernels, bias = Regressions([values], labels, own, LABELS).fit(0.5, tolerance=1e-6)
    for part, rows in enumerate(own):
        for label in range(LABELS):
            peer = LogisticRegression(C=0.5, tol=1e-8).fit(values[rows], labels[rows, label])
            assert np.allclose(kernels[part, :, label], peer.coef_[0], atol=1e-3)
            assert np.isclose(bias[part, label], peer.intercept_[0], atol=1e-3)


def test_a_bag_is_stored_and_predicts_as_out_of_fold(made, tmp_path):
    bag = trained(made, "dense")
    save_bag(bag, tmp_path / "bag")
    again = load_bag(tmp_path / "bag")
    assert again.plan.several
    predicted = again.predict({"tap": made[0]})
    assert np.allclose(predicted[FOLDS, np.arange(ROWS)], bag.out_of_fold[0], atol=1e-6)
    assert np.allclose(again.member_predictions({"tap": made[0]})[0], predicted[:3].mean(axis=0), atol=1e-6)


def test_soft_labels_are_learned_label_by_label(made):
    soft = np.broadcast_to(np.float32([0.0, 1.0, 0.0, 1.0]), (3, 60, LABELS))
    pseudo = PseudoLabels([np.zeros((60, VALUES), np.float16)], soft, 1.0)
    bag = trained(made, "dense", pseudo=pseudo)
    assert (bag.predict({"tap": np.zeros((1, VALUES), np.float16)}) > 0.5)[:, 0, 3].all()


def test_plans_of_one_label_keep_their_settings():
    plan = resolve_heads(HeadsSpec(), "dense", 4, 100, 3)
    assert "several" not in plan.settings()
    assert "lda" not in head_types(HeadsSpec(), several=True)


def test_labels_that_are_not_the_plans_are_refused(made):
    values, labels = made
    plan = resolve_heads(HeadsSpec(folds=3), "dense", VALUES, ROWS, LABELS)
    with pytest.raises(TrainingError, match="several=False"):
        train_heads(examples_of([values], labels, by_folds(FOLDS, np.ones(ROWS, bool))), plan, (0,), Silent())


# ---- metrics

NAMED = {
    "accuracy": lambda own, given, _: metrics.accuracy_score(own, given),
    "f1_macro": lambda own, given, _: metrics.f1_score(own, given, average="macro", zero_division=0),
    "f1_micro": lambda own, given, _: metrics.f1_score(own, given, average="micro"),
    "f1_samples": lambda own, given, _: metrics.f1_score(own, given, average="samples", zero_division=0),
    "roc_auc": lambda own, _, table: metrics.roc_auc_score(own, table, average="macro"),
}


@pytest.mark.parametrize("name", NAMED)
def test_a_metric_is_scikit_learns(known, name):
    table = known.probabilities[0].astype(np.float64)
    given = (table > 0.4).astype(np.int8)
    judged = Judged(known.labels, given, table)
    assert np.isclose(Metric(name, judged).value(), NAMED[name](known.labels, given, table))
    counts = np.random.default_rng(1).integers(0, 3, ROWS)
    drawn = np.repeat(np.arange(ROWS), counts)
    expected = NAMED[name](known.labels[drawn], given[drawn], table[drawn])
    assert np.isclose(Metric(name, judged).value(counts.astype(np.float64)), expected)


def test_mean_precision_counts_each_label_among_the_first():
    labels = np.array([[1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], np.int8)
    table = np.array([[0.9, 0.8, 0.7, 0.1]] * 3)
    judged = Judged(labels, labels, table)
    assert np.isclose(Metric("map@3", judged).value(), ((1 + 2 / 3) / 2 + 0 + 0) / 3)
    assert np.isclose(Metric("map@4", judged).value(), ((1 + 2 / 3) / 2 + 1 / 4 + 0) / 3)


def test_log_loss_is_the_mean_over_labels(known):
    table = known.probabilities[1]
    by_label = [metrics.log_loss(known.labels[:, each], table[:, each]) for each in range(LABELS)]
    assert np.isclose(log_loss(table, known.labels), np.mean(by_label), atol=1e-6)
    assert judge(table, known.labels).scores().accuracy == metrics.accuracy_score(known.labels, table > 0.5)


@pytest.mark.parametrize(("metric", "several"), [("qwk", True), ("balanced_accuracy", True), ("f1_samples", False)])
def test_a_metric_of_other_rows_is_refused_in_one_line(known, metric, several):
    own = known
    if not several:
        own = Predictions(known.ids, FOLDS, known.members, known.probabilities, NAMES, FOLDS)
    with pytest.raises(SettingsError, match=f"metric={metric} can't score rows of"):
        select_ensemble(own, metric=metric)


# ---- the ensemble


@pytest.mark.parametrize("method", COMBINATIONS)
def test_each_method_combines_labels_apart(known, method):
    chosen = combine(known.probabilities, known.labels, method, np.arange(ROWS), known.members)
    table = chosen.apply(known.probabilities)
    single = np.mean([log_loss(each, known.labels) for each in known.probabilities])
    assert len(chosen.clips) == LABELS
    assert table.shape == (ROWS, LABELS)
    assert log_loss(table, known.labels) < single
    for label in range(LABELS):  # no label knows the others, but for weights and temperature
        alone = np.zeros_like(known.probabilities)
        alone[:, :, label] = known.probabilities[:, :, label]
        assert np.allclose(chosen.apply(alone)[:, label], table[:, label])


def test_the_geometric_mean_is_that_of_logits(known):
    chosen = combine(known.probabilities, known.labels, "geometric", np.arange(ROWS))
    table, least = known.probabilities.astype(np.float64), chosen.floor
    logits = np.log(np.maximum(table, least) / np.maximum(1 - table, least)).mean(axis=0) / chosen.temperature
    expected = 1 / (1 + np.exp(-logits))
    assert np.allclose(chosen.apply(known.probabilities, 1.0), expected, atol=1e-6)
    assert submission_clip("auto", chosen) == chosen.clips
    assert submission_clip("none", chosen) == 1.0


@pytest.mark.parametrize("metric", ["log_loss", "f1_samples", "f1_macro", "map@3"])
def test_an_ensemble_is_nested_stored_and_scored(known, metric, tmp_path):
    built = select_ensemble(known, metric=metric)
    assert built.several
    assert built.scores.log_loss < 1.08 * built.single_scores.log_loss
    majority = built.baselines[-1]
    assert majority.scores.log_loss > built.scores.log_loss
    built.save(tmp_path / "ensemble.json", {"key": "k"})
    assert Ensemble.load(tmp_path / "ensemble.json") == built
    assert len(built.decision.thresholds) == LABELS
    record = score_record(built, {"valid": known})
    assert record["scores"]["valid"]["rows"] == ROWS
    if metric != "log_loss":
        assert built.decided is not None
        assert 0 < built.decided.score <= 1
        assert built.decided.interval[0] < built.decided.score < built.decided.interval[1]


def test_cases_have_the_labels_of_their_rows(known):
    cases = by_case(known, [f"{row // 2}" for row in range(ROWS)], None)
    assert cases.labels.shape == (ROWS // 2, LABELS)
    assert cases.labels.dtype == np.int8
    assert np.array_equal(cases.labels, np.maximum(known.labels[::2], known.labels[1::2]))


# ---- decisions


def test_thresholds_gain_where_half_is_wrong(known):
    table = known.probabilities[0].astype(np.float64) * 0.55  # as if all were too unsure
    for metric in ("f1_samples", "f1_micro", "f1_macro"):
        decision = find_decision(metric, table, known.labels)
        plain = Metric(metric, Judged(known.labels, (table > 0.5).astype(np.int8), table)).value()
        assert Metric(metric, Judged(known.labels, decision.classes(table), table)).value() > plain + 0.03
    assert len(set(find_decision("f1_macro", table, known.labels).thresholds)) > 1


def test_a_row_gets_its_most_probable_label_where_none_scores_nothing():
    table, labels = np.array([[0.1, 0.2], [0.6, 0.1], [0.2, 0.7]]), np.array([[0, 1], [1, 0], [0, 1]], np.int8)
    assert find_decision("f1_samples", table, labels).filled
    assert not find_decision("f1_micro", table, labels).filled
    assert Decision(thresholds=(0.5, 0.5), filled=True).classes(table).tolist() == labels.tolist()
    assert Decision(thresholds=(0.5, 0.5)).classes(table)[0].tolist() == [0, 0]


# ---- submissions

TABLE = np.array([[0.9, 0.6, 0.1, 0.2], [0.3, 0.1, 0.2, 0.4]])
COLUMNS = ("id,a,b,c,d\n1,0,0,0,0\n2,0,0,0,0\n", "id,tags\n1,a b\n2,c\n")


def written(tmp_path, form, sample=None, metric="log_loss", names=NAMES):
    path = tmp_path / "sample.csv"
    if sample:
        path.write_text(sample)
    decided = None
    if metric != "log_loss":
        decided = Decided(metric, Decision(thresholds=(0.5,) * len(names)), {}, 0.0, (0.0, 0.0), 0.0, (), ())
    spec, target = SubmissionSpec(format=form), tmp_path / "o.csv"
    write_submission_file(
        target, ["1", "2"], TABLE[:, : len(names)], names, spec, path if sample else None, 0, decided, several=True
    )
    return target.read_text().split("\n")[:-1]


@pytest.mark.parametrize(
    ("form", "lines"),
    [
        ("tags", ["id,tags", "1,a b", "2,d"]),
        ("labels", ["id,a,b,c,d", "1,1,1,0,0", "2,0,0,0,0"]),
        ("probabilities", ["id,a,b,c,d", "1,0.9,0.6,0.1,0.2", "2,0.3,0.1,0.2,0.4"]),
        ("top2", ["id,label", "1,a b", "2,d a"]),
    ],
)
def test_each_format_is_written(tmp_path, form, lines):
    assert written(tmp_path, form) == lines


@pytest.mark.parametrize(
    ("sample", "metric", "form"),
    [
        (None, "log_loss", "probabilities"),
        (None, "f1_samples", "tags"),
        (None, "map@2", "top2"),
        (COLUMNS[0], "log_loss", "probabilities"),
        (COLUMNS[0], "roc_auc", "probabilities"),
        (COLUMNS[0], "f1_macro", "labels"),
        (COLUMNS[1], "log_loss", "tags"),
        (COLUMNS[1], "f1_samples", "tags"),
        (COLUMNS[1], "map@3", "top3"),
    ],
)
def test_auto_follows_sample_and_metric(tmp_path, sample, metric, form):
    sampled = None
    if sample:
        (tmp_path / "sample.csv").write_text(sample)
        sampled = read_sample(tmp_path / "sample.csv")
    assert submission_format(metric, NAMES, sampled, several=True) == form
    assert written(tmp_path, "auto", sample, metric)


def test_columns_are_in_the_samples_order(tmp_path):
    assert written(tmp_path, "labels", "id,d,c,b,a\n2,0,0,0,0\n1,0,0,0,0\n")[2] == "1,0,0,1,1"


@pytest.mark.parametrize(
    ("form", "sample", "metric", "match"),
    [
        ("probabilities", COLUMNS[1], "log_loss", "set .Submission. format = tags"),
        ("labels", COLUMNS[1], "f1_micro", "set .Submission. format = tags"),
        ("tags", COLUMNS[0], "f1_micro", "set .Submission. format = auto"),
        ("tags", None, "roc_auc", "set .Submission. format = probabilities"),
        ("probabilities", "id,a,b\n1,0,0\n2,0,0\n", "log_loss", "without a column: c, d"),
    ],
)
def test_contradictions_name_the_setting(tmp_path, form, sample, metric, match):
    with pytest.raises(SubmissionError, match=match):
        written(tmp_path, form, sample, metric)


def test_tags_need_names_without_blanks_and_several_labels(tmp_path):
    with pytest.raises(SubmissionError, match="separates classes by blanks"):
        written(tmp_path, "tags", names=("a b", "c", "d", "e"))
    with pytest.raises(SubmissionError, match="format=tags needs rows of several labels"):
        layout_of(SubmissionSpec(format="tags"), NAMES, None)


def test_the_best_set_has_the_highest_expected_f1():
    generator = np.random.default_rng(3)
    table = generator.random((20, 4)) ** 2
    sets = np.array([[int(bit) for bit in f"{number:04b}"] for number in range(16)])
    chances = np.where(sets, table[:, None], 1 - table[:, None]).prod(axis=2)  # (rows, true set)
    hits, counts = sets @ sets.T, sets.sum(axis=1)
    gains = 2 * hits / np.maximum(counts + counts[:, None], 1)  # (given set, true set)
    expected = chances @ gains.T
    mine = best_sets(table) @ [8, 4, 2, 1]
    assert np.allclose(expected[np.arange(20), mine], expected.max(axis=1))


def test_sample_f1_takes_sets_unless_thresholds_are_better():
    generator = np.random.default_rng(4)
    table = generator.random((600, 4)) ** 2
    labels = (generator.random(table.shape) < table).astype(np.int8)
    assert find_decision("f1_samples", table, labels).expected
    assert not find_decision("f1_samples", table**4, labels).expected  # which are no frequencies

"""The report's numbers on small data whose answers are known."""

import configparser
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from featcache.core.rows import Rows
from featcache.report.class_metrics import BINS, class_table, collapse, reliability, top_confusions
from featcache.report.feature_map import MAP_ROWS, Projected, feature_map, mapped_rows, sampled
from featcache.report.gallery import (
    ERRORS,
    UNSURE,
    WRONG,
    entropy,
    gallery,
    least_sure,
    most_wrong,
)
from featcache.report.image_sections import exact_duplicates
from featcache.report.label_errors import label_errors
from featcache.report.predictions import EnsemblePredictions
from featcache.report.provenance import settings_text
from featcache.report.thumbnails import thumbnails
from featcache.settings.parsing import parse_settings

LABELS = np.array([0, 0, 0, 1, 1, 2])
PREDICTED = np.array([0, 0, 1, 1, 2, 2])


def table():
    """Rows of `LABELS` predicted as `PREDICTED`, of four classes; the last row has no label."""
    probabilities = np.eye(4)[[*PREDICTED, 3]]
    rows = EnsemblePredictions(
        "train", list("abcdefg"), np.array([*LABELS, -1], np.int32), probabilities, probabilities
    )
    return class_table(rows, ("a", "b", "c", "d"))


def test_a_confusion_matrix_has_true_classes_in_lines_and_predicted_ones_in_columns():
    counts = np.array(table()["matrix"]["counts"])
    assert counts.tolist() == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert (table()["rows"], table()["wrong"]) == (6, 2)
    assert top_confusions(counts, 5) == [(0, 1, 1), (1, 2, 1)]
    assert top_confusions(counts, 1) == [(0, 1, 1)]


def test_precision_and_recall_of_each_class_and_none_where_there_are_no_rows():
    found = table()
    columns = {name: [row[name] for row in found["table"]] for name in ("name", "rows", "precision", "recall", "f1")}
    assert columns["name"] == ["a", "b", "c", "d"]
    assert columns["rows"] == [3, 2, 1, 0]
    assert columns["precision"] == [1, 1 / 2, 1 / 2, None]
    assert columns["recall"] == [pytest.approx(2 / 3), 1 / 2, 1, None]
    assert columns["f1"] == [pytest.approx(0.8), 0.5, pytest.approx(2 / 3), None]
    assert found["f1"] == pytest.approx((0.8 + 0.5 + 2 / 3) / 3)


def test_of_many_classes_the_most_confused_are_shown_and_no_row_is_lost():
    labels = np.repeat(np.arange(120), 10)
    predicted = labels.copy()
    predicted[labels == 17] = 90
    predicted[np.flatnonzero(labels == 3)[:4]] = 5
    classes, counts = collapse(confusion_matrix(labels, predicted), 4)
    assert classes == [3, 5, 17, 90]
    assert counts.tolist() == [
        [6, 4, 0, 0, 0], [0, 10, 0, 0, 0], [0, 0, 0, 10, 0], [0, 0, 0, 10, 0], [0, 0, 0, 0, 1160],
    ]  # fmt: skip
    classes, counts = collapse(np.eye(4, dtype=np.int64), 4)
    assert (classes, counts.tolist()) == ([0, 1, 2, 3], np.eye(4).tolist())
    probabilities = np.eye(120)[predicted]
    rows = EnsemblePredictions("train", list(map(str, range(1200))), labels, probabilities, probabilities)
    matrix = class_table(rows, tuple(f"c{i}" for i in range(120)))["matrix"]
    assert (matrix["others"], matrix["names"][-1], len(matrix["names"])) == (100, "100 others", 21)


def test_reliability_by_the_probability_of_the_predicted_class():
    probabilities = np.array([[0.95, 0.05], [0.05, 0.95], [0.65, 0.35], [0.0, 1.0]])
    found = reliability(probabilities, np.array([0, 0, 0, 1]))
    bins = found["bins"]
    assert [each["rows"] for each in bins] == [0] * 6 + [1, 0, 0, 3]
    assert bins[9]["confidence"] == pytest.approx(2.9 / 3)
    assert bins[9]["accuracy"] == pytest.approx(2 / 3)
    assert bins[0]["accuracy"] is None
    assert found["error"] == pytest.approx((abs(2.9 - 2) + abs(0.65 - 1)) / 4)
    assert (len(bins), bins[0]["low"], bins[9]["low"], bins[9]["high"]) == (BINS, 0, 90, 100)


def noisy(rows=400, classes=4, wrong=8, seed=0):
    """Probabilities that know the true class, labels of which `wrong` are not it, and those rows."""
    random = np.random.default_rng(seed)
    true = random.integers(0, classes, rows)
    logits = random.normal(0, 1, (rows, classes))
    logits[np.arange(rows), true] += 7
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels, planted = true.copy(), np.sort(random.choice(rows, wrong, replace=False))
    labels[planted] = (true[planted] + 1) % classes
    return probabilities, labels.astype(np.int32), planted, true


def test_planted_label_errors_come_first_with_the_class_that_they_are_of():
    probabilities, labels, planted, true = noisy()
    rows, suggested = label_errors(probabilities, labels)
    assert set(rows[: len(planted)].tolist()) == set(planted.tolist())
    assert suggested[:5].tolist() == true[rows[:5]].tolist()
    assert np.all(np.diff(probabilities[rows, suggested] - probabilities[rows, labels[rows]]) <= 0)


def test_right_labels_are_not_suspected_and_a_class_without_rows_is_never_suggested():
    probabilities, _, _, true = noisy(wrong=0)
    wide = np.hstack([probabilities * 0.5, np.full((len(true), 1), 0.5)])
    assert 4 not in label_errors(wide, true)[1]
    sharp = np.full((6, 3), 0.05) + 0.85 * np.eye(3)[LABELS]
    assert not len(label_errors(sharp, LABELS)[0])


def test_most_wrong_and_least_sure():
    probabilities = np.array([[0.9, 0.1, 0], [0.4, 0.35, 0.25], [0.01, 0.99, 0], [0.3, 0.6, 0.1], [1, 0, 0]])
    labels = np.array([0, 0, 0, 0, -1])
    assert most_wrong(probabilities, labels, 5, probabilities.argmax(axis=1)).tolist() == [2, 3]
    assert least_sure(probabilities, 2).tolist() == [1, 3]
    assert entropy(np.array([[0.5, 0.5], [1, 0]])) == pytest.approx([1, 0])


def test_a_gallery_names_rows_of_the_manifest_and_counts_all():
    labelled = EnsemblePredictions(
        "train",
        [f"r{i}" for i in range(4)],
        np.array([0, 1, 1, 0], np.int32),
        *[np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.6, 0.4]])] * 2,
    )
    unlabelled = EnsemblePredictions("test", ["t"], np.array([-1], np.int32), *[np.array([[0.5, 0.5]])] * 2)
    rows = {"train": np.array([10, 11, 12, 13]), "test": np.array([7])}
    cards, totals = gallery({"train": labelled, "test": unlabelled}, rows, ("a", "b"))
    assert [card["place"] for card in cards[WRONG]] == [("train", 11)]
    assert totals == {WRONG: 1, ERRORS: 1}
    (suspected,) = cards[ERRORS]
    assert [suspected[name] for name in ("id", "label", "predicted", "label_probability")] == ["r1", "b", "a", 0.2]
    assert ("test", 7) in [card["place"] for card in cards[UNSURE]]
    assert next(iter(cards)) == WRONG


def test_exact_duplicates_record_whether_labels_differ_and_splits_are_crossed():
    digests = {"train": np.array([b"a", b"b", b"a", b"", b"", b"c", b"c"]), "test": np.array([b"b"])}
    labels = {"train": np.array([0, 1, 1, 0, 1, 2, 2]), "test": np.array([-1])}
    found = exact_duplicates(digests, labels)
    assert [(each["places"], each["labels"], each["across"]) for each in found] == [
        ([("train", 0), ("train", 2)], True, False),
        ([("train", 1), ("test", 0)], False, True),
        ([("train", 5), ("train", 6)], False, False),
    ]
    assert exact_duplicates({"train": np.array([b"a", b"b"])}, {"train": np.array([0, 1])}) == []


def test_a_map_holds_what_is_wanted_is_bounded_and_comes_out_the_same():
    random = np.random.default_rng(0)
    centres = random.normal(0, 20, (3, 8))
    kinds = random.integers(0, 3, 60)
    space = Projected(np.arange(60), (centres[kinds] + random.normal(0, 1, (60, 8))).astype(np.float32), np.ones(8))
    places = mapped_rows(space, [59])
    with ThreadPoolExecutor(1) as pool:
        (neighbours, _), (again, _) = (feature_map(space, places, pool).result() for _ in range(2))
    np.testing.assert_array_equal(neighbours, again)
    assert places.tolist() == list(range(60))
    assert neighbours.min() == 0
    assert neighbours.max() == 1
    means = np.array([neighbours[kinds == kind].mean(axis=0) for kind in range(3)])
    nearest = np.linalg.norm(neighbours[:, None] - means, axis=2).argmin(axis=1)
    assert (nearest == kinds).all(), "clusters stay together"


def test_of_more_rows_so_many_are_drawn_each_time_the_same():
    assert sampled(5, 5).tolist() == [0, 1, 2, 3, 4]
    drawn = sampled(1_000_000, MAP_ROWS)
    assert len(np.unique(drawn)) == MAP_ROWS
    np.testing.assert_array_equal(drawn, sampled(1_000_000, MAP_ROWS))


def test_thumbnails_keep_within_their_bytes_and_the_first_are_kept():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    labels = np.zeros(20, np.int32)
    rows = Rows([str(i) for i in range(20)], labels, [""] * 20, ["d"] * 20, [""] * 20, [str(i) for i in range(20)])

    def load(location, digest, size):
        assert (digest, size) == ("d", 32)
        return images[int(location)]

    places = [("train", i) for i in range(20)] * 2
    free = thumbnails({"train": rows}, load, places, 32, 1_000_000)
    assert len(free) == 20
    assert all(uri.startswith("data:image/webp;base64,") for uri in free.values())
    size = sum(map(len, free.values()))
    smaller = thumbnails({"train": rows}, load, places, 32, size - 1)
    assert len(smaller) == 20, "of a lower quality"
    few = thumbnails({"train": rows}, load, places, 32, 3000)
    assert sum(map(len, few.values())) <= 3000
    assert list(few) == places[: len(few)] != []


def test_settings_are_shown_as_luigi_cfg_reads_them():
    given = {
        "Features": {"taps": "block4_pool:avg, block5_pool", "copies": "2", "augmentation": "rotation 3, flip"},
        "Heads": {"schedule": "1e-3x1, cosine 1e-2x2", "hidden": "8, 9", "per_group": "true"},
        "ConvNet": {"members": "1"},
        "Ensemble": {"method": "mean"},
    }
    settings = parse_settings(given)
    parser = configparser.ConfigParser()
    parser.read_string(settings_text(settings))
    assert parse_settings({section: dict(parser[section]) for section in parser.sections()}) == settings

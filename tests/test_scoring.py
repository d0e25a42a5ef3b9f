"""Scores and how far chance moves them: literal answers and relations."""

import numpy as np
import pytest

from featcache.errors import TrainingError
from featcache.training import metrics
from featcache.training.metrics import bootstrap, judge, judge_parts, log_loss

LABELS = np.array([0, 1, 1, 0], np.int32)
GOOD = np.array([[0.8, 0.2], [0.4, 0.6], [0.1, 0.9], [0.5, 0.5]])


def test_scores_of_a_small_case():
    assert judge(GOOD, LABELS).scores().accuracy == 1.0
    assert log_loss(GOOD, LABELS) == pytest.approx(-np.log([0.8, 0.6, 0.9, 0.5]).mean())
    assert log_loss(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(36.0436533891)


@pytest.mark.parametrize(
    ("values", "labels", "message"),
    [
        ([[np.nan, 1]], [0], "NaN or infinite in 1 rows"),
        ([[0.5, 0.5]], [2], r"labels from 2 to 2 are outside 0\.\.1"),
        (np.empty((0, 2)), [], "at least one row"),
    ],
)
def test_what_cannot_be_scored_is_refused(values, labels, message):
    with pytest.raises(TrainingError, match=message):
        log_loss(np.array(values, float), np.array(labels, int))


def drawn(n, right, seed=0):
    """Labels, and predictions of which about `right` are told right with probability 0.8."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2, n)
    told = np.where(draw.random(n) < right, 0.8, 0.2)
    return np.where(labels[:, None] == np.arange(2), told[:, None], 1 - told[:, None]), labels


def test_an_interval_is_as_wide_as_the_binomials():
    probabilities, labels = drawn(1000, 0.7)
    (found,) = bootstrap([judge(probabilities, labels)])
    score = judge(probabilities, labels).scores()
    half = 1.96 * np.sqrt(score.accuracy * (1 - score.accuracy) / 1000)
    assert found.accuracy == pytest.approx((score.accuracy - half, score.accuracy + half), abs=0.005)
    assert found.log_loss[0] < score.log_loss < found.log_loss[1]
    assert bootstrap([judge(probabilities, labels)]) == [found], "the same seed draws the same rows"


def test_rows_of_a_group_are_drawn_together():
    probabilities, labels = drawn(50, 0.7)
    tenfold, groups = np.repeat(probabilities, 10, axis=0), [f"g{row // 10}" for row in range(500)]
    (alone,), (together,) = (bootstrap([judge(tenfold, np.repeat(labels, 10))], names) for names in ((), groups))
    (few,) = bootstrap([judge(probabilities, labels)])
    assert np.ptp(alone.log_loss) * 2 < np.ptp(together.log_loss)
    assert np.ptp(together.log_loss) == pytest.approx(np.ptp(few.log_loss), rel=0.1)


def test_all_are_scored_on_the_same_draws():
    one, labels = drawn(300, 0.7)
    judged = judge(one, labels)
    assert bootstrap([judged, judged])[0] == bootstrap([judged, judged])[1] == bootstrap([judged])[0]


def test_very_many_rows_are_drawn_in_bunches(monkeypatch):
    judged = judge(*drawn(3000, 0.7))
    (alone,) = bootstrap([judged])
    monkeypatch.setattr(metrics, "UNITS", 300)
    (bunched,) = bootstrap([judged])
    assert bunched != alone
    assert np.ptp(bunched.log_loss) == pytest.approx(np.ptp(alone.log_loss), rel=0.15)
    assert bunched.accuracy == pytest.approx(alone.accuracy, abs=0.005)


def test_rows_that_nobody_told_are_not_scored():
    judged = judge_parts([(slice(0, 2), np.eye(2))], np.array([0, 1, 1]))
    with pytest.raises(TrainingError, match="rows=3, of them without a prediction=1"):
        judged.scores()
    assert judged.scores(np.array([True, True, False])).accuracy == 1.0

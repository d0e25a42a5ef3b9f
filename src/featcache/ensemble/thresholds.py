"""Which of several labels a row is given: thresholds of their probabilities, found out of fold. NumPy only."""

import numpy as np
import numpy.typing as npt

from featcache.training import Float64s, Judged, Metric, surely_better

Cells = npt.NDArray[np.integer]

HALF = 0.5
BY_LABEL = "f1_macro"
COMMON = ("f1_micro", "accuracy")
BY_ROWS = "f1_samples"  # by which a row that is given no label has 0, whatever its own are
_TRIED = np.linspace(0.02, 0.9, 89)
_NEAR = 25  # rows that a label's own threshold needs on its side to count as much as the common one


def given_labels(probabilities: npt.NDArray[np.floating], thresholds: Float64s, *, filled: bool) -> Cells:
    """Return (n, L) int8: the labels above their thresholds; if `filled`, where none is, the most probable one."""
    given = (probabilities > thresholds).astype(np.int8)
    if filled:
        empty = np.flatnonzero(~given.any(axis=1))
        given[empty, probabilities[empty].argmax(axis=1)] = 1
    return given


def find_thresholds(metric: str, probabilities: Float64s, labels: Cells) -> tuple[Float64s, bool]:
    """Return the (L,) thresholds of the highest `metric` of these rows, and whether each row is given a label.

    Macro F1 has one a label, sample F1 a common one. So have micro F1 and subset accuracy, but a label its own where it
    surely gains: few rows can tell many numbers. Other metrics look at no decisions: 0.5.
    """
    count = probabilities.shape[1]
    if metric == BY_ROWS:
        return np.full(count, _common(metric, probabilities, labels, filled=True)), True
    if metric == BY_LABEL:
        common = _common(metric, probabilities, labels, filled=False)
        return np.array([_shrunk(probabilities[:, each], labels[:, each], common) for each in range(count)]), False
    if metric not in COMMON:
        return np.full(count, HALF), False
    found = np.full(count, _common(metric, probabilities, labels, filled=False))
    return _by_label(metric, probabilities, labels, found), False


def _common(metric: str, probabilities: Float64s, labels: Cells, *, filled: bool) -> float:
    scores = [_score(metric, probabilities, labels, np.full(labels.shape[1], each), filled) for each in _TRIED]
    return float(_TRIED[int(np.argmax(scores))])


def _score(metric: str, probabilities: Float64s, labels: Cells, thresholds: Float64s, filled: bool) -> float:
    return Metric(metric, _judged(probabilities, labels, thresholds, filled)).value()


def _judged(probabilities: Float64s, labels: Cells, thresholds: Float64s, filled: bool) -> Judged:
    return Judged(labels, given_labels(probabilities, thresholds, filled=filled), probabilities)


def _by_label(metric: str, probabilities: Float64s, labels: Cells, common: Float64s) -> Float64s:
    """`common` with another threshold for each label that surely gains by its best one, one label after the other."""
    found = common.copy()
    for each in range(labels.shape[1]):
        tried = [np.where(np.arange(len(found)) == each, value, found) for value in _TRIED[::4]]
        best = tried[int(np.argmax([_score(metric, probabilities, labels, one, False) for one in tried]))]
        mine, theirs = (_judged(probabilities, labels, one, False) for one in (best, found))
        if surely_better(metric, mine, theirs):
            found = best
    return found


def _shrunk(probabilities: Float64s, labels: Cells, common: float) -> float:
    """One label's threshold: between the common one and its own best F1, nearer to that the more rows have the label."""
    ones = int(labels.sum())
    given = probabilities[:, None] > _TRIED
    scores = 2 * (given & (labels > 0)[:, None]).sum(axis=0) / np.maximum(given.sum(axis=0) + ones, 1)
    share = ones / (ones + _NEAR)
    return float(share * _TRIED[int(np.argmax(scores))] + (1 - share) * common)

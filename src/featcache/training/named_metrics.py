"""The metrics that competitions name, as scikit-learn defines them, and how far chance alone would move them. NumPy only.

scikit-learn itself would take minutes for the thousand draws of an interval: here a draw is a weight for each row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featcache.core.rows import is_several
from featcache.training.label_metrics import BY_DECISION, ByWeights, mean_precision
from featcache.training.metrics import DRAWS, Float64s, row_draws

Classes = npt.NDArray[np.integer]
AREA = "roc_auc"
MEAN_PRECISION = "map@"
_AREA_VALUES = 400_000_000  # of (draws, rows, classes), which are some seconds; 200 draws at least
_LEAST_DRAWS = 200


@dataclass(frozen=True, eq=False)
class Judged:
    """n rows as a metric sees them.

    Attributes:
        labels: (n,) class indices, or (n, C) of 0 and 1 where a row may have several.
        predicted: what is decided for, in the same shape.
        probabilities: (n, C), rows sum to 1, but of several labels.
    """

    labels: Classes
    predicted: Classes
    probabilities: Float64s


class Metric:
    """One metric of some rows, for any weights of them; higher is better.

    Names are those of `featcache.settings.METRICS` but ``log_loss``, with a number for K. ``map@K``: the mean over rows of
    1 / rank of the label among the K most probable classes, of equals the first. ``roc_auc``: of the second of two classes,
    else the mean over classes, each against the rest. Classes that no row has, or which no row could be taken for, are
    left out of means as in scikit-learn. Of several labels a row: `featcache.training.label_metrics`, and ``roc_auc`` is the
    mean over the labels that some rows have and some have not.

    Example:
        >>> labels, sure = np.array([0, 1, 2, 2]), np.eye(3)[[0, 1, 2, 1]]
        >>> round(Metric("qwk", Judged(labels, sure.argmax(axis=1), sure)).value(), 3)
        0.8
    """

    def __init__(self, name: str, judged: Judged) -> None:
        self._name, self._judged, self._classes = name, judged, judged.probabilities.shape[1]
        self._by_labels: ByWeights | None = None
        self._curves: list[tuple[Classes, Float64s, Classes]] = []
        if is_several(judged.labels):
            self._gains: Float64s = np.zeros(len(judged.labels))
            if name == AREA:
                pairs = zip(judged.probabilities.T, judged.labels.T, strict=True)
                self._curves = [_curve(scores, own > 0) for scores, own in pairs]
            elif name.startswith(MEAN_PRECISION):
                most = int(name.removeprefix(MEAN_PRECISION))
                self._by_labels = mean_precision(judged.labels, judged.probabilities, most)
            else:
                self._by_labels = BY_DECISION[name](judged.labels, judged.predicted)
            return
        self._gains = (judged.labels == judged.predicted).astype(np.float64)
        if name.startswith(MEAN_PRECISION):
            self._gains = _precisions(judged, int(name.removeprefix(MEAN_PRECISION)))
        elif name == AREA:
            several = range(self._classes) if self._classes > 2 else (self._classes - 1,)
            self._curves = [_curve(judged.probabilities[:, each], judged.labels == each) for each in several]

    def value(self, weights: Float64s | None = None) -> float:
        """Return the metric of the rows, each counted `weights` times, (n,), or once."""
        weights = np.ones(len(self._gains)) if weights is None else weights
        if self._by_labels is not None:
            return self._by_labels(weights)
        if self._name == AREA:
            areas = [area for curve in self._curves if (area := _area(*curve, weights)) is not None]
            return float(np.mean(areas)) if areas else 0.5
        if self._name == "qwk":
            return _kappa(self._judged.labels, self._judged.predicted, weights)
        if self._name in ("balanced_accuracy", "f1_macro"):
            return self._by_class(weights)
        return float(weights @ self._gains / weights.sum())

    def _by_class(self, weights: Float64s) -> float:
        there, said, hit = (
            np.bincount(classes, each, self._classes)
            for classes, each in (
                (self._judged.labels, weights),
                (self._judged.predicted, weights),
                (self._judged.labels, weights * self._gains),
            )
        )
        parts = there if self._name == "balanced_accuracy" else (there + said) / 2
        return float(np.mean(hit[parts > 0] / parts[parts > 0]))


def metric_spans(
    name: str, several: Sequence[Judged], groups: Sequence[str] = (), draws: int = DRAWS
) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Return the middle 95 % of each one's metric on the same draws of rows, and of the first above each of the others.

    Draws are the first `draws` of `bootstrap`; of areas under curves, where rows and classes are many, fewer of them.
    """
    metrics = [Metric(name, each) for each in several]
    values = several[0].probabilities.size
    count = int(np.clip(_AREA_VALUES // values, _LEAST_DRAWS, draws)) if name == AREA else draws
    drawn = np.array(
        [[metric.value(weights) for metric in metrics] for weights in row_draws(groups, len(several[0].labels), count)]
    )
    return _spans(drawn), _spans(drawn[:, :1] - drawn[:, 1:])


def surely_better(name: str, first: Judged, second: Judged) -> bool:
    """Whether the first one's metric is higher in nearly all of some draws of the rows; else the second one is kept."""
    if Metric(name, first).value() <= Metric(name, second).value():
        return False
    _, ((low, _),) = metric_spans(name, [first, second], draws=_LEAST_DRAWS)
    return low > 0


def _spans(drawn: Float64s) -> list[tuple[float, float]]:
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    return [(float(a), float(b)) for a, b in zip(low, high, strict=True)]


def kappa_of_sums(disagreement: Float64s, rows: float, labels: Float64s, predicted: Float64s) -> Float64s:
    """Return quadratic weighted kappa by sums over the rows; 0 where all rows have and are given one class.

    Args:
        disagreement: of (label - predicted)².
        rows: how many there are.
        labels: (2,) sums of labels and of their squares.
        predicted: (2, ...) the same of predicted classes.
    """
    chance = rows * (labels[1] + predicted[1]) - 2 * labels[0] * predicted[0]
    by_chance = np.where(chance > 0, chance, 1.0)
    return np.asarray(np.where(chance > 0, 1 - rows * disagreement / by_chance, 0.0))


def _kappa(labels: Classes, predicted: Classes, weights: Float64s) -> float:
    first, second = labels.astype(np.float64), predicted.astype(np.float64)
    own, given = (np.array([weights @ each, weights @ each**2]) for each in (first, second))
    return float(kappa_of_sums(np.asarray(weights @ (first - second) ** 2), float(weights.sum()), own, given))


def _precisions(judged: Judged, most: int) -> Float64s:
    """(n,) 1 / rank of each label among the `most` most probable classes, else 0."""
    rows = np.arange(len(judged.labels))
    own = judged.probabilities[rows, judged.labels][:, None]
    earlier = np.arange(judged.probabilities.shape[1]) < judged.labels[:, None]
    ranks = 1 + ((judged.probabilities > own) | ((judged.probabilities == own) & earlier)).sum(axis=1)
    return np.asarray(np.where(ranks <= most, 1 / ranks, 0.0))


def _curve(scores: Float64s, positive: npt.NDArray[np.bool_]) -> tuple[Classes, Float64s, Classes]:
    """Rows by ascending score, 1 for those of the class among them, and where each run of equal scores begins."""
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    return order, positive[order].astype(np.float64), np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])


def _area(order: Classes, positive: Float64s, starts: Classes, weights: Float64s) -> float | None:
    own = weights[order]
    right = np.add.reduceat(own * positive, starts)
    wrong = np.add.reduceat(own * (1 - positive), starts)
    total = right.sum() * wrong.sum()
    return float(right @ (np.cumsum(wrong) - wrong / 2) / total) if total else None

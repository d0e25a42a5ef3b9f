"""Which class is decided for by probabilities, where another metric than log-loss counts. NumPy only.

The metric also chooses the method. Both are found on rows that are predicted by weights which haven't seen them: for the
rows of fold k by weights that have seen neither k nor their own fold, so that what fold k is scored by knows nothing of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from featcache.core.rows import is_several
from featcache.ensemble.combination import Combination, combine, logarithm, normalised
from featcache.ensemble.expected_f1 import best_sets
from featcache.ensemble.thresholds import BY_ROWS, HALF, find_thresholds, given_labels
from featcache.training import (
    Float64s,
    Judged,
    Metric,
    Predictions,
    RowNumbers,
    kappa_of_sums,
    surely_better,
    table_parts,
)

BY_PRIOR = ("balanced_accuracy", "f1_macro")
BY_CUTS = "qwk"
_STRENGTHS = np.linspace(0.0, 1.5, 31)
_CANDIDATES = 400  # places of a cut point that are looked at
_SWEEPS = 20
_BETTER = 1e-9


@dataclass(frozen=True)
class Decision:
    """How a row's probabilities become a class; without numbers it is the most probable one, of equals the first.

    Of several labels a row there are thresholds, and it becomes all labels above theirs.

    Attributes:
        shift: C, added to log p before; empty for none.
        cuts: C - 1, ascending: the class is how many of them the expected class number is above; empty for none.
        thresholds: C, of several labels a row; empty of one.
        filled: whether a row with no label above its threshold gets the most probable one.
        expected: whether a row gets, whatever its thresholds are, the labels that have the highest expected F1.
    """

    shift: tuple[float, ...] = ()
    cuts: tuple[float, ...] = ()
    thresholds: tuple[float, ...] = ()
    filled: bool = False
    expected: bool = False

    def classes(self, probabilities: npt.NDArray[np.floating]) -> RowNumbers:
        """Return (n,) the classes of (n, C), or (n, C) int8, 0 and 1, of several labels a row.

        Example:
            >>> Decision(cuts=(0.5, 1.2)).classes(np.array([[0.4, 0.3, 0.3], [0.1, 0.3, 0.6]])).tolist()
            [1, 2]
        """
        if self.expected:
            return best_sets(probabilities)
        if self.thresholds:
            return given_labels(probabilities, np.array(self.thresholds), filled=self.filled)
        if self.cuts:
            return np.searchsorted(np.array(self.cuts), _expected(probabilities))
        if self.shift:
            return np.asarray((logarithm(probabilities) + np.array(self.shift)).argmax(axis=1))
        return np.asarray(probabilities.argmax(axis=1))


def plain_decision(classes: int, *, several: bool) -> Decision:
    """Return the most probable class, or of several labels a row those above 0.5."""
    return Decision(thresholds=(HALF,) * classes if several else ())


def find_decision(metric: str, probabilities: Float64s, labels: npt.NDArray[np.integer]) -> Decision:
    """Return the decision of the highest `metric` of these rows, (n, C) and (n,); n at least 1.

    For balanced accuracy and F1 it is -t times the logarithm of the classes' shares, t from 0 to 1.5: one number says
    how rare classes fare, and few rows can tell it; t is 0 unless another one gains more than chance. Ordered classes have
    cut points. Others are best as they are. Of several labels a row, (n, C) too, it is their thresholds, or for sample F1
    the best set by a row's own probabilities, which needs no numbers, unless that is worse: where these are no frequencies.
    """
    if is_several(labels):
        thresholds, filled = find_thresholds(metric, probabilities, labels)
        by_thresholds = Decision(thresholds=tuple(thresholds.tolist()), filled=filled)
        if metric != BY_ROWS:
            return by_thresholds
        both = (replace(by_thresholds, expected=True), by_thresholds)
        judged = (Judged(labels, each.classes(probabilities), probabilities) for each in both)
        return both[int(np.argmax([Metric(metric, each).value() for each in judged]))]
    classes = probabilities.shape[1]
    if metric == BY_CUTS:
        return Decision(cuts=tuple(_best_cuts(_expected(probabilities), labels, classes)))
    if metric not in BY_PRIOR:
        return Decision()
    logs = logarithm(probabilities)
    prior = np.log((np.bincount(labels, minlength=classes) + 1) / (len(labels) + classes))
    tried = [Judged(labels, (logs - strength * prior).argmax(axis=1), probabilities) for strength in _STRENGTHS]
    best = int(np.argmax([Metric(metric, each).value() for each in tried]))
    if not surely_better(metric, tried[best], tried[0]):
        return Decision()
    return Decision(shift=tuple((-_STRENGTHS[best] * prior).tolist()))


def decided(metric: str, table: Float64s, labels: npt.NDArray[np.integer], folds: npt.NDArray[np.integer]) -> Judged:
    """Return the rows as `metric` sees them, (n, C) out of fold: of each fold decided as is best for the others."""
    predicted = np.empty(labels.shape, np.intp)
    for fold in np.unique(folds):
        own = folds == fold
        predicted[own] = find_decision(metric, table[~own], labels[~own]).classes(table[own])
    return Judged(labels, predicted, table)


@dataclass(frozen=True)
class Choice:
    """A combination, and the decision on what it makes of the members."""

    combination: Combination
    decision: Decision


class MetricSearch:
    """The choices that a metric makes: a decision, and the first of `methods` unless another gains more than chance."""

    def __init__(self, known: Predictions, methods: Sequence[str], metric: str) -> None:
        self._known, self._methods, self._metric = known, methods, metric
        self._folds = np.full(len(known.ids), -1) if known.folds is None else known.folds
        self._numbers = {int(fold) for fold in np.unique(self._folds) if fold >= 0}
        self._fitted: dict[tuple[str, frozenset[int]], Combination] = {}

    def choice(self, *without: int) -> Choice:
        """What is best for the rows of all folds but those `without`."""
        rest = np.flatnonzero(~np.isin(self._folds, without))
        found: list[tuple[Judged, str, Decision]] = []
        for method in self._methods:
            table, labels = self._honest(method, without)[rest], self._known.labels[rest]
            decision = find_decision(self._metric, table, labels)
            judged = Judged(labels, decision.classes(table), table)
            if not found or surely_better(self._metric, judged, found[-1][0]):
                found.append((judged, method, decision))
        _, method, decision = found[-1]
        return Choice(self._combined(method, frozenset(without)), decision)

    def _honest(self, method: str, without: Sequence[int]) -> Float64s:
        """(n, C): rows of the other folds than `without`, each by weights that have seen neither these nor its own fold."""
        table = np.full(self._known.probabilities.shape[1:], np.nan)
        others = self._numbers - set(without)
        for fold in others:
            unseen = frozenset({*without, fold}) if len(others) > 1 else frozenset(without)
            chosen, rows = self._combined(method, unseen), np.flatnonzero(self._folds == fold)
            for place, part in table_parts(self._known.probabilities, rows):
                table[rows[place]] = chosen.shares(part)
        return table

    def _combined(self, method: str, without: frozenset[int]) -> Combination:
        known, name = self._known, (method, without)
        if name not in self._fitted:
            rows = np.flatnonzero(~np.isin(self._folds, list(without)))
            self._fitted[name] = combine(known.probabilities, known.labels, method, rows, known.members)
        return self._fitted[name]


def _expected(probabilities: npt.NDArray[np.floating]) -> Float64s:
    """(n,) the mean class number of (n, C)."""
    return normalised(probabilities.astype(np.float64)) @ np.arange(probabilities.shape[1])


def _best_cuts(expected: Float64s, labels: npt.NDArray[np.integer], classes: int) -> list[float]:
    """Move one cut point after the other to where quadratic weighted kappa is highest, until none moves.

    A cut point adds to the sums that make kappa: how many rows are above it, and the sum of their labels.
    """
    values = np.unique(expected)
    between = (values[1:] + values[:-1]) / 2
    most = between[np.linspace(0, len(between) - 1, min(len(between), _CANDIDATES)).astype(np.intp)]
    places = np.r_[-0.5, most, classes - 0.5]
    order = np.argsort(expected)
    above = np.asarray(np.searchsorted(expected[order], places, side="right"))
    tails = np.r_[np.cumsum(labels[order][::-1])[::-1], 0].astype(np.float64)
    rows, sums = (len(labels) - above).astype(np.float64), np.asarray(tails[above])
    cuts = [int(np.argmin(np.abs(places - (cut + 0.5)))) for cut in range(classes - 1)]
    kappa = _kappa_by(rows, sums, labels)
    best = float(kappa(cuts, 0, np.array(cuts[:1]))[0])
    for _ in range(_SWEEPS):
        before = best
        for cut in range(len(cuts)):
            low = cuts[cut - 1] if cut else 0
            high = cuts[cut + 1] if cut + 1 < len(cuts) else len(places) - 1
            found = kappa(cuts, cut, np.arange(low, high + 1))
            if found.max() > best + _BETTER:
                best, cuts[cut] = float(found.max()), low + int(found.argmax())
        if best <= before + _BETTER:
            break
    return [float(places[cut]) for cut in cuts]


def _kappa_by(
    rows: Float64s, sums: Float64s, labels: npt.NDArray[np.integer]
) -> Callable[[Sequence[int], int, RowNumbers], Float64s]:
    """Kappa by the places of all cut points, one of which tries several."""
    squares = float((labels.astype(np.float64) ** 2).sum())
    own = np.array([float(labels.sum()), squares])

    def kappa(cuts: Sequence[int], cut: int, tried: RowNumbers) -> Float64s:
        others = [(2 * number + 1, place) for number, place in enumerate(cuts) if number != cut]
        given = sum(rows[place] for _, place in others) + rows[tried]
        given_squares = sum(weight * rows[place] for weight, place in others) + (2 * cut + 1) * rows[tried]
        products = sum(sums[place] for _, place in others) + sums[tried]
        disagreement = squares - 2 * products + given_squares
        return kappa_of_sums(disagreement, len(labels), own, np.array([given, given_squares]))

    return kappa

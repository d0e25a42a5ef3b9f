"""Finding the ensemble on out-of-fold predictions, and scoring it honestly. NumPy only.

What weights, temperature, clip and method fitted to some rows score on these same rows flatters. So for each fold all
of it is fitted to the other folds' rows, and that fold is scored by it: the nested scores are those that are shown.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from featcache.ensemble import combination
from featcache.ensemble.combination import Combination, combine, normalised
from featcache.ensemble.ensemble import Ensemble
from featcache.errors import TrainingError
from featcache.settings import AUTO, METHODS, one_of
from featcache.training import Predictions, RowScores, Scores, bootstrap, judge_parts, row_parts, table_parts

_MEMORY_BYTES = 1 << 26  # members' tables up to this size are read once


def select_ensemble(out_of_fold: Predictions, method: str = AUTO) -> Ensemble:
    """Combine the members on their out-of-fold predictions, and score that on folds that it wasn't fitted to.

    Args:
        out_of_fold: training rows with their folds; those without label or with NaN are left out. Rows of one group
            are drawn together for the interval.
        method: ``greedy``, ``mean``, ``geometric``, or ``auto``: the one of the lowest nested log-loss.

    Raises:
        SettingsError: an unknown method.
        TrainingError: no member, no row to score, or rows of fewer than 2 folds.
    """
    one_of("[Ensemble] method", method, METHODS)
    known = out_of_fold.scored()
    numbers = [] if known.folds is None else [int(fold) for fold in np.unique(known.folds) if fold >= 0]
    if not known.members or len(numbers) < 2:
        counts = f"members={len(known.members)}, rows={len(known.ids)}, folds={len(numbers)}"
        raise TrainingError(f"expected out-of-fold predictions to build an ensemble on; got {counts}: run TrainHeads")
    search = _Search(known, combination.COMBINATIONS if method == AUTO else (method,))
    singles = {fold: search.best_member(fold) for fold in numbers}
    folds = {fold: search.combined(search.method(fold), fold) for fold in numbers}
    whole = search.combined(search.method())
    nested = search.nested(folds.__getitem__)
    by_method = {name: search.nested(partial(search.combined, name)) for name in search.methods}
    return Ensemble(
        candidates=known.members,
        class_names=known.class_names,
        whole=whole,
        folds=folds,
        scores=nested.scores(),
        interval=bootstrap([nested], known.groups)[0],
        method_scores={name: each.scores() for name, each in by_method.items()},
        member_scores=dict(zip(known.members, search.member_scores, strict=True)),
        best_single=known.members[search.best_member()],
        single_folds={fold: known.members[member] for fold, member in singles.items()},
        single_scores=judged_singles(known, singles).scores(),
        class_shares=_class_shares(out_of_fold),
    )


def _class_shares(out_of_fold: Predictions) -> tuple[float, ...]:
    labels = out_of_fold.labels[(out_of_fold.labels >= 0) & (np.asarray(out_of_fold.folds) >= 0)]
    counts = np.bincount(labels, minlength=len(out_of_fold.class_names))
    return tuple((counts / counts.sum()).tolist())


def all_scores(built: Ensemble, predictions: Mapping[str, Predictions], clip: float | None = None) -> dict[str, Any]:
    """Return split -> scores of the ensemble on rows with a known label, then its nested ones as ``out of fold``.

    Rows are brought to sum 1, as who scores log-loss does. Those without predictions aren't scored; ``unusable`` counts
    them. A split without rows to score isn't there.

    Args:
        built: the ensemble.
        predictions: split -> by all its members.
        clip: another upper bound of a probability than the ensemble's.
    """
    found: dict[str, Any] = {}
    for split, own in predictions.items():
        scores = RowScores.blank(len(own.ids))
        for part, values in built.parts(own, clip):
            known = (own.labels[part] >= 0) & ~np.isnan(values).any(axis=1)
            rows = part.start + np.flatnonzero(known)
            scores.put(rows, normalised(values[known]), own.labels[rows])
        known = ~np.isnan(scores.losses)
        if known.any():
            unusable = int(((own.labels >= 0) & ~known).sum())
            counts = {"rows": int(known.sum()), "unusable": unusable, "right": int(scores.right[known].sum())}
            found[split] = {**counts, **vars(scores.scores(known))}
    return {**found, "out of fold": {**vars(built.scores), "interval": vars(built.interval)}}


def judged_members(known: Predictions) -> Iterator[RowScores]:
    """Yield each member's scores of the rows, one member in memory at a time."""
    for member in range(len(known.members)):
        rows = row_parts(len(known.ids), len(known.class_names))
        yield judge_parts(((some, known.probabilities[member, some]) for some in rows), known.labels)


def judged_singles(known: Predictions, singles: Mapping[int, int]) -> RowScores:
    """Each fold's rows scored with the one member that `singles` names for it."""
    judged = RowScores.blank(len(known.ids))
    for fold, member in singles.items():
        own = np.flatnonzero(known.folds == fold)
        for place in row_parts(len(own), len(known.class_names)):
            rows = own[place]
            judged.put(rows, known.probabilities[member, rows], known.labels[rows])
    return judged


class _Search:
    """Combinations fitted to the rows of all folds but some, each once."""

    def __init__(self, known: Predictions, methods: Sequence[str]) -> None:
        members, rows, classes = known.probabilities.shape
        if 4 * members * rows * classes <= _MEMORY_BYTES:  # each fold's rows are read some hundred times
            known = replace(known, probabilities=known.probabilities[:, :])
        self.methods = methods
        self._known, self._folds = known, np.asarray(known.folds)
        self._parts = [int(fold) for fold in np.unique(self._folds) if fold >= 0]
        self._combinations: dict[tuple[str | int, ...], Combination] = {}
        apart = {without: ~np.isin(self._folds, without) for without in [(), *((fold,) for fold in self._parts)]}
        self.member_scores: list[Scores] = []
        self._losses: dict[tuple[int, ...], list[float]] = {without: [] for without in apart}
        for judged in judged_members(known):
            self.member_scores.append(judged.scores())
            for without, rows in apart.items():
                self._losses[without].append(judged.scores(rows).log_loss)

    def combined(self, method: str, *without: int) -> Combination:
        """The combination fitted to the rows of all folds but these."""
        key: tuple[str | int, ...] = (method, *without)
        if key not in self._combinations:
            rows = np.flatnonzero(~np.isin(self._folds, without))
            self._combinations[key] = combine(self._known.probabilities, self._known.labels, method, rows)
        return self._combinations[key]

    def method(self, *without: int) -> str:
        """The method of the lowest log-loss on each of the other folds, fitted to the rest of them."""
        if len(self.methods) == 1 or len(self._parts) - len(without) < 2:
            return self.methods[0]
        rows = np.isin(self._folds, self._parts) & ~np.isin(self._folds, without)

        def loss(name: str) -> float:
            return (
                self.nested(lambda fold: self.combined(name, *sorted({*without, fold})), without).scores(rows).log_loss
            )

        return min(self.methods, key=loss)

    def nested(self, chosen: Callable[[int], Combination], without: Sequence[int] = ()) -> RowScores:
        """Each fold's rows scored with what `chosen` gives for it; NaN for the folds `without`."""
        judged, known = RowScores.blank(len(self._folds)), self._known
        for fold in self._parts:
            if fold not in without:
                own, fitted = np.flatnonzero(self._folds == fold), chosen(fold)
                for place, table in table_parts(known.probabilities, own):
                    judged.put(own[place], normalised(fitted.apply(table)), known.labels[own[place]])
        return judged

    def best_member(self, *without: int) -> int:
        """The member of the lowest log-loss on all rows but those of one fold; the first of equals."""
        return int(np.argmin(self._losses[without]))

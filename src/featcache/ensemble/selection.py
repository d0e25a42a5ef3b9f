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
from featcache.training import (
    NO_FOLD,
    Float64s,
    Predictions,
    RowNumbers,
    RowScores,
    Scores,
    bootstrap,
    judge_parts,
    row_parts,
    table_parts,
)

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
    search = _Search(known, combination.COMBINATIONS if method == AUTO else (method,))
    singles = {fold: search.best_member(fold) for fold in search.folds}
    folds = {fold: search.combined(search.method(fold), fold) for fold in search.folds}
    nested = search.nested(folds.__getitem__)
    labels = out_of_fold.labels[(out_of_fold.labels >= 0) & (np.asarray(out_of_fold.folds) != NO_FOLD)]
    return Ensemble(
        candidates=known.members,
        class_names=known.class_names,
        whole=search.combined(search.method()),
        folds=folds,
        scores=nested.scores(),
        interval=bootstrap([nested], known.groups)[0],
        method_scores={name: search.nested(partial(search.combined, name)).scores() for name in search.methods},
        member_scores=dict(zip(known.members, search.member_scores, strict=True)),
        best_single=known.members[search.best_member()],
        single_folds={fold: known.members[member] for fold, member in singles.items()},
        single_scores=judged_singles(known, singles).scores(),
        class_shares=tuple((np.bincount(labels, minlength=len(known.class_names)) / len(labels)).tolist()),
    )


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
        judged = judge_parts(_known_parts(built, own, clip), own.labels)
        known = ~np.isnan(judged.losses)
        if known.any():
            unusable = int(((own.labels >= 0) & ~known).sum())
            counts = {"rows": int(known.sum()), "unusable": unusable, "right": int(judged.right[known].sum())}
            found[split] = {**counts, **vars(judged.scores(known))}
    return {**found, "out of fold": {**vars(built.scores), "interval": vars(built.interval)}}


def _known_parts(built: Ensemble, own: Predictions, clip: float | None) -> Iterator[tuple[RowNumbers, Float64s]]:
    """Yield (rows, (r, C)) of the rows with a label and predictions."""
    for part, values in built.parts(own, clip):
        known = np.flatnonzero((own.labels[part] >= 0) & ~np.isnan(values).any(axis=1))
        yield part.start + known, normalised(values[known])


def judged_members(known: Predictions) -> Iterator[RowScores]:
    """Yield each member's scores of the rows, one member in memory at a time."""
    for member in range(len(known.members)):
        rows = row_parts(len(known.ids), len(known.class_names))
        yield judge_parts(((some, known.probabilities[member, some]) for some in rows), known.labels)


def judged_singles(known: Predictions, singles: Mapping[int, int]) -> RowScores:
    """Each fold's rows scored with the one member that `singles` names for it."""
    own = ((member, np.flatnonzero(known.folds == fold)) for fold, member in singles.items())
    parts = ((member, rows[some]) for member, rows in own for some in row_parts(len(rows), len(known.class_names)))
    return judge_parts(((rows, known.probabilities[member, rows]) for member, rows in parts), known.labels)


class _Search:
    """Combinations fitted to the rows of all `folds` but some, each once."""

    def __init__(self, known: Predictions, methods: Sequence[str]) -> None:
        members, rows, classes = known.probabilities.shape
        self._known, self._folds = known, np.full(rows, -1) if known.folds is None else known.folds
        self.methods, self.folds = methods, [int(fold) for fold in np.unique(self._folds) if fold >= 0]
        if not members or len(self.folds) < 2:
            counts = f"members={members}, rows={rows}, folds={len(self.folds)}"
            raise TrainingError(f"there is nothing to build an ensemble on, {counts} out of fold: run TrainHeads")
        if 4 * members * rows * classes <= _MEMORY_BYTES:  # each fold's rows are read some hundred times
            self._known = replace(known, probabilities=known.probabilities[:, :])
        self._combinations: dict[tuple[str | int, ...], Combination] = {}
        apart = {without: ~np.isin(self._folds, without) for without in [(), *((fold,) for fold in self.folds)]}
        self.member_scores: list[Scores] = []
        self._losses: dict[tuple[int, ...], list[float]] = {without: [] for without in apart}
        for judged in judged_members(self._known):
            self.member_scores.append(judged.scores())
            for without, rest in apart.items():
                self._losses[without].append(judged.scores(rest).log_loss)

    def combined(self, method: str, *without: int) -> Combination:
        """The combination fitted to the rows of all folds but these."""
        key: tuple[str | int, ...] = (method, *without)
        if key not in self._combinations:
            rows = np.flatnonzero(~np.isin(self._folds, without))
            self._combinations[key] = combine(self._known.probabilities, self._known.labels, method, rows)
        return self._combinations[key]

    def method(self, *without: int) -> str:
        """The method of the lowest log-loss on each of the other folds, fitted to the rest of them."""
        if len(self.methods) == 1 or len(self.folds) - len(without) < 2:
            return self.methods[0]
        rows = np.isin(self._folds, self.folds) & ~np.isin(self._folds, without)

        def loss(name: str) -> float:
            nested = self.nested(lambda fold: self.combined(name, *sorted({*without, fold})), without)
            return nested.scores(rows).log_loss

        return min(self.methods, key=loss)

    def nested(self, chosen: Callable[[int], Combination], without: Sequence[int] = ()) -> RowScores:
        """Each fold's rows scored with what `chosen` gives for it; NaN for the folds `without`."""

        def parts() -> Iterator[tuple[RowNumbers, Float64s]]:
            for fold in self.folds:
                if fold not in without:
                    own, fitted = np.flatnonzero(self._folds == fold), chosen(fold)
                    for place, table in table_parts(self._known.probabilities, own):
                        yield own[place], normalised(fitted.apply(table))

        return judge_parts(parts(), self._known.labels)

    def best_member(self, *without: int) -> int:
        """The member of the lowest log-loss on all rows but those of one fold; the first of equals."""
        return int(np.argmin(self._losses[without]))

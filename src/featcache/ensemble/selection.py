"""Finding the ensemble on out-of-fold predictions, and scoring it honestly. No Keras.

What weights, temperature and clip fitted to some rows score on these same rows flatters. So for each fold all of it is
fitted to the other folds' rows, and that fold is scored by it: the nested scores are those that are shown.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from featcache.core.rows import is_several, known_labels, label_counts
from featcache.ensemble.combination import WEIGHTED, Clip, Combination, combine, normalised
from featcache.ensemble.decisions import Choice, MetricSearch, decided
from featcache.ensemble.ensemble import Baseline, Decided, Ensemble
from featcache.errors import TrainingError
from featcache.settings import AUTO, LOG_LOSS, METHODS, one_of
from featcache.training import (
    LINEAR,
    NO_FOLD,
    Float32s,
    Float64s,
    Judged,
    Metric,
    Predictions,
    RowNumbers,
    RowScores,
    Scores,
    bootstrap,
    check_metric,
    judge_parts,
    metric_spans,
    row_parts,
    table_parts,
)

MAJORITY = "majority class"
ENSEMBLE = "ensemble"
BEST_SINGLE = "best single"
_RARE = 1e-4  # the share of a class that no other fold has: it isn't impossible
_MEMORY_BYTES = 1 << 26  # members' tables up to this size are read once

Parts = Iterator[tuple[slice | RowNumbers, Float64s | Float32s]]


def select_ensemble(out_of_fold: Predictions, method: str = AUTO, metric: str = LOG_LOSS) -> Ensemble:
    """Combine the members on their out-of-fold predictions, and score that on folds that it wasn't fitted to.

    Args:
        out_of_fold: training rows with their folds; those without label or with NaN are left out. Rows of one group
            are drawn together for the intervals.
        method: ``weighted``, ``mean``, ``geometric``, ``greedy``, or ``auto``: ``weighted``. Choosing among methods by
            their scores costs more on few rows than it gains. Another metric than log-loss, by which none of them is
            fitted, does choose.
        metric: what decisions are fitted to, and what is shown.

    Raises:
        SettingsError: an unknown method.
        TrainingError: no member, no row to score, or rows of fewer than 2 folds.
    """
    one_of("[Ensemble] method", method, METHODS)
    check_metric(metric, several=is_several(out_of_fold.labels))
    known = out_of_fold.scored()
    search = _Search(known, WEIGHTED if method == AUTO else method)
    singles = {fold: search.best_member(fold) for fold in search.folds}
    chosen = {} if metric == LOG_LOSS else search.choices(METHODS[1:] if method == AUTO else (method,), metric)
    folds = {fold: chosen[fold].combination if chosen else search.combined(fold) for fold in search.folds}
    nested = search.nested(folds)
    labels = out_of_fold.labels[known_labels(out_of_fold.labels) & (np.asarray(out_of_fold.folds) != NO_FOLD)]
    baselines = _baselines(known.members)
    judged = [judged_baseline(known, member) for _, member in baselines]
    interval, *differences = bootstrap([nested, *map(nested.minus, judged)], known.groups)
    built = Ensemble(
        candidates=known.members,
        class_names=known.class_names,
        whole=chosen[None].combination if chosen else search.combined(),
        folds=folds,
        scores=nested.scores(),
        interval=interval,
        member_scores=dict(zip(known.members, search.member_scores, strict=True)),
        best_single=known.members[search.best_member()],
        single_folds={fold: known.members[member] for fold, member in singles.items()},
        single_scores=judged_singles(known, singles).scores(),
        class_shares=tuple((label_counts(labels, len(known.class_names)) / len(labels)).tolist()),
        baselines=tuple(
            Baseline(*each, scores.scores(), difference)
            for each, scores, difference in zip(baselines, judged, differences, strict=True)
        ),
    )
    return replace(built, decided=_decided(known, built, chosen, metric)) if chosen else built


def _decided(known: Predictions, built: Ensemble, chosen: Mapping[int | None, Choice], metric: str) -> Decided:
    """What the metric says of the ensemble, the best single member and the baselines."""
    decisions = {fold: choice.decision for fold, choice in chosen.items() if fold is not None}
    unscored = Decided(metric, chosen[None].decision, decisions, 0.0, (0.0, 0.0), 0.0, (), ())
    named = dict(metric_rows(known, replace(built, decided=unscored)))
    ensemble, single, *baselines = named.values()
    (interval, *_), differences = metric_spans(metric, [ensemble, *baselines], known.groups)
    score, of_single, *others = (Metric(metric, each).value() for each in (ensemble, single, *baselines))
    return replace(
        unscored,
        score=score,
        interval=interval,
        single=of_single,
        baselines=tuple(others),
        differences=tuple(differences),
    )


def metric_rows(known: Predictions, built: Ensemble) -> Iterator[tuple[str, Judged]]:
    """Yield (name, rows as the metric sees them) of the ensemble, the best single member and the baselines, nested.

    `built` has decisions, and `known` folds.
    """
    own, folds = built.decided, known.folds
    if own is None or folds is None:
        return
    table = _table(known, ((rows, built.shares(part)) for rows, part in built.nested_parts(known)))
    predicted = np.empty(known.labels.shape, np.intp)
    for fold, decision in own.folds.items():
        predicted[folds == fold] = decision.classes(table[folds == fold])
    yield ENSEMBLE, Judged(known.labels, predicted, table)
    singles = {fold: known.members.index(name) for fold, name in built.single_folds.items()}
    parts = {BEST_SINGLE: _single_parts(known, singles)}
    parts |= {each.name: _baseline_parts(known, each.member) for each in built.baselines}
    for name, each in parts.items():
        yield name, decided(own.metric, _table(known, each), known.labels, folds)


def metric_members(known: Predictions, metric: str) -> Iterator[Judged]:
    """Yield each member's rows as the metric sees them, one in memory at a time."""
    folds = np.zeros(len(known.ids), np.int32) if known.folds is None else known.folds
    for member in range(len(known.members)):
        table = known.probabilities[member, :].astype(np.float64)
        yield decided(metric, table if is_several(known.labels) else normalised(table), known.labels, folds)


def _table(known: Predictions, parts: Parts) -> Float64s:
    table = np.full(known.probabilities.shape[1:], np.nan)
    for rows, part in parts:
        table[rows] = part
    return table


def score_record(built: Ensemble, predictions: Mapping[str, Predictions], clip: Clip | None = None) -> dict[str, Any]:
    """Return what is shown of an ensemble, as JSON-able values.

    Args:
        built: the ensemble.
        predictions: split -> by all its members.
        clip: another upper bound of a probability than the ensemble's.

    Returns:
        ``scores``: split -> those of the ensemble on rows with a known label, then its nested ones as ``out of fold``.
        Rows are brought to sum 1, as who scores log-loss does. Those without predictions aren't scored; ``unusable``
        counts them. A split without rows to score isn't there. ``best_single`` and ``baselines``: what it is compared
        with, out of fold. ``members``: the chosen ones' weights.
    """
    found: dict[str, Any] = {}
    for split, own in predictions.items():
        judged = judge_parts(_known_parts(built, own, clip), own.labels)
        known = ~np.isnan(judged.losses)
        if known.any():
            unusable = int((known_labels(own.labels) & ~known).sum())
            counts = {"rows": int(known.sum()), "unusable": unusable, "right": int(judged.right[known].sum())}
            found[split] = {**counts, **vars(judged.scores(known))}
            if built.decided:
                table = built.shares(built.apply(own.take(np.flatnonzero(known)), clip))
                rows = Judged(own.labels[known], built.decision.classes(table), table)
                found[split] |= {built.decided.metric: Metric(built.decided.metric, rows).value()}
    record: dict[str, Any] = {
        "scores": {**found, "out of fold": {**vars(built.scores), "interval": vars(built.interval)}},
        "best_single": {"member": built.best_single, **vars(built.single_scores)},
        "baselines": baseline_records(built),
        "members": dict(zip(built.members, built.weights, strict=True)),
    }
    if (own_metric := built.decided) is not None:
        name, whole = own_metric.metric, record["scores"]["out of fold"]
        record |= {"metric": name}
        record["best_single"][name], whole[name] = own_metric.single, own_metric.score
        whole["interval"] = {**whole["interval"], name: own_metric.interval}
    return record


def baseline_records(built: Ensemble) -> list[dict[str, Any]]:
    """Return the baselines as JSON-able values, with the metric's scores and differences where there is one."""
    records = [asdict(each) for each in built.baselines]
    if built.decided:
        parts = zip(records, built.decided.baselines, built.decided.differences, strict=True)
        for record, score, difference in parts:
            record["scores"][built.decided.metric], record["difference"][built.decided.metric] = score, difference
    return records


def _known_parts(built: Ensemble, own: Predictions, clip: Clip | None) -> Iterator[tuple[RowNumbers, Float64s]]:
    """Yield (rows, (r, C)) of the rows with a label and predictions."""
    for part, values in built.parts(own, clip):
        known = np.flatnonzero(known_labels(own.labels[part]) & ~np.isnan(values).any(axis=1))
        yield part.start + known, built.shares(values[known])


def judged_members(known: Predictions) -> Iterator[RowScores]:
    """Yield each member's scores of the rows, one member in memory at a time."""
    return (judge_parts(_member_parts(known, member), known.labels) for member in range(len(known.members)))


def _member_parts(known: Predictions, member: int) -> Parts:
    rows = row_parts(len(known.ids), len(known.class_names))
    return ((some, known.probabilities[member, some]) for some in rows)


def judged_singles(known: Predictions, singles: Mapping[int, int]) -> RowScores:
    """Each fold's rows scored with the one member that `singles` names for it."""
    return judge_parts(_single_parts(known, singles), known.labels)


def _single_parts(known: Predictions, singles: Mapping[int, int]) -> Parts:
    own = ((member, np.flatnonzero(known.folds == fold)) for fold, member in singles.items())
    parts = ((member, rows[some]) for member, rows in own for some in row_parts(len(rows), len(known.class_names)))
    return ((rows, known.probabilities[member, rows]) for member, rows in parts)


def _baselines(members: Sequence[str]) -> list[tuple[str, str]]:
    """(name, member) of what an ensemble is compared with: a regression, where there is one, and what needs no images."""
    regressions = (name for name in members if name.endswith(f"/{LINEAR}/seed0"))
    named = [(f"regression on {name.split('/')[0]} features", name) for name in regressions]
    return [*named[:1], (MAJORITY, "")]


def judged_baseline(known: Predictions, member: str, class_shares: Sequence[float] | None = None) -> RowScores:
    """The rows scored with a member, or if that is "" with one prediction for all of them: the classes' shares.

    Shares are `class_shares`; of training rows, None, those in the folds but a row's own.
    """
    return judge_parts(_baseline_parts(known, member, class_shares), known.labels)


def _baseline_parts(known: Predictions, member: str, class_shares: Sequence[float] | None = None) -> Parts:
    if member:
        yield from _member_parts(known, known.members.index(member))
        return
    classes, folds = len(known.class_names), np.zeros(len(known.ids)) if known.folds is None else known.folds
    for fold in np.unique(folds):
        others = known.labels[folds != fold]
        given = label_counts(others, classes) / len(others) if class_shares is None else class_shares
        constant, rows = np.maximum(np.array([given], np.float64), _RARE), np.flatnonzero(folds == fold)
        constant = np.minimum(constant, 1 - _RARE) if is_several(known.labels) else normalised(constant)
        for some in row_parts(len(rows), classes):
            yield rows[some], np.broadcast_to(constant, (len(rows[some]), classes))


class _Search:
    """Combinations by one method, fitted to the rows of all folds but some, and members' scores."""

    def __init__(self, known: Predictions, method: str) -> None:
        members, rows, classes = known.probabilities.shape
        self._known, self._folds = known, np.full(rows, -1) if known.folds is None else known.folds
        self._method, self.folds = method, [int(fold) for fold in np.unique(self._folds) if fold >= 0]
        if not members or len(self.folds) < 2:
            counts = f"members={members}, rows={rows}, folds={len(self.folds)}"
            raise TrainingError(f"there is nothing to build an ensemble on, {counts} out of fold: run TrainHeads")
        if 4 * members * rows * classes <= _MEMORY_BYTES:  # each row is read for every fold
            self._known = replace(known, probabilities=known.probabilities[:, :])
        apart = {without: self._folds != without for without in (None, *self.folds)}
        self.member_scores: list[Scores] = []
        self._losses: dict[int | None, list[float]] = {without: [] for without in apart}
        for judged in judged_members(self._known):
            self.member_scores.append(judged.scores())
            for without, rest in apart.items():
                self._losses[without].append(judged.scores(rest).log_loss)

    def choices(self, methods: Sequence[str], metric: str) -> dict[int | None, Choice]:
        """What the metric chooses by all rows, None, and without those of each fold."""
        search = MetricSearch(self._known, methods, metric)
        return {None: search.choice(), **{fold: search.choice(fold) for fold in self.folds}}

    def combined(self, without: int | None = None) -> Combination:
        """The combination fitted to all rows, or all but those of one fold."""
        known, rows = self._known, np.flatnonzero(self._folds != without)
        return combine(known.probabilities, known.labels, self._method, rows, known.members)

    def nested(self, chosen: Mapping[int, Combination]) -> RowScores:
        """Each fold's rows scored with what is `chosen` for it."""

        def parts() -> Iterator[tuple[RowNumbers, Float64s]]:
            for fold, fitted in chosen.items():
                own = np.flatnonzero(self._folds == fold)
                for place, table in table_parts(self._known.probabilities, own):
                    yield own[place], fitted.shares(table)

        return judge_parts(parts(), self._known.labels)

    def best_member(self, without: int | None = None) -> int:
        """The member of the lowest log-loss on all rows, or all but those of one fold; the first of equals."""
        return int(np.argmin(self._losses[without]))

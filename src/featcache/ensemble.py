"""The ensemble: a combination of members found on out-of-fold predictions, and what it is honestly worth. NumPy only.

What weights, temperature, clip and method fitted to some rows score on these same rows flatters. So for each fold all
of it is fitted to the other folds' rows, and that fold is scored by it: the nested scores are those that are told. The
combinations of the folds are kept: that of fold k has seen nothing of fold k.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from featcache import combination
from featcache.combination import Combination, combine, normalised
from featcache.errors import CacheFormatError, CacheMismatchError, TrainingError
from featcache.predictions import Predictions
from featcache.records import write_json
from featcache.scoring import Floats, Interval, Scores, bootstrap, log_loss, scores
from featcache.specs import AUTO, METHODS, one_of
from featcache.texts import positions

_SCHEMA = 2


@dataclass(frozen=True)
class Ensemble:
    """What `build_ensemble` chose.

    Attributes:
        candidates: every member that there was, in its order.
        class_names: the classes, in order.
        whole: the combination that is used, fitted to all rows; weight 0 for members that weren't chosen.
        folds: fold -> the combination that was fitted without that fold's rows.
        scores: nested: each fold's rows by `folds`.
        interval: of these.
        method_scores: nested, of each method that was tried.
        member_scores: out of fold, of every member.
        best_single: the member of the lowest out-of-fold log-loss.
        single_folds: fold -> the member that is best on the other folds.
        single_scores: nested: each fold's rows by that member.
    """

    candidates: tuple[str, ...]
    class_names: tuple[str, ...]
    whole: Combination
    folds: Mapping[int, Combination]
    scores: Scores
    interval: Interval
    method_scores: Mapping[str, Scores]
    member_scores: Mapping[str, Scores]
    best_single: str
    single_folds: Mapping[int, str]
    single_scores: Scores

    @property
    def members(self) -> tuple[str, ...]:
        """The chosen members' names; those of weight zero are not among them."""
        return tuple(name for name, weight in zip(self.candidates, self.whole.weights, strict=True) if weight)

    @property
    def weights(self) -> tuple[float, ...]:
        """The chosen members' weights; positive, sum 1."""
        return tuple(weight for weight in self.whole.weights if weight)

    def apply(self, predictions: Predictions, clip: float | None = None) -> Floats:
        """Return (n, C) probabilities whose rows sum to 1, unless clipped; NaN where a chosen member has none.

        Args:
            predictions: by any members, the chosen ones among them.
            clip: another upper bound than the one found; 1 for none.

        Raises:
            CacheMismatchError: a chosen member or class is not there.
        """
        return self._apply(self.whole, predictions, clip)

    def apply_nested(self, out_of_fold: Predictions) -> Floats:
        """Return (n, C): each training row by the combination that was fitted without its fold, NaN for rows of no fold.

        Raises:
            CacheMismatchError: a chosen member or class is not there, or it isn't said which fold a row is in.
        """
        if out_of_fold.folds is None:
            raise CacheMismatchError("expected out-of-fold predictions with folds; got none: run TrainHeads")
        nested = np.full((len(out_of_fold.ids), len(self.class_names)), np.nan)
        for fold, chosen in self.folds.items():
            rows = out_of_fold.folds == fold
            nested[rows] = self._apply(chosen, out_of_fold, None)[rows]
        return nested

    def _apply(self, chosen: Combination, predictions: Predictions, clip: float | None) -> Floats:
        used = [name for name, weight in zip(self.candidates, chosen.weights, strict=True) if weight]
        absent = [name for name in used if name not in predictions.members]
        if absent or predictions.class_names != self.class_names:
            what = f"member={absent[0]!r} is missing" if absent else "the classes differ"
            raise CacheMismatchError(
                f"expected the predictions that the ensemble was built for; {what}: run TrainHeads"
            )
        weights = dict(zip(self.candidates, chosen.weights, strict=True))
        given = tuple(weights.get(name, 0.0) for name in predictions.members)
        return replace(chosen, weights=given).apply(predictions.probabilities, clip)

    def save(self, path: Path, record: Mapping[str, object] | None = None) -> None:
        """Replace `path` by JSON, atomically; `record` says of the stage what enters beside the ensemble, its ``key``."""
        write_json(path, {"schema": _SCHEMA, **(record or {}), "ensemble": asdict(self)})

    @classmethod
    def load(cls, path: Path) -> "Ensemble":
        """Read what `save` wrote.

        Raises:
            CacheFormatError: the file is absent, damaged or of another schema.
        """
        try:
            content = json.loads(path.read_text("utf-8"))
            if content["schema"] != _SCHEMA:
                raise ValueError(f"schema is not the expected {_SCHEMA}")
            loaded = _loaded(cls, content["ensemble"])
            _check(loaded)
            return loaded
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise CacheFormatError(f"{path}: expected an ensemble; {reason}: run BuildEnsemble with --rerun") from error


def _loaded(cls: type[Ensemble], stored: dict[str, Any]) -> Ensemble:
    for name in ("candidates", "class_names"):
        stored[name] = tuple(stored[name])
    stored["whole"] = _combination(stored["whole"])
    stored["folds"] = {int(fold): _combination(chosen) for fold, chosen in stored["folds"].items()}
    stored["single_folds"] = {int(fold): name for fold, name in stored["single_folds"].items()}
    for name in ("scores", "single_scores"):
        stored[name] = Scores(**stored[name])
    for name in ("method_scores", "member_scores"):
        stored[name] = {what: Scores(**each) for what, each in stored[name].items()}
    stored["interval"] = Interval(**{what: tuple(span) for what, span in stored["interval"].items()})
    return cls(**stored)


def _combination(stored: dict[str, Any]) -> Combination:
    return Combination(**{**stored, "weights": tuple(stored["weights"])})


def _check(loaded: Ensemble) -> None:
    """Refuse what `build_ensemble` can't have chosen.

    Raises:
        ValueError: numbers out of their range, names that are none, or parts that don't fit together.
    """
    members, count = loaded.candidates, len(loaded.candidates)
    names = (*members, *loaded.class_names, loaded.best_single, *loaded.single_folds.values())
    if not all(isinstance(name, str) for name in names) or set(loaded.member_scores) != set(members):
        raise ValueError(f"its names are {names}"[:200])
    if not count or len(set(members)) != count or loaded.best_single not in members:
        raise ValueError(f"it has {count} members, {len(set(members))} of them different")
    for chosen in (loaded.whole, *loaded.folds.values()):
        numbers = (*chosen.weights, chosen.temperature, chosen.clip)
        if not all(isinstance(number, float) and 0 <= number < float("inf") for number in numbers):
            raise ValueError(f"its weights, temperature and clip are {numbers}"[:200])
        if len(chosen.weights) != count or not any(chosen.weights):
            raise ValueError(f"it has {count} members and the weights {chosen.weights}"[:200])
        if chosen.method not in combination.METHODS or not chosen.temperature or not 0 < chosen.clip <= 1:
            raise ValueError(f"its method is {chosen.method!r}, temperature and clip are {numbers[-2:]}")
    values = [*vars(loaded.scores).values(), *vars(loaded.single_scores).values()]
    values += [value for score in loaded.member_scores.values() for value in vars(score).values()]
    values += [value for score in loaded.method_scores.values() for value in vars(score).values()]
    values += [value for span in vars(loaded.interval).values() for value in span]
    if not all(isinstance(value, float) for value in values):
        raise ValueError(f"its scores are {values}"[:200])


def build_ensemble(out_of_fold: Predictions, method: str = AUTO, groups: Sequence[str] = ()) -> Ensemble:
    """Combine the members on their out-of-fold predictions, and score that on folds that it wasn't fitted to.

    Args:
        out_of_fold: training rows with their folds; those without label or with NaN are left out.
        method: ``greedy``, ``mean``, ``geometric``, or ``auto``: the one of the lowest nested log-loss.
        groups: texts, one for each row of `out_of_fold`, for the interval; empty: every row alone.

    Raises:
        SettingsError: an unknown method.
        TrainingError: no member, no row to score, or rows of fewer than 2 folds.
    """
    one_of("[Ensemble] method", method, METHODS)
    known = out_of_fold.scored()
    parts = [] if known.folds is None else [int(fold) for fold in np.unique(known.folds) if fold >= 0]
    if not known.members or len(parts) < 2:
        counts = f"members={len(known.members)}, rows={len(known.ids)}, folds={len(parts)}"
        raise TrainingError(f"expected out-of-fold predictions to build an ensemble on; got {counts}: run TrainHeads")
    search = _Search(known, combination.METHODS if method == AUTO else (method,))
    singles = {fold: search.best_member(fold) for fold in parts}
    folds = {fold: search.combined(search.method(fold), fold) for fold in parts}
    whole = search.combined(search.method())
    nested, single = search.nested(folds.__getitem__), search.nested_single(singles)
    drawn = [groups[row] for row in positions(known.ids, out_of_fold.ids).tolist()] if any(groups) else ()
    by_method = {name: search.nested(partial(search.combined, name)) for name in search.methods}
    return Ensemble(
        candidates=known.members,
        class_names=known.class_names,
        whole=whole,
        folds=folds,
        scores=scores(nested, known.labels),
        interval=bootstrap([nested], known.labels, drawn)[0],
        method_scores={name: scores(rows, known.labels) for name, rows in by_method.items()},
        member_scores={
            name: scores(rows, known.labels) for name, rows in zip(known.members, known.probabilities, strict=True)
        },
        best_single=known.members[search.best_member()],
        single_folds={fold: known.members[member] for fold, member in singles.items()},
        single_scores=scores(single, known.labels),
    )


class _Search:
    """Combinations fitted to the rows of all folds but some, each once."""

    def __init__(self, known: Predictions, methods: Sequence[str]) -> None:
        self.methods = methods
        self._probabilities, self._labels, self._folds = known.probabilities, known.labels, np.asarray(known.folds)
        self._parts = [int(fold) for fold in np.unique(self._folds) if fold >= 0]
        self.combined: Callable[..., Combination] = lru_cache(maxsize=None)(self._combined)

    def _combined(self, method: str, *without: int) -> Combination:
        rows = ~np.isin(self._folds, without)
        return combine(self._probabilities[:, rows], self._labels[rows], method)

    def method(self, *without: int) -> str:
        """The method of the lowest log-loss on each of the other folds, fitted to the rest of them."""
        if len(self.methods) == 1 or len(self._parts) - len(without) < 2:
            return self.methods[0]
        rows = np.isin(self._folds, self._parts) & ~np.isin(self._folds, without)

        def loss(name: str) -> float:
            told = self.nested(lambda fold: self.combined(name, *sorted({*without, fold})), without)
            return log_loss(told[rows], self._labels[rows])

        return min(self.methods, key=loss)

    def nested(self, chosen: Callable[[int], Combination], without: Sequence[int] = ()) -> Floats:
        """(n, C): each fold's rows by what `chosen` gives for it; NaN for the folds `without`."""
        told = np.full(self._probabilities.shape[1:], np.nan)
        for fold in self._parts:
            if fold not in without:
                rows = self._folds == fold
                told[rows] = normalised(chosen(fold).apply(self._probabilities[:, rows]))
        return told

    def best_member(self, *without: int) -> int:
        """The member of the lowest log-loss on all rows but those of some folds; the first of equals."""
        rows = ~np.isin(self._folds, without)
        return int(np.argmin([log_loss(member[rows], self._labels[rows]) for member in self._probabilities]))

    def nested_single(self, singles: Mapping[int, int]) -> Floats:
        """(n, C): each fold's rows by one member."""
        told = np.empty(self._probabilities.shape[1:])
        for fold, member in singles.items():
            rows = self._folds == fold
            told[rows] = self._probabilities[member][rows]
        return told

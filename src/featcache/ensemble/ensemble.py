"""The ensemble: a combination of members, what it is honestly worth, and its file. NumPy only.

The combinations of the folds are kept beside that of all rows: that of fold k has seen nothing of fold k.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from featcache.core.json_records import write_json
from featcache.core.paths import read_bytes
from featcache.ensemble import combination
from featcache.ensemble.combination import Clip, Combination
from featcache.ensemble.decisions import Decision, plain_decision
from featcache.errors import CacheFormatError, CacheMismatchError
from featcache.training import Float64s, Interval, Predictions, RowNumbers, Scores, table_parts

_SCHEMA = 4


@dataclass(frozen=True)
class Baseline:
    """What the ensemble is compared with, because anybody would try it first.

    Attributes:
        name: as it is shown.
        member: the member that it is; "" for one prediction for all rows, the classes' shares.
        scores: out of fold.
        difference: what the ensemble's nested scores are above these, on the same draws of rows.
    """

    name: str
    member: str
    scores: Scores
    difference: Interval


@dataclass(frozen=True)
class Decided:
    """What another metric than log-loss adds to an ensemble; all scores are nested.

    Attributes:
        metric: its name.
        whole: the decision that is used, fitted to all rows.
        folds: fold -> the decision that was fitted without that fold's rows.
        score: of the ensemble.
        interval: of this score, 95 %.
        single: the score of the best single member.
        baselines: those of the ensemble's baselines.
        differences: what the ensemble's score is above each of these, 95 %.
    """

    metric: str
    whole: Decision
    folds: Mapping[int, Decision]
    score: float
    interval: tuple[float, float]
    single: float
    baselines: tuple[float, ...]
    differences: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Ensemble:
    """What `featcache.ensemble.selection.select_ensemble` chose.

    Attributes:
        candidates: every member that there was, in its order.
        class_names: the classes, in order.
        whole: the combination that is used, fitted to all rows; weight 0 for members that weren't chosen.
        folds: fold -> the combination that was fitted without that fold's rows.
        scores: nested: each fold's rows by `folds`.
        interval: of these.
        member_scores: out of fold, of every member.
        best_single: the member of the lowest out-of-fold log-loss.
        single_folds: fold -> the member that is best on the other folds.
        single_scores: nested: each fold's rows by that member.
        class_shares: C, the classes' shares among the training rows: for rows without predictions.
        baselines: what the ensemble is compared with.
        decided: by the metric; None where that is log-loss.
    """

    candidates: tuple[str, ...]
    class_names: tuple[str, ...]
    whole: Combination
    folds: Mapping[int, Combination]
    scores: Scores
    interval: Interval
    member_scores: Mapping[str, Scores]
    best_single: str
    single_folds: Mapping[int, str]
    single_scores: Scores
    class_shares: tuple[float, ...]
    baselines: tuple[Baseline, ...] = ()
    decided: Decided | None = None

    @property
    def decision(self) -> Decision:
        """How the ensemble's probabilities become classes."""
        return self.decided.whole if self.decided else plain_decision(len(self.class_names), several=self.several)

    @property
    def several(self) -> bool:
        """Whether a row may have several of the classes."""
        return bool(self.whole.clips)

    def fold_decision(self, fold: int) -> Decision:
        """How they become classes for rows of `fold`: what was fitted without them."""
        return self.decided.folds[fold] if self.decided else self.decision

    @property
    def members(self) -> tuple[str, ...]:
        """The chosen members' names; those of weight zero are not among them."""
        return tuple(name for name, weight in zip(self.candidates, self.whole.weights, strict=True) if weight)

    @property
    def weights(self) -> tuple[float, ...]:
        """The chosen members' weights; positive, sum 1."""
        return tuple(weight for weight in self.whole.weights if weight)

    def apply(self, predictions: Predictions, clip: Clip | None = None) -> Float64s:
        """Return (n, C) probabilities whose rows sum to 1, unless clipped or of several labels; NaN where a chosen member has none.

        The `predictions` may be by others, too; `clip` is another upper bound than the one found, 1 for none.

        Raises:
            CacheMismatchError: a chosen member or class is not there.
        """
        combined = np.empty((len(predictions.ids), len(self.class_names)))
        for rows, table in self.parts(predictions, clip):
            combined[rows] = table
        return combined

    def parts(self, predictions: Predictions, clip: Clip | None = None) -> Iterator[tuple[slice, Float64s]]:
        """Yield (rows, (r, C)): what `apply` returns, a part of the rows after the other; raises what it raises."""
        chosen = self._fitted(self.whole, predictions)
        for rows, table in table_parts(predictions.probabilities):
            yield rows, chosen.apply(table, clip)

    def shares(self, probabilities: Float64s) -> Float64s:
        """Return (n, C) with rows brought to sum 1, as who scores log-loss does; of several labels as they are."""
        return probabilities if self.several else combination.normalised(probabilities)

    def nested_parts(self, out_of_fold: Predictions) -> Iterator[tuple[RowNumbers, Float64s]]:
        """Yield (rows, (r, C)), fold by fold in parts: training rows by the combination fitted without their fold.

        Raises:
            CacheMismatchError: a chosen member or class is not there, or the rows' folds are unknown.
        """
        if out_of_fold.folds is None:
            raise CacheMismatchError("the out-of-fold predictions have no folds: run TrainHeads")
        for fold, chosen in self.folds.items():
            fitted, rows = self._fitted(chosen, out_of_fold), np.flatnonzero(out_of_fold.folds == fold)
            for place, table in table_parts(out_of_fold.probabilities, rows):
                yield rows[place], fitted.apply(table)

    def _fitted(self, chosen: Combination, predictions: Predictions) -> Combination:
        """The combination with a weight for each member of `predictions`, in their order."""
        weights = dict(zip(self.candidates, chosen.weights, strict=True))
        absent = [name for name, weight in weights.items() if weight and name not in predictions.members]
        if absent or predictions.class_names != self.class_names:
            what = f"member={absent[0]!r} is missing" if absent else "the classes differ"
            raise CacheMismatchError(f"{what}: these are not the predictions of the ensemble: run TrainHeads")
        return replace(chosen, weights=tuple(weights.get(name, 0.0) for name in predictions.members))

    def save(self, path: Path, record: Mapping[str, object]) -> None:
        """Replace `path` by JSON, atomically; `record` are the stage's facts beside it, its ``key`` above all."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        write_json(path, {"schema": _SCHEMA, **record, "ensemble": values})

    @classmethod
    def load(cls, path: Path) -> "Ensemble":
        """Read what `save` wrote.

        Raises:
            CacheFormatError: the file is absent, damaged or of another schema.
        """
        try:
            content = json.loads(read_bytes(path))
            if content["schema"] != _SCHEMA:
                raise ValueError(f"schema is not the expected {_SCHEMA}")
            loaded: Ensemble = _typed(cls, content["ensemble"])
            _check(loaded)
            return loaded
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise CacheFormatError(f"{path} is no sound ensemble: {reason}: run BuildEnsemble with --rerun") from error


def _typed(kind: Any, value: Any) -> Any:
    """What JSON has as `value`, made a `kind`: a dataclass, a tuple, a mapping, a text or a number.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is none.
    """
    of = get_args(kind)
    if isinstance(kind, UnionType):  # `X | None`, and None isn't written
        return _typed(of[0], value)
    if isinstance(kind, type) and is_dataclass(kind):
        kinds = get_type_hints(kind)
        return kind(**{name: _typed(kinds[name], each) for name, each in value.items()})
    if get_origin(kind) is tuple:
        kinds_of = of[:1] * len(value) if of[-1] is ... else of
        return tuple(_typed(one, each) for one, each in zip(kinds_of, value, strict=True))
    if get_origin(kind) is Mapping:
        return {of[0](name): _typed(of[1], each) for name, each in value.items()}
    if not isinstance(value, kind):
        raise ValueError(f"{value!r} is no {kind.__name__}"[:200])
    return value


def _check(loaded: Ensemble) -> None:
    """Refuse what `select_ensemble` can't have chosen.

    Raises:
        ValueError: numbers out of their range, or parts that don't fit together.
    """
    members, count = loaded.candidates, len(loaded.candidates)
    if not count or len(set(members)) != count or loaded.best_single not in members:
        raise ValueError(f"it has {count} members, {len(set(members))} of them different")
    if any(each.member not in ("", *members) for each in loaded.baselines):
        raise ValueError("it is compared with a member that isn't there")
    if set(loaded.member_scores) != set(members) or len(loaded.class_shares) != len(loaded.class_names):
        raise ValueError("its members and classes are not those of its scores")
    for chosen in (loaded.whole, *loaded.folds.values()):
        numbers = (*chosen.weights, chosen.floor, chosen.temperature, chosen.clip, *chosen.clips)
        if not all(0 <= number < float("inf") for number in numbers):
            raise ValueError(f"its weights, floor, temperature and clip are {numbers}"[:200])
        if len(chosen.weights) != count or not any(chosen.weights):
            raise ValueError(f"it has {count} members and the weights {chosen.weights}"[:200])
        clips = (chosen.clip, *chosen.clips)
        sound = chosen.temperature and all(0 < clip <= 1 for clip in clips)
        if chosen.method not in combination.COMBINATIONS or not sound:
            raise ValueError(
                f"its method is {chosen.method!r}, temperature and clip are {(chosen.temperature, *clips)}"[:200]
            )
        if len(chosen.clips) != len(loaded.class_names) * loaded.several:
            raise ValueError(f"it has {len(chosen.clips)} clips of {len(loaded.class_names)} labels")
    if loaded.decided is not None:
        _check_decisions(loaded.decided, loaded)


def _check_decisions(own: Decided, loaded: Ensemble) -> None:
    """Refuse decisions that fit neither classes, folds nor baselines, by `ValueError`."""
    classes = len(loaded.class_names)
    if set(own.folds) != set(loaded.folds) or not len(own.baselines) == len(own.differences) == len(loaded.baselines):
        raise ValueError("its decisions are not those of its folds and baselines")
    for each in (own.whole, *own.folds.values()):
        fit = len(each.shift) in (0, classes) and len(each.cuts) in (0, classes - 1)
        fit = fit and len(each.thresholds) == classes * loaded.several
        if (
            not fit
            or not np.isfinite((*each.shift, *each.cuts, *each.thresholds)).all()
            or list(each.cuts) != sorted(each.cuts)
        ):
            raise ValueError(f"its decision is {each}, of {classes} classes"[:200])

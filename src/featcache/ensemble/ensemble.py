"""The ensemble: a combination of members, what it is honestly worth, and its file. NumPy only.

The combinations of the folds are kept beside that of all rows: that of fold k has seen nothing of fold k.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from featcache.core.json_records import write_json
from featcache.core.paths import read_bytes
from featcache.ensemble import combination
from featcache.ensemble.combination import Combination
from featcache.errors import CacheFormatError, CacheMismatchError
from featcache.training import Float64s, Interval, Predictions, RowNumbers, Scores, table_parts

_SCHEMA = 3


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
        method_scores: nested, of each method that was tried.
        member_scores: out of fold, of every member.
        best_single: the member of the lowest out-of-fold log-loss.
        single_folds: fold -> the member that is best on the other folds.
        single_scores: nested: each fold's rows by that member.
        class_shares: C, the classes' shares among the training rows: for rows without predictions.
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
    class_shares: tuple[float, ...]

    @property
    def members(self) -> tuple[str, ...]:
        """The chosen members' names; those of weight zero are not among them."""
        return tuple(name for name, weight in zip(self.candidates, self.whole.weights, strict=True) if weight)

    @property
    def weights(self) -> tuple[float, ...]:
        """The chosen members' weights; positive, sum 1."""
        return tuple(weight for weight in self.whole.weights if weight)

    def apply(self, predictions: Predictions, clip: float | None = None) -> Float64s:
        """Return (n, C) probabilities whose rows sum to 1, unless clipped; NaN where a chosen member has none.

        Args:
            predictions: by any members, the chosen ones among them.
            clip: another upper bound than the one found; 1 for none.

        Raises:
            CacheMismatchError: a chosen member or class is not there.
        """
        combined = np.empty((len(predictions.ids), len(self.class_names)))
        for rows, table in self.parts(predictions, clip):
            combined[rows] = table
        return combined

    def apply_nested(self, out_of_fold: Predictions) -> Float64s:
        """Return (n, C): each training row by the combination that was fitted without its fold, NaN for rows of no fold.

        Raises:
            CacheMismatchError: a chosen member or class is not there, or a row's fold is unknown.
        """
        nested = np.full((len(out_of_fold.ids), len(self.class_names)), np.nan)
        for rows, table in self.nested_parts(out_of_fold):
            nested[rows] = table
        return nested

    def parts(self, predictions: Predictions, clip: float | None = None) -> Iterator[tuple[slice, Float64s]]:
        """Yield (rows, (r, C)): what `apply` returns, a part of the rows after the other.

        Raises:
            CacheMismatchError: a chosen member or class is not there.
        """
        chosen = self._fitted(self.whole, predictions)
        for rows, table in table_parts(predictions.probabilities):
            yield rows, chosen.apply(table, clip)

    def nested_parts(self, out_of_fold: Predictions) -> Iterator[tuple[RowNumbers, Float64s]]:
        """Yield (rows, (r, C)): what `apply_nested` returns, fold by fold in parts; rows of no fold are not among them.

        Raises:
            CacheMismatchError: a chosen member or class is not there, or a row's fold is unknown.
        """
        if out_of_fold.folds is None:
            raise CacheMismatchError("expected out-of-fold predictions with folds; got none: run TrainHeads")
        for fold, chosen in self.folds.items():
            fitted, rows = self._fitted(chosen, out_of_fold), np.flatnonzero(out_of_fold.folds == fold)
            for place, table in table_parts(out_of_fold.probabilities, rows):
                yield rows[place], fitted.apply(table)

    def _fitted(self, chosen: Combination, predictions: Predictions) -> Combination:
        """The combination with a weight for each member of `predictions`, in their order."""
        used = [name for name, weight in zip(self.candidates, chosen.weights, strict=True) if weight]
        absent = [name for name in used if name not in predictions.members]
        if absent or predictions.class_names != self.class_names:
            what = f"member={absent[0]!r} is missing" if absent else "the classes differ"
            raise CacheMismatchError(
                f"expected the predictions that the ensemble was built for; {what}: run TrainHeads"
            )
        weights = dict(zip(self.candidates, chosen.weights, strict=True))
        return replace(chosen, weights=tuple(weights.get(name, 0.0) for name in predictions.members))

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
            content = json.loads(read_bytes(path))
            if content["schema"] != _SCHEMA:
                raise ValueError(f"schema is not the expected {_SCHEMA}")
            loaded = _loaded(cls, content["ensemble"])
            _check(loaded)
            return loaded
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise CacheFormatError(f"{path}: expected an ensemble; {reason}: run BuildEnsemble with --rerun") from error


def _loaded(cls: type[Ensemble], stored: dict[str, Any]) -> Ensemble:
    for name in ("candidates", "class_names", "class_shares"):
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
        if chosen.method not in combination.COMBINATIONS or not chosen.temperature or not 0 < chosen.clip <= 1:
            raise ValueError(f"its method is {chosen.method!r}, temperature and clip are {numbers[-2:]}")
    values = [*loaded.class_shares, *vars(loaded.scores).values(), *vars(loaded.single_scores).values()]
    values += [value for score in loaded.member_scores.values() for value in vars(score).values()]
    values += [value for score in loaded.method_scores.values() for value in vars(score).values()]
    values += [value for span in vars(loaded.interval).values() for value in span]
    if len(loaded.class_shares) != len(loaded.class_names) or not all(isinstance(value, float) for value in values):
        raise ValueError(f"its scores are {values}"[:200])

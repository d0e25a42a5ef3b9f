"""Members combined with weights, a temperature and a clip, all found on out-of-fold predictions. NumPy only."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from featcache.errors import CacheFormatError, CacheMismatchError, TrainingError
from featcache.predictions import Predictions
from featcache.records import write_json
from featcache.scoring import (
    Floats,
    Scores,
    clipped,
    find_clip,
    find_temperature,
    greedy_weights,
    mean,
    normalised,
    parts,
    scores,
    temper,
)
from featcache.specs import METHODS, one_of

_SCHEMA = 1


@dataclass(frozen=True)
class Ensemble:
    """What `build_ensemble` chose.

    Attributes:
        members: the chosen members' names; those of weight zero are not among them.
        weights: theirs; positive, sum 1.
        temperature: the mean's logarithm is divided by it; above 1 makes it less sure.
        clip: upper bound mx of a probability (R5), 1 for none.
        class_names: the classes, in order.
        scores: out of fold, of the whole: weights, temperature and clip.
        member_scores: out of fold, of every member that there was, in its order.
        best_single: the member of the lowest log-loss.
    """

    members: tuple[str, ...]
    weights: tuple[float, ...]
    temperature: float
    clip: float
    class_names: tuple[str, ...]
    scores: Scores
    member_scores: Mapping[str, Scores]
    best_single: str

    def apply(self, predictions: Predictions, clip: float | None = None) -> Floats:
        """Return (n, C) probabilities whose rows sum to 1, unless clipped; NaN where a chosen member has none.

        Args:
            predictions: by any members, the chosen ones among them.
            clip: another upper bound than the one found; 1 for none.

        Raises:
            CacheMismatchError: a chosen member or class is not there.
        """
        absent = [member for member in self.members if member not in predictions.members]
        if absent or predictions.class_names != self.class_names:
            what = f"member={absent[0]!r} is missing" if absent else "the classes differ"
            raise CacheMismatchError(
                f"expected the predictions that the ensemble was built for; {what}: run TrainHeads"
            )
        chosen = [predictions.probabilities[predictions.members.index(member)] for member in self.members]
        highest = self.clip if clip is None else clip
        mixed = mean(chosen, self.weights)
        for part in parts(mixed):
            mixed[part] = clipped(temper(mixed[part], self.temperature), highest)
        return mixed

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
            stored = content["ensemble"]
            for name in ("members", "weights", "class_names"):
                stored[name] = tuple(stored[name])
            stored["scores"] = Scores(**stored["scores"])
            stored["member_scores"] = {name: Scores(**scores) for name, scores in stored["member_scores"].items()}
            loaded = cls(**stored)
            loaded._check()
            return loaded
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise CacheFormatError(f"{path}: expected an ensemble; {reason}: run BuildEnsemble with --rerun") from error

    def _check(self) -> None:
        """Refuse what `build_ensemble` can't have chosen.

        Raises:
            ValueError: numbers out of their range, names that are none, or parts that don't fit together.
        """
        names = (*self.members, *self.class_names, self.best_single)
        numbers = (*self.weights, self.temperature, self.clip)
        if not all(isinstance(name, str) for name in names) or self.best_single not in self.member_scores:
            raise ValueError(f"its names are {names}"[:200])
        if not all(isinstance(number, float) and 0 < number < float("inf") for number in numbers) or self.clip > 1:
            raise ValueError(f"its weights, temperature and clip are {numbers}"[:200])
        if len(self.weights) != len(self.members) or not self.members or len(set(self.members)) != len(self.members):
            raise ValueError(f"it has {len(self.members)} members and {len(self.weights)} weights")
        for score in (self.scores, *self.member_scores.values()):
            if not all(isinstance(value, float) for value in (score.accuracy, score.log_loss)):
                raise ValueError(f"a score is {score}"[:200])


def build_ensemble(out_of_fold: Predictions, method: str) -> Ensemble:
    """Weigh the members and find temperature and clip on their out-of-fold predictions.

    Args:
        out_of_fold: training rows; those without label or with NaN are left out.
        method: "greedy" or "mean".

    Raises:
        SettingsError: an unknown method.
        TrainingError: no member or no row to score.
    """
    one_of("[Ensemble] method", method, METHODS)
    known = out_of_fold.scored()
    if not known.members or not len(known.ids):
        counts = f"members={len(known.members)}, rows={len(known.ids)}"
        raise TrainingError(f"expected out-of-fold predictions to build an ensemble on; got {counts}: run TrainHeads")
    single = {name: scores(known.probabilities[m], known.labels) for m, name in enumerate(known.members)}
    m = len(known.members)
    weights = greedy_weights(known.probabilities, known.labels) if method == "greedy" else np.full(m, 1 / m)
    mixed = mean(known.probabilities, tuple(weights))
    temperature = find_temperature(mixed, known.labels)
    for part in parts(mixed):
        mixed[part] = temper(mixed[part], temperature)
    clip = find_clip(mixed, known.labels)
    for part in parts(mixed):
        mixed[part] = normalised(mixed, clip, part)
    return Ensemble(
        members=tuple(name for name, weight in zip(known.members, weights, strict=True) if weight > 0),
        weights=tuple(float(weight) for weight in weights if weight > 0),
        temperature=temperature,
        clip=clip,
        class_names=known.class_names,
        scores=scores(mixed, known.labels),
        member_scores=single,
        best_single=min(single, key=lambda name: single[name].log_loss),
    )

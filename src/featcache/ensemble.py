"""Members combined with weights, a temperature and a clip, all found on out-of-fold predictions. NumPy only."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.errors import CacheFormatError, CacheMismatchError, TrainingError
from featcache.predictions import Predictions
from featcache.records import write_json
from featcache.specs import METHODS, one_of

Floats = npt.NDArray[np.float64]

ROUNDS = 25
_PLACES = 6  # scores closer than this are a tie
_SCHEMA = 1
_EPSILON = float(np.finfo(np.float64).eps)
_TEMPERATURES = np.geomspace(0.25, 4.0, 161)


@dataclass(frozen=True)
class Scores:
    """How well probabilities tell known labels."""

    accuracy: float
    log_loss: float


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
        chosen = predictions.probabilities[[predictions.members.index(member) for member in self.members]]
        mixed = temper(mean(chosen, self.weights), self.temperature)
        return clipped(mixed, self.clip if clip is None else clip)

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


def accuracy(probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> float:
    """Share of rows whose largest probability is the label's; the first of equals counts as the largest.

    Args:
        probabilities: (n, C), n at least 1.
        labels: (n,) class indices.

    Raises:
        TrainingError: no rows, or NaN in a row.
    """
    _check(probabilities, labels)
    return float((probabilities.argmax(axis=1) == labels).mean())


def log_loss(probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> float:
    """Mean of -log of the label's probability, which is bounded by float64's epsilon from below.

    Rows are taken as they are: what a clip takes their sum to is not made good.

    Args:
        probabilities: (n, C), n at least 1.
        labels: (n,) class indices.

    Raises:
        TrainingError: no rows, or NaN in a row.
    """
    _check(probabilities, labels)
    told = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.clip(told, _EPSILON, 1)).mean())


def scores(probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> Scores:
    """Both scores of (n, C) `probabilities`."""
    return Scores(accuracy(probabilities, labels), log_loss(probabilities, labels))


def _check(probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> None:
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or not len(labels):
        shapes = f"probabilities{probabilities.shape}, labels{labels.shape}"
        raise TrainingError(f"expected (n, C) probabilities and (n,) labels of at least one row; got {shapes}")
    bad = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
    if len(bad):
        raise TrainingError(
            f"expected finite probabilities; got NaN or infinity in {len(bad)} rows, first row={bad[0]}"
        )
    if labels.min() < 0 or labels.max() >= probabilities.shape[1]:
        low, high, top = labels.min(), labels.max(), probabilities.shape[1] - 1
        raise TrainingError(f"expected labels in 0..{top}; got labels from {low} to {high}")


def mean(probabilities: npt.NDArray[np.floating], weights: Sequence[float] | None = None) -> Floats:
    """Return the (n, C) weighted mean of (m, n, C) probabilities; equal weights where none are given."""
    shares = np.ones(len(probabilities)) if weights is None else np.asarray(weights, np.float64)
    mixed: Floats = np.tensordot(shares / shares.sum(), probabilities.astype(np.float64), axes=1)
    return mixed


def temper(probabilities: npt.NDArray[np.floating], temperature: float) -> Floats:
    """Return softmax(log p / temperature), (n, C); 1 leaves p as it is but for rounding."""
    logits = np.log(np.maximum(probabilities.astype(np.float64), 1e-300)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    tempered: Floats = powers / powers.sum(axis=1, keepdims=True)
    return tempered


def clipped(probabilities: npt.NDArray[np.floating], highest: float) -> Floats:
    """Return R5's clip(p, (1-mx)/(C-1), mx), (n, C), `highest` = mx; 1 clips nothing.

    As in the recipe, rows are not brought back to sum 1: a row clipped to one mx and C-1 times (1-mx)/(C-1) has
    that sum already, and who scores log-loss (Kaggle) divides by the sum anyway.
    """
    classes = probabilities.shape[1]
    lowest = (1 - highest) / (classes - 1) if classes > 1 else 0.0
    # highest < 1/C would put the lower bound above the upper one
    return np.clip(probabilities.astype(np.float64), min(lowest, highest), highest)


def find_temperature(probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> float:
    """Return the temperature of the lowest log-loss, out of 161 from 1/4 to 4."""
    losses = [round(log_loss(temper(probabilities, t), labels), _PLACES) for t in _TEMPERATURES]
    best = min(losses)
    # of equals the one that changes least
    ties = [t for t, loss in zip(_TEMPERATURES, losses, strict=True) if loss == best]
    return float(min(ties, key=lambda t: abs(np.log(t))))


def find_clip(probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> float:
    """Return the upper bound mx of the lowest log-loss of normalised rows: 1 - mx from 0 to 1/2, 1 among equals.

    Scored on rows brought to sum 1, as who scores a submission does; else raising the lower bound would look free.
    """
    classes = probabilities.shape[1]
    distances = [0.0, *np.geomspace(1e-6, min(0.5, 0.98 * (1 - 1 / classes)), 120)]
    losses = []
    for distance in distances:
        bounded = clipped(probabilities, 1 - distance)
        losses.append(round(log_loss(bounded / bounded.sum(axis=1, keepdims=True), labels), _PLACES))
    return float(1 - distances[int(np.argmin(losses))])


def greedy_weights(
    probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer], rounds: int = ROUNDS
) -> Floats:
    """Choose members one by one, with replacement, each time the one that lowers the mean's log-loss most (Caruana).

    Of equal ones a member that is already in is preferred, then the one that is better alone, then the first; the
    choice is cut at its best round, the shortest among equals.

    Args:
        probabilities: (m, n, C) out of fold.
        labels: (n,) class indices.
        rounds: how many choices at most.

    Returns:
        (m,) weights, sum 1.
    """
    alone = [round(log_loss(member, labels), _PLACES) for member in probabilities]
    counts = np.zeros(len(probabilities), np.int64)
    total = np.zeros(probabilities.shape[1:], np.float64)
    trajectory: list[tuple[float, npt.NDArray[np.int64]]] = []
    for chosen in range(1, rounds + 1):
        losses = [round(log_loss((total + member) / chosen, labels), _PLACES) for member in probabilities]
        pick = min(range(len(losses)), key=lambda m: (losses[m], counts[m] == 0, alone[m], m))
        total += probabilities[pick]
        counts[pick] += 1
        trajectory.append((losses[pick], counts.copy()))
    _, best = min(trajectory, key=lambda step: step[0])  # min takes the first of equals: the shortest
    weights: Floats = best / best.sum()
    return weights


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
    if not known.members or not known.ids:
        counts = f"members={len(known.members)}, rows={len(known.ids)}"
        raise TrainingError(f"expected out-of-fold predictions to build an ensemble on; got {counts}: run TrainHeads")
    single = {name: scores(known.probabilities[m], known.labels) for m, name in enumerate(known.members)}
    m = len(known.members)
    weights = greedy_weights(known.probabilities, known.labels) if method == "greedy" else np.full(m, 1 / m)
    mixed = mean(known.probabilities, tuple(weights))
    temperature = find_temperature(mixed, known.labels)
    tempered = temper(mixed, temperature)
    clip = find_clip(tempered, known.labels)
    final = clipped(tempered, clip)
    return Ensemble(
        members=tuple(name for name, weight in zip(known.members, weights, strict=True) if weight > 0),
        weights=tuple(float(weight) for weight in weights if weight > 0),
        temperature=temperature,
        clip=clip,
        class_names=known.class_names,
        scores=scores(final / final.sum(axis=1, keepdims=True), known.labels),
        member_scores=single,
        best_single=min(single, key=lambda name: single[name].log_loss),
    )

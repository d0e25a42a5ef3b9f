"""Scores of probabilities against known labels, and the weights, temperature and clip that better them. NumPy only.

Everything goes over the rows in parts: beside what it is given and returns it holds a few numbers a row.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.errors import TrainingError

Floats = npt.NDArray[np.float64]

ROUNDS = 25
PART = 1 << 13  # rows that are worked on together; results don't depend on it
_PLACES = 6  # scores closer than this are a tie
_EPSILON = float(np.finfo(np.float64).eps)
_TEMPERATURES = np.geomspace(0.25, 4.0, 161)


@dataclass(frozen=True)
class Scores:
    """How well probabilities tell known labels."""

    accuracy: float
    log_loss: float


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
    return _loss(lambda part: probabilities[part], labels)


def parts(rows: npt.NDArray[Any]) -> Iterator[slice]:
    """All rows in parts, so that what is computed of them on the way costs no memory a row."""
    return (slice(start, start + PART) for start in range(0, len(rows), PART))


def _loss(said: Callable[[slice], npt.NDArray[np.floating]], labels: npt.NDArray[np.integer]) -> float:
    """The log-loss of probabilities that `said` computes part by part."""
    told = np.empty(len(labels), np.float64)
    for part in parts(labels):
        mine = labels[part]
        told[part] = said(part)[np.arange(len(mine)), mine]
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


def mean(
    probabilities: Sequence[npt.NDArray[np.floating]] | npt.NDArray[np.floating],
    weights: Sequence[float] | None = None,
) -> Floats:
    """Return the (n, C) weighted mean of m (n, C) probabilities; equal weights where none are given."""
    shares = np.ones(len(probabilities)) if weights is None else np.asarray(weights, np.float64)
    mixed: Floats = np.zeros(probabilities[0].shape, np.float64)
    for share, member in zip(shares / shares.sum(), probabilities, strict=True):
        for part in parts(mixed):
            mixed[part] += np.multiply(member[part], share, dtype=np.float64)
    return mixed


def temper(probabilities: npt.NDArray[np.floating], temperature: float) -> Floats:
    """Return softmax(log p / temperature), (n, C); 1 leaves p as it is but for rounding."""
    tempered = np.empty(probabilities.shape, np.float64)
    for part in parts(probabilities):
        logits = np.log(np.maximum(probabilities[part].astype(np.float64), 1e-300)) / temperature
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        tempered[part] = powers / powers.sum(axis=1, keepdims=True)
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
    _check(probabilities, labels)
    losses = [round(_loss(partial(_tempered, probabilities, t), labels), _PLACES) for t in _TEMPERATURES]
    best = min(losses)
    # of equals the one that changes least
    ties = [t for t, loss in zip(_TEMPERATURES, losses, strict=True) if loss == best]
    return float(min(ties, key=lambda t: abs(np.log(t))))


def find_clip(probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> float:
    """Return the upper bound mx of the lowest log-loss of normalised rows: 1 - mx from 0 to 1/2, 1 among equals.

    Scored on rows brought to sum 1, as who scores a submission does; else raising the lower bound would look free.
    """
    _check(probabilities, labels)
    classes = probabilities.shape[1]
    distances = [0.0, *np.geomspace(1e-6, min(0.5, 0.98 * (1 - 1 / classes)), 120)]
    losses = []
    for distance in distances:
        scored = partial(normalised, probabilities, 1 - distance)
        losses.append(round(_loss(scored, labels), _PLACES))
    return float(1 - distances[int(np.argmin(losses))])


def _tempered(probabilities: npt.NDArray[np.floating], temperature: float, part: slice) -> Floats:
    return temper(probabilities[part], temperature)


def normalised(probabilities: npt.NDArray[np.floating], highest: float, part: slice) -> Floats:
    """Return the rows of one part, clipped to `highest` and brought to sum 1 as who scores a submission does."""
    bounded = clipped(probabilities[part], highest)
    normalised: Floats = bounded / bounded.sum(axis=1, keepdims=True)
    return normalised


def _joined(total: Floats, member: npt.NDArray[np.floating], count: int, part: slice) -> Floats:
    joined: Floats = (total[part] + member[part]) / count
    return joined


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
        losses = [round(_loss(partial(_joined, total, member, chosen), labels), _PLACES) for member in probabilities]
        pick = min(range(len(losses)), key=lambda m: (losses[m], counts[m] == 0, alone[m], m))
        total += probabilities[pick]
        counts[pick] += 1
        trajectory.append((losses[pick], counts.copy()))
    _, best = min(trajectory, key=lambda step: step[0])  # min takes the first of equals: the shortest
    weights: Floats = best / best.sum()
    return weights

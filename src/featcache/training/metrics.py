"""How well probabilities predict known labels, and how far chance alone would move that. NumPy only."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.rows import is_several, known_labels
from featcache.errors import TrainingError
from featcache.training.several_labels import cell_losses, right_rows

Float64s = npt.NDArray[np.float64]

DRAWS = 1000
UNITS = 100_000
"""More rows than this are drawn in so many bunches: the interval is the same but for its own noise, 0.2 % of its width."""
_CHUNK_VALUES = 4_000_000
_EPSILON = float(np.finfo(np.float64).eps)
_ALL = slice(None)


@dataclass(frozen=True)
class Scores:
    """How well probabilities predict known labels."""

    accuracy: float
    log_loss: float


@dataclass(frozen=True)
class Interval:
    """The middle 95 % of each score when rows are resampled: (low, high)."""

    accuracy: tuple[float, float]
    log_loss: tuple[float, float]


@dataclass(frozen=True, eq=False)
class RowScores:
    """How each of n rows is predicted.

    Attributes:
        losses: (n,) float64, -log of the label's probability, of several labels a row their mean binary cross-entropy; NaN
            for a row that isn't judged.
        right: (n,) bool, whether the label is the most probable class, of equals the first; of several labels whether
            all are on their side of 0.5.
    """

    losses: Float64s
    right: npt.NDArray[np.bool_] | npt.NDArray[np.int8]

    def minus(self, other: "RowScores") -> "RowScores":
        """Return what these are above `other`, row by row, for `bootstrap`; ``right`` is -1, 0 or 1."""
        return RowScores(self.losses - other.losses, np.subtract(self.right, other.right, dtype=np.int8))

    def scores(self, rows: npt.NDArray[np.bool_] | slice = _ALL) -> Scores:
        """The mean of both over all rows, or some.

        Raises:
            TrainingError: no rows, or one that wasn't judged.
        """
        losses, right = self.losses[rows], self.right[rows]
        absent = int(np.isnan(losses).sum())
        if not len(losses) or absent:
            raise TrainingError(
                f"rows={len(losses)}, of them without a prediction={absent}, can't be scored: train the members again"
            )
        return Scores(float(right.mean()), float(losses.mean()))


def log_loss(probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> float:
    """Mean of -log of the label's probability, which is bounded by float64's epsilon from below.

    Rows are taken as they are: what a clip takes their sum to is not made good. Of several labels a row it is the mean
    over labels of scikit-learn's binary log-loss.

    Args:
        probabilities: (n, C), n at least 1.
        labels: (n,) class indices, or (n, C) of 0 and 1.

    Raises:
        TrainingError: no rows, or NaN in a row.

    Example:
        >>> round(log_loss(np.array([[0.5, 0.5], [0.1, 0.9]]), np.array([0, 1])), 3)
        0.399
    """
    _check(probabilities, labels)
    return float(_losses(probabilities, labels).mean())


def judge(probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> RowScores:
    """`judge_parts` of (n, C) probabilities in one."""
    return judge_parts([(_ALL, probabilities)], labels)


def judge_parts(
    parts: Iterable[tuple[slice | npt.NDArray[np.integer], npt.NDArray[np.floating]]], labels: npt.NDArray[np.integer]
) -> RowScores:
    """Score n rows with these `labels` in parts, (rows, (r, C) probabilities) each; rows in no part stay unscored.

    Raises:
        TrainingError: NaN in a row, or a label that is no class.
    """
    judged = RowScores(np.full(len(labels), np.nan), np.zeros(len(labels), bool))
    for rows, probabilities in parts:
        own = labels[rows]
        if len(own):
            _check(probabilities, own)
            judged.losses[rows] = _losses(probabilities, own)
            judged.right[rows] = right_rows(probabilities, own)
    return judged


def _losses(probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> Float64s:
    if is_several(labels):
        return np.asarray(cell_losses(probabilities, labels).mean(axis=1))
    return row_losses(probabilities[np.arange(len(labels)), labels])


def row_losses(shares: npt.NDArray[np.floating]) -> Float64s:
    """Return -log of the labels' probabilities `shares`, in their shape."""
    losses: Float64s = -np.log(np.clip(shares.astype(np.float64), _EPSILON, 1))
    return losses


def bootstrap(several: Iterable[RowScores], groups: Sequence[str] = (), seed: int = 0) -> list[Interval]:
    """Return the intervals of the scores of each of `several` when rows are resampled with replacement.

    All are scored on the same draws, so that two of them can be compared; one `RowScores.minus` another gives the
    interval of their difference. One after the other is taken, and of each are kept sums.

    Args:
        several: scores of the same n rows, none of them missing, or differences of such.
        groups: n texts; rows of one non-empty group are drawn together. Empty: every row alone.
        seed: decides the draws.

    Raises:
        TrainingError: there is nothing to draw.

    Example:
        >>> probabilities, labels = np.array([[0.8, 0.2]] * 10), np.array([0] * 9 + [1])
        >>> interval = bootstrap([judge(probabilities, labels)])[0]
        >>> interval.accuracy[0] < 0.9 <= interval.accuracy[1]
        True
    """
    units: npt.NDArray[np.intp] | None = None
    sums: list[npt.NDArray[Any]] = []
    for judged in several:
        if units is None:
            units = _units(groups, len(judged.losses), seed)
        sums += [np.bincount(units, values) for values in (judged.losses, judged.right)]
    if units is None or not len(units):
        raise TrainingError("no rows to resample")
    low, high = np.quantile(_drawn(np.stack(sums), np.bincount(units), seed), (0.025, 0.975), axis=1)
    spans = [(float(a), float(b)) for a, b in zip(low, high, strict=True)]
    return [Interval(right, loss) for loss, right in zip(spans[::2], spans[1::2], strict=True)]


def _drawn(sums: npt.NDArray[Any], counts: npt.NDArray[np.integer], seed: int) -> Float64s:
    """(k, `DRAWS`) means of k scores, of which (k, u) are the sums over the rows of each of u units of `counts` rows."""
    count, generator, means = len(counts), np.random.default_rng(seed), []
    summed = np.concatenate([sums, counts[None].astype(np.float64)])
    chunk = max(1, _CHUNK_VALUES // count)
    for start in range(0, DRAWS, chunk):
        draws = (generator.integers(0, count, count) for _ in range(min(chunk, DRAWS - start)))
        drawn = summed @ np.array([np.bincount(draw, minlength=count) for draw in draws], np.float64).T
        means.append(drawn[:-1] / drawn[-1])
    return np.concatenate(means, axis=1)


def _units(groups: Sequence[str], rows: int, seed: int) -> npt.NDArray[np.intp]:
    """(n,) what each row is drawn with: its group's number, or one of its own."""
    if any(groups):
        names = [group or f"\0{row}" for row, group in enumerate(groups)]
        return np.unique(names, return_inverse=True)[1]
    if rows > UNITS:
        bunched: npt.NDArray[np.intp] = np.random.default_rng(seed).permutation(rows) % UNITS
        return bunched
    return np.arange(rows)


def row_draws(groups: Sequence[str], rows: int, draws: int = DRAWS, seed: int = 0) -> Iterator[Float64s]:
    """Yield (n,) how often each row is in a draw with replacement, the draws of `bootstrap`."""
    units, generator = _units(groups, rows, seed), np.random.default_rng(seed)
    count = int(units.max()) + 1
    for _ in range(draws):
        yield np.bincount(generator.integers(0, count, count), minlength=count)[units].astype(np.float64)


def _check(probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> None:
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[: labels.ndim] or not len(labels):
        shapes = f"probabilities{probabilities.shape} and labels{labels.shape}"
        raise TrainingError(f"{shapes} are not (n, C) and (n,) or (n, C) of at least one row")
    bad = int((~np.isfinite(probabilities).all(axis=1)).sum())
    if bad:
        raise TrainingError(f"probabilities are NaN or infinite in {bad} rows")
    if is_several(labels):
        if not known_labels(labels).all() or labels.max() > 1:
            raise TrainingError(f"labels from {labels.min()} to {labels.max()} are not 0 and 1")
    elif labels.min() < 0 or labels.max() >= probabilities.shape[1]:
        raise TrainingError(f"labels from {labels.min()} to {labels.max()} are outside 0..{probabilities.shape[1] - 1}")

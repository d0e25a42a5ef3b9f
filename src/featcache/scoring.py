"""How well probabilities tell known labels, and how far chance alone would move that. NumPy only."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featcache.errors import TrainingError

Floats = npt.NDArray[np.float64]

DRAWS = 1000
_CHUNK_VALUES = 4_000_000
_EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Scores:
    """How well probabilities tell known labels."""

    accuracy: float
    log_loss: float


@dataclass(frozen=True)
class Interval:
    """The middle 95 % of each score when rows are drawn anew: (low, high)."""

    accuracy: tuple[float, float]
    log_loss: tuple[float, float]


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
    return float(row_losses(probabilities[np.arange(len(labels)), labels]).mean())


def scores(probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> Scores:
    """Both scores of (n, C) `probabilities`."""
    return Scores(accuracy(probabilities, labels), log_loss(probabilities, labels))


def row_losses(told: npt.NDArray[np.floating]) -> Floats:
    """Return -log of the labels' probabilities `told`, in its shape."""
    losses: Floats = -np.log(np.clip(told.astype(np.float64), _EPSILON, 1))
    return losses


def bootstrap(
    several: Sequence[npt.NDArray[np.floating]],
    labels: npt.NDArray[np.integer],
    groups: Sequence[str] = (),
    seed: int = 0,
) -> list[Interval]:
    """Return how far the scores of each of `several` move when rows are drawn anew, with replacement.

    All are scored on the same draws, so that two of them can be compared.

    Args:
        several: (n, C) probabilities each.
        labels: (n,) class indices.
        groups: n texts; rows of one non-empty group are drawn together. Empty: every row alone.
        seed: decides the draws.

    Raises:
        TrainingError: no rows, or NaN in a row.
    """
    for probabilities in several:
        _check(probabilities, labels)
    rows = np.arange(len(labels))
    values = [row_losses(each[rows, labels]) for each in several]
    values += [(each.argmax(axis=1) == labels).astype(np.float64) for each in several]
    units = _units(groups, len(labels))
    count = int(units.max()) + 1
    sums = np.stack([np.bincount(units, each, count) for each in (*values, np.ones(len(labels)))])
    generator, means = np.random.default_rng(seed), []
    chunk = max(1, _CHUNK_VALUES // count)
    for start in range(0, DRAWS, chunk):
        draws = [
            np.bincount(generator.integers(0, count, count), minlength=count)
            for _ in range(start, min(start + chunk, DRAWS))
        ]
        drawn = sums @ np.array(draws, np.float64).T
        means.append(drawn[:-1] / drawn[-1])
    low, high = np.quantile(np.concatenate(means, axis=1), (0.025, 0.975), axis=1)
    spans = [(float(a), float(b)) for a, b in zip(low, high, strict=True)]
    return [Interval(right, loss) for loss, right in zip(spans[: len(several)], spans[len(several) :], strict=True)]


def _units(groups: Sequence[str], rows: int) -> npt.NDArray[np.intp]:
    """(n,) what each row is drawn with: its group's number, or one of its own."""
    if not any(groups):
        return np.arange(rows)
    names = [group or f"\0{row}" for row, group in enumerate(groups)]
    return np.unique(names, return_inverse=True)[1]


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

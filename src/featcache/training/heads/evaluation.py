"""Scoring heads on rows that they haven't seen, after each epoch and at the end, and choosing the epoch to keep.

NumPy only. The epoch kept for a part is chosen by the scores that other parts' heads have on rows which the part is
never scored on: chosen by its own, its out-of-fold score would flatter.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.core.scratch_arrays import allocate
from featcache.training.heads.bag import Float32s, HeadId, Weights, as_float32, forward, normalize
from featcache.training.heads.batches import Examples
from featcache.training.member_tables import row_parts

SEEN_ROWS = 128  # of a head's training rows that it is scored on after each epoch
_BLOCK_VALUES = 4_000_000  # about 16 MB of float32 at a time, for each thread
_LEAST = 1e-7  # what a probability is raised to before its logarithm


@dataclass(frozen=True, eq=False)
class EpochScores:
    """One head after one epoch.

    Attributes:
        seen: loss and accuracy on some of its training rows.
        fold: the same on the rows it is judged on.
        losses: (U,) float64, the sum of the latter's losses by the rows' unit.
        said: (r, C) float32, the probabilities of those rows; None where the judge need not remember them.
    """

    seen: tuple[float, float]
    fold: tuple[float, float]
    losses: npt.NDArray[np.float64]
    said: Float32s | None


class HeadEvaluator:
    """Scores the heads of one bag."""

    def __init__(self, examples: Examples, layers: int, remember: bool) -> None:
        """Settle which rows each part is judged on.

        Args:
            examples: the training rows.
            layers: the number of hidden layers.
            remember: keep what is said after an epoch, for heads that don't change after their last.
        """
        self._examples, self._layers, self._remember = examples, layers, remember
        parts = examples.parts
        self._judged = {part: np.flatnonzero(parts.judged(part)) for part in parts.numbers}
        self._seen = {part: _some(np.flatnonzero(parts.trained(part))) for part in parts.numbers}

    def scores(self, weights: Weights, head: HeadId) -> EpochScores:
        """Score one head, whose `weights` have no head axis."""
        seen_losses, seen_right = self._losses(weights, self._seen[head.fold], None)
        judged, classes = self._judged[head.fold], weights[f"bias_{self._layers}"].size
        said = np.empty((len(judged), classes), np.float32) if self._remember else None
        losses, right = self._losses(weights, judged, said)
        units = self._examples.parts.unit_of_rows(judged)
        by_unit = np.bincount(units, losses, len(self._examples.parts.numbers)).astype(np.float64)
        scores = (seen_losses.mean(), seen_right.mean()), (losses.mean(), right.mean())
        return EpochScores(*scores, by_unit, said)

    def _losses(
        self, weights: Weights, rows: npt.NDArray[np.intp], kept: Float32s | None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Of each row, its cross-entropy and whether it is told right; what is said of it goes into `kept`."""
        losses, right = np.empty(len(rows), np.float32), np.empty(len(rows), bool)
        for place, said in self._said(weights, rows):
            labels = self._examples.labels[rows[place]]
            losses[place] = -np.log(np.maximum(said[np.arange(len(said)), labels], _LEAST))
            right[place] = said.argmax(axis=1) == labels
            if kept is not None:
                kept[place] = said
        return losses, right

    def _said(self, weights: Weights, rows: npt.NDArray[np.intp]) -> Iterator[tuple[slice, Float32s]]:
        """Yield (place in `rows`, (r, C)): what the head says of `rows` of the plain copy."""
        features = self._examples.copies[0]
        stacked = {name: array[None] for name, array in weights.items()}
        step = max(1, _BLOCK_VALUES // (features[0].size + max(array.shape[-1] for array in weights.values())))
        for start in range(0, len(rows), step):
            block = features[rows[start : start + step]]
            said = forward(stacked, as_float32(block.reshape(len(block), -1)), self._layers)[0]
            yield slice(start, start + len(said)), said

    def out_of_fold(
        self,
        weights: Weights,
        heads: Sequence[HeadId],
        knows: npt.NDArray[np.bool_],
        said: Sequence[Float32s | None],
        scratch: Path | None,
    ) -> Float32s:
        """Return (seeds, n, C) float32: each row by the heads that are scored on it; NaN for rows that none is.

        Args:
            weights: the stacked weights.
            heads: H ids.
            knows: (H, C) bool; a class' probability is the mean over the heads that have seen it.
            said: what each head said of the rows that it was judged on, where that is remembered.
            scratch: the folder in which a large table stands, as a file without a name.

        Raises:
            StorageError: there is no room for it.
        """
        order, parts = list(dict.fromkeys(head.seed for head in heads)), self._examples.parts
        joined: Float32s = allocate((len(order), len(parts.units), knows.shape[1]), np.float32, scratch)
        joined[:, parts.units < 0] = np.nan
        for number, head in enumerate(heads):
            rows, mine = np.flatnonzero(parts.scored(head.fold)), said[number]
            told: Iterable[tuple[slice, Float32s]] = [(slice(None), mine)] if mine is not None else []
            if mine is None or len(mine) != len(rows):
                told = self._said({name: array[number] for name, array in weights.items()}, rows)
            for place, some in told:
                joined[order.index(head.seed), rows[place]] += some if knows[number].all() else some * knows[number]
        if parts.by_group or not knows.all():
            self._share(joined, knows[: len(parts.numbers)])
        return joined

    def _share(self, joined: Float32s, knows: npt.NDArray[np.bool_]) -> None:
        """Make means of sums, in place, each class' over the parts that have seen it; (P, C) `knows` tells which have."""
        parts, counts = self._examples.parts, knows.astype(np.float32)
        for rows in row_parts(joined.shape[1], joined.shape[0] * joined.shape[2]):
            own = counts[parts.unit_of_rows(np.arange(rows.start, rows.stop))]
            said = counts.sum(axis=0) - own if parts.by_group else own
            joined[:, rows] = normalize(joined[:, rows] / np.maximum(said, 1))

    def knows(self, heads: Sequence[HeadId], classes: int) -> npt.NDArray[np.bool_]:
        """(H, C) bool: whether each head was trained on any row of the class."""
        labels, parts = self._examples.labels, self._examples.parts
        seen = {part: np.bincount(labels[parts.trained(part)], minlength=classes) > 0 for part in parts.numbers}
        for place, part in enumerate(parts.numbers if self._examples.pseudo else ()):
            seen[part] = seen[part] | self._examples.pseudo.labels[place].any(axis=0)  # type: ignore[union-attr]  # not None
        return np.stack([seen[head.fold] for head in heads])

    def best(self, table: npt.NDArray[np.float64]) -> dict[int, int]:
        """Part -> the epoch to keep.

        Args:
            table: (epochs, U) float64, the losses of all heads of the bag by unit of the rows they were judged on.
        """
        parts = self._examples.parts
        units = {part: ~np.isin(parts.numbers, np.unique(parts.units[parts.scored(part)])) for part in parts.numbers}
        return {part: int(table[:, mine].sum(axis=1).argmin()) for part, mine in units.items()}


def _some(rows: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """At most `SEEN_ROWS`, evenly from the first to the last, as classes stand one after the other."""
    if len(rows) <= SEEN_ROWS:
        return rows
    return rows[np.linspace(0, len(rows) - 1, SEEN_ROWS).astype(np.intp)]

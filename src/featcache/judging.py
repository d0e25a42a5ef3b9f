"""Scoring heads on rows that they haven't seen, after each epoch and at the end, and choosing the epoch to keep.

NumPy only. The epoch kept for a part is chosen by the scores that other parts' heads have on rows which the part is
never scored on: chosen by its own, its out-of-fold score would flatter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featcache.bags import Floats, HeadId, Weights, as_float32, forward, normalize
from featcache.batches import Examples

SEEN_ROWS = 128  # of a head's training rows that it is scored on after each epoch
_BLOCK_VALUES = 4_000_000  # about 16 MB of float32 at a time, for each thread
_LEAST = 1e-7  # what a probability is raised to before its logarithm


@dataclass(frozen=True, eq=False)
class Scores:
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
    said: Floats | None


class Judge:
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

    def scores(self, weights: Weights, head: HeadId) -> Scores:
        """Score one head, whose `weights` have no head axis."""
        seen = self._seen[head.fold]
        seen_losses, seen_right = self._losses(seen, self._predicted(weights, seen))
        judged = self._judged[head.fold]
        said = self._predicted(weights, judged)
        losses, right = self._losses(judged, said)
        units = self._examples.parts.unit_of_rows(judged)
        by_unit = np.bincount(units, losses, len(self._examples.parts.numbers)).astype(np.float64)
        scores = (seen_losses.mean(), seen_right.mean()), (losses.mean(), right.mean())
        return Scores(*scores, by_unit, said if self._remember else None)

    def _losses(
        self, rows: npt.NDArray[np.intp], said: Floats
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Of each row, its cross-entropy and whether it is told right."""
        labels = self._examples.labels[rows]
        losses = -np.log(np.maximum(said[np.arange(len(said)), labels], _LEAST))
        return losses, said.argmax(axis=1) == labels

    def _predicted(self, weights: Weights, rows: npt.NDArray[np.intp]) -> Floats:
        """(r, C): what the head says of `rows` of the plain copy."""
        features = self._examples.copies[0]
        stacked = {name: array[None] for name, array in weights.items()}
        said = np.empty((len(rows), weights[f"bias_{self._layers}"].size), np.float32)
        step = max(1, _BLOCK_VALUES // (features[0].size + max(array.shape[-1] for array in weights.values())))
        for start in range(0, len(rows), step):
            block = features[rows[start : start + step]]
            said[start : start + step] = forward(stacked, as_float32(block.reshape(len(block), -1)), self._layers)[0]
        return said

    def out_of_fold(
        self,
        weights: Weights,
        heads: Sequence[HeadId],
        knows: npt.NDArray[np.bool_],
        said: Sequence[Floats | None],
    ) -> Floats:
        """Return (seeds, n, C) float32: each row by the heads that are scored on it; NaN for rows that none is.

        Args:
            weights: the stacked weights.
            heads: H ids.
            knows: (H, C) bool; a class' probability is the mean over the heads that have seen it.
            said: what each head said of the rows that it was judged on, where that is remembered.
        """
        order, parts = list(dict.fromkeys(head.seed for head in heads)), self._examples.parts
        joined = np.full((len(order), len(parts.units), knows.shape[1]), np.nan, np.float32)
        joined[:, parts.units >= 0] = 0
        for number, head in enumerate(heads):
            rows, mine = np.flatnonzero(parts.scored(head.fold)), said[number]
            if mine is None or len(mine) != len(rows):
                mine = self._predicted({name: array[number] for name, array in weights.items()}, rows)
            joined[order.index(head.seed), rows] += mine if knows[number].all() else mine * knows[number]
        if parts.by_group or not knows.all():
            counts = np.zeros(joined.shape[1:], np.float32)
            for number, part in enumerate(parts.numbers):
                counts[parts.scored(part)] += knows[number]
            joined = normalize(joined / np.maximum(counts, 1))
        return joined

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

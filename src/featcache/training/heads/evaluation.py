"""Scoring heads on rows that they haven't seen, after each epoch and at the end, and choosing the best epoch.

NumPy only. The epoch of a part is chosen by the scores that other parts' heads have on rows which the part is never
scored on: chosen by its own, its out-of-fold score would be biased.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.core.float16 import as_float32
from featcache.core.scratch_arrays import allocate
from featcache.training.heads.bag import HeadId
from featcache.training.heads.examples import Examples
from featcache.training.heads.forward import Float32s, Weights, forward, normalize
from featcache.training.member_tables import row_parts
from featcache.training.several_labels import cell_losses, cells, right_rows
from featcache.training.temperature import best_temperature

SEEN_ROWS = 128  # of a head's training rows that it is scored on after each epoch
_TEMPERED_ROWS = 20_000  # more of them say nothing new about one number
_BLOCK_VALUES = 4_000_000  # about 16 MB of float32 at a time, for each thread
_LEAST = 1e-7  # what a probability is raised to before its logarithm


class HeadEvaluator:
    """Scores the heads of one bag."""

    def __init__(self, examples: Examples, layers: int) -> None:
        """Choose the rows that heads of `layers` hidden layers are evaluated on."""
        self._examples, self._layers = examples, layers
        parts = examples.parts
        self._evaluated = {part: np.flatnonzero(parts.evaluated(part)) for part in parts.numbers}
        self._seen = {part: _some(np.flatnonzero(parts.trained(part)), SEEN_ROWS) for part in parts.numbers}

    def scores(self, weights: Weights, head: HeadId) -> tuple[list[float], npt.NDArray[np.float64]]:
        """Score one head after an epoch; its `weights` have no head axis.

        Returns:
            Loss and accuracy on some of its training rows, the same on the rows that it is evaluated on, and (U,)
            float64, the sum of the latter's losses by the rows' unit.
        """
        evaluated = self._evaluated[head.fold]
        (seen, seen_right), (losses, right) = (
            self._losses(weights, rows) for rows in (self._seen[head.fold], evaluated)
        )
        units = self._examples.parts.unit_of_rows(evaluated)
        by_unit = np.bincount(units, losses, len(self._examples.parts.numbers)).astype(np.float64)
        return [seen.mean(), seen_right.mean(), losses.mean(), right.mean()], by_unit

    def _losses(
        self, weights: Weights, rows: npt.NDArray[np.intp]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """The cross-entropy of each row, of several labels their mean, and whether it is classified correctly."""
        losses, right = np.empty(len(rows), np.float32), np.empty(len(rows), bool)
        for place, probabilities in self._predictions(weights, rows):
            labels = self._examples.labels[rows[place]]
            if self._examples.several:
                losses[place] = cell_losses(probabilities, labels, _LEAST).mean(axis=1)
            else:
                losses[place] = -np.log(np.maximum(probabilities[np.arange(len(labels)), labels], _LEAST))
            right[place] = right_rows(probabilities, labels)
        return losses, right

    def _predictions(
        self, weights: Weights, rows: npt.NDArray[np.intp], copy: int = 0
    ) -> Iterator[tuple[slice, Float32s]]:
        """Yield (place in `rows`, (r, C)): the head's probabilities of `rows` of one copy, the plain one by default."""
        features = self._examples.copies[copy]
        stacked = {name: array[None] for name, array in weights.items()}
        step = max(1, _BLOCK_VALUES // (features[0].size + max(array.shape[-1] for array in weights.values())))
        for start in range(0, len(rows), step):
            block = features[rows[start : start + step]]
            values = as_float32(block.reshape(len(block), -1))
            probabilities = forward(stacked, values, self._layers, several=self._examples.several)
            yield slice(start, start + len(block)), probabilities[0]

    def out_of_fold(
        self, weights: Weights, heads: Sequence[HeadId], seen_classes: npt.NDArray[np.bool_], scratch: Path | None
    ) -> Float32s:
        """Return (seeds, n, C) float32: each row, in all its views, by the heads scored on it; NaN for rows that none is.

        By `seen_classes`, (H, C) bool, a class' probability is the mean over the heads that have seen it. A large table
        is in a file without a name in `scratch`.

        Raises:
            StorageError: there is no room for it.
        """
        seeds, parts = list(dict.fromkeys(head.seed for head in heads)), self._examples.parts
        views = self._examples.views
        table: Float32s = allocate((len(seeds), len(parts.units), seen_classes.shape[1]), np.float32, scratch)
        table[:, parts.units < 0] = np.nan
        for number, head in enumerate(heads):
            rows, seen = np.flatnonzero(parts.scored(head.fold)), seen_classes[number]
            own = {name: array[number] for name, array in weights.items()}
            for copy in range(views):
                for place, probabilities in self._predictions(own, rows, copy):
                    counted = probabilities if seen.all() else probabilities * seen
                    table[seeds.index(head.seed), rows[place]] += counted / np.float32(views)
        if parts.by_group or not seen_classes.all():
            counts = seen_classes[: len(parts.numbers)].astype(np.float32)  # (P, C)
            for some in row_parts(table.shape[1], table.shape[0] * table.shape[2]):
                mine = counts[parts.unit_of_rows(some)]
                summed = counts.sum(axis=0) - mine if parts.by_group else mine
                mean = table[:, some] / np.maximum(summed, 1)
                table[:, some] = mean if self._examples.several else normalize(mean)
        return table

    def temper(self, weights: Weights, heads: Sequence[HeadId], table: Float32s) -> None:
        """Divide each head's last layer by its temperature, in place: the best for the rows of other parts in `table`.

        Those are the out-of-fold probabilities of the head's own seed.
        """
        parts, seeds = self._examples.parts, list(dict.fromkeys(head.seed for head in heads))
        rows = _some(np.flatnonzero(np.isin(parts.units, parts.numbers)), _TEMPERED_ROWS)
        units, labels = parts.units[rows], self._examples.labels[rows]
        for number, head in enumerate(heads):
            others = units != head.fold
            given, own = table[seeds.index(head.seed), rows[others]], labels[others]
            if self._examples.several:
                given, own = cells(given), own.ravel()
            temperature = np.float32(best_temperature(np.log(np.maximum(given, _LEAST)), own))
            for name in ("kernel", "bias"):
                weights[f"{name}_{self._layers}"][number] /= temperature

    def best_epochs(self, table: npt.NDArray[np.float64]) -> dict[int, int]:
        """Part -> its best epoch, by (epochs, U) losses of all heads by unit of the rows they are evaluated on."""
        parts = self._examples.parts
        units = {part: ~np.isin(parts.numbers, np.unique(parts.units[parts.scored(part)])) for part in parts.numbers}
        return {part: int(table[:, mine].sum(axis=1).argmin()) for part, mine in units.items()}


def _some(rows: npt.NDArray[np.intp], most: int) -> npt.NDArray[np.intp]:
    """At most so many, evenly from the first to the last, as rows may be sorted by class."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(np.intp)]

"""What each head sees, step by step: its own rows in its own order, its own dropout masks. NumPy only.

Every head draws from generators of its own, seeded by its seed and fold: what it sees does not depend on which heads
are trained beside it, on the Keras backend, or on any global random state.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.bags import HeadId, Weights, blocks
from featcache.presets import HeadPlan

_DRAWS = 1 << 16


class HeadStream:
    """One head's randomness: initial kernels, the order of its rows, its dropout masks."""

    def __init__(self, head: HeadId, rows: npt.NDArray[np.int64]) -> None:
        """Seed the generators; `rows` (r,) int64 are the rows that the head is trained on."""
        # SFC64 fills arrays fastest, and masks are most of what is drawn
        seeds = np.random.SeedSequence([head.seed, head.fold]).spawn(3)
        self._initial, self._order, self._masks = (np.random.Generator(np.random.SFC64(seed)) for seed in seeds)
        self._rows = rows
        self._left = rows[:0]

    def kernel(self, inputs: int, outputs: int) -> npt.NDArray[np.float32]:
        """(inputs, outputs) float32, Glorot-uniform as in Keras' Dense."""
        limit = np.sqrt(6 / (inputs + outputs))
        return self._initial.uniform(-limit, limit, (inputs, outputs)).astype(np.float32)

    def rows(self, count: int) -> npt.NDArray[np.int64]:
        """The next `count` rows. All rows come once in a fresh random order, then all of them again in another."""
        parts = []
        while count:
            if not len(self._left):
                self._left = self._order.permutation(self._rows)
            parts.append(self._left[:count])
            self._left = self._left[count:]
            count -= len(parts[-1])
        return np.concatenate(parts)

    def mask(self, out: npt.NDArray[np.bool_], dropout: float) -> None:
        """Fill `out` with True where a value is kept; dropout is honoured to 1/65536."""
        words = self._masks.integers(0, 1 << 64, -(-out.size // 4), np.uint64)
        draws = words.view(np.uint16)[: out.size].reshape(out.shape)
        np.greater_equal(draws, round(dropout * _DRAWS), out=out)


def training_rows(
    heads: Sequence[HeadId], folds: npt.NDArray[np.integer], usable: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """(H, n) bool: usable rows of the folds that are not the head's own."""
    return np.stack([usable & (folds >= 0) & (folds != head.fold) for head in heads])


class Batches:
    """The steps of a bag.

    All heads take the same number of steps an epoch, as many as the one with most rows needs; full batches only. A
    head whose rows run out begins its next permutation at once: a head that sits steps out would drift under Adam.
    """

    def __init__(
        self,
        copies: Sequence[npt.NDArray[Any]],
        labels: npt.NDArray[np.integer],
        own: npt.NDArray[np.bool_],
        streams: Sequence[HeadStream],
        plan: HeadPlan,
    ) -> None:
        """Prepare buffers of one step; the features stay where they are.

        Args:
            copies: (n, ...) features each, copy 0 plain.
            labels: (n,) class indices.
            own: (H, n) bool, the head's training rows.
            streams: H heads' randomness, made for rows 0..copies*r-1 (copy-major) of the head's r rows.
            plan: dropouts and batch size.
        """
        self._copies = [copy.reshape(len(copy), -1) for copy in copies]
        self._labels = labels
        self._rows = [np.flatnonzero(mine) for mine in own]
        self._streams = streams
        counts = [len(rows) * len(copies) for rows in self._rows]
        self.size = min(plan.batch_size, *counts)
        self.steps = -(-max(counts) // self.size)
        self._dropouts = plan.dropouts
        widths = (plan.features, *plan.hidden)
        heads = len(streams)
        self._values = np.empty((heads, self.size, plan.features), self._copies[0].dtype)
        self._classes = np.empty((heads, self.size), np.int32)
        self._masks = [np.ones((heads, self.size, width), bool) for width in widths]

    def epoch(self) -> Iterator[tuple[list[npt.NDArray[Any]], npt.NDArray[np.int32]]]:
        """Yield ([values (H, b, F), masks (H, b, width)...], labels (H, b) int32); the arrays are reused."""
        for _ in range(self.steps):
            for head, stream in enumerate(self._streams):
                self._draw(head, stream)
            used = [mask for mask, dropout in zip(self._masks, self._dropouts, strict=True) if dropout]
            yield [self._values, *used], self._classes

    def _draw(self, head: int, stream: HeadStream) -> None:
        copy, position = np.divmod(stream.rows(self.size), len(self._rows[head]))
        rows = self._rows[head][position]
        for number, features in enumerate(self._copies):
            drawn = copy == number
            if len(self._copies) == 1:
                np.take(features, rows, axis=0, out=self._values[head], mode="clip")
            else:
                self._values[head, drawn] = features[rows[drawn]]
        self._classes[head] = self._labels[rows]
        for mask, dropout in zip(self._masks, self._dropouts, strict=True):
            if dropout:
                stream.mask(mask[head], dropout)


def input_statistics(
    copies: Sequence[npt.NDArray[Any]],
    folds: npt.NDArray[np.integer],
    usable: npt.NDArray[np.bool_],
    heads: Sequence[HeadId],
) -> Weights:
    """Mean and variance of the inputs over each head's training rows, all copies, in one pass.

    Returns:
        ``input_mean`` and ``input_variance``, (H, F) float32. Variances are raised to a thousandth of their mean, so
        that a feature which is almost always zero is not blown up where it isn't.
    """
    counted = np.where(usable, folds, -1)
    parts = np.unique(counted[counted >= 0])
    width = copies[0][0].size
    count, total, squares = np.zeros(len(parts)), np.zeros((len(parts), width)), np.zeros((len(parts), width))
    for copy in copies:
        for start, block in blocks(copy, 4 * width):
            here = counted[start : start + len(block)]
            for number, fold in enumerate(parts):
                rows = block[here == fold].astype(np.float64)
                count[number] += len(rows)
                total[number] += rows.sum(axis=0)
                squares[number] += np.square(rows).sum(axis=0)
    return _by_head([parts != head.fold for head in heads], count, total, squares)


def _by_head(
    others: Sequence[npt.NDArray[np.bool_]],
    count: npt.NDArray[np.float64],
    total: npt.NDArray[np.float64],
    squares: npt.NDArray[np.float64],
) -> Weights:
    means, variances = [], []
    for other in others:
        mean = total[other].sum(axis=0) / count[other].sum()
        variance = np.maximum(squares[other].sum(axis=0) / count[other].sum() - mean**2, 0)
        means.append(mean)
        variances.append(np.maximum(variance, VARIANCE_FLOOR * variance.mean() + 1e-12))
    return {
        "input_mean": np.array(means, np.float32),
        "input_variance": np.array(variances, np.float32),
    }


VARIANCE_FLOOR = 1e-3

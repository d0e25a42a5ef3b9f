"""The batches of each head: its own rows in its own order, its own dropout masks. NumPy only.

Every head draws from generators of its own, seeded by its seed and part: what it sees does not depend on which heads
are trained beside it, on the Keras backend, or on any global random state.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.training.class_weights import class_weights
from featcache.training.heads.bag import HeadId
from featcache.training.heads.examples import Examples
from featcache.training.heads.forward import Float32s
from featcache.training.heads.presets import HeadPlan
from featcache.training.several_labels import balance, label_weights

_DRAWS = 256  # a byte decides whether a value is kept: half the random numbers that two would take
_BYTES_AT_ONCE = 1 << 17  # drawn at once: many steps of a small head, and little enough for the cache


def keep_probability(dropout: float) -> float:
    """The share of values that masks for `dropout` keep: the nearest multiple of 1/256, and what they scale by."""
    return (_DRAWS - _threshold(dropout)) / _DRAWS


def _threshold(dropout: float) -> int:
    return min(round(dropout * _DRAWS), _DRAWS - 1)


class HeadStream:
    """One head's randomness: initial kernels, the order of its rows, its dropout masks."""

    def __init__(self, head: HeadId, count: int) -> None:
        """Seed the generators; the head is trained on `count` rows, called 0..count-1 here."""
        # SFC64 fills arrays fastest, and masks are most of what is drawn
        seeds = np.random.SeedSequence([head.seed, head.fold]).spawn(3)
        self._initial, self._order, self._masks = (np.random.Generator(np.random.SFC64(seed)) for seed in seeds)
        self._rows: npt.NDArray[np.integer] = np.arange(count, dtype=np.int32 if count < 1 << 31 else np.int64)
        self._next = count
        self._bytes = np.empty(0, np.uint8)

    def kernel(self, inputs: int, outputs: int) -> Float32s:
        """(inputs, outputs) float32, Glorot-uniform as in Keras' Dense."""
        limit = np.float32(np.sqrt(6 / (inputs + outputs)))
        drawn: Float32s = self._initial.random((inputs, outputs), np.float32)
        drawn *= 2 * limit
        drawn -= limit
        return drawn

    def rows(self, count: int) -> npt.NDArray[np.integer]:
        """The next `count` rows. All rows come once in a fresh random order, then all of them again in another."""
        drawn: npt.NDArray[np.integer] = np.empty(count, self._rows.dtype)
        done = 0
        while done < count:
            if self._next == len(self._rows):
                self._order.shuffle(self._rows)
                self._next = 0
            part = self._rows[self._next : self._next + count - done]
            drawn[done : done + len(part)] = part
            self._next += len(part)
            done += len(part)
        return drawn

    def mask(self, out: npt.NDArray[np.bool_], dropout: float) -> None:
        """Fill `out` with True where a value is kept; dropout is honoured to 1/512."""
        flat, threshold, done = out.reshape(-1), _threshold(dropout), 0
        while done < len(flat):
            if not len(self._bytes):
                self._bytes = self._masks.integers(0, 1 << 64, _BYTES_AT_ONCE // 8, np.uint64).view(np.uint8)
            drawn = self._bytes[: len(flat) - done]
            np.greater_equal(drawn, threshold, out=flat[done : done + len(drawn)])
            self._bytes = self._bytes[len(drawn) :]
            done += len(drawn)


@dataclass(frozen=True, eq=False)
class Batch:
    """One step of g heads; b rows each.

    Attributes:
        values: (g, b, F) of the features' dtype.
        masks: for each dense layer (g, b, its inputs) bool, True where a value is kept; None where all are.
        targets: (g, b, C) float32, what the loss compares with: one-hot, smoothed, or soft.
        weights: (g, b) float32, what each row counts for; a pseudo-labelled one by its likeliest class where the plan is
            balanced. None where all count the same. Of several labels a row (g, b, C): what each of its cells counts for.
        truth: (g, b) int32, the label or the likeliest class of the soft one; of several (g, b, C), 0 and 1.
    """

    values: npt.NDArray[Any]
    masks: list[npt.NDArray[np.bool_] | None]
    targets: Float32s
    weights: Float32s | None
    truth: npt.NDArray[np.int32]


class Batches:
    """The steps of some heads of a bag.

    All heads of a bag take the same number of steps an epoch, as many as the one with most rows needs; full batches
    only. A head whose rows run out begins its next permutation at once: one that sits steps out would drift under
    Adam.
    """

    def __init__(
        self, examples: Examples, heads: Sequence[HeadId], streams: Sequence[HeadStream], plan: HeadPlan
    ) -> None:
        """Prepare the buffers of one step of g `heads`; `streams` are for `examples.count` rows each."""
        most = max(examples.count(part) for part in examples.parts.numbers)
        self.size = min(plan.batch_size, most)
        self.steps = -(-most // self.size)
        self._examples, self._streams = examples, streams
        self._copies = [copy.reshape(len(copy), -1) for copy in examples.copies]
        self._soft = [copy.reshape(len(copy), -1) for copy in examples.pseudo.copies] if examples.pseudo else []
        small = np.int32 if len(examples.labels) < 1 << 31 else np.int64
        rows = {head.fold: np.flatnonzero(examples.parts.trained(head.fold)).astype(small) for head in heads}
        self._rows = [rows[head.fold] for head in heads]
        self._parts = [examples.parts.numbers.index(head.fold) for head in heads]
        self._several = examples.several
        self._balance: list[Float32s] = []  # (C,) a head, or (2, C) of several labels, if classes are to count the same
        if plan.balanced:
            labels = {part: examples.labels[own] for part, own in rows.items()}
            by_part = {
                part: label_weights(own) if self._several else class_weights(own, plan.classes)
                for part, own in labels.items()
            }
            self._balance = [by_part[head.fold] for head in heads]
        self._dropouts = plan.dropouts
        self._smooth = np.full((plan.classes, plan.classes), plan.label_smoothing / plan.classes, np.float32)
        self._smooth += (1 - plan.label_smoothing) * np.eye(plan.classes, dtype=np.float32)
        shape, widths = (len(heads), self.size), (plan.features, *plan.hidden)
        cells = (*shape, plan.classes) if self._several else shape
        self._smoothing = np.float32(plan.label_smoothing)
        self._batch = Batch(
            np.empty((*shape, plan.features), self._copies[0].dtype),
            [np.ones((*shape, width), bool) if p else None for width, p in zip(widths, plan.dropouts, strict=True)],
            np.empty((*shape, plan.classes), np.float32),
            np.ones(cells, np.float32) if self._soft or plan.balanced else None,
            np.empty(cells, np.int32),
        )

    def epoch(self) -> Iterator[Batch]:
        """Yield `steps` batches; its arrays are reused."""
        for _ in range(self.steps):
            for head, stream in enumerate(self._streams):
                self._draw(head, stream)
            if not self._soft:
                self._smoothed(self._batch.truth, self._batch.targets)
            yield self._batch

    def _smoothed(self, truth: npt.NDArray[np.int32], out: Float32s) -> None:
        """Fill `out` with what the loss compares labels with."""
        if self._several:
            np.multiply(truth, 1 - self._smoothing, out=out, casting="unsafe")
            out += self._smoothing / 2
        else:
            np.take(self._smooth, truth, axis=0, out=out, mode="clip")

    def _draw(self, head: int, stream: HeadStream) -> None:
        batch, mine, pseudo = self._batch, self._rows[head], self._examples.pseudo
        copy, place = np.divmod(stream.rows(self.size), len(mine))
        known = copy < len(self._copies)
        rows = mine[np.where(known, place, 0)]
        self._gather(self._copies, copy, rows, batch.values[head], known)
        batch.truth[head] = self._examples.labels[rows]
        if pseudo is not None and batch.weights is not None:
            # labelled rows of all copies come first, then the pseudo-labelled ones
            number = np.where(known, 0, (copy - len(self._copies)) * len(mine) + place)
            copy, rows = np.divmod(number, pseudo.labels.shape[1])
            self._gather(self._soft, copy, rows, batch.values[head], ~known)
            self._smoothed(batch.truth[head], batch.targets[head])
            labels = pseudo.labels[self._parts[head], rows[~known]]
            batch.targets[head, ~known] = labels
            batch.truth[head, ~known] = labels > 0.5 if self._several else labels.argmax(axis=1)
            counts = np.where(known, 1, pseudo.weight)
            batch.weights[head] = counts[:, None] if self._several else counts
        if self._balance and batch.weights is not None:
            truth, by_class = batch.truth[head], self._balance[head]
            own = balance(truth, by_class) if self._several else by_class[truth]
            batch.weights[head] = own if pseudo is None else batch.weights[head] * own
        for mask, dropout in zip(batch.masks, self._dropouts, strict=True):
            if mask is not None:
                stream.mask(mask[head], dropout)

    @staticmethod
    def _gather(
        copies: Sequence[npt.NDArray[Any]],
        copy: npt.NDArray[Any],
        rows: npt.NDArray[Any],
        out: npt.NDArray[Any],
        wanted: npt.NDArray[np.bool_],
    ) -> None:
        if len(copies) == 1 and wanted.all():
            np.take(copies[0], rows, axis=0, out=out, mode="clip")
            return
        for number, features in enumerate(copies):
            drawn = wanted & (copy == number)
            out[drawn] = features[rows[drawn]]

"""A bag of trained heads as stacked arrays: prediction and batch statistics. NumPy only.

The weights of all heads stand in arrays with a leading head axis, by these names (L hidden layers, then the softmax):
``input_mean, input_variance (H, F)`` where inputs are standardised; per dense layer l ``kernel_l (H, in, out)`` and
``bias_l (H, out)``; per hidden layer ``gamma_l, beta_l, mean_l, variance_l (H, out)``.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.errors import TrainingError
from featcache.training.heads.partition import Partition
from featcache.training.heads.presets import HeadPlan

Float32s = npt.NDArray[np.float32]
Weights = dict[str, Float32s]

EPSILON = 1e-3  # what Keras' BatchNormalization adds to the variance
_BLOCK_VALUES = 4_000_000  # about 16 MB of float32 at a time


@dataclass(frozen=True, order=True)
class HeadId:
    """One head of a bag: its seed, and its part: the fold that it has not seen, or the group that it is trained on."""

    seed: int
    fold: int

    def __str__(self) -> str:
        """The head's file name without its suffix."""
        return f"seed{self.seed}-fold{self.fold}"


@dataclass(frozen=True, eq=False)
class History:
    """What each epoch left behind, (epochs, H) float32 each, but for `kept`.

    Attributes:
        loss: mean loss over the epoch's training batches, as the weights were at each step: with dropout, and with
            label smoothing where there is any.
        accuracy: the share of those rows told right.
        seen_loss: mean cross-entropy after the epoch, without dropout, on some of the plain training rows
            (`featcache.training.heads.evaluation.SEEN_ROWS`): what to hold against `fold_loss`.
        seen_accuracy: the share of them told right.
        fold_loss: mean cross-entropy after the epoch, without dropout, on rows of the head's own fold, or of other
            groups.
        fold_accuracy: the share of them told right.
        kept: (H,) int32, the epoch whose weights the head has, from 0.
    """

    loss: Float32s
    accuracy: Float32s
    seen_loss: Float32s
    seen_accuracy: Float32s
    fold_loss: Float32s
    fold_accuracy: Float32s
    kept: npt.NDArray[np.int32]

    def mappings(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays by name."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


@dataclass(frozen=True, eq=False)
class Bag:
    """H trained heads on one tap.

    Attributes:
        plan: how they were trained.
        tap_shape: (h, w, c) or (c,): one row's features before they are flattened.
        heads: H ids, seed by seed, fold by fold.
        weights: the stacked weights, see above.
        knows: (H, C) bool, whether the head was trained on any row of the class.
        history: the epochs.
    """

    plan: HeadPlan
    tap_shape: tuple[int, ...]
    heads: tuple[HeadId, ...]
    weights: Weights
    knows: npt.NDArray[np.bool_]
    history: History = field(repr=False)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, in the order of `member_predictions`."""
        return tuple(dict.fromkeys(head.seed for head in self.heads))

    def of_seeds(self, seeds: Collection[int]) -> "Bag":
        """Return the bag of these seeds alone, in the bag's own order."""
        heads = [number for number, head in enumerate(self.heads) if head.seed in seeds]
        return Bag(
            self.plan,
            self.tap_shape,
            tuple(self.heads[number] for number in heads),
            {name: array[heads] for name, array in self.weights.items()},
            self.knows[heads],
            History(**{name: array[..., heads] for name, array in self.history.mappings().items()}),
        )

    def predict(self, features: npt.NDArray[Any]) -> Float32s:
        """Return (H, n, C) float32 probabilities of `features` (n, h, w, c) or (n, c), read block by block.

        Raises:
            TrainingError: the features have another shape than those trained on.
        """
        probabilities = np.empty((len(self.heads), len(features), self.plan.classes), np.float32)
        for start, said in self._said(features):
            probabilities[:, start : start + said.shape[1]] = said
        return probabilities

    def member_predictions(self, features: npt.NDArray[Any]) -> Float32s:
        """Return (seeds, n, C) float32: the mean over each seed's heads, one of each fold or group.

        Where some heads have never seen a class, its probability is the mean over those that have, and all are brought
        to the sum 1 again.

        Raises:
            TrainingError: the features have another shape than those trained on.
        """
        means = np.empty((len(self.seeds), len(features), self.plan.classes), np.float32)
        for rows, said in self.member_parts(features):
            means[:, rows] = said
        return means

    def member_parts(self, features: npt.NDArray[Any]) -> Iterator[tuple[slice, Float32s]]:
        """Yield (rows, (seeds, b, C)): what `member_predictions` returns, a part of the rows after the other.

        Raises:
            TrainingError: the features have another shape than those trained on.
        """
        by_seed = [[i for i, head in enumerate(self.heads) if head.seed == seed] for seed in self.seeds]
        for start, said in self._said(features):  # what every head says of every row would be many times as much
            means = np.stack([self._mean(said[heads], self.knows[heads]) for heads in by_seed])
            yield slice(start, start + said.shape[1]), means

    def _said(self, features: npt.NDArray[Any]) -> Iterator[tuple[int, Float32s]]:
        """Yield (first row, (H, b, C) float32) of all rows."""
        if tuple(features.shape[1:]) != self.tap_shape:
            raise TrainingError(
                f"expected features of the shape that the heads were trained on, {self.tap_shape}; "
                f"got shape={tuple(features.shape[1:])}: train the heads again"
            )
        for start, block in blocks(features, self._width()):
            yield start, forward(self.weights, block, len(self.plan.hidden))

    @staticmethod
    def _mean(probabilities: Float32s, knows: npt.NDArray[np.bool_]) -> Float32s:
        if knows.all():
            mean: Float32s = probabilities.mean(axis=0, dtype=np.float64).astype(np.float32)
            return mean
        shares = knows / np.maximum(knows.sum(axis=0), 1)
        return normalize(np.einsum("hnc,hc->nc", probabilities, shares))

    def _width(self) -> int:
        return self.plan.features + len(self.heads) * max((*self.plan.hidden, self.plan.classes))


@dataclass(frozen=True, eq=False)
class TrainedBag(Bag):
    """A bag as it comes from training.

    Attributes:
        out_of_fold: (seeds, n, C) float32: each training row by the heads that haven't seen its fold (or group); NaN
            for rows without one.
    """

    out_of_fold: Float32s


def blocks(features: npt.NDArray[Any], width: int) -> Iterator[tuple[int, Float32s]]:
    """Yield (first row, (b, F) float32) over all rows; `width` values a row are expected to be alive at once."""
    rows = max(1, _BLOCK_VALUES // width)
    for start in range(0, len(features), rows):
        block = np.asarray(features[start : start + rows])
        yield start, as_float32(block.reshape(len(block), -1))


def as_float32(values: npt.NDArray[Any], out: Float32s | None = None) -> Float32s:
    """Return a float32 array of its own, or `out`; from finite float16 in a fifth of the time of NumPy's conversion."""
    floats = np.empty(values.shape, np.float32) if out is None else out
    if values.dtype != np.float16:
        np.copyto(floats, values, casting="same_kind")
        return floats
    # sign and exponent go to float32's places, the sign filling the three bits between, which are cleared; a power of
    # two then mends the exponent's offset, of subnormal numbers too
    bits = floats.view(np.int32)
    np.copyto(bits, values.view(np.int16))
    bits <<= 13
    bits &= np.int32(-0x70000001)
    floats *= np.float32(2.0**112)
    return floats


def normalize(probabilities: npt.NDArray[np.floating]) -> Float32s:
    """(..., C) float32 of sum 1 along the last axis."""
    shares: Float32s = (probabilities / probabilities.sum(axis=-1, keepdims=True)).astype(np.float32)
    return shares


def forward(weights: Weights, rows: Float32s, layers: int) -> Float32s:
    """Return (H, b, C) float32: what every head says of the same `rows` (b, F), without dropout."""
    return _softmax(_dense(weights, layers, _hidden(weights, rows, layers)))


def recompute_statistics(
    weights: Weights, copies: Sequence[npt.NDArray[Any]], heads: Sequence[HeadId], parts: Partition, layers: int
) -> None:
    """Set each batch normalisation's mean and variance to those of the head's own rows, in place, without dropout.

    Layer after layer, as what the second one sees depends on the first one's statistics.

    Args:
        weights: the stacked weights.
        copies: (n, ...) features each, the same rows in every copy.
        heads: the H heads.
        parts: which rows each was trained on.
        layers: number of hidden layers.
    """
    trained = {part: parts.trained(part) for part in {head.fold for head in heads}}
    count = np.array([[trained[head.fold].sum() * len(copies)] for head in heads], np.float64)
    for layer in range(layers):
        shape = weights[f"mean_{layer}"].shape
        total, squares = np.zeros(shape), np.zeros(shape)
        # shifted by the moving mean, so that the difference of two large sums doesn't eat the variance
        shift = weights[f"mean_{layer}"][:, None, :]
        for copy in copies:
            for start, block in blocks(copy, copy[0].size + 3 * shape[0] * shape[1]):
                active = np.maximum(_dense(weights, layer, _hidden(weights, block, layer)), 0) - shift
                here = slice(start, start + len(block))
                share = np.array([trained[head.fold][here] for head in heads], np.float64)[:, None, :]
                total += (share @ active)[:, 0]
                squares += (share @ np.square(active))[:, 0]
        mean = total / count
        weights[f"mean_{layer}"] = (mean + shift[:, 0]).astype(np.float32)
        weights[f"variance_{layer}"] = np.maximum(squares / count - mean**2, 0).astype(np.float32)


def _hidden(weights: Weights, rows: Float32s, layers: int) -> Float32s:
    """What enters dense layer `layers`: (b, F) as it came for layer 0, else (H, b, width)."""
    active: Float32s = rows
    for layer in range(layers):
        active = np.maximum(_dense(weights, layer, active), 0)
        scale = weights[f"gamma_{layer}"] / np.sqrt(weights[f"variance_{layer}"] + EPSILON)
        active *= scale[:, None, :]
        active += (weights[f"beta_{layer}"] - weights[f"mean_{layer}"] * scale)[:, None, :]
    return active


def _dense(weights: Weights, layer: int, inputs: Float32s) -> Float32s:
    """(H, b, out) of one dense layer; layer 0 standardises its shared inputs by way of the kernel."""
    kernel, bias = weights[f"kernel_{layer}"], weights[f"bias_{layer}"]
    if layer == 0 and "input_mean" in weights:
        kernel = np.divide(kernel, np.sqrt(weights["input_variance"])[:, :, None], dtype=np.float32)
        shift: Float32s = np.matmul(weights["input_mean"][:, None, :], kernel)
        bias = np.subtract(bias, shift[:, 0], dtype=np.float32)
    outputs: Float32s = np.matmul(inputs, kernel)
    outputs += bias[:, None, :]
    return outputs


def _softmax(logits: Float32s) -> Float32s:
    logits -= logits.max(axis=-1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=-1, keepdims=True)
    return logits

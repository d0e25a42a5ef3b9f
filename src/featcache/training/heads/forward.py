"""The heads' forward pass on stacked weights, block by block, and their batch statistics. NumPy only.

The weights of all heads have a leading head axis and these names (L hidden layers, then softmax or sigmoid): per dense layer l
``kernel_l (H, in, out)`` and ``bias_l (H, out)``; per hidden layer ``gamma_l, beta_l, mean_l, variance_l (H, out)``.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from featcache.core.float16 import as_float32

Float32s = npt.NDArray[np.float32]
Weights = dict[str, Float32s]

EPSILON = 1e-3  # what Keras' BatchNormalization adds to the variance
_BLOCK_VALUES = 4_000_000  # about 16 MB of float32 at a time


class Sliceable(Protocol):
    """Rows that are read by slices: an array of (n, ...), or what acts as one."""

    def __len__(self) -> int:
        """The number of rows."""

    def __getitem__(self, rows: slice) -> npt.NDArray[Any]:
        """(b, ...) of some rows."""


def blocks(features: Sliceable, width: int) -> Iterator[tuple[int, Float32s]]:
    """Yield (first row, (b, F) float32) over all rows; `width` values a row are expected to be alive at once."""
    rows = max(1, _BLOCK_VALUES // width)
    for start in range(0, len(features), rows):
        block = np.asarray(features[start : start + rows])
        yield start, as_float32(block.reshape(len(block), -1))


def normalize(probabilities: npt.NDArray[np.floating]) -> Float32s:
    """(..., C) float32 of sum 1 along the last axis."""
    shares: Float32s = (probabilities / probabilities.sum(axis=-1, keepdims=True)).astype(np.float32)
    return shares


def forward(weights: Weights, rows: Float32s, layers: int, *, several: bool = False) -> Float32s:
    """Return every head's probabilities of the same `rows` (b, F), without dropout: (H, b, C) float32.

    By softmax, or for `several` labels a row by sigmoid.
    """
    shares = _dense(weights, layers, _hidden(weights, rows, layers))
    if several:
        return sigmoid(shares)
    shares -= shares.max(axis=-1, keepdims=True)
    np.exp(shares, out=shares)
    shares /= shares.sum(axis=-1, keepdims=True)
    return shares


def sigmoid(logits: Float32s) -> Float32s:
    """Return 1 / (1 + exp(-`logits`)), in their memory."""
    logits *= np.float32(0.5)
    np.tanh(logits, out=logits)  # which can't overflow
    logits += 1
    logits *= np.float32(0.5)
    return logits


def recompute_statistics(
    weights: Weights, copies: Sequence[npt.NDArray[Any]], trained: Sequence[npt.NDArray[np.bool_]], layers: int
) -> None:
    """Set each batch normalisation's mean and variance to those of the head's own rows, in place, without dropout.

    Layer after layer, as the inputs of the second depend on the first one's statistics.

    Args:
        weights: the stacked weights, of `layers` hidden layers.
        copies: (n, ...) features each, the same rows in every copy.
        trained: for each head (n,), the rows that it was trained on.
        layers: how many.
    """
    count = np.array([[rows.sum() * len(copies)] for rows in trained], np.float64)
    for layer in range(layers):
        shape = weights[f"mean_{layer}"].shape
        total, squares = np.zeros(shape), np.zeros(shape)
        # shifted by the moving mean, so that the difference of two large sums doesn't eat the variance
        shift = weights[f"mean_{layer}"][:, None, :]
        for copy in copies:
            for start, block in blocks(copy, copy[0].size + 3 * shape[0] * shape[1]):
                active = np.maximum(_dense(weights, layer, _hidden(weights, block, layer)), 0) - shift
                here = slice(start, start + len(block))
                share = np.array([rows[here] for rows in trained], np.float64)[:, None, :]
                total += (share @ active)[:, 0]
                squares += (share @ np.square(active))[:, 0]
        mean = total / count
        weights[f"mean_{layer}"] = (mean + shift[:, 0]).astype(np.float32)
        weights[f"variance_{layer}"] = np.maximum(squares / count - mean**2, 0).astype(np.float32)


def _hidden(weights: Weights, rows: Float32s, layers: int) -> Float32s:
    """The inputs of dense layer `layers`: (b, F) as they came for layer 0, else (H, b, width)."""
    active: Float32s = rows
    for layer in range(layers):
        active = np.maximum(_dense(weights, layer, active), 0)
        scale = weights[f"gamma_{layer}"] / np.sqrt(weights[f"variance_{layer}"] + EPSILON)
        active *= scale[:, None, :]
        active += (weights[f"beta_{layer}"] - weights[f"mean_{layer}"] * scale)[:, None, :]
    return active


def _dense(weights: Weights, layer: int, inputs: Float32s) -> Float32s:
    """(H, b, out) of one dense layer."""
    outputs: Float32s = np.matmul(inputs, weights[f"kernel_{layer}"])
    outputs += weights[f"bias_{layer}"][:, None, :]
    return outputs

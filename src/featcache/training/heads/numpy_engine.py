"""Adam steps of some heads of a bag, on a processor: forward, backward and update in NumPy.

Heads share every array operation but the large matrix products, so that Python costs little where heads are small,
and a head's kernel is updated in blocks that stay in the processor's cache where heads are large. Nothing is compiled.
A head's numbers do not depend, bit for bit, on the heads beside it. `featcache.training.heads.keras_engine` is the same in
Keras.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from featcache.core.float16 import as_float32
from featcache.training.heads.batches import Batch, keep_probability
from featcache.training.heads.forward import EPSILON, Float32s, Weights, sigmoid
from featcache.training.heads.presets import HeadPlan

Needed = tuple[Float32s, Float32s, npt.NDArray[np.bool_]]

_BETA_1, _BETA_2, _ADAM_EPSILON = 0.9, 0.999, 1e-7  # Keras' Adam
_GRADIENT_VALUES = 1 << 20  # of a kernel's gradient that are alive at once: 4 MB
_ADAM_VALUES = 1 << 18  # what Adam takes at once: near enough to the cache; less has threads wait for each other


class NumpyEngine:
    """The training state of g heads, by the names of `featcache.training.heads.bag`; `weights` is changed in place."""

    def __init__(self, plan: HeadPlan, weights: Weights) -> None:
        """Take g heads' contiguous float32 weights, (g, ...) each, and begin with empty moments."""
        self.weights = weights
        self._plan, self._layers = plan, len(plan.hidden)
        trained = [name for name in weights if name.split("_")[0] in ("kernel", "bias", "gamma", "beta")]
        self._moments = {name: (np.zeros_like(weights[name]), np.zeros_like(weights[name])) for name in trained}
        self._scales = 1 / np.array([keep_probability(dropout) for dropout in plan.dropouts], np.float32)
        self._steps = 0
        largest = max(weights[f"kernel_{layer}"].size for layer in range(self._layers + 1))
        self._gradient = np.empty(min(largest, _GRADIENT_VALUES + max((*plan.hidden, plan.classes))), np.float32)
        self._values = np.empty((0,), np.float32)

    def train_step(self, batch: Batch, rate: float) -> Float32s:
        """Take one Adam step of every head; return (2, g), each head's loss and accuracy before it."""
        self._steps += 1
        inputs, normal = [], []
        if self._values.shape != batch.values.shape:
            self._values = np.empty(batch.values.shape, np.float32)
        active = as_float32(batch.values, self._values)
        for layer in range(self._layers + 1):
            mask = batch.masks[layer]
            if mask is not None:
                np.multiply(active, mask, out=active)
            inputs.append(active)
            outputs: Float32s = np.matmul(active, self.weights[f"kernel_{layer}"])
            outputs *= self._scales[layer]
            outputs += self.weights[f"bias_{layer}"][:, None, :]
            if layer < self._layers:
                active, needed = self._normalize(layer, np.maximum(outputs, 0, out=outputs))
                normal.append(needed)
        scores, slope = (_binary_cross_entropy if self._plan.several else _cross_entropy)(outputs, batch)
        for layer in reversed(range(self._layers + 1)):
            below = self._dense_backward(layer, inputs[layer], slope, rate, batch.masks[layer])
            if below is not None:
                slope = self._normalize_backward(layer - 1, below, normal[layer - 1], rate)
        return scores

    def _normalize(self, layer: int, values: Float32s) -> tuple[Float32s, Needed]:
        """Batch normalisation of (g, b, w), in place; also what its way back needs."""
        positive = values > 0
        mean = values.mean(axis=1, keepdims=True)
        values -= mean
        variance = np.square(values).mean(axis=1, keepdims=True)
        momentum = np.float32(self._plan.momentum)
        for name, batch in (("mean", mean), ("variance", variance)):
            average = self.weights[f"{name}_{layer}"]
            average *= momentum
            average += batch[:, 0] * (1 - momentum)
        inverse = 1 / np.sqrt(variance + np.float32(EPSILON))
        values *= inverse
        outputs = values * self.weights[f"gamma_{layer}"][:, None, :]
        outputs += self.weights[f"beta_{layer}"][:, None, :]
        return outputs, (values, inverse, positive)

    def _normalize_backward(self, layer: int, slope: Float32s, needed: Needed, rate: float) -> Float32s:
        """From the loss' slope after normalisation and relu to that before both; steps scale and offset."""
        values, inverse, positive = needed
        beta = slope.sum(axis=1, keepdims=True)
        gamma = (slope * values).sum(axis=1, keepdims=True)
        rows = np.float32(slope.shape[1])
        values *= gamma / rows
        slope -= values
        slope -= beta / rows
        slope *= inverse * self.weights[f"gamma_{layer}"][:, None, :]
        np.multiply(slope, positive, out=slope)
        self._step_small(f"gamma_{layer}", gamma[:, 0], rate)
        self._step_small(f"beta_{layer}", beta[:, 0], rate)
        return slope

    def _dense_backward(
        self, layer: int, inputs: Float32s, slope: Float32s, rate: float, mask: npt.NDArray[np.bool_] | None
    ) -> Float32s | None:
        """The loss' slope before the layer (None for the first); steps kernel and bias."""
        bias = slope.sum(axis=1)
        slope *= self._scales[layer]
        kernel, below = self.weights[f"kernel_{layer}"], None
        if layer:
            below = np.matmul(slope, kernel.transpose(0, 2, 1))
            if mask is not None:
                np.multiply(below, mask, out=below)
        self._step_kernel(f"kernel_{layer}", inputs, slope, rate)
        self._step_small(f"bias_{layer}", bias, rate)
        return below

    def _step_kernel(self, name: str, inputs: Float32s, slope: Float32s, rate: float) -> None:
        """Step the heads' kernels: small ones together, large ones by rows, each part's gradient made and used up."""
        kernel = self.weights[name]
        if kernel.size <= len(self._gradient):
            gradient = self._gradient[: kernel.size]
            np.matmul(inputs.transpose(0, 2, 1), slope, out=gradient.reshape(kernel.shape))
            self._step_flat([kernel, *self._moments[name]], gradient, rate)
            return
        rows, width = max(1, _GRADIENT_VALUES // kernel.shape[2]), kernel.shape[2]
        for head in range(len(kernel)):
            for start in range(0, kernel.shape[1], rows):
                part = slice(start, start + rows)
                gradient = self._gradient[: len(kernel[head, part]) * width]
                np.matmul(inputs[head].T[part], slope[head], out=gradient.reshape(-1, width))
                arrays = [array[head, part] for array in (kernel, *self._moments[name])]
                self._step_flat(arrays, gradient, rate)

    def _step_flat(self, arrays: Sequence[Float32s], gradient: Float32s, rate: float) -> None:
        flat = [array.reshape(-1) for array in arrays]
        for start in range(0, len(gradient), _ADAM_VALUES):
            values = slice(start, start + _ADAM_VALUES)
            self._adam([array[values] for array in flat], gradient[values], rate, self._plan.weight_decay)

    def _step_small(self, name: str, gradient: Float32s, rate: float) -> None:
        self._adam([self.weights[name], *self._moments[name]], gradient, rate)

    def _adam(self, arrays: Sequence[Float32s], gradient: Float32s, rate: float, decay: float = 0.0) -> None:
        """One update of weights and their two moments in place; `gradient` is used up.

        The moments are kept without Keras' factors 1 - beta, which spares two passes over each.
        """
        values, first, second = arrays
        root = np.sqrt(1 - _BETA_2)
        pace = rate * (np.sqrt(1 - _BETA_2**self._steps) / (1 - _BETA_1**self._steps) * (1 - _BETA_1) / root)
        if decay:
            values *= np.float32(1 - rate * decay)
        first *= np.float32(_BETA_1)
        first += gradient
        np.square(gradient, out=gradient)
        second *= np.float32(_BETA_2)
        second += gradient
        np.sqrt(second, out=gradient)
        gradient += np.float32(_ADAM_EPSILON / root)
        np.divide(first, gradient, out=gradient)
        gradient *= np.asarray(pace, np.float32)
        values -= gradient


def _binary_cross_entropy(logits: Float32s, batch: Batch) -> tuple[Float32s, Float32s]:
    """The same for several labels a row: the mean over labels; a row is right where all of its labels are."""
    right = ((logits > 0) == (batch.truth > 0)).all(axis=2)
    losses = np.logaddexp(0, logits) - logits * batch.targets
    slope = sigmoid(logits)
    slope -= batch.targets
    if batch.weights is not None:
        losses *= batch.weights
        slope *= batch.weights
    slope /= np.float32(slope.shape[1] * slope.shape[2])
    return np.stack([losses.mean(axis=(1, 2)), right.mean(axis=1, dtype=np.float32)]), slope


def _cross_entropy(logits: Float32s, batch: Batch) -> tuple[Float32s, Float32s]:
    """(2, g) losses and accuracies, and the losses' slope by `logits`, whose memory it takes.

    The loss of a head is the mean over its rows, each times its weight, of the cross-entropy with the targets.
    """
    right = logits.argmax(axis=2) == batch.truth
    logits -= logits.max(axis=2, keepdims=True)
    total = np.exp(logits).sum(axis=2, keepdims=True)
    logits -= np.log(total)
    losses = -(logits * batch.targets).sum(axis=2)
    slope = np.exp(logits, out=logits)
    slope -= batch.targets
    if batch.weights is not None:
        losses *= batch.weights
        slope *= batch.weights[:, :, None]
    slope /= np.float32(slope.shape[1])
    return np.stack([losses.mean(axis=1), right.mean(axis=1, dtype=np.float32)]), slope

"""Many heads as one Keras model: every weight, batch statistic and Adam moment has a leading head axis. [Keras]

The same training as `featcache.training.heads.numpy_engine`, for accelerators and for every backend of Keras. All
randomness comes from `featcache.training.heads.batches`: the dropout masks are inputs.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from featcache.core.keras_import import plain_keras
from featcache.training.heads.batches import Batch, keep_probability
from featcache.training.heads.forward import EPSILON, Float32s, Weights
from featcache.training.heads.presets import HeadPlan


class StackedHeads(keras.layers.Layer):
    """H heads side by side, with the weights of a bag by their names: (H, b, F) values -> (H, b, C) logits."""

    def __init__(self, plan: HeadPlan, weights: Weights) -> None:
        """Take the heads' initial weights."""
        super().__init__(name="heads")
        self._plan = plan
        self.stacked: dict[str, Any] = {}
        for name, array in weights.items():
            trainable = not name.startswith(("mean", "variance"))
            variable = self.add_weight(shape=array.shape, initializer="zeros", trainable=trainable, name=name)
            variable.assign(array)
            self.stacked[name] = variable

    def call(self, values: Any, masks: dict[str, Any]) -> Any:
        """Apply every head to its own rows, in training; `masks` has one for each dense layer that drops inputs."""
        active, layers = ops.cast(values, "float32"), len(self._plan.hidden)
        for layer in range(layers + 1):
            if str(layer) in masks:
                scale = 1 / keep_probability(self._plan.dropouts[layer])  # the expectation stays
                active = active * ops.cast(masks[str(layer)], "float32") * scale
            active = ops.matmul(active, self.stacked[f"kernel_{layer}"]) + self._rows(f"bias_{layer}")
            if layer < layers:
                active = self._normalize(layer, ops.relu(active))
        return active

    def _normalize(self, layer: int, inputs: Any) -> Any:
        """Batch normalisation of each head's own rows; Keras' own layer on these axes would mix the heads'."""
        mean, variance = ops.moments(inputs, axes=[1], keepdims=True)
        momentum = self._plan.momentum
        for name, batch in (("mean", mean), ("variance", variance)):
            average = self.stacked[f"{name}_{layer}"]
            average.assign(average * momentum + ops.squeeze(batch, 1) * (1 - momentum))
        scale = self._rows(f"gamma_{layer}") * ops.rsqrt(variance + EPSILON)
        return inputs * scale + (self._rows(f"beta_{layer}") - mean * scale)

    def _rows(self, name: str) -> Any:
        """(H, 1, width), for all rows."""
        return ops.expand_dims(self.stacked[name], 1)


class HeadsLoss(keras.losses.Loss):
    """Cross-entropy of (H, b, C + 1) targets, the last value of which is the row's weight, and (H, b, C) logits.

    It is the mean over rows, summed over heads: each head's gradient is what it would be alone. Of `several` labels a row
    binary cross-entropy, the mean over labels, of (H, b, 2 C) targets: each cell has a weight.
    """

    def __init__(self, *, several: bool = False) -> None:
        """Sum what `call` returns."""
        super().__init__(reduction="sum", name="heads")
        self._several = several

    def call(self, targets: Any, logits: Any) -> Any:
        """(H,) mean losses."""
        if self._several:
            wanted, weights = ops.split(targets, 2, axis=-1)
            cells = ops.softplus(logits) - logits * wanted
            return ops.mean(cells * weights, axis=(1, 2))
        rows = keras.losses.categorical_crossentropy(targets[..., :-1], logits, from_logits=True)
        return ops.mean(rows * targets[..., -1], axis=1)


class HeadScores(keras.metrics.Metric):
    """(2, H): each head's loss and accuracy in the step just taken; `train_on_batch` resets metrics at every step."""

    def __init__(self, heads: int, *, several: bool = False) -> None:
        """Make the place for them."""
        super().__init__(name="scores")
        self._several, self._loss = several, HeadsLoss(several=several)
        self.last = self.add_weight(shape=(2, heads), initializer="zeros", name="last")

    def update_state(self, targets: Any, logits: Any, sample_weight: Any = None) -> None:
        """Keep this step's."""
        if self._several:
            wanted = ops.split(targets, 2, axis=-1)[0]
            right = ops.all(ops.equal(logits > 0, wanted > 0.5), axis=-1)
        else:
            right = ops.equal(ops.argmax(logits, axis=-1), ops.argmax(targets[..., :-1], axis=-1))
        self.last.assign(ops.stack([self._loss.call(targets, logits), ops.mean(ops.cast(right, "float32"), axis=1)]))

    def result(self) -> Any:
        """The mean loss over heads, as Keras wants a scalar."""
        return ops.mean(self.last[0])


def accelerated() -> bool:
    """Whether Keras' backend has something faster than processors."""
    return any(not device.lower().startswith("cpu") for device in keras.distribution.list_devices())


class KerasEngine:
    """The trainable model of H heads and its weights, by the names of `featcache.training.heads.bag`."""

    @plain_keras()
    def __init__(self, plan: HeadPlan, weights: Weights) -> None:
        """Take H heads and their initial weights; the model is built at the first step, when the batches are known."""
        self._heads, self._several = StackedHeads(plan, weights), plan.several
        self._scores = HeadScores(len(weights["kernel_0"]), several=plan.several)
        self._optimizer = keras.optimizers.Adam(weight_decay=plan.weight_decay or None)
        self._optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        self.model: keras.Model | None = None

    def _build(self, batch: Batch) -> keras.Model:
        values = keras.Input(batch_shape=batch.values.shape, dtype=batch.values.dtype.name, name="values")
        masks = {
            str(layer): keras.Input(batch_shape=mask.shape, dtype="bool", name=f"mask_{layer}")
            for layer, mask in enumerate(batch.masks)
            if mask is not None
        }
        model = keras.Model([values, *masks.values()], self._heads(values, masks))
        # XLA on a CPU compiles longer than these models train
        model.compile(
            self._optimizer, HeadsLoss(several=self._several), metrics=[self._scores], jit_compile=accelerated()
        )
        return model

    @plain_keras()
    def train_step(self, batch: Batch, rate: float) -> Float32s:
        """Take one Adam step of every head; return (2, H), each head's loss and accuracy before it."""
        if self.model is None:
            self.model = self._build(batch)
        self.model.optimizer.learning_rate = rate
        weights = np.ones(batch.truth.shape, np.float32) if batch.weights is None else batch.weights
        inputs = [batch.values, *(mask for mask in batch.masks if mask is not None)]
        weights = weights if self._several else weights[:, :, None]
        self.model.train_on_batch(inputs, np.concatenate([batch.targets, weights], axis=2))
        return np.array(ops.convert_to_numpy(self._scores.last))

    @property
    def weights(self) -> Weights:
        """Every variable as a NumPy array of its own."""
        return {name: np.array(ops.convert_to_numpy(variable)) for name, variable in self._heads.stacked.items()}

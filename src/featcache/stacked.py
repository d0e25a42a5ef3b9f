"""Many heads as one Keras model: every weight, batch statistic and Adam moment has a leading head axis. [Keras]

Only training happens here; `featcache.bags` predicts. Inputs are the values (H, b, F) and one mask (H, b, width) for
each dense layer with dropout, so that all randomness comes from `featcache.batches`.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from featcache.bags import EPSILON, Weights
from featcache.presets import HeadPlan


class StackedDense(keras.layers.Layer):
    """(H, b, in) to (H, b, out), each head by its own kernel and bias."""

    def __init__(self, outputs: int, relu: bool, **options: Any) -> None:
        """Take the width and whether a relu follows."""
        super().__init__(**options)
        self._outputs, self._relu = outputs, relu

    def build(self, shape: tuple[int, int, int]) -> None:
        """Make the weights; `set_weights` fills them, as Keras' initialisers would take heads for a receptive field."""
        heads, _, inputs = shape
        self.kernel = self.add_weight(shape=(heads, inputs, self._outputs), initializer="zeros", name="kernel")
        self.bias = self.add_weight(shape=(heads, self._outputs), initializer="zeros", name="bias")
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Apply every head to its own rows."""
        outputs = ops.matmul(inputs, self.kernel) + ops.expand_dims(self.bias, 1)
        return ops.relu(outputs) if self._relu else outputs


class StackedBatchNormalization(keras.layers.Layer):
    """Batch normalisation of (H, b, width) over b alone, in training; its moving averages are kept as Keras keeps them.

    Keras' own layer on these axes would mix the heads' statistics.
    """

    def __init__(self, momentum: float, **options: Any) -> None:
        """Take the moving averages' momentum."""
        super().__init__(**options)
        self._momentum = momentum

    def build(self, shape: tuple[int, int, int]) -> None:
        """Make scale, offset and moving averages."""
        size = (shape[0], shape[2])
        self.gamma = self.add_weight(shape=size, initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=size, initializer="zeros", name="beta")
        self.mean = self.add_weight(shape=size, initializer="zeros", trainable=False, name="mean")
        self.variance = self.add_weight(shape=size, initializer="ones", trainable=False, name="variance")
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Normalise each head's batch by its own mean and variance."""
        mean, variance = ops.moments(inputs, axes=[1], keepdims=True)
        for average, batch in ((self.mean, mean), (self.variance, variance)):
            average.assign(average * self._momentum + ops.squeeze(batch, 1) * (1 - self._momentum))
        scale = ops.expand_dims(self.gamma, 1) * ops.rsqrt(variance + EPSILON)
        return inputs * scale + (ops.expand_dims(self.beta, 1) - mean * scale)


class StackedInput(keras.layers.Layer):
    """float32 values, standardised by each head's own mean and variance where the plan says so."""

    def __init__(self, standardize: bool, **options: Any) -> None:
        """Take whether to standardise."""
        super().__init__(**options)
        self._standardize = standardize

    def build(self, shape: tuple[int, int, int]) -> None:
        """Make the two constants."""
        if self._standardize:
            size = (shape[0], shape[2])
            self.mean = self.add_weight(shape=size, initializer="zeros", trainable=False, name="mean")
            self.variance = self.add_weight(shape=size, initializer="ones", trainable=False, name="variance")
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Cast, and standardise."""
        values = ops.cast(inputs, "float32")
        if not self._standardize:
            return values
        return (values - ops.expand_dims(self.mean, 1)) * ops.expand_dims(ops.rsqrt(self.variance), 1)


class StackedDropout(keras.layers.Layer):
    """Values times mask, scaled so that the expectation stays."""

    def __init__(self, dropout: float, **options: Any) -> None:
        """Take the share that masks drop."""
        super().__init__(**options)
        self._scale = 1 / (1 - dropout)

    def call(self, inputs: Any, mask_values: Any) -> Any:
        """Zero what the mask drops."""
        return inputs * (ops.cast(mask_values, "float32") * self._scale)


class HeadsLoss(keras.losses.Loss):
    """Cross-entropy of (H, b) labels and (H, b, C) logits: mean over rows, summed over heads.

    So each head's gradient is what it would be alone, however many there are.
    """

    def __init__(self) -> None:
        """Sum what `call` returns."""
        super().__init__(reduction="sum", name="heads")

    def call(self, labels: Any, logits: Any) -> Any:
        """(H,) mean losses."""
        rows = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        return ops.mean(rows, axis=1)


class HeadScores(keras.metrics.Metric):
    """(2, H): each head's loss and accuracy in the step just taken; `train_on_batch` resets metrics at every step."""

    def __init__(self, heads: int) -> None:
        """Make the place for them."""
        super().__init__(name="scores")
        self.last = self.add_weight(shape=(2, heads), initializer="zeros", name="last")

    def update_state(self, labels: Any, logits: Any, sample_weight: Any = None) -> None:
        """Keep this step's."""
        rows = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        right = ops.cast(ops.equal(ops.argmax(logits, axis=-1), ops.cast(labels, "int64")), "float32")
        self.last.assign(ops.stack([ops.mean(rows, axis=1), ops.mean(right, axis=1)]))

    def result(self) -> Any:
        """The mean loss over heads, as Keras wants a scalar."""
        return ops.mean(self.last[0])


class StackedHeads:
    """The trainable model of H heads and its weights, by the names of `featcache.bags`."""

    def __init__(self, plan: HeadPlan, weights: Weights, batch: int, dtype: npt.DTypeLike) -> None:
        """Build it for batches of (H, `batch`, F) of `dtype` and set its initial `weights`."""
        heads = len(weights["kernel_0"])
        shape = (heads, batch)
        self._layers: dict[str, keras.layers.Layer] = {}
        values = keras.Input(batch_shape=(*shape, plan.features), dtype=np.dtype(dtype).name, name="values")
        widths = (plan.features, *plan.hidden)
        masks = [
            keras.Input(batch_shape=(*shape, width), dtype="bool", name=f"mask_{layer}") if dropout else None
            for layer, (width, dropout) in enumerate(zip(widths, plan.dropouts, strict=True))
        ]
        logits = self._stack(plan, values, masks)
        self.model = keras.Model([values, *(mask for mask in masks if mask is not None)], logits)
        self._scores = HeadScores(heads)
        optimizer = keras.optimizers.Adam(plan.schedule[0][0], weight_decay=plan.weight_decay or None)
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        # XLA on a CPU compiles longer than these models train
        self.model.compile(optimizer, HeadsLoss(), metrics=[self._scores], jit_compile=False)
        self.set_weights(weights)

    def _stack(self, plan: HeadPlan, values: Any, masks: Sequence[Any]) -> Any:
        self._layers["input"] = StackedInput(plan.standardize, name="input")
        active = self._layers["input"](values)
        widths = (*plan.hidden, plan.classes)
        for layer, (width, dropout, mask) in enumerate(zip(widths, plan.dropouts, masks, strict=True)):
            if mask is not None:
                active = StackedDropout(dropout, name=f"dropout_{layer}")(active, mask)
            last = layer == len(plan.hidden)
            dense = self._layers[f"dense_{layer}"] = StackedDense(width, relu=not last, name=f"dense_{layer}")
            active = dense(active)
            if not last:
                norm = StackedBatchNormalization(plan.momentum, name=f"normal_{layer}")
                self._layers[f"normal_{layer}"] = norm
                active = norm(active)
        return active

    def train_step(self, inputs: list[npt.NDArray[Any]], labels: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """Take one Adam step of every head; return (2, H), each head's loss and accuracy before it."""
        self.model.train_on_batch(inputs, labels)
        return np.array(ops.convert_to_numpy(self._scores.last))

    def set_rate(self, rate: float) -> None:
        """Set the learning rate; Adam's moments stay."""
        self.model.optimizer.learning_rate = rate

    def _variables(self) -> dict[str, Any]:
        named = {}
        for key, layer in self._layers.items():
            part, _, number = key.partition("_")
            for variable in layer.weights:
                name = f"input_{variable.name}" if part == "input" else f"{variable.name}_{number}"
                named[name] = variable
        return named

    def set_weights(self, weights: Weights) -> None:
        """Set every variable."""
        for name, variable in self._variables().items():
            variable.assign(weights[name])

    def get_weights(self) -> Weights:
        """Every variable as a NumPy array of its own."""
        return {name: np.array(ops.convert_to_numpy(variable)) for name, variable in self._variables().items()}

"""Many heads as one Keras model: every weight, batch statistic and Adam moment has a leading head axis. [Keras]

The same training as `featcache.training.heads.numpy_engine`, for accelerators and for every backend of Keras. Inputs are the values
(H, b, F) and one mask (H, b, width) for each dense layer with dropout, so that all randomness comes from
`featcache.training.heads.batches`.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from featcache.core.keras_import import plain_keras
from featcache.training.heads.bag import EPSILON, Float32s, HeadId, Weights
from featcache.training.heads.batches import Batch, keep_probability
from featcache.training.heads.presets import HeadPlan


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

    def __init__(self, kept: Sequence[float], **options: Any) -> None:
        """Take the share that each head's masks keep."""
        super().__init__(**options)
        self._scale = 1 / np.array(kept, np.float32)[:, None, None]

    def call(self, inputs: Any, mask_values: Any) -> Any:
        """Zero what the mask drops."""
        return inputs * (ops.cast(mask_values, "float32") * self._scale)


class HeadsLoss(keras.losses.Loss):
    """Cross-entropy of (H, b, C + 1) targets, each row's weight behind them, and (H, b, C) logits.

    It is the mean over rows, each times its weight, summed over heads: so each head's gradient is what it would be
    alone, however many there are.
    """

    def __init__(self) -> None:
        """Sum what `call` returns."""
        super().__init__(reduction="sum", name="heads")

    def call(self, targets: Any, logits: Any) -> Any:
        """(H,) mean losses."""
        rows = keras.losses.categorical_crossentropy(targets[..., :-1], logits, from_logits=True)
        return ops.mean(rows * targets[..., -1], axis=1)


class HeadScores(keras.metrics.Metric):
    """(2, H): each head's loss and accuracy in the step just taken; `train_on_batch` resets metrics at every step."""

    def __init__(self, heads: int) -> None:
        """Make the place for them."""
        super().__init__(name="scores")
        self._loss = HeadsLoss()
        self.last = self.add_weight(shape=(2, heads), initializer="zeros", name="last")

    def update_state(self, targets: Any, logits: Any, sample_weight: Any = None) -> None:
        """Keep this step's."""
        right = ops.equal(ops.argmax(logits, axis=-1), ops.argmax(targets[..., :-1], axis=-1))
        self.last.assign(ops.stack([self._loss.call(targets, logits), ops.mean(ops.cast(right, "float32"), axis=1)]))

    def result(self) -> Any:
        """The mean loss over heads, as Keras wants a scalar."""
        return ops.mean(self.last[0])


class HeadsAdam(keras.optimizers.Adam):
    """Adam with a learning rate for each head; a factor on a head's loss would change nothing under Adam."""

    def __init__(self, multipliers: Sequence[float], decay: float) -> None:
        """Take what each head multiplies the learning rate by, and the kernels' weight decay."""
        super().__init__(1.0, name="adam")
        self._multipliers, self._decay = np.array(multipliers, np.float32), decay

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Let the weights decay as Keras does, before the step."""
        rate = learning_rate * ops.reshape(self._multipliers, (-1, *[1] * (len(variable.shape) - 1)))
        if self._decay and "kernel" in variable.name:  # a TensorFlow variable's name has its layer before it
            self.assign_sub(variable, variable * (rate * self._decay))
        super().update_step(gradient, variable, rate)


def accelerated() -> bool:
    """Whether Keras' backend has something faster than processors."""
    return any(not device.lower().startswith("cpu") for device in keras.distribution.list_devices())


class KerasEngine:
    """The trainable model of H heads and its weights, by the names of `featcache.training.heads.bag`."""

    @plain_keras()
    def __init__(self, plan: HeadPlan, heads: Sequence[HeadId], weights: Weights) -> None:
        """Take H heads and their initial weights; the model is built at the first step, when the batches are known."""
        self._plan, self._initial = plan, weights
        self._variants = [plan.variant(head.seed) for head in heads]
        self._layers: dict[str, keras.layers.Layer] = {}
        self._scores = HeadScores(len(heads))
        self.model: keras.Model | None = None

    def _build(self, batch: Batch) -> keras.Model:
        values = keras.Input(batch_shape=batch.values.shape, dtype=batch.values.dtype.name, name="values")
        masks = [
            None if mask is None else keras.Input(batch_shape=mask.shape, dtype="bool", name=f"mask_{layer}")
            for layer, mask in enumerate(batch.masks)
        ]
        logits = self._stack(values, masks)
        model = keras.Model([values, *(mask for mask in masks if mask is not None)], logits)
        optimizer = HeadsAdam([variant.rate for variant in self._variants], self._plan.weight_decay)
        # XLA on a CPU compiles longer than these models train
        model.compile(optimizer, HeadsLoss(), metrics=[self._scores], jit_compile=accelerated())
        for name, variable in self._variables().items():
            variable.assign(self._initial[name])
        return model

    def _stack(self, values: Any, masks: Sequence[Any]) -> Any:
        plan = self._plan
        self._layers["input"] = StackedInput(plan.standardize, name="input")
        active = self._layers["input"](values)
        for layer, (width, mask) in enumerate(zip((*plan.hidden, plan.classes), masks, strict=True)):
            if mask is not None:
                kept = [keep_probability(variant.dropouts[layer]) for variant in self._variants]
                active = StackedDropout(kept, name=f"dropout_{layer}")(active, mask)
            last = layer == len(plan.hidden)
            dense = self._layers[f"dense_{layer}"] = StackedDense(width, relu=not last, name=f"dense_{layer}")
            active = dense(active)
            if not last:
                norm = StackedBatchNormalization(plan.momentum, name=f"normal_{layer}")
                self._layers[f"normal_{layer}"] = norm
                active = norm(active)
        return active

    @plain_keras()
    def train_step(self, batch: Batch, rate: float) -> Float32s:
        """Take one Adam step of every head; return (2, H), each head's loss and accuracy before it."""
        if self.model is None:
            self.model = self._build(batch)
        self.model.optimizer.learning_rate = rate
        weights = np.ones(batch.truth.shape, np.float32) if batch.weights is None else batch.weights
        inputs = [batch.values, *(mask for mask in batch.masks if mask is not None)]
        self.model.train_on_batch(inputs, np.concatenate([batch.targets, weights[:, :, None]], axis=2))
        return np.array(ops.convert_to_numpy(self._scores.last))

    def _variables(self) -> dict[str, Any]:
        named = {}
        for key, layer in self._layers.items():
            part, _, number = key.partition("_")
            for variable in layer.weights:
                name = f"input_{variable.name}" if part == "input" else f"{variable.name}_{number}"
                named[name] = variable
        return named

    @property
    def weights(self) -> Weights:
        """Every variable as a NumPy array of its own."""
        if self.model is None:
            return self._initial
        return {name: np.array(ops.convert_to_numpy(variable)) for name, variable in self._variables().items()}

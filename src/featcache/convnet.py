"""The small convolutional network: building, training one on all folds but one, predicting. [Keras].

3x3 convolutions without padding, batch normalisation over the channels: ``conv 32, BN, conv 32, max-pool, BN, conv 64,
BN, conv 64, max-pool, flatten, BN, dense 512, BN, dropout 0.5, softmax``, relu throughout. With 28x28 grey images and 10
classes it has 601,578 parameters. The post that it is from counts 601,258: it normalises over axis 1, which is the height
where channels come last, so each row of a picture has its own statistics and the channels have none.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from featcache.convnet_plan import ConvNetPlan, draw_epoch
from featcache.errors import TrainingError

Images = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

PREDICT_BATCH = 256
_WATCHED = 2000  # rows of its own fold that a network is scored on after each epoch but the last


class ChannelNormalization(keras.layers.BatchNormalization):
    """Batch normalisation over the channels by TensorFlow's fused kernel, which also takes bfloat16.

    The variables are those of Keras' layer, and so is what it computes. Keras' own form is a chain of element-wise
    operations: with it whole training steps take 1.7 times as long in float32, and far more in bfloat16.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """(b, h, w, c) -> the same shape and dtype; moving statistics are updated in training."""
        import tensorflow as tf

        if not training:
            return super().call(inputs, training=training, mask=mask)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.convert_to_tensor(self.gamma),
            offset=tf.convert_to_tensor(self.beta),
            mean=tf.zeros(0),
            variance=tf.zeros(0),
            epsilon=self.epsilon,
            is_training=True,
        )
        values = tf.cast(tf.size(inputs) // tf.shape(inputs)[-1], tf.float32)
        variance *= (values - 1) / values  # the kernel's is the unbiased one, Keras keeps the batch's own
        for moving, seen in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + seen * (1 - self.momentum))
        return outputs


def build_network(
    plan: ConvNetPlan,
    mean: Sequence[float],
    deviation: Sequence[float],
    seed: int = 0,
    momentum: float = 0.99,
    *,
    training: bool = False,
) -> keras.Model:
    """Build the network with fresh weights, drawn from `seed` alone.

    Args:
        plan: image size, channels and classes.
        mean: of each channel over the training rows, 0 to 255.
        deviation: the same for the standard deviation; 0 counts as 1.
        seed: of the initial kernels.
        momentum: of batch normalisation's moving averages.
        training: as it is trained: in the plan's precision, ending in logits, with batch normalisation by
            TensorFlow's fused kernel where that is the backend. Otherwise Keras' own layers in float32, ending in
            probabilities. Both forms have the same weights in the same order.

    Returns:
        (b, size, size, channels) of 0 to 255 -> (b, classes) float32.
    """
    layers = keras.layers
    dtype = "mixed_bfloat16" if training and plan.precision == "bfloat16" else "float32"
    fused = training and keras.backend.backend() == "tensorflow"
    seeds = iter(np.random.SeedSequence(seed).generate_state(6) >> 1)
    scale = 1 / np.where(np.asarray(deviation) > 0, deviation, 1)

    def drawn() -> keras.Initializer:
        return keras.initializers.GlorotUniform(seed=int(next(seeds)))

    def convolution(width: int, name: str) -> keras.layers.Layer:
        form = {"activation": "relu", "kernel_initializer": drawn(), "data_format": "channels_last"}
        return layers.Conv2D(width, 3, **form, dtype=dtype, name=name)

    def normal(name: str) -> keras.layers.Layer:
        kind = ChannelNormalization if fused else layers.BatchNormalization
        return kind(momentum=momentum, dtype=dtype, name=name)

    def pool(name: str) -> keras.layers.Layer:
        return layers.MaxPooling2D(data_format="channels_last", dtype=dtype, name=name)

    inputs = keras.Input((plan.image_size, plan.image_size, plan.channels), name="images")
    outputs = layers.Rescaling(scale.tolist(), (-np.asarray(mean) * scale).tolist(), dtype="float32", name="standardize")(inputs)
    for layer in (
        convolution(32, "conv_0"),
        normal("normal_0"),
        convolution(32, "conv_1"),
        pool("pool_0"),
        normal("normal_1"),
        convolution(64, "conv_2"),
        normal("normal_2"),
        convolution(64, "conv_3"),
        pool("pool_1"),
        layers.Flatten(dtype=dtype, name="flatten"),
        layers.BatchNormalization(momentum=momentum, dtype="float32", name="normal_3"),
        layers.Dense(512, activation="relu", kernel_initializer=drawn(), dtype=dtype, name="dense"),
        layers.BatchNormalization(momentum=momentum, dtype="float32", name="normal_4"),
        layers.Dropout(0.5, seed=0, dtype="float32", name="dropout"),
        layers.Dense(
            plan.classes, None if training else "softmax", kernel_initializer=drawn(), name="classes", dtype="float32"
        ),
    ):
        outputs = layer(outputs)
    return keras.Model(inputs, outputs, name="convnet")


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network.

    Attributes:
        model: in float32, ending in probabilities.
        history: ``loss``, ``accuracy`` (of the training batches, dropout and augmentation included), ``fold_loss``,
            ``fold_accuracy`` (of at most `_WATCHED` rows of the fold that it hasn't seen), one value an epoch.
    """

    model: keras.Model
    history: Mapping[str, list[float]]


@dataclass(frozen=True, eq=False)
class Training:
    """What a network is trained on.

    Attributes:
        images: (n, size, size, channels) uint8, all rows; memory-mapped ones stay on the disk.
        labels: (n,) class indices.
        own: (r,) int64, the rows to train on.
        held_out: (f,) int64, the usable rows of the fold that it must not see.
        seed: the member's.
        fold: the held-out fold's number.
    """

    images: Images
    labels: npt.NDArray[np.integer]
    own: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.int64]
    seed: int
    fold: int


State = list[npt.NDArray[Any]]
Saved = tuple[State, dict[str, list[float]]]


def train_network(
    plan: ConvNetPlan,
    training: Training,
    begun: Saved | None = None,
    after_epoch: Callable[[Callable[[], State], Mapping[str, list[float]]], None] = lambda state, history: None,
) -> Network:
    """Train one network.

    Args:
        plan: from `featcache.convnet_plan.resolve`.
        training: rows, seed and fold.
        begun: state and history as `after_epoch` got them, to go on from there; what comes out is the same.
        after_epoch: is called with a function that returns the state, and the history so far.

    Raises:
        TrainingError: fewer than 2 rows to train on, or the loss became NaN or infinite.
    """
    if len(training.own) < 2:
        raise TrainingError(f"expected at least 2 rows to train on beside fold {training.fold}; got {len(training.own)}")
    mean, deviation = statistics(training.images, training.own)
    steps = len(training.own) // plan.batch_size
    seed = int(np.random.SeedSequence([training.seed, training.fold]).generate_state(1)[0])
    learner = build_network(plan, mean, deviation, seed, plan.momentum(steps), training=True)
    judge = build_network(plan, mean, deviation)
    optimizer = keras.optimizers.Adam()
    optimizer.build(learner.trainable_variables)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # compiled by XLA, steps take longer on a CPU
    jit = False if keras.backend.backend() == "tensorflow" else "auto"
    learner.compile(optimizer, loss, metrics=["accuracy"], jit_compile=jit)
    history: dict[str, list[float]] = {name: [] for name in ("loss", "accuracy", "fold_loss", "fold_accuracy")}
    variables = [*learner.weights, *optimizer.variables]
    if begun is not None:
        for variable, value in zip(variables, begun[0], strict=True):
            variable.assign(value)
        history = {name: list(values) for name, values in begun[1].items()}
    watched = training.held_out[:: -(-len(training.held_out) // _WATCHED)]
    for number in range(len(history["loss"]), plan.epochs):
        loss_now, accuracy = _train_epoch(plan, training, learner, optimizer, number)
        if not np.isfinite(loss_now):
            raise TrainingError(f"the loss became {loss_now} in epoch {number + 1}: lower the rates of [ConvNet] schedule")
        judge.set_weights(learner.get_weights())
        scores = _scores(judge, training.images, training.labels, watched)
        for name, value in zip(history, (loss_now, accuracy, *scores), strict=True):
            history[name].append(value)
        after_epoch(lambda: [np.asarray(keras.ops.convert_to_numpy(variable)) for variable in variables], history)
    judge.set_weights(learner.get_weights())
    return Network(judge, history)


def _train_epoch(
    plan: ConvNetPlan, training: Training, learner: keras.Model, optimizer: keras.optimizers.Optimizer, number: int
) -> tuple[float, float]:
    """Mean loss and accuracy of one epoch's batches."""
    epoch = draw_epoch(plan, training.own, training.seed, training.fold, number)
    state = learner.get_layer("dropout").seed_generator.state
    state.assign(np.array([epoch.dropout_seed, 0], keras.backend.standardize_dtype(state.dtype)))
    learner.reset_metrics()
    steps = len(epoch.order)
    for step, (rows, maps) in enumerate(epoch.batches()):
        optimizer.learning_rate.assign(plan.rate(number, step, steps))
        images = keras.ops.image.affine_transform(
            training.images[rows].astype(np.float32), maps, "bilinear", "nearest", data_format="channels_last"
        )
        told = learner.train_on_batch(images, training.labels[rows].astype(np.int32), return_dict=True)
    return float(told["loss"]), float(told["accuracy"])


def statistics(images: Images, rows: npt.NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over `rows` of `images`, 0 to 255, exact whatever the order."""
    counts = np.zeros((images.shape[-1], 256), np.int64)
    for start in range(0, len(rows), 4096):
        block = images[rows[start : start + 4096]]
        for channel in range(images.shape[-1]):
            counts[channel] += np.bincount(block[..., channel].ravel(), minlength=256)
    values = np.arange(256)
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ values
    return mean.tolist(), np.sqrt(shares @ values**2 - mean**2).tolist()


def predict(models: Sequence[keras.Model], images: Images) -> Floats:
    """Return (n, C) float32: the mean of what the networks say of `images` (n, size, size, channels) uint8.

    Raises:
        TrainingError: the images have another shape than those trained on.
    """
    expected = tuple(models[0].input_shape[1:])
    if tuple(images.shape[1:]) != expected:
        raise TrainingError(f"expected images of shape {expected}; got shape={tuple(images.shape[1:])}")
    probabilities = np.empty((len(images), models[0].output_shape[1]), np.float32)
    for start in range(0, len(images), PREDICT_BATCH):
        block = images[start : start + PREDICT_BATCH].astype(np.float32)
        padded = np.pad(block, ((0, PREDICT_BATCH - len(block)), (0, 0), (0, 0), (0, 0)))  # one shape, one graph
        said = [np.asarray(model.predict_on_batch(padded), np.float64) for model in models]
        probabilities[start : start + len(block)] = np.mean(said, axis=0)[: len(block)]
    return probabilities


def _scores(
    model: keras.Model, images: Images, labels: npt.NDArray[np.integer], rows: npt.NDArray[np.int64]
) -> tuple[float, float]:
    said = predict([model], images[rows])
    chosen = said[np.arange(len(rows)), labels[rows]]
    return float(-np.log(np.maximum(chosen, 1e-7)).mean()), float((said.argmax(axis=1) == labels[rows]).mean())

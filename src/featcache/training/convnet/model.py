"""The convnet, a small convolutional network: building it, loading it, predicting with it. [Keras].

3x3 convolutions without padding, batch normalisation over the channels: ``conv 32, BN, conv 32, max-pool, BN, conv 64,
BN, conv 64, max-pool, flatten, BN, dense 512, BN, dropout 0.5, softmax`` (sigmoid where a row may have several labels), relu throughout. With 28x28 grey images and 10
classes it has 601,578 parameters. The post that it is from counts 601,258: it normalises over axis 1, which is the height
where channels come last, so each row of a picture has its own statistics and the channels have none.
"""

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from featcache.core.keras_import import plain_keras
from featcache.errors import CacheFormatError, TrainingError
from featcache.training.convnet.checkpoints import model_paths
from featcache.training.convnet.plan import ConvNetPlan

Images = npt.NDArray[np.uint8]
Float32s = npt.NDArray[np.float32]

PREDICT_BATCH = 256


class ChannelNormalization(keras.layers.BatchNormalization):
    """Batch normalisation over the channels by TensorFlow's fused kernel, which also takes bfloat16.

    The variables are those of Keras' layer, and so is what it computes. Keras' own form is a chain of element-wise
    operations: with it whole training steps take 1.25 times as long in bfloat16, 1.1 times in float32.
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


@plain_keras()
def build_convnet(
    plan: ConvNetPlan,
    mean: Sequence[float],
    deviation: Sequence[float],
    seed: int = 0,
    momentum: float = 0.99,
    *,
    training: bool = False,
) -> keras.Model:
    """Build the convnet with fresh weights, drawn from `seed` alone.

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
    scale = 1 / np.where(np.asarray(deviation) > 0, deviation, 1)
    shift = -np.asarray(mean) * scale
    inputs = keras.Input((plan.image_size, plan.image_size, plan.channels), name="images")
    outputs = keras.layers.Rescaling(scale.tolist(), shift.tolist(), dtype="float32", name="standardize")(inputs)
    for layer in _layers(plan, seed, momentum, training=training):
        outputs = layer(outputs)
    return keras.Model(inputs, outputs, name="convnet")


def _layers(plan: ConvNetPlan, seed: int, momentum: float, *, training: bool) -> Iterator[keras.layers.Layer]:
    layers = keras.layers
    dtype = "mixed_bfloat16" if training and plan.precision == "bfloat16" else "float32"
    fused = training and keras.backend.backend() == "tensorflow"
    normal = ChannelNormalization if fused else layers.BatchNormalization
    drawn = [keras.initializers.GlorotUniform(int(s) >> 1) for s in np.random.SeedSequence(seed).generate_state(6)]
    of_images: dict[str, Any] = {"data_format": "channels_last", "dtype": dtype}
    for number, width in enumerate((32, 32, 64, 64)):
        kernel = drawn[number]
        yield layers.Conv2D(width, 3, activation="relu", kernel_initializer=kernel, name=f"conv_{number}", **of_images)
        if number % 2:
            yield layers.MaxPooling2D(name=f"pool_{number // 2}", **of_images)
        if number < 3:
            yield normal(momentum=momentum, dtype=dtype, name=f"normal_{number}")
    yield layers.Flatten(name="flatten", **of_images)
    yield layers.BatchNormalization(momentum=momentum, dtype="float32", name="normal_3")
    yield layers.Dense(512, "relu", kernel_initializer=drawn[4], dtype=dtype, name="dense")
    yield layers.BatchNormalization(momentum=momentum, dtype="float32", name="normal_4")
    yield layers.Dropout(0.5, seed=0, dtype="float32", name="dropout")
    last = None if training else "sigmoid" if plan.several else "softmax"
    yield layers.Dense(plan.classes, last, kernel_initializer=drawn[5], dtype="float32", name="classes")


def load_networks(folder: Path) -> list[keras.Model]:
    """Return a member's convnets, one a fold, from its `folder`.

    Raises:
        CacheFormatError: there are none, or one is damaged.
    """
    paths = model_paths(folder)
    if not paths:
        raise CacheFormatError(f"{folder} has no convnets, fold0.keras and so on: run TrainConvNets")
    return [load_network(path) for path in paths]


@plain_keras()
def load_network(path: Path) -> keras.Model:
    """Return one convnet, (b, size, size, channels) of 0 to 255 -> (b, C) probabilities.

    Raises:
        CacheFormatError: it is absent or damaged.
    """
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise CacheFormatError(f"{path} is damaged: {reason}: run TrainConvNets with --rerun") from error


@plain_keras()
def predict_convnet(
    models: Sequence[keras.Model], images: Images, rows: npt.NDArray[np.int64] | None = None
) -> Float32s:
    """Return (n, C) float32: the mean of the convnets' predictions of `images`.

    Args:
        models: at least one, such as a member's from `load_networks`.
        images: (n, size, size, channels) uint8, 0 to 255.
        rows: which of the images; None for all.

    Raises:
        TrainingError: the images have another shape than those trained on.
    """
    expected = tuple(models[0].input_shape[1:])
    if tuple(images.shape[1:]) != expected:
        raise TrainingError(f"images of shape={tuple(images.shape[1:])} don't fit a convnet that takes {expected}")
    rows = np.arange(len(images)) if rows is None else rows
    probabilities = np.empty((len(rows), models[0].output_shape[1]), np.float32)
    for start in range(0, len(rows), PREDICT_BATCH):
        part = rows[start : start + PREDICT_BATCH]
        block = np.zeros((PREDICT_BATCH, *expected), np.float32)  # one shape, one graph
        block[: len(part)] = images[part]
        # called as it is: TensorFlow would compile `model.predict` by XLA, which is slower on a CPU
        outputs = [keras.ops.convert_to_numpy(model(block, training=False)).astype(np.float64) for model in models]
        probabilities[start : start + len(part)] = np.mean(outputs, axis=0)[: len(part)]
    return probabilities

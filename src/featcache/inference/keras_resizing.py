"""`sources.decode`'s resizing as Keras operations, for models that take images of any size. [Keras]

Pillow resizes 8-bit images in two passes, one a direction, by weights of 22 binary places, and rounds after each. float64
holds every sum of such products exactly, so these operations come to the same bytes. All of them are Keras' own: a model
made of them needs nothing else to be loaded.
"""

from typing import Any

import keras
import numpy as np
import PIL
from keras import ops

from featcache.core.keras_import import plain_keras

_PLACES = 2.0**22
_REACH = 2.0  # pixels that the bicubic filter reaches to each side, before it is stretched
# Pillow 13 begins with the height where that is scaled down much more than the width; earlier ones never do.
_CHOOSES_ORDER = int(PIL.__version__.partition(".")[0]) >= 13


@plain_keras()
def resizing_model(size: int) -> keras.Model:
    """Return a model from (b, h, w, 3) to (b, size, size, 3), both uint8 RGB: the same bytes as `decode.resize_rgb`.

    Equal to Pillow's on TensorFlow; JAX has no float64 unless x64 is enabled; without it single values are off by at most one.
    """
    images = keras.Input((None, None, 3), dtype="uint8", name="images")
    height, across_height = _direction(images[0, :, 0, 0], size)
    width, across_width = _direction(images[0, 0, :, 0], size)
    columns = ops.transpose(ops.cast(images, "float64"), (0, 3, 1, 2))  # (b, 3, h, w)
    resized = _down(_across(columns, across_width), across_height)
    if _CHOOSES_ORDER:
        tall = ops.logical_and(height > size, height + size > 2 * width)
        resized = ops.where(tall, _across(_down(columns, across_height), across_width), resized)
    return keras.Model(images, ops.cast(ops.transpose(resized, (0, 2, 3, 1)), "uint8"), name=f"resize-{size}")


def _across(pixels: Any, weights: Any) -> Any:
    """(b, 3, h, w) and (w, size) to (b, 3, h, size), rounded to whole values from 0 to 255."""
    return ops.clip(ops.floor((ops.matmul(pixels, weights) + _PLACES / 2) / _PLACES), 0, 255)


def _down(pixels: Any, weights: Any) -> Any:
    """(b, 3, h, w) and (h, size) to (b, 3, size, w)."""
    return ops.swapaxes(_across(ops.swapaxes(pixels, 2, 3), weights), 2, 3)


def _direction(line: Any, size: int) -> tuple[Any, Any]:
    """Return how many pixels the `line` (n,) has, and the (n, size) weights that bring it to `size`."""
    ones = ops.ones_like(line, dtype="float64")  # summed up, as what a model is made of knows no shapes yet
    count, place = ops.sum(ones), ops.expand_dims(ops.cumsum(ones) - 1, 1)
    scale = count / size
    stretch = ops.maximum(scale, 1)
    centre = ops.convert_to_tensor(np.arange(size)[None] + 0.5) * scale  # (1, size)
    first = ops.floor(centre - _REACH * stretch + 0.5)
    end = ops.floor(centre + _REACH * stretch + 0.5)
    distance = ops.abs(place - centre + 0.5) / stretch
    near = (1.5 * distance - 2.5) * distance * distance + 1  # Keys' kernel with a = -1/2
    far = -0.5 * (((distance - 5) * distance + 8) * distance - 4)
    weights = ops.where(distance < 1, near, ops.where(distance < _REACH, far, 0.0))
    weights = ops.where(ops.logical_and(place >= first, place < end), weights, 0.0)
    scaled = weights / ops.sum(weights, axis=0, keepdims=True) * _PLACES
    return count, ops.sign(scaled) * ops.floor(ops.abs(scaled) + 0.5)  # rounded half away from zero

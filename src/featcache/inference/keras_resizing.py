"""`sources.decode`'s resizing as Keras operations, for models that take images of any size. [Keras]

Pillow resizes 8-bit images in two passes, one a direction, by weights of 22 binary places, and rounds after each. float64
holds every sum of such products exactly, so these operations come to the same bytes. All of them are Keras' own: a model
made of them needs nothing else to be loaded.
"""

from typing import Any, NamedTuple

import keras
import numpy as np
import PIL
from keras import ops

from featcache.core.keras_import import plain_keras
from featcache.dataset import BORDER
from featcache.settings import CROP, PAD, STRETCH

_PLACES = 2.0**22
_REACH = 2.0  # pixels that the bicubic filter reaches to each side, before it is stretched
# Pillow 13 begins with the height where it loses more than twice as many pixels as the width; earlier ones never do.
_CHOOSES_ORDER = int(PIL.__version__.partition(".")[0]) >= 13


class _Extent(NamedTuple):
    """In one direction: `length` pixels from `start` come to `span` of the result's, from `offset`; float64 tensors or numbers."""

    start: Any
    length: Any
    offset: Any
    span: Any


@plain_keras()
def resizing_model(size: int, fit: str = STRETCH) -> keras.Model:
    """Return a model from (b, h, w, 3) to (b, size, size, 3), both uint8 RGB: the same bytes as `decode.resize_rgb`.

    Equal to Pillow's on TensorFlow; JAX has no float64 unless x64 is enabled; without it single values are off by at most one.
    """
    images = keras.Input((None, None, 3), dtype="uint8", name="images")
    lines = images[0, :, 0, 0], images[0, 0, :, 0]
    # counted by summing up, as what a model is made of knows no shapes yet
    height, width = (ops.sum(ops.ones_like(line, dtype="float64")) for line in lines)
    high, wide = _extent(height, width, size, fit), _extent(width, height, size, fit)
    (across_height, rows), (across_width, columns) = (
        _direction(line, size, extent) for line, extent in zip(lines, (high, wide), strict=True)
    )
    pixels = ops.transpose(ops.cast(images, "float64"), (0, 3, 1, 2))  # (b, 3, h, w)
    resized = _down(_across(pixels, across_width), across_height)
    if _CHOOSES_ORDER:
        lost = high.length - high.span
        tall = ops.logical_and(lost > 0, lost > 2 * (wide.length - wide.span))
        resized = ops.where(tall, _across(_down(pixels, across_height), across_width), resized)
    if fit == PAD:
        border = ops.convert_to_tensor(np.reshape(BORDER, (1, 3, 1, 1)).astype(np.float64))
        resized = ops.where(ops.logical_and(ops.transpose(rows), columns), resized, border)
    return keras.Model(images, ops.cast(ops.transpose(resized, (0, 2, 3, 1)), "uint8"), name=f"resize-{size}")


def _across(pixels: Any, weights: Any) -> Any:
    """(b, 3, h, w) and (w, size) to (b, 3, h, size), rounded to whole values from 0 to 255."""
    return ops.clip(ops.floor((ops.matmul(pixels, weights) + _PLACES / 2) / _PLACES), 0, 255)


def _down(pixels: Any, weights: Any) -> Any:
    """(b, 3, h, w) and (h, size) to (b, 3, size, w)."""
    return ops.swapaxes(_across(ops.swapaxes(pixels, 2, 3), weights), 2, 3)


def _extent(own: Any, other: Any, size: int, fit: str) -> _Extent:
    """Of a direction of `own` pixels beside one of `other`, as `decode.resize_rgb` has it."""
    if fit == CROP:
        length = ops.minimum(own, other)
        return _Extent(ops.floor((own - length) / 2), length, 0, size)
    if fit == PAD:
        longest = ops.maximum(own, other)
        span = ops.maximum(1.0, ops.floor((2 * own * size + longest) / (2 * longest)))
        return _Extent(0, own, ops.floor((size - span) / 2), span)
    return _Extent(0, own, 0, size)


def _direction(line: Any, size: int, extent: _Extent) -> tuple[Any, Any]:
    """Return the (n, size) weights that bring the `line` (n,) to its extent, and (1, size): which pixels that covers."""
    place = ops.expand_dims(ops.cumsum(ops.ones_like(line, dtype="float64")) - 1, 1) - extent.start
    target = ops.convert_to_tensor(np.arange(size, dtype=np.float64)[None]) - extent.offset
    covered = ops.logical_and(target >= 0, target < extent.span)
    scale = extent.length / extent.span
    stretch = ops.maximum(scale, 1)
    centre = (target + 0.5) * scale  # (1, size)
    first = ops.floor(centre - _REACH * stretch + 0.5)
    end = ops.floor(centre + _REACH * stretch + 0.5)
    distance = ops.abs(place - centre + 0.5) / stretch
    near = (1.5 * distance - 2.5) * distance * distance + 1  # Keys' kernel with a = -1/2
    far = -0.5 * (((distance - 5) * distance + 8) * distance - 4)
    weights = ops.where(distance < 1, near, ops.where(distance < _REACH, far, 0.0))
    inside = ops.logical_and(ops.logical_and(place >= 0, place < extent.length), covered)
    weights = ops.where(ops.logical_and(inside, ops.logical_and(place >= first, place < end)), weights, 0.0)
    scaled = weights / ops.where(covered, ops.sum(weights, axis=0, keepdims=True), 1.0) * _PLACES
    return ops.sign(scaled) * ops.floor(ops.abs(scaled) + 0.5), covered  # rounded half away from zero

"""Small images side by side in one convolution: faster on some processors, and taken only where every bit stays. [Keras]

Of an image that is three pixels wide a matrix unit is hardly ever full; sixteen of them in a row, with columns of zeros
between, are one image of 64 pixels. Whether that is faster, and whether each sum is still added up in the same order, is up to
the processor and its library, so both are found out, kind by kind of convolution.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import keras
import numpy as np

from featcache.features.network import leaves

TOGETHER = 16
_WIDEST = 24  # pixels; nothing is gained beyond
_ROUNDS = 3
_GAIN = 0.95  # of the plain one's time: what is not faster by that much may as well be chance


class Convolution(NamedTuple):
    """A layer, and the shape (b, h, w, c) and dtype of what it works on."""

    layer: Any
    shape: tuple[int, ...]
    dtype: str


Run = Callable[[Any], Any]


@contextmanager
def noticed(network: Any) -> Iterator[list[Convolution]]:
    """Fill the list with those convolutions that may work on images side by side, once the network was called inside.

    They are called once a pass, keep the image's size, look beyond one column, and have images that are narrow and enough.
    """
    found: list[Convolution] = []
    seen: dict[Any, list[Convolution]] = {}

    def note(layer: Any, plain: Run, images: Any) -> Any:
        dtype = keras.backend.standardize_dtype(images.dtype)
        seen.setdefault(layer, []).append(Convolution(layer, tuple(images.shape), dtype))
        return plain(images)

    with _calls(list(dict.fromkeys(filter(_allows_it, leaves(network)))), note):
        yield found
    once = [calls[0] for calls in seen.values() if len(calls) == 1]
    known = [each for each in once if None not in each.shape]
    found += [each for each in known if each.shape[0] % TOGETHER == 0 and each.shape[2] <= _WIDEST]


def _allows_it(layer: Any) -> bool:
    kinds = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)
    if type(layer) not in kinds or layer.padding != "same" or layer.data_format != "channels_last":
        return False
    once = {*layer.strides, *layer.dilation_rate} == {1}
    return once and layer.kernel_size[1] > 1 and not getattr(layer, "quantization_mode", None)


def choose(
    found: Sequence[Convolution], compiled: Callable[[Convolution], Run], clock: Callable[[], float] = time.perf_counter
) -> list[Convolution]:
    """Return those that are faster side by side and give the same bytes, by a trial of each kind.

    The narrowest gain most: it ends with the first width at which none is faster.

    Args:
        found: by `noticed`.
        compiled: makes a layer ready to run, as its ``call`` is then.
        clock: seconds.
    """
    kinds: dict[tuple[object, ...], list[Convolution]] = {}
    for each in found:
        weights = tuple(tuple(weight.shape) for weight in each.layer.weights)
        kinds.setdefault((type(each.layer), *each[1:], weights, each.layer.activation), []).append(each)
    chosen: list[Convolution] = []
    for _, alike in itertools.groupby(sorted(kinds.values(), key=_width), key=_width):
        trials = [(kind, *_trial(kind[0], compiled, clock)) for kind in alike]
        chosen += [each for kind, is_faster, is_same in trials if is_faster and is_same for each in kind]
        if not any(is_faster for _, is_faster, _ in trials):
            break
    return chosen


def _width(kind: Sequence[Convolution]) -> int:
    return kind[0].shape[2]


def _trial(
    convolution: Convolution, compiled: Callable[[Convolution], Run], clock: Callable[[], float]
) -> tuple[bool, bool]:
    """Whether it is faster side by side, and whether it gives the same bytes.

    Of each way the least time counts, and they take turns, so that other work on the machine hits both alike.
    """
    plain = compiled(convolution)
    with side_by_side([convolution]):
        runs = plain, compiled(convolution)
    seconds, draw, is_same = np.zeros((1 + _ROUNDS, 2)), np.random.default_rng(0), True
    for turn in range(1 + _ROUNDS):
        values = draw.standard_normal(convolution.shape, np.float32)
        values[0] = 0  # of zeros the sign may differ
        images, outputs = keras.ops.convert_to_tensor(values, convolution.dtype), []
        for place, run in enumerate(runs):
            begun = clock()
            outputs.append(run(images))
            seconds[turn, place] = clock() - begun
        is_same = same_bytes(*outputs) and is_same
    plain_seconds, beside = seconds[1:].min(axis=0)  # the first ones had their graphs optimised
    return bool(beside < _GAIN * plain_seconds), is_same


def same_bytes(one: Any, other: Any) -> bool:
    """Whether two tensors, or dicts of tensors, are the same to the bit."""
    if isinstance(one, dict):
        return all(same_bytes(value, other[name]) for name, value in one.items())
    ours, theirs = (keras.ops.convert_to_numpy(tensor) for tensor in (one, other))
    return bool(ours.shape == theirs.shape and ours.tobytes() == theirs.tobytes())


@contextmanager
def side_by_side(convolutions: Sequence[Convolution]) -> Iterator[None]:
    """Have these work on images side by side wherever they are called, on what has their shape; layers don't change."""
    shapes = {each.layer: each.shape for each in convolutions}

    def call(layer: Any, plain: Run, images: Any) -> Any:
        if tuple(images.shape) != shapes[layer]:
            return plain(images)
        rows, height, width, _ = images.shape
        between = layer.kernel_size[1] // 2
        wide = plain(_in_rows(images, between))
        parts = keras.ops.reshape(wide, (rows // TOGETHER, height, TOGETHER, width + between, wide.shape[-1]))
        parts = keras.ops.transpose(parts[:, :, :, :width], (2, 0, 1, 3, 4))
        return keras.ops.reshape(parts, (rows, height, width, wide.shape[-1]))

    with _calls(list(shapes), call):
        yield


def _in_rows(images: Any, between: int) -> Any:
    """(b, h, w, c) -> (b / `TOGETHER`, h, `TOGETHER` * (w + between), c), with columns of zeros behind each image."""
    rows, height, width, channels = images.shape
    parts = keras.ops.reshape(images, (TOGETHER, rows // TOGETHER, height, width, channels))
    zeros = keras.ops.zeros((rows // TOGETHER, height, between, channels), images.dtype)
    joined = itertools.chain.from_iterable((parts[place], zeros) for place in range(TOGETHER))
    return keras.ops.concatenate(list(joined), axis=2)


@contextmanager
def _calls(layers: Sequence[Any], call: Callable[[Any, Run, Any], Any]) -> Iterator[None]:
    """Replace what these layers do when called, beside Keras, so that it tracks and stores nothing of it."""

    def replaced(layer: Any, plain: Run) -> Run:
        return lambda images: call(layer, plain, images)

    try:
        for layer in layers:
            vars(layer)["call"] = replaced(layer, layer.call)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("call", None)

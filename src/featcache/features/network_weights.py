"""Weights into a Keras network: drawn by NumPy, or from an HDF5 file that is checked before it is believed. [Keras]"""

import warnings
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from featcache.core import keys
from featcache.errors import WeightsError

_SAVED_BY_KERAS_3 = ("layers", "_layer_checkpoint_dependencies")
_KERAS_3_SUFFIX = ".weights.h5"
_SETTLING_IMAGES = 16
_PATCH = 8  # pixels
_MANY_PATCHES = (1, 2, 4, 8, 16, 32, 96, 96)  # pixels; the last ones fill a whole image


def draw_he_normal(layers: dict[str, Any], seed: int) -> None:
    """Fill every kernel with normal values of variance 2 / fan-in; everything else stays as Keras builds it.

    Each kernel has a generator of its own, seeded by `seed` and its layer's name: the values depend neither on the
    Keras backend nor on the order of layers nor on what else was built in the process.
    """
    for name, layer in layers.items():
        for variable in layer.weights:
            if len(variable.shape) < 2:
                continue
            state = keys.digest({"seed": seed, "layer": name, "variable": variable.name})
            generator = np.random.default_rng(int(state, 16))
            # a depthwise kernel (h, w, channels, multiplier) sums over its window alone
            depthwise = "Depthwise" in type(layer).__name__ or variable.name.startswith("depthwise")
            fan_in = np.prod(variable.shape[:2] if depthwise else variable.shape[:-1])
            draw = generator.standard_normal(tuple(variable.shape), dtype=np.float32)
            variable.assign(draw * np.float32(np.sqrt(2.0 / fan_in)))


def settle_normalisations(model: Any, seed: int, preprocessing: str, *, steep: bool = False) -> None:
    """Give every BatchNormalization the mean and variance that it sees on a few seeded images.

    Identity would do for VGG, which has none; but activations double with every residual block and vanish with every
    squeeze: a random ResNet50 overflows float16, a random EfficientNet underflows it.

    The model is of any image size; its dropout layers are switched off for good. The images are coarse random patches,
    `preprocessed`; of a `steep` network of fine ones and single colours, too, and half of the images are without
    mid-tones. Each squeeze and excitation multiplies its input by itself, so that twice the contrast that was seen, or
    noise, or blank paper, is a thousand times the output behind fifty blocks.
    """
    normalisations = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    if not normalisations:
        return
    for layer in normalisations:
        layer.momentum = 0.0  # take this one batch as it is
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    images = _images_of_all_kinds(model.input.shape[1], seed) if steep else _coarse_images(model.input.shape[1], seed)
    model(preprocessed(images, preprocessing), training=True)


def _coarse_images(side: int, seed: int) -> Any:
    shape = (_SETTLING_IMAGES, -(-side // _PATCH), -(-side // _PATCH), 3)
    patches = np.random.default_rng(seed).integers(0, 256, shape)
    return patches.repeat(_PATCH, axis=1).repeat(_PATCH, axis=2)[:, :side, :side].astype(np.float32)


def _images_of_all_kinds(side: int, seed: int) -> Any:
    generator, images = np.random.default_rng(seed), []
    for tones in (False, True):
        for patch in _MANY_PATCHES:
            across = -(-side // patch)
            patches = generator.integers(0, 256, (across, across, 3))
            patches = patches if tones else (patches > 127) * 255
            images.append(patches.repeat(patch, axis=0).repeat(patch, axis=1)[:side, :side])
    return np.stack(images).astype(np.float32)


def preprocessed(pixels: Any, mode: str) -> Any:
    """Return (b, h, w, 3) float32 RGB pixels as a network of `keras.applications` wants them; in mode ``none`` as they are."""
    if mode == "none":
        return pixels
    return keras.applications.imagenet_utils.preprocess_input(pixels, data_format="channels_last", mode=mode)


def load_weights_file(path: Path, model: Any, title: str) -> None:
    """Load what Keras 1 and 2 and `keras.applications` write (any name), or ``*.weights.h5`` of Keras 3.

    `model` is without top, in float32; `title` its architecture's name, for messages.

    Raises:
        WeightsError: not HDF5, no Keras weights, damaged, or of another architecture (the first difference is named).
    """
    try:
        with h5py.File(path, "r") as file:
            group = file.get("model_weights", file)
            layers = _texts(group, "layer_names")
            if layers:
                saved = {
                    name: [np.asarray(group[name][w]) for w in _texts(group[name], "weight_names")] for name in layers
                }
                _assign([(name, arrays) for name, arrays in saved.items() if arrays], model, path, title)
                return
            keras_3 = any(name in file for name in _SAVED_BY_KERAS_3)
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{path} can't be read as a Keras HDF5 weights file: {reason}") from error
    if not keras_3:
        raise WeightsError(f"{path} is HDF5 but holds no Keras weights: give a Keras weights file without top")
    if not path.name.endswith(_KERAS_3_SUFFIX):
        raise WeightsError(f"{path} was written by Keras 3; rename it to end in {_KERAS_3_SUFFIX}, as Keras demands")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # Keras only warns that layers keep their initial weights
            model.load_weights(path)
    except (ValueError, OSError, KeyError, TypeError, UserWarning) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{path} does not fit {title} without top: {reason}") from error


def _texts(group: Any, name: str) -> list[str]:
    """Read an attribute of names, which Keras splits into name0, name1, ... where it is long."""
    if name in group.attrs:
        found = list(group.attrs[name])
    else:
        pieces: list[Any] = []
        while f"{name}{len(pieces)}" in group.attrs:
            pieces.append(group.attrs[f"{name}{len(pieces)}"])
        found = [text for piece in pieces for text in piece]
    return [text.decode("utf-8") if isinstance(text, bytes) else str(text) for text in found]


def _assign(saved: list[tuple[str, list[Any]]], model: Any, path: Path, title: str) -> None:
    """Assign by order, as Keras does (names in published files differ from layers' names), shapes compared first."""
    layers = [(layer, [*layer.trainable_weights, *layer.non_trainable_weights]) for layer in model.layers]
    layers = [(layer, variables) for layer, variables in layers if variables]
    for (name, arrays), (layer, variables) in zip(saved, layers, strict=False):
        found, expected = [array.shape for array in arrays], [tuple(variable.shape) for variable in variables]
        if found != expected:
            differs = f"{name!r} has shapes {found}, layer {layer.name} needs {expected}"
            raise WeightsError(f"{path} does not fit {title} without top: {differs}")
    if len(saved) != len(layers):
        more = f", first {saved[len(layers)][0]!r} (a file with the classifier on top?)" if saved[len(layers) :] else ""
        counts = f"{len(saved)} layers with weights, not {len(layers)}"
        raise WeightsError(f"{path} does not fit {title} without top: {counts}{more}")
    for (_, arrays), (layer, variables) in zip(saved, layers, strict=True):
        for array, variable in zip(arrays, variables, strict=True):
            variable.assign(array)
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()  # a Normalization layer computes with constants made of its weights

"""The frozen network as one Keras graph: uint8 RGB in, preprocessing, convolutions, taps as float16 out. [Keras]"""

import re
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import keras

from featcache.core.keras_import import plain_keras
from featcache.core.names import did_you_mean
from featcache.errors import BackboneError
from featcache.features.hub import load_preset, patch_side, pooled_tokens, token_map
from featcache.features.network_weights import draw_he_normal, load_weights_file, preprocessed, settle_normalisations
from featcache.features.weights import SEED, ResolvedWeights
from featcache.settings import OUTPUT, Architecture, FeaturesSpec, Tap, find_architecture, is_model_file, is_preset

_SHOWN = 6
_SETTLING_SIDE = 96  # pixels; every architecture allows it


@plain_keras()
def build_network(spec: FeaturesSpec, weights: ResolvedWeights, precision: str, *, maps: bool = False) -> Any:
    """Return a frozen Keras model that ends at the deepest tap of `spec`.

    The tap ``output`` is what the network itself gives, where no layer has that name. Pooling leaves it as it is if that is a
    vector. With a `precision` of 16 bits, variables, preprocessing and pooling stay float32. With `maps`, what pooled taps
    pool over comes out, too, (b, h, w, c) float16, under `map_name`, where it has places.

    Returns:
        A model from (b, size, size, 3) uint8 RGB to a dict of tap name -> (b, h, w, c) or (b, c) float16. Values beyond
        float16's range come out infinite, so that one look for non-finite values finds them all.

    Raises:
        BackboneError: the backbone, a tap or the image size is not possible.
        WeightsError: the weights file can't be read or belongs to another architecture.
    """
    convert, patch = None, None
    if is_preset(spec.backbone):
        model, scale, offset = load_preset(Path(weights.path or ""), spec.image_size, precision)
        convert, patch = (lambda pixels: pixels * scale + offset), patch_side(model)
        preprocessing, title, layers = "", "the preset", {layer.name: layer for layer in model.layers}
    elif is_model_file(spec.backbone):
        model = _load_model(weights.path or Path(spec.backbone), spec.image_size)
        preprocessing, title = "none", "the model"
        layers = {layer.name: layer for layer in model.layers}
    else:
        architecture = find_architecture(spec.backbone)
        model = _application(architecture, spec.image_size)
        preprocessing, title = architecture.preprocessing, architecture.name
        layers = _named_layers(model)
        if weights.path is not None:
            load_weights_file(weights.path, model, title)
        else:
            _fill_randomly(layers, architecture)
    layers = {OUTPUT: model, **layers}  # a layer of that name is what is meant
    outputs = [_tap_output(tap, layers, title) for tap in spec.taps]
    if precision != "float32" and convert is None:
        for layer in leaves(model):
            layer.dtype_policy = f"mixed_{precision}"
    model.trainable = False
    trunk = keras.Model(model.inputs, outputs)
    return _with_ends(trunk, spec, convert or partial(preprocessed, mode=preprocessing), patch, maps=maps)


def map_name(tap: str) -> str:
    """Return what the map is called that a tap pools over."""
    return f"{tap}_map"


def _with_ends(trunk: Any, spec: FeaturesSpec, convert: Callable[[Any], Any], patch: int | None, *, maps: bool) -> Any:
    """Put preprocessing before `trunk` and pooling and the cast to the storage dtype behind it."""
    images = keras.Input((spec.image_size, spec.image_size, 3), dtype="uint8", name="images")
    features = trunk(convert(keras.ops.cast(images, "float32")))
    features = features if isinstance(features, (list, tuple)) else [features]
    pooling = {"avg": keras.ops.mean, "max": keras.ops.max}
    outputs = {}
    for tap, feature in zip(spec.taps, features, strict=True):
        values = keras.ops.cast(feature, "float32")
        if maps and tap.pooling and len(values.shape) > 2:
            places = token_map(values, spec.image_size, patch) if len(values.shape) == 3 else values
            outputs[map_name(tap.name)] = keras.ops.cast(places, "float16")
        if tap.pooling and len(values.shape) == 3:
            values = pooled_tokens(values, tap.pooling, spec.image_size, patch)
        values = pooling[tap.pooling](values, axis=(1, 2)) if tap.pooling and len(values.shape) == 4 else values
        outputs[tap.name] = keras.ops.cast(values, "float16")
    return keras.Model(images, outputs)


def _tap_output(tap: Tap, layers: dict[str, Any], title: str) -> Any:
    if tap.layer not in layers:
        hint = did_you_mean(tap.layer, layers, 3) or f"; its last ones are {', '.join(list(layers)[-_SHOWN:])}"
        raise BackboneError(f"[Features] taps: {tap.layer!r} is no layer of {title}{hint}")
    try:
        output = layers[tap.layer].output
    except (AttributeError, ValueError) as error:
        raise BackboneError(f"[Features] taps: layer {tap.layer!r} of {title} has no single output") from error
    shape = getattr(output, "shape", None)
    rank = len(shape or ())
    pooled = tap.pooling and tap.layer != OUTPUT  # a network that ends in a vector has pooled already
    tokens = rank == 3 and tap.pooling
    if not tokens and (rank not in (2, 4) or (pooled and rank != 4)):
        found = f"shape {tuple(shape[1:])}" if shape is not None else "several outputs"
        expected = "(h, w, c)" if pooled else "(h, w, c) or (c,)"
        raise BackboneError(f"[Features] taps: {str(tap)!r} has {found}, not {expected}")
    return output


def _application(architecture: Architecture, side: int) -> Any:
    network = getattr(keras.applications, architecture.name)
    return network(include_top=False, weights=None, input_shape=(side, side, 3))


def _fill_randomly(layers: dict[str, Any], architecture: Architecture) -> None:
    """Fill by way of a model of one fixed size, so that the weights are the same at every image size."""
    settled = _application(architecture, _SETTLING_SIDE)
    sources = _named_layers(settled)
    draw_he_normal(sources, SEED)
    settle_normalisations(settled, SEED, architecture.preprocessing, steep=architecture.steep)
    for name, layer in layers.items():
        if layer.weights:
            layer.set_weights(sources[name].get_weights())


def _named_layers(model: Any) -> dict[str, Any]:
    """Return name -> layer with the names that a fresh process would give.

    Keras numbers unnamed layers through the process (`conv2d_7`), so that an InceptionV3 built second has other names
    than one built first. Their order of creation is kept here and the numbers begin at 0 again.
    """
    unnamed: dict[str, list[tuple[int, Any]]] = {}
    for layer in model.layers:
        base, _, number = re.fullmatch(r"(.*?)(_(\d+))?", layer.name).groups()  # type: ignore[union-attr]  # it always matches
        if base.replace("_", "") == type(layer).__name__.lower():
            unnamed.setdefault(base, []).append((int(number or 0), layer))
    fresh = {
        id(layer): f"{base}_{place}" if place else base
        for base, numbered in unnamed.items()
        for place, (_, layer) in enumerate(sorted(numbered, key=lambda item: item[0]))
    }
    return {fresh.get(id(layer), layer.name): layer for layer in model.layers}


def leaves(model: Any) -> Iterator[Any]:
    """Yield the layers of a model and of the models in it."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from leaves(layer)
        elif isinstance(layer, keras.layers.Layer):
            yield layer


def _load_model(path: Path, image_size: int) -> Any:
    """Load a user's ``.keras`` file; code inside it (Lambda layers) is refused."""
    if not zipfile.is_zipfile(path):  # Keras would report that it isn't there
        raise BackboneError(f"[Features] backbone: {path} is no .keras archive, or was cut short: copy it again")
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise BackboneError(f"[Features] backbone: {path} can't be loaded as a Keras model: {reason}") from error
    inputs = getattr(model, "inputs", None) or []
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].shape[-1] != 3:
        shapes = [tuple(item.shape) for item in inputs]
        raise BackboneError(
            f"[Features] backbone: {path} has inputs of shapes {shapes}, not one of (None, side, side, 3)"
        )
    sides = {side for side in inputs[0].shape[1:3] if side is not None}
    if sides - {image_size}:
        pixels = " x ".join(map(str, inputs[0].shape[1:3]))
        raise BackboneError(
            f"[Features] image_size={image_size}: the input of {path} is {pixels} pixels: set that size"
        )
    return model

"""Backbone, chosen heads and convnets as one Keras model, from pixels to probabilities. [Keras]

It is made of Keras' own layers and operations alone, so that it can be loaded where featcache is not.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from featcache.core.keras_import import plain_keras
from featcache.dataset import LUMA
from featcache.inference.keras_resizing import resizing_model
from featcache.inference.served_ensemble import ServedBag, ServedConvNet, ServedEnsemble
from featcache.settings import STRETCH
from featcache.training import head_model, input_model

_SMALLEST = 1e-37  # about the smallest float32 whose logarithm can be trusted


class Trunk(NamedTuple):
    """A backbone: a `network` from `network.build_network`, and tap -> what heads' inputs call it."""

    network: keras.Model
    taps: Mapping[str, str]


@plain_keras()
def join_model(
    trunks: Sequence[Trunk],
    served: ServedEnsemble,
    name: str,
    size: int | None,
    fit: str = STRETCH,
    *,
    mirror: bool = False,
) -> keras.Model:
    """Return the model (b, h, w, 3) uint8 RGB -> (b, C) float32 probabilities, as the pipeline computes them.

    Args:
        trunks: the backbones; none where no member looks at features.
        served: the ensemble and its members' models.
        name: the model's.
        size: side of the images that it takes, which all members must look at; None takes images of any size, and
            brings them inside to each size that members look at.
        fit: how these become squares: ``stretch``, ``crop`` or ``pad``.
        mirror: whether heads' probabilities are the mean over an image and its mirror image.
    """
    images = keras.Input((size, size, 3), dtype="uint8", name="images")
    sizes = {convnet.image_size for convnet in served.convnets} | {each.network.input.shape[1] for each in trunks}
    views = {wanted: images if wanted == size else resizing_model(wanted, fit)(images) for wanted in sorted(sizes)}
    members = {convnet.member: _convnet(convnet, views[convnet.image_size]) for convnet in served.convnets}
    features: list[dict[str, Any]] = [{} for _ in range(1 + mirror)]
    for number, trunk in enumerate(trunks):
        layer = keras.Model(trunk.network.input, trunk.network.output, name=f"backbone{number or ''}")
        layer.trainable = False
        plain = views[trunk.network.input.shape[1]]
        for seen, view in zip(features, (plain, ops.flip(plain, axis=2)) if mirror else (plain,), strict=True):
            seen |= {trunk.taps[tap]: output for tap, output in layer(view).items()}
    for bag in served.bags:
        members |= _heads(bag, features)
    whole, classes = served.ensemble.whole, len(served.ensemble.class_names)
    chosen = [members[member] for member in served.ensemble.members]
    if served.ensemble.several:  # each label is a question of two classes, as in `Combination.apply`
        chosen = [ops.stack([1 - member, member], axis=-1) for member in chosen]
    outputs = _mixed(chosen, served.ensemble.weights, whole.floor)
    if whole.temperature != 1:
        outputs = ops.softmax(_logarithm(outputs) / whole.temperature)
    if served.ensemble.several:
        highest = np.broadcast_to(np.asarray(served.clip, np.float32), (classes,))
        outputs = ops.minimum(ops.maximum(outputs[..., 1], 1 - highest), highest)
    elif not isinstance(served.clip, tuple) and served.clip != 1:  # as `combination.clipped`
        outputs = ops.clip(outputs, min((1 - served.clip) / (classes - 1), served.clip), served.clip)
    return keras.Model(images, keras.layers.Identity(name="probabilities")(outputs), name=name)


def _layer_name(member: str) -> str:
    """What Keras and TensorFlow allow in names of layers: no slash, no ``@`` or ``+`` of backbones."""
    return re.sub(r"[^A-Za-z0-9_.]", "-", member)


def _convnet(served: ServedConvNet, images: Any) -> Any:
    """(b, C), the mean over its networks."""
    layer_name = _layer_name(served.member)
    pixels = ops.cast(images, "int32")
    if served.is_grey:
        pixels = (ops.sum(pixels * LUMA.astype(np.int32), axis=-1, keepdims=True) + 500) // 1000
    pixels = ops.cast(pixels, "float32")
    outputs = [
        keras.Model(network.input, network.output, name=f"{layer_name}-fold{number}")(pixels)
        for number, network in enumerate(served.networks)
    ]
    return keras.layers.Average(name=layer_name)(outputs)


def _heads(served: ServedBag, views: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Member -> (b, C), the mean over its heads, and over views of the same images: tap name -> features each."""
    seen_as, title = served.bag.seen_as, _layer_name(served.members[0].rpartition("/")[0])
    model = input_model(seen_as)
    shared = keras.Model(model.input, model.output, name=f"{title}-input")
    # features are float16, as they would come out of the cache
    inputs = [shared({tap: ops.cast(view[tap], "float32") for tap in seen_as.taps}) for view in views]
    outputs = {}
    for seed, member in zip(served.bag.seeds, served.members, strict=True):
        layer_name = _layer_name(member)
        numbers = [number for number, head in enumerate(served.bag.heads) if head.seed == seed]
        heads = []
        for number in numbers:
            model = head_model(served.bag, number)
            name = f"{layer_name}-fold{served.bag.heads[number].fold}"
            heads.append(keras.Model(model.input, model.output, name=name))
        seen = served.bag.seen_classes[numbers]
        outputs[member] = _mean([head(inputs[0]) for head in heads], seen, layer_name)
        if len(inputs) > 1:
            mirrored = _mean([head(inputs[1]) for head in heads], seen, f"{layer_name}-mirror")
            outputs[member] = keras.layers.Average(name=f"{layer_name}-views")([outputs[member], mirrored])
    return outputs


def _mean(heads: Sequence[Any], seen: npt.NDArray[np.bool_], name: str) -> Any:
    """(b, C), as `Bag.member_predictions`: of each class the mean over the heads that have seen it."""
    if seen.all():
        return keras.layers.Average(name=name)(heads)
    shares = seen / np.maximum(seen.sum(axis=0), 1)
    mean = ops.sum(ops.stack(heads, axis=1) * ops.convert_to_tensor(shares.astype(np.float32)), axis=1)
    return keras.layers.Identity(name=name)(mean / ops.sum(mean, axis=-1, keepdims=True))


def _mixed(members: Sequence[Any], weights: Sequence[float], floor: float) -> Any:
    """(b, C), as `combination.mix`; the weights are those of a layer, so that one can look at them."""
    if len(members) == 1 and not floor:
        return members[0]
    layer = keras.layers.Dense(1, use_bias=False, trainable=False, name="member_weights")
    stacked = ops.stack(members, axis=-1)  # (b, C, m), or of several labels (b, C, 2, m)
    mixed = ops.squeeze(layer(_logarithm(stacked, floor) if floor else stacked), axis=-1)
    layer.set_weights([np.reshape(weights, (-1, 1))])
    return ops.softmax(mixed) if floor else mixed


def _logarithm(probabilities: Any, floor: float = _SMALLEST) -> Any:
    return ops.log(ops.maximum(probabilities, floor))

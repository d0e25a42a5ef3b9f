"""One digest of every kind of value that Keras computes for featcache: ``python keras_values.py MODEL.keras`` prints them.

What is in force when it starts, Keras' global settings above all, must not show in any of them.
"""

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from featcache.core.keras_import import import_keras


def values(model: Path) -> dict[str, str]:
    """Return what was computed -> digest; `model` is a user's backbone (`own_backbone`)."""
    import_keras(Path(os.devnull))
    found = {**_features(model), **_convnet(), **_stacked(), **_joined()}
    return {name: _digest(arrays) for name, arrays in found.items()}


def own_backbone(path: Path) -> Path:
    """Write a small network of a user's own."""
    import keras

    layers = keras.layers
    built = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 3, kernel_initializer=keras.initializers.GlorotUniform(1), name="conv"),
            layers.BatchNormalization(name="normal"),
        ]
    )
    built.save(path)
    return path


def _digest(arrays):
    state = hashlib.sha256()
    for array in arrays:
        values = np.ascontiguousarray(array)
        state.update(f"{values.dtype}{values.shape}".encode() + values.tobytes())
    return state.hexdigest()


def _features(model):
    from featcache.core.progress import Silent
    from featcache.features.backbone import load_backbone
    from featcache.features.weights import resolve_weights
    from featcache.settings.specs import FeaturesSpec, Tap

    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    found = {}
    for backbone, tap, precision in (
        ("vgg16", Tap("block1_pool", "avg"), "float32"),
        (str(model), Tap("normal"), "float32"),
        (str(model), Tap("normal", "max"), "bfloat16"),
    ):
        weights = "auto" if backbone == str(model) else "random"
        spec = FeaturesSpec(backbone=backbone, weights=weights, taps=(tap,), image_size=32)
        loaded = load_backbone(spec, resolve_weights(spec, Silent()), precision, 4)
        forward = [loaded.forward(images)[tap.name]]
        loaded.settle()
        found[f"{Path(backbone).name} in {precision}"] = [*forward, loaded.forward(images)[tap.name]]
    return found


def _convnet():
    from test_convnet import data, pictures, plan, train

    model, history = train(plan(2), data(*pictures()))
    return {"a convnet": [*model.get_weights(), *history.values()]}


def _stacked():
    from test_engines import RATE, plan, setting

    from featcache.training.heads.keras_engine import KerasEngine

    _, batches, stacked = setting(plan(0.5, weight_decay=1.0), KerasEngine)
    scores = [stacked.train_step(batch, RATE) for batch in batches.epoch()]
    return {"heads on an accelerator": [*scores, *stacked.weights.values()]}


def _joined():
    import keras
    from images import picture
    from test_joined_model import ensemble, random_bag

    from featcache.ensemble.combination import Combination
    from featcache.inference.keras_model import join_model
    from featcache.inference.served_ensemble import ServedConvNet, ServedEnsemble
    from featcache.training.convnet.model import build_convnet, load_network, predict_convnet
    from featcache.training.convnet.plan import ConvNetPlan
    from featcache.training.heads.keras_models import head_model, input_model

    bag = random_bag({"p": (8,), "q": (3, 3, 2)}, (6, 5), normalise=True)
    head, seen_as = head_model(bag, 0), input_model(bag.seen_as)
    draw = np.random.default_rng(0)
    features = {tap: draw.normal(20, 5, (2, *shape)).astype(np.float32) for tap, shape in bag.seen_as.taps.items()}
    network = build_convnet(ConvNetPlan(16, 1, 3, (), 8, "float32"), [90.0], [4.0], 1)
    with tempfile.TemporaryDirectory() as folder:
        network.save(Path(folder, "fold0.keras"))
        loaded = load_network(Path(folder, "fold0.keras"))
        chosen = Combination("geometric", (0.25, 0.75), 1.7, 0.93)
        members = (ServedConvNet("c", [network]), ServedConvNet("d", [loaded]))
        join_model([], ServedEnsemble(ensemble(("c", "d"), chosen), 0.93, (), members), "photos", None).save(
            Path(folder, "joined.keras")
        )
        joined = keras.models.load_model(Path(folder, "joined.keras"), compile=False)
    return {
        "a head": [*head.get_weights(), keras.ops.convert_to_numpy(head(seen_as(features)))],
        "a convnet loaded": [*loaded.get_weights(), predict_convnet([loaded], picture(16, 16)[None, :, :, :1])],
        "an exported model": [keras.ops.convert_to_numpy(joined(picture(40, 36)[None]))],
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(values(Path(sys.argv[1]))))

"""A bag's heads as ordinary Keras models, and its folder. [Keras]"""

from collections.abc import Mapping
from pathlib import Path

import keras

from featcache.core.disk import replacing_folder
from featcache.core.json_records import write_json
from featcache.core.keras_import import plain_keras
from featcache.training.heads.bag import BAG_FILE, RECORD_FILE, Bag, write_bag
from featcache.training.heads.forward import EPSILON, Float32s
from featcache.training.predictions import RECORDED, Predictions


@plain_keras()
def head_model(bag: Bag, number: int) -> keras.Model:
    """Return head `number` of the bag as an ordinary Keras model, tap's shape in, (b, C) probabilities out."""
    plan, weights = bag.plan, {name: array[number] for name, array in bag.weights.items()}
    inputs = keras.Input(bag.tap_shape, name="features")
    layers: list[tuple[keras.layers.Layer, list[Float32s]]] = []
    if plan.standardize:
        # a built-in layer that computes (x - mean) / sqrt(variance); Normalization would put both into its JSON
        standardize = keras.layers.BatchNormalization(
            center=False, scale=False, epsilon=0.0, trainable=False, name="standardize"
        )
        layers.append((standardize, [weights["input_mean"], weights["input_variance"]]))
    for layer, dropout in enumerate(plan.dropouts):
        last = layer == len(plan.hidden)
        layers.append((keras.layers.Dropout(dropout, seed=layer), []))
        width, activation = (plan.classes, "softmax") if last else (plan.hidden[layer], "relu")
        dense = keras.layers.Dense(width, activation=activation, name="probabilities" if last else f"dense_{layer}")
        layers.append((dense, [weights[f"kernel_{layer}"], weights[f"bias_{layer}"]]))
        if not last:
            normal = keras.layers.BatchNormalization(momentum=plan.momentum, epsilon=EPSILON, name=f"normal_{layer}")
            layers.append((normal, [weights[f"{name}_{layer}"] for name in ("gamma", "beta", "mean", "variance")]))
    active = keras.layers.Flatten(name="flatten")(inputs)
    for keras_layer, _ in layers:
        active = keras_layer(active)
    for keras_layer, values in layers:
        if values:
            keras_layer.set_weights(values)
    return keras.Model(inputs, active, name=str(bag.heads[number]).replace("-", "_"))


def save_bag(
    bag: Bag, folder: Path, record: Mapping[str, object] | None = None, out_of_fold: Predictions | None = None
) -> None:
    """Replace `folder` by the bag: ``bag.npz`` and one ``seed{s}-fold{k}.keras`` for each head.

    With `record`, the stage's facts, its ``key`` above all, go into ``bag.json``; with `out_of_fold`, the members'
    predictions go into ``out_of_fold.npy``.

    Raises:
        StorageError: the disk is full, read-only or not permitted.
    """
    with replacing_folder(folder) as temporary:
        for number, head in enumerate(bag.heads):
            head_model(bag, number).save(temporary / f"{head}.keras")
        write_bag(bag, temporary / BAG_FILE)
        recorded = {RECORDED: out_of_fold.save(temporary)} if out_of_fold is not None else {}
        files = {path.name: path.stat().st_size for path in temporary.iterdir() if path.suffix != ".keras"}
        write_json(temporary / RECORD_FILE, {**(record or {}), **recorded, "files": files})

"""A bag's heads as ordinary Keras models. [Keras]"""

import keras
import numpy as np
from keras import ops

from featcache.core.keras_import import plain_keras
from featcache.training.heads.bag import Bag
from featcache.training.heads.forward import EPSILON, Float32s
from featcache.training.heads.inputs import POWER, SMALLEST_SQUARE, HeadInput


@plain_keras()
def input_model(seen_as: HeadInput) -> keras.Model:
    """Return what heads see as a Keras model: {tap: (b, ...) features} in, (b, F) values out."""
    inputs = {tap: keras.Input(shape, name=tap) for tap, shape in seen_as.taps.items()}
    flat = [keras.layers.Flatten()(each) for each in inputs.values()]
    if seen_as.mean is None or seen_as.scale is None:
        values = keras.layers.Concatenate()(flat) if len(flat) > 1 else flat[0]
        return keras.Model(inputs, values, name="input")
    parts = []
    for values, width in zip(flat, seen_as.widths, strict=True):
        powers = ops.sign(values) * ops.power(ops.abs(values), POWER)
        squares = ops.maximum(ops.sum(ops.square(powers), axis=1, keepdims=True), SMALLEST_SQUARE)
        parts.append(powers * ops.sqrt(width / squares))
    values = keras.layers.Concatenate()(parts) if len(parts) > 1 else parts[0]
    # a built-in layer that computes (x - mean) / sqrt(variance); Normalization would put both into its JSON
    scaled = keras.layers.BatchNormalization(center=False, scale=False, epsilon=0.0, trainable=False, name="scaled")
    model = keras.Model(inputs, scaled(values), name="input")
    scaled.set_weights([seen_as.mean, np.square(seen_as.scale).repeat(seen_as.widths)])
    return model


@plain_keras()
def head_model(bag: Bag, number: int) -> keras.Model:
    """Return head `number` of the bag as an ordinary Keras model, (b, C) probabilities out.

    It takes (b, F) values as `input_model` makes them.
    """
    plan, weights = bag.plan, {name: array[number] for name, array in bag.weights.items()}
    inputs = keras.Input((plan.features,), name="values")
    layers: list[tuple[keras.layers.Layer, list[Float32s]]] = []
    for layer, dropout in enumerate(plan.dropouts):
        last = layer == len(plan.hidden)
        layers.append((keras.layers.Dropout(dropout, seed=layer), []))
        of_last = "sigmoid" if plan.several else "softmax"
        width, activation = (plan.classes, of_last) if last else (plan.hidden[layer], "relu")
        dense = keras.layers.Dense(width, activation=activation, name="probabilities" if last else f"dense_{layer}")
        layers.append((dense, [weights[f"kernel_{layer}"], weights[f"bias_{layer}"]]))
        if not last:
            normal = keras.layers.BatchNormalization(momentum=plan.momentum, epsilon=EPSILON, name=f"normal_{layer}")
            layers.append((normal, [weights[f"{name}_{layer}"] for name in ("gamma", "beta", "mean", "variance")]))
    active = inputs
    for keras_layer, _ in layers:
        active = keras_layer(active)
    for keras_layer, values in layers:
        if values:
            keras_layer.set_weights(values)
    return keras.Model(inputs, active, name=str(bag.heads[number]).replace("-", "_"))

"""Stacked heads against plain Keras: the same weights, batches and masks give the same trajectory."""

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from featcache.bags import HeadId, forward  # noqa: E402  # after importorskip
from featcache.batches import Batches, HeadStream, input_statistics, training_rows  # noqa: E402
from featcache.heads import initial_weights  # noqa: E402
from featcache.presets import HeadPlan  # noqa: E402
from featcache.stacked import StackedHeads  # noqa: E402

HEADS = (HeadId(0, 0), HeadId(0, 1), HeadId(1, 0))
FEATURES, CLASSES, BATCH = 12, 3, 8


def plan(dropout=0.0, **settings):
    return HeadPlan(FEATURES, CLASSES, (6, 5), (dropout,) * 3, ((1e-2, 2),), BATCH, **settings)


def data(n=41):
    generator = np.random.default_rng(3)
    labels = generator.integers(0, CLASSES, n)
    features = generator.normal(size=(n, FEATURES)) + labels[:, None]
    return features.astype(np.float16), labels, np.arange(n) % 2


def setting(of):
    features, labels, folds = data()
    own = training_rows(HEADS, folds, np.ones(len(labels), bool))
    streams = [HeadStream(head, np.arange(mine.sum())) for head, mine in zip(HEADS, own, strict=True)]
    weights = initial_weights(of, streams)
    if of.standardize:
        weights |= input_statistics([features], folds, np.ones(len(labels), bool), HEADS)
    batches = Batches([features], labels, own, streams, of)
    return weights, batches, StackedHeads(of, weights, batches.size, np.float16)


def plain_head(of, weights, head):
    """What a user would write with stock layers; masks come in from outside, as inputs."""
    values = active = keras.Input((FEATURES,))
    masks, layers = [], {}
    if of.standardize:
        mean, variance = weights["input_mean"][head], weights["input_variance"][head]
        active = keras.layers.Normalization(mean=mean, variance=variance)(active)
    for layer, dropout in enumerate(of.dropouts):
        if dropout:
            masks.append(keras.Input((active.shape[-1],)))
            active = keras.layers.Multiply()([active, masks[-1]])
        last = layer == len(of.hidden)
        dense = keras.layers.Dense(CLASSES if last else of.hidden[layer], activation=None if last else "relu")
        active = dense(active)
        dense.set_weights([weights[f"kernel_{layer}"][head], weights[f"bias_{layer}"][head]])
        layers[f"dense_{layer}"] = dense
        if not last:
            layers[f"normal_{layer}"] = keras.layers.BatchNormalization(momentum=of.momentum)
            active = layers[f"normal_{layer}"](active)
    model = keras.Model([values, *masks], active)
    optimizer = keras.optimizers.Adam(of.schedule[0][0], weight_decay=of.weight_decay or None)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    return model, layers


@pytest.mark.parametrize(
    "of",
    [plan(), plan(0.5), plan(standardize=True, momentum=0.9), plan(weight_decay=2.0)],
    ids=["recipe", "dropout", "standardized", "decayed"],
)
def test_each_head_follows_the_trajectory_of_a_plain_keras_model(of):
    weights, batches, stacked = setting(of)
    plain = [plain_head(of, weights, head) for head in range(len(HEADS))]
    for _ in range(3):
        for inputs, labels in batches.epoch():
            stacked.train_step(inputs, labels)
            for head, (model, _) in enumerate(plain):
                masks = [mask[head].astype(np.float32) / (1 - of.dropouts[0]) for mask in inputs[1:]]
                model.train_on_batch([inputs[0][head].astype(np.float32), *masks], labels[head])
    trained = stacked.get_weights()
    for head, (_, layers) in enumerate(plain):
        for name, layer in layers.items():
            kind, _, number = name.partition("_")
            names = ("kernel", "bias") if kind == "dense" else ("gamma", "beta", "mean", "variance")
            for expected, part in zip(layer.get_weights(), names, strict=True):
                # rounding, which Adam's division by a small moment enlarges
                assert np.allclose(trained[f"{part}_{number}"][head], expected, atol=2e-4), (head, name, part)
    assert not np.allclose(trained["kernel_0"], weights["kernel_0"], atol=1e-2)


def test_a_heads_training_does_not_depend_on_its_neighbours():
    of = plan(0.3)
    weights, batches, stacked = setting(of)
    features, labels, folds = data()
    own = training_rows(HEADS[1:2], folds, np.ones(len(labels), bool))
    streams = [HeadStream(HEADS[1], np.arange(own.sum()))]
    alone_weights = initial_weights(of, streams)
    alone_batches = Batches([features], labels, own, streams, of)
    alone = StackedHeads(of, alone_weights, alone_batches.size, np.float16)
    assert np.array_equal(alone_weights["kernel_0"][0], weights["kernel_0"][1])
    for (inputs, classes), (inputs_alone, classes_alone) in zip(batches.epoch(), alone_batches.epoch(), strict=False):
        assert all(np.array_equal(a[1], b[0]) for a, b in zip(inputs, inputs_alone, strict=True))
        stacked.train_step(inputs, classes)
        alone.train_step(inputs_alone, classes_alone)
    assert np.allclose(stacked.get_weights()["kernel_1"][1], alone.get_weights()["kernel_1"][0], atol=1e-5)


def test_scores_are_each_heads_own():
    of = plan()
    weights, batches, stacked = setting(of)
    inputs, labels = next(iter(batches.epoch()))
    inputs, labels = [array.copy() for array in inputs], labels.copy()
    scores = stacked.train_step(inputs, labels)
    single, _ = plain_head(of, weights, 1)
    logits = single([inputs[0][1].astype(np.float32)], training=True)
    losses = keras.losses.sparse_categorical_crossentropy(labels[1], logits, from_logits=True)
    assert scores[0, 1] == pytest.approx(float(keras.ops.mean(losses)), abs=1e-5)
    assert scores[1, 1] == pytest.approx((keras.ops.convert_to_numpy(logits).argmax(1) == labels[1]).mean())


def test_numpy_forward_is_the_keras_models():
    of = plan(standardize=True)
    _, batches, stacked = setting(of)
    for inputs, labels in batches.epoch():
        stacked.train_step(inputs, labels)
    trained = stacked.get_weights()
    rows = data()[0].astype(np.float32)
    model, layers = plain_head(of, trained, 2)
    for number in range(2):
        names = ("gamma", "beta", "mean", "variance")
        layers[f"normal_{number}"].set_weights([trained[f"{name}_{number}"][2] for name in names])
    expected = keras.ops.softmax(model([rows], training=False))
    assert np.allclose(forward(trained, rows, 2)[2], expected, atol=1e-5)


def test_rows_come_once_a_pass_in_a_new_order_each_time():
    stream = HeadStream(HeadId(0, 0), np.arange(10))
    passes = [stream.rows(10) for _ in range(3)]
    assert all(sorted(order) == list(range(10)) for order in passes)
    assert len({tuple(order) for order in passes}) == 3
    again = HeadStream(HeadId(0, 0), np.arange(10))
    assert np.array_equal(np.concatenate([again.rows(4), again.rows(16)]), np.concatenate(passes[:2]))


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.8])
def test_masks_drop_the_right_share_independently_by_head_and_step(dropout):
    streams = [HeadStream(HeadId(seed, fold), np.arange(4)) for seed in range(2) for fold in range(2)]
    masks = np.empty((4, 2, 100_000), bool)
    for head, stream in enumerate(streams):
        for step in range(2):
            stream.mask(masks[head, step], dropout)
    flat = masks.reshape(8, -1).astype(float)
    assert np.allclose(flat.mean(axis=1), 1 - dropout, atol=6e-3)
    assert np.abs(np.corrcoef(flat) - np.eye(8)).max() < 0.02


def test_every_head_has_the_same_steps_however_many_rows():
    features, labels, _ = data()
    folds = np.array([0] * 30 + [1] * 11)
    own = training_rows(HEADS, folds, np.ones(41, bool))
    streams = [HeadStream(head, np.arange(mine.sum())) for head, mine in zip(HEADS, own, strict=True)]
    batches = Batches([features], labels, own, streams, plan())
    assert (batches.size, batches.steps) == (8, 4)
    seen = [inputs[0].shape for inputs, _ in batches.epoch()]
    assert seen == [(3, 8, FEATURES)] * 4


def test_no_copy_of_a_validation_row_is_ever_drawn():
    n = 40
    folds, labels = np.arange(n) % 4, np.arange(n) % 2
    copies = [np.full((n, 1), copy * 100, np.float32) + np.arange(n)[:, None] for copy in range(3)]
    heads = tuple(HeadId(0, fold) for fold in range(4))
    usable = np.arange(n) != 7
    own = training_rows(heads, folds, usable)
    streams = [HeadStream(head, np.arange(mine.sum() * 3)) for head, mine in zip(heads, own, strict=True)]
    of = HeadPlan(1, 2, (), (0.0,), ((1e-3, 1),), 8)
    batches = Batches(copies, labels, own, streams, of)
    drawn = [set() for _ in heads]
    for _ in range(4):
        for (values,), classes in batches.epoch():
            for head in range(4):
                drawn[head] |= set(values[head, :, 0].astype(int))
                assert np.array_equal(labels[values[head, :, 0].astype(int) % 100], classes[head])
    for head in range(4):
        expected = {copy * 100 + row for copy in range(3) for row in range(n) if row % 4 != head and row != 7}
        assert drawn[head] == expected

"""What both training engines must do, and the batches that they get.

The measure is plain Keras: the same weights, batches and masks give the same trajectory.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from head_rows import examples_of

keras = pytest.importorskip("keras")

from featcache.core.float16 import as_float32  # noqa: E402
from featcache.settings.schedules import Phase  # noqa: E402
from featcache.training.heads import keras_engine, numpy_engine  # noqa: E402  # after importorskip
from featcache.training.heads.bag import HeadId  # noqa: E402
from featcache.training.heads.batches import Batches, HeadStream, keep_probability  # noqa: E402
from featcache.training.heads.examples import PseudoLabels  # noqa: E402
from featcache.training.heads.forward import forward  # noqa: E402
from featcache.training.heads.keras_engine import KerasEngine  # noqa: E402
from featcache.training.heads.numpy_engine import NumpyEngine  # noqa: E402
from featcache.training.heads.partition import by_folds  # noqa: E402
from featcache.training.heads.presets import HeadPlan  # noqa: E402
from featcache.training.heads.trainer import initial_weights  # noqa: E402

HEADS = (HeadId(0, 0), HeadId(0, 1), HeadId(1, 0))
FEATURES, CLASSES, BATCH, RATE = 12, 3, 8, 1e-2


def plan(dropout=0.0, **settings):
    return HeadPlan(FEATURES, CLASSES, (6, 5), (dropout,) * 3, (Phase(RATE, 2),), BATCH, **settings)


def data(n=41, pseudo=None, folds=None):
    generator = np.random.default_rng(3)
    labels = generator.integers(0, CLASSES, n)
    features = (generator.normal(size=(n, FEATURES)) + labels[:, None]).astype(np.float16)
    return examples_of(
        [features], labels, by_folds(np.arange(n) % 2 if folds is None else folds, np.ones(n, bool)), pseudo
    )


def soft_labels(m=7):
    generator = np.random.default_rng(4)
    labels = generator.dirichlet(np.ones(CLASSES), (2, m)).astype(np.float32)
    return PseudoLabels([generator.normal(size=(m, FEATURES)).astype(np.float16)], labels, 0.5)


def setting(of, engine=NumpyEngine, examples=None, heads=HEADS):
    examples = examples or data()
    streams = [HeadStream(head, examples.count(head.fold)) for head in heads]
    weights = initial_weights(of, streams)
    copied = {name: array.copy() for name, array in weights.items()}
    return weights, Batches(examples, heads, streams, of), engine(of, copied)


def plain_head(of, weights, head):
    """What a user would write with stock layers; masks come in from outside, as inputs."""
    values = active = keras.Input((FEATURES,))
    masks, layers = [], {}
    for layer in range(3):
        if of.dropouts[layer]:
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
    optimizer = keras.optimizers.Adam(RATE, weight_decay=of.weight_decay or None)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    model.compile(
        optimizer, keras.losses.CategoricalCrossentropy(from_logits=True), jit_compile=False, run_eagerly=True
    )
    return model, layers


@cache
def plain_trajectory(of, with_pseudo):
    """Each variable after three epochs, as a model of stock layers for each head has it: (H, ...), the same for every engine."""
    weights, batches, _ = setting(of, examples=data(pseudo=soft_labels() if with_pseudo else None))
    plain = [plain_head(of, weights, head) for head in range(len(HEADS))]
    for batch in (batch for _ in range(3) for batch in batches.epoch()):
        for head, (model, _) in enumerate(plain):
            masks = [
                mask[head].astype(np.float32) / keep_probability(dropout)
                for mask, dropout in zip(batch.masks, of.dropouts, strict=True)
                if mask is not None
            ]
            weight = None if batch.weights is None else batch.weights[head]
            inputs = [batch.values[head].astype(np.float32), *masks]
            model.train_on_batch(inputs, batch.targets[head], sample_weight=weight)
    found = {}
    for name in plain[0][1]:
        kind, _, number = name.partition("_")
        parts = ("kernel", "bias") if kind == "dense" else ("gamma", "beta", "mean", "variance")
        for part, arrays in zip(
            parts, zip(*(layers[name].get_weights() for _, layers in plain), strict=True), strict=True
        ):
            found[f"{part}_{number}"] = np.stack(arrays)
    return found


class EngineContract:
    """The tests of every `featcache.training.heads.trainer.TrainingEngine`.

    Attributes:
        engine: the class under test.
        exact: a head's bits don't depend on the heads beside it.
    """

    engine: type
    exact: bool

    def test_it_begins_with_the_weights_that_it_was_given(self):
        weights, _, stacked = setting(plan(), self.engine)
        assert set(stacked.weights) == set(weights)
        assert all(np.array_equal(stacked.weights[name], array) for name, array in weights.items())

    @pytest.mark.parametrize(
        ("of", "pseudo"),
        [
            (plan(), None),
            (plan(0.5), None),
            (plan(momentum=0.9), None),
            (plan(weight_decay=2.0), None),
            (plan(label_smoothing=0.2), None),
            (replace(plan(weight_decay=1.0), dropouts=(0.5, 0.2, 0.0)), None),
            (plan(0.3), soft_labels()),
            (plan(balanced=True), None),
        ],
        ids=["recipe", "dropout", "momentum", "decayed", "smoothed", "two masks", "pseudo-labels", "balanced"],
    )
    def test_each_head_follows_the_trajectory_of_a_plain_keras_model(self, of, pseudo, monkeypatch):
        # so small that kernels are stepped by rows and by blocks, as large ones are
        monkeypatch.setattr(numpy_engine, "_GRADIENT_VALUES", 20)
        monkeypatch.setattr(numpy_engine, "_ADAM_VALUES", 7)
        weights, batches, stacked = setting(of, self.engine, data(pseudo=pseudo))
        for _ in range(3):
            for batch in batches.epoch():
                stacked.train_step(batch, RATE)
        for name, expected in plain_trajectory(of, pseudo is not None).items():
            # rounding, which Adam's division by a small moment enlarges
            assert np.allclose(stacked.weights[name], expected, atol=3e-4), name
        assert not np.allclose(stacked.weights["kernel_0"], weights["kernel_0"], atol=1e-2)

    def test_a_heads_training_does_not_depend_on_its_neighbours(self):
        of = plan(0.3)
        weights, batches, stacked = setting(of, self.engine)
        alone_weights, alone_batches, alone = setting(of, self.engine, heads=HEADS[1:2])
        assert np.array_equal(alone_weights["kernel_0"][0], weights["kernel_0"][1])
        for batch, own in zip(batches.epoch(), alone_batches.epoch(), strict=True):
            assert np.array_equal(batch.values[1], own.values[0])
            assert all(np.array_equal(a[1], b[0]) for a, b in zip(batch.masks, own.masks, strict=True))
            scores, own_scores = stacked.train_step(batch, RATE), alone.train_step(own, RATE)
            assert np.allclose(scores[:, 1], own_scores[:, 0], atol=1e-6)
        for name, array in alone.weights.items():
            same = np.array_equal if self.exact else lambda a, b: np.allclose(a, b, atol=1e-5)
            assert same(stacked.weights[name][1], array[0]), name

    def test_scores_are_each_heads_own(self):
        of = plan()
        weights, batches, stacked = setting(of, self.engine)
        batch = next(iter(batches.epoch()))
        scores = stacked.train_step(batch, RATE)
        single, _ = plain_head(of, weights, 1)
        logits = single([batch.values[1].astype(np.float32)], training=True)
        losses = keras.losses.sparse_categorical_crossentropy(batch.truth[1], logits, from_logits=True)
        assert scores[0, 1] == pytest.approx(float(keras.ops.mean(losses)), abs=1e-5)
        assert scores[1, 1] == pytest.approx((keras.ops.convert_to_numpy(logits).argmax(1) == batch.truth[1]).mean())


class TestNumpyEngine(EngineContract):
    engine, exact = NumpyEngine, True


class TestKerasEngine(EngineContract):
    engine, exact = KerasEngine, False


def test_compiled_by_xla_as_for_an_accelerator_keras_takes_the_same_steps(monkeypatch):
    monkeypatch.setattr(keras_engine, "accelerated", lambda: True)
    of = plan(0.3, weight_decay=1.0)
    _, batches, compiled = setting(of, KerasEngine)
    _, _, plainly = setting(of)
    for batch in batches.epoch():
        assert np.allclose(compiled.train_step(batch, RATE), plainly.train_step(batch, RATE), atol=1e-4)
    assert compiled.model.jit_compile
    for name, array in plainly.weights.items():
        assert np.allclose(compiled.weights[name], array, atol=3e-4), name


def test_the_targets_of_each_heads_rows():
    of = plan(label_smoothing=0.3)
    _, batches, _ = setting(of, examples=data(pseudo=soft_labels()))
    kinds = set()
    for batch in batches.epoch():
        assert np.allclose(batch.targets.sum(axis=2), 1, atol=1e-6)
        assert np.array_equal(batch.targets.argmax(axis=2), batch.truth)
        labelled = batch.weights == 1
        assert np.allclose(batch.targets[labelled].max(axis=1), 0.8)
        assert np.allclose(batch.weights[~labelled], 0.5)
        kinds |= set(np.unique(batch.weights).tolist())
    assert kinds == {0.5, 1.0}


def test_numpy_forward_is_the_keras_models():
    of = plan()
    examples = data()
    _, batches, stacked = setting(of, examples=examples)
    for batch in batches.epoch():
        stacked.train_step(batch, RATE)
    trained = stacked.weights
    rows = examples.copies[0].astype(np.float32)
    model, layers = plain_head(of, trained, 2)
    for number in range(2):
        names = ("gamma", "beta", "mean", "variance")
        layers[f"normal_{number}"].set_weights([trained[f"{name}_{number}"][2] for name in names])
    expected = keras.ops.softmax(model([rows], training=False))
    assert np.allclose(forward(trained, rows, 2)[2], expected, atol=1e-5)


def test_every_finite_float16_becomes_the_same_float32():
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    assert np.array_equal(as_float32(finite).view(np.int32), finite.astype(np.float32).view(np.int32))
    assert np.array_equal(as_float32(finite[::-3]), finite[::-3].astype(np.float32))


def test_rows_come_once_a_pass_in_a_new_order_each_time():
    stream = HeadStream(HeadId(0, 0), 10)
    passes = [stream.rows(10) for _ in range(3)]
    assert all(sorted(order) == list(range(10)) for order in passes)
    assert len({tuple(order) for order in passes}) == 3
    again = HeadStream(HeadId(0, 0), 10)
    assert np.array_equal(np.concatenate([again.rows(4), again.rows(16)]), np.concatenate(passes[:2]))


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.8])
def test_masks_drop_the_right_share_independently_by_head_and_step(dropout):
    streams = [HeadStream(HeadId(seed, fold), 4) for seed in range(2) for fold in range(2)]
    masks = np.empty((4, 2, 100_000), bool)
    for head, stream in enumerate(streams):
        for step in range(2):
            stream.mask(masks[head, step], dropout)
    flat = masks.reshape(8, -1).astype(float)
    assert np.allclose(flat.mean(axis=1), 1 - dropout, atol=6e-3)
    assert np.abs(np.corrcoef(flat) - np.eye(8)).max() < 0.02


def test_every_head_has_the_same_steps_however_many_rows():
    _, batches, _ = setting(plan(), examples=data(folds=np.array([0] * 30 + [1] * 11)))
    assert (batches.size, batches.steps) == (8, 4)
    assert [batch.values.shape for batch in batches.epoch()] == [(3, 8, FEATURES)] * 4


def test_no_copy_of_a_validation_row_is_ever_drawn():
    n = 40
    folds, labels = np.arange(n) % 4, np.arange(n) % 2
    copies = [np.full((n, 1), copy * 100, np.float32) + np.arange(n)[:, None] for copy in range(3)]
    heads = tuple(HeadId(0, fold) for fold in range(4))
    examples = examples_of(copies, labels, by_folds(folds, np.arange(n) != 7))
    of = HeadPlan(1, 2, (), (0.0,), (Phase(1e-3, 1),), 8)
    _, batches, _ = setting(of, examples=examples, heads=heads)
    drawn = [set() for _ in heads]
    for _ in range(4):
        for batch in batches.epoch():
            for head in range(4):
                drawn[head] |= set(batch.values[head, :, 0].astype(int))
                assert np.array_equal(labels[batch.values[head, :, 0].astype(int) % 100], batch.truth[head])
    for head in range(4):
        expected = {copy * 100 + row for copy in range(3) for row in range(n) if row % 4 != head and row != 7}
        assert drawn[head] == expected

"""The convnet: its shape, honest folds, the same weights again, resuming after a kill."""

import dataclasses
import random

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from featcache.core.progress import Silent  # noqa: E402
from featcache.dataset.augmentation import affine_maps, augment  # noqa: E402
from featcache.errors import CacheFormatError, TrainingError  # noqa: E402
from featcache.settings.augment_policy import CONVNET_RECIPE, AugmentPolicy  # noqa: E402  # after importorskip
from featcache.settings.schedules import ONE_CYCLE, Phase, rates  # noqa: E402
from featcache.settings.specs import ConvNetSpec  # noqa: E402
from featcache.training.class_weights import class_weights  # noqa: E402
from featcache.training.convnet import trainer  # noqa: E402
from featcache.training.convnet.checkpoints import Checkpoint  # noqa: E402
from featcache.training.convnet.model import (  # noqa: E402
    ChannelNormalization,
    build_convnet,
    load_network,
    load_networks,
    predict_convnet,
)
from featcache.training.convnet.plan import ConvNetPlan, TrainingData, draw_epoch, resolve_convnet  # noqa: E402
from featcache.training.convnet.trainer import channel_statistics, train_network  # noqa: E402
from featcache.training.heads.partition import by_folds  # noqa: E402

CLASSES, SIDE, ROWS = 3, 16, 96


def pictures(channels=1, seed=0):
    """(n, 16, 16, channels) noise with one bright bar, whose place is the class; (n,) labels."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, CLASSES, ROWS).astype(np.int32)
    images = generator.integers(0, 80, (ROWS, SIDE, SIDE, channels))
    for row, label in enumerate(labels):
        images[row, 3 + 4 * label : 6 + 4 * label] += 150
    return images.astype(np.uint8), labels


def plan(epochs=1, channels=1, precision="float32", rate=3e-3):
    return ConvNetPlan(SIDE, channels, CLASSES, (Phase(rate, epochs, ONE_CYCLE),), 16, precision)


def data(images, labels):
    """Fold 0 is rows 0, 3, 6 and so on."""
    return TrainingData(images, labels, by_folds(np.arange(ROWS, dtype=np.int32) % 3, np.ones(ROWS, bool)))


def train(of, examples, **more):
    """Train the first member's convnet for fold 0: (model, history)."""
    return train_network(of, examples, 0, 0, **more)


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one[0].get_weights(), other[0].get_weights(), strict=True))


@pytest.fixture(scope="module")
def short():
    """One epoch on grey pictures."""
    return train(plan(), data(*pictures()))


def test_it_has_the_parameters_that_the_docstring_counts():
    network = build_convnet(ConvNetPlan(28, 1, 10, (), 128, "float32"), [33.3], [78.6])
    assert network.count_params() == 601_578
    moments = sum(int(np.prod(w.shape)) for w in network.non_trainable_weights)
    assert moments == 2 * (32 + 32 + 64 + 1024 + 512), "batch normalisation is over the channels"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_form_that_is_trained_has_the_same_weights_and_nearly_says_the_same(precision):
    images, _ = pictures()
    built = build_convnet(plan(), [40.0], [50.0], seed=3)
    trained = build_convnet(plan(precision=precision), [40.0], [50.0], seed=3, training=True)
    assert all(np.array_equal(a, b) for a, b in zip(built.get_weights(), trained.get_weights(), strict=True))
    logits = np.asarray(trained(images[:8].astype(np.float32), training=False))
    expected = np.asarray(keras.ops.softmax(logits))
    assert np.allclose(predict_convnet([built], images[:8]), expected, atol=1e-5 if precision == "float32" else 2e-2)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's kernel")
def test_the_fused_normalization_is_that_of_keras():
    values = np.random.default_rng(0).normal(3, 2, (4, 5, 5, 6)).astype(np.float32)
    plain, fused = keras.layers.BatchNormalization(), ChannelNormalization()
    outputs = [np.asarray(layer(values, training=True)) for layer in (plain, fused)]
    assert np.allclose(*outputs, atol=1e-5)
    for one, other in zip(plain.get_weights(), fused.get_weights(), strict=True):
        assert np.allclose(one, other, atol=1e-5)


def test_it_learns():
    examples = data(*pictures())
    model, history = train(plan(epochs=8, rate=5e-3), examples)
    held_out = np.flatnonzero(examples.parts.scored(0))
    predicted = predict_convnet([model], examples.images, held_out)
    right = predicted.argmax(axis=1) == examples.labels[held_out]
    assert right.mean() > 0.9
    assert history["fold_accuracy"][-1] == pytest.approx(right.mean(), abs=1e-6)
    assert history["loss"][-1] < history["loss"][0] / 2
    assert [len(values) for values in history.values()] == [8] * 4


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("ResourceExhaustedError", "OOM when allocating tensor"),
        ("InternalError", "Dst tensor is not initialized."),
        ("NotFoundError", "No algorithm worked!"),
        ("FailedPreconditionError", "DNN library initialization failed."),
        ("UnknownError", "CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_a_step_that_does_not_fit_into_the_gpu_is_one_line(monkeypatch, kind, text):
    """A smaller batch would train to other values, so that it isn't taken unasked."""

    def full(*_, **__):
        raise type(kind, (Exception,), {})(text)

    monkeypatch.setattr(keras.Model, "fit", full)
    with pytest.raises(TrainingError, match=r"\[ConvNet\] batch_size=\d+: a step doesn't fit .*nvidia-smi"):
        train(plan(), data(*pictures()))


def test_what_is_held_out_is_never_seen(short):
    """Pictures and labels of the convnet's own fold change nothing, and so does the state of Python's generators."""
    images, labels = pictures()
    held_out = np.flatnonzero(data(images, labels).parts.scored(0))
    images[held_out], labels[held_out] = 255 - images[held_out], (labels[held_out] + 1) % CLASSES
    random.seed(99)
    np.random.seed(99)  # noqa: NPY002  # the global state is what must not count
    keras.utils.set_random_seed(99)
    again = train(plan(), data(images, labels))
    assert same(short, again)
    assert again[1]["fold_loss"] != short[1]["fold_loss"]


def test_rows_count_by_their_class_where_that_is_asked_for():
    images, labels = pictures()
    examples = data(images, np.where(labels == 0, 0, 1).astype(np.int32))
    rows = np.flatnonzero(examples.parts.trained(0))
    assert len(trainer._Batches(plan(), examples, rows, 0, 0)[0]) == 2
    balanced = dataclasses.replace(plan(), balanced=True)
    _, own, weights = trainer._Batches(balanced, examples, rows, 0, 0)[0]
    assert np.array_equal(weights, class_weights(examples.labels[rows], CLASSES)[own])
    assert len(set(weights.tolist())) == 2
    trained, plain = train(balanced, examples), train(plan(), examples)
    assert trained[1]["loss"] != plain[1]["loss"]
    assert not same(trained, plain)


def test_what_it_is_trained_on_is_seen(short):
    images, labels = pictures()
    images[np.flatnonzero(data(images, labels).parts.trained(0))[0]] = 0
    assert not same(short, train(plan(), data(images, labels)))


class Killed(Silent):
    """Interrupts training after some epochs."""

    def __init__(self, after):
        self.left = after

    def advance(self, count, status=""):
        self.left -= count
        if not self.left:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def whole():
    """Four epochs in one go."""
    return train(plan(4), data(*pictures()))


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_killed_training_resumes_to_the_same_weights(whole, epochs, tmp_path, monkeypatch):
    """The kill comes after the epoch's steps and before its checkpoint, of which the one before is left."""
    monkeypatch.setattr(trainer, "_CHECKPOINT_SECONDS", 0)
    examples, checkpoint = data(*pictures()), Checkpoint(tmp_path / "checkpoint0.npz", "key")
    with pytest.raises(KeyboardInterrupt):
        train(plan(4), examples, checkpoint=checkpoint, progress=Killed(epochs))
    found = checkpoint.load()
    assert (len(found[1]["loss"]) if found else 0) == epochs - 1
    resumed = train(plan(4), examples, checkpoint=checkpoint)
    assert same(whole, resumed)
    assert resumed[1] == whole[1]


def test_each_step_has_the_rate_of_the_schedule():
    of, steps = plan(2), 4
    model = trainer._compiled(of, ([40.0], [50.0]), steps, 0, 0)
    expected = [rate for epoch in range(2) for rate in rates(of.schedule, epoch, steps)]
    found = []
    for step in range(2 * steps):
        model.optimizer.iterations.assign(step)
        found.append(float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)))
    assert np.allclose(found, expected, rtol=1e-6)


def test_colour_in_bfloat16_is_trained_stored_and_read_again(tmp_path):
    images, labels = pictures(channels=3)
    model, _ = train(plan(channels=3, precision="bfloat16"), data(images, labels))
    model.save(tmp_path / "fold0.keras")
    model.save(tmp_path / "fold10.keras")
    read = load_networks(tmp_path)
    assert len(read) == 2
    said = predict_convnet(read, images)
    assert said.shape == (ROWS, CLASSES)
    assert said.dtype == np.float32
    assert np.array_equal(said, predict_convnet([model], images))
    assert {layer.compute_dtype for layer in read[0].layers} == {"float32"}


def test_a_prediction_does_not_depend_on_the_rows_beside_it(short):
    images, _ = pictures()
    whole = predict_convnet([short[0]], images)
    assert np.array_equal(predict_convnet([short[0]], images[10:13]), whole[10:13])
    assert np.array_equal(predict_convnet([short[0]], images, np.array([5, 90])), whole[[5, 90]])
    with pytest.raises(TrainingError, match=r"shape=\(20, 20, 1\) don't fit a convnet that takes \(16, 16, 1\)"):
        predict_convnet([short[0]], np.zeros((2, 20, 20, 1), np.uint8))


def test_rates_that_break_the_weights_are_an_error():
    images, labels = pictures()
    with pytest.raises(TrainingError, match=r"in epoch \d of one-cycle 1e\+30x2: lower the rates of \[ConvNet\]"):
        train(plan(epochs=2, rate=1e30), data(images, labels))


def test_one_row_is_too_few():
    folds = np.array([0, 1] + [-1] * (ROWS - 2), np.int32)
    with pytest.raises(TrainingError, match=r"folds=2, usable rows=2 leave a part without .* 2 rows to train on"):
        by_folds(folds, np.ones(ROWS, bool))


def test_damaged_networks_say_so(tmp_path):
    with pytest.raises(CacheFormatError, match="has no convnets"):
        load_networks(tmp_path)
    (tmp_path / "fold0.keras").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(CacheFormatError, match=r"fold0\.keras is damaged: .*TrainConvNets with --rerun"):
        load_network(tmp_path / "fold0.keras")


def test_statistics_are_those_of_the_rows():
    images, _ = pictures(channels=3)
    rows = np.arange(0, ROWS, 2)
    mean, deviation = channel_statistics(images, rows)
    assert np.allclose(mean, images[rows].mean(axis=(0, 1, 2)))
    assert np.allclose(deviation, images[rows].std(axis=(0, 1, 2)))


def test_the_rows_decide_the_default_schedule():
    few = resolve_convnet(ConvNetSpec(), 1_200, 1, 10, "float32")
    many = resolve_convnet(ConvNetSpec(), 50_000, 1, 10, "float32")
    assert few.schedule == (Phase(3e-3, 60, ONE_CYCLE),)
    assert many.schedule == (Phase(3e-3, 12, ONE_CYCLE),)
    assert resolve_convnet(ConvNetSpec(schedule=((1e-3, 1), (1e-1, 4))), 50, 1, 10, "float32").epochs == 5
    assert resolve_convnet(ConvNetSpec(), 50, 1, 10, "float32").batch_size == 50
    assert few.momentum(9) == pytest.approx(1 - 10 / 540)
    assert many.momentum(390) == 0.99


def test_an_epoch_is_its_own_and_has_each_row_at_most_once():
    rows = np.arange(100, 170)
    epoch = draw_epoch(plan(), rows, 0, 0, 0)
    assert epoch.order.shape == (4, 16)
    assert epoch.maps.shape == (4, 16, 8)
    assert len(set(epoch.order.ravel()) & set(rows)) == 64
    again = draw_epoch(plan(), rows, 0, 0, 0)
    assert np.array_equal(epoch.order, again.order)
    assert np.array_equal(epoch.maps, again.maps)
    for other in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        drawn = draw_epoch(plan(), rows, *other)
        assert not np.array_equal(epoch.order, drawn.order)
        assert not np.array_equal(epoch.maps, drawn.maps)
        assert epoch.dropout_seed != drawn.dropout_seed


def moved(image, policy, draws):
    maps = affine_maps(policy, np.array([draws], float), *image.shape[:2]).astype(np.float32)
    batch = image[None].astype(np.float32)
    return np.asarray(
        keras.ops.image.affine_transform(batch, maps, "bilinear", "nearest", data_format="channels_last")
    )[0]


def test_maps_move_a_picture_as_the_policy_says():
    image = np.zeros((28, 28, 1), np.uint8)
    image[10:14, 12:15] = 200
    assert np.array_equal(moved(image, AugmentPolicy(), [1, 1, 1, 1, 1, 1]), image)
    # the map goes from result to image, so the picture moves the other way
    shifted = moved(image, AugmentPolicy(height_shift=2 / 28, width_shift=1 / 28), [0, 1, 1, 0, 0, 0])
    assert np.allclose(shifted, np.roll(image, (-2, -1), (0, 1)), atol=1e-2)


def test_maps_are_those_of_augmented_copies():
    """Pillow's bicubic and Keras' bilinear samples of the same map differ little on a smooth picture."""
    y, x = np.mgrid[:28, :28]
    image = np.repeat((127 + 60 * np.sin(x / 5) + 60 * np.cos(y / 7))[..., None], 3, 2).astype(np.uint8)
    for copy in range(1, 6):
        from featcache.dataset.augmentation import _draws

        draws = _draws(0, "ab" * 32, copy)[:6]
        expected = augment(image, CONVNET_RECIPE, 0, "ab" * 32, copy).astype(float)
        assert np.abs(moved(image, CONVNET_RECIPE, draws) - expected).mean() < 1.5


@pytest.mark.parametrize("balanced", [False, True])
def test_several_labels_are_learned_apart(balanced):
    images, classes = pictures()
    labels = np.eye(CLASSES, dtype=np.int8)[classes]
    labels[:, 1] |= labels[:, 0]  # so that rows of the first class have two
    own = dataclasses.replace(plan(epochs=6), several=True, balanced=balanced)
    model, history = train(own, data(images, labels))
    assert history["fold_accuracy"][-1] > 0.9
    held_out = np.arange(0, ROWS, 3)
    given = predict_convnet([model], images, held_out) > 0.5
    assert (given == (labels[held_out] > 0)).mean() > 0.9

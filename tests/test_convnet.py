"""The small convolutional network: its shape, honest folds, the same weights again, going on after a kill."""

import random

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from featcache.dataset.augmentation import affine_maps, augment  # noqa: E402
from featcache.errors import CacheFormatError, TrainingError  # noqa: E402
from featcache.settings.augment_policy import CONVNET_RECIPE, AugmentPolicy  # noqa: E402  # after importorskip
from featcache.settings.schedules import ONE_CYCLE, Phase  # noqa: E402
from featcache.settings.specs import ConvNetSpec  # noqa: E402
from featcache.training.convnet.model import (  # noqa: E402
    ChannelNormalization,
    build_convnet,
    load_network,
    load_networks,
    predict_convnet,
)
from featcache.training.convnet.plan import ConvNetPlan, draw_epoch, resolve_convnet  # noqa: E402
from featcache.training.convnet.trainer import Training, statistics, train_network  # noqa: E402

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


def training(images, labels, fold=0):
    rows = np.arange(ROWS)
    return Training(images, labels, rows[rows % 3 != fold], rows[rows % 3 == fold], 0, fold)


def weights(network):
    return [np.asarray(value) for value in network.model.get_weights()]


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


@pytest.fixture(scope="module")
def short():
    """One epoch on grey pictures."""
    images, labels = pictures()
    return train_network(plan(), training(images, labels))


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
    images, labels = pictures()
    task = training(images, labels)
    network = train_network(plan(epochs=8, rate=5e-3), task)
    said = predict_convnet([network.model], images, task.held_out)
    assert (said.argmax(axis=1) == labels[task.held_out]).mean() > 0.9
    assert network.history["loss"][-1] < network.history["loss"][0] / 2
    assert [len(values) for values in network.history.values()] == [8] * 4


def test_what_is_held_out_is_never_seen(short):
    """Pictures and labels of the network's own fold change nothing, and so does the state of Python's generators."""
    images, labels = pictures()
    held_out = training(images, labels).held_out
    images[held_out], labels[held_out] = 255 - images[held_out], (labels[held_out] + 1) % CLASSES
    random.seed(99)
    np.random.seed(99)  # noqa: NPY002  # the global state is what must not count
    keras.utils.set_random_seed(99)
    again = train_network(plan(), training(images, labels))
    assert same(short, again)
    assert again.history["fold_loss"] != short.history["fold_loss"]


def test_what_it_is_trained_on_is_seen(short):
    images, labels = pictures()
    images[training(images, labels).own[0]] = 0
    assert not same(short, train_network(plan(), training(images, labels)))


def test_going_on_from_a_checkpoint_comes_out_the_same():
    images, labels = pictures()
    kept = []
    whole = train_network(
        plan(3), training(images, labels), None, lambda state, history: kept.append((state(), history))
    )
    state, history = kept[0]
    begun = (state, {name: values[:1] for name, values in history.items()})
    later = train_network(plan(3), training(images, labels), begun)
    assert same(whole, later)
    assert later.history == whole.history


def test_colour_in_bfloat16_is_trained_stored_and_read_again(tmp_path):
    images, labels = pictures(channels=3)
    network = train_network(plan(channels=3, precision="bfloat16"), training(images, labels))
    network.model.save(tmp_path / "fold0.keras")
    network.model.save(tmp_path / "fold10.keras")
    read = load_networks(tmp_path)
    assert len(read) == 2
    said = predict_convnet(read, images)
    assert said.shape == (ROWS, CLASSES)
    assert said.dtype == np.float32
    assert np.array_equal(said, predict_convnet([network.model], images))
    assert {layer.compute_dtype for layer in read[0].layers} == {"float32"}


def test_a_prediction_does_not_depend_on_the_rows_beside_it(short):
    images, _ = pictures()
    whole = predict_convnet([short.model], images)
    assert np.array_equal(predict_convnet([short.model], images[10:13]), whole[10:13])
    assert np.array_equal(predict_convnet([short.model], images, np.array([5, 90])), whole[[5, 90]])
    with pytest.raises(TrainingError, match=r"expected images of shape \(16, 16, 1\); got shape=\(20, 20, 1\)"):
        predict_convnet([short.model], np.zeros((2, 20, 20, 1), np.uint8))


def test_rates_that_break_the_weights_are_an_error():
    images, labels = pictures()
    with pytest.raises(TrainingError, match=r"in epoch \d of one-cycle 1e\+30x2: lower the rates of \[ConvNet\]"):
        train_network(plan(epochs=2, rate=1e30), training(images, labels))


def test_one_row_is_too_few():
    images, labels = pictures()
    task = Training(images, labels, np.array([3]), np.array([4]), 0, 1)
    with pytest.raises(TrainingError, match="at least 2 rows to train on beside fold 1; got rows=1"):
        train_network(plan(), task)


def test_damaged_networks_say_so(tmp_path):
    with pytest.raises(CacheFormatError, match="got none: run TrainConvNets"):
        load_networks(tmp_path)
    (tmp_path / "fold0.keras").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(CacheFormatError, match=r"fold0\.keras: expected a network; .*TrainConvNets with --rerun"):
        load_network(tmp_path / "fold0.keras")


def test_statistics_are_those_of_the_rows():
    images, _ = pictures(channels=3)
    rows = np.arange(0, ROWS, 2)
    mean, deviation = statistics(images, rows)
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

"""Bags trained, stored and taken apart: honest folds, the same bytes twice, plain Keras models."""

import os
import random

import numpy as np
import pytest
from head_rows import examples_of

keras = pytest.importorskip("keras")

from featcache.core.progress import Silent  # noqa: E402
from featcache.errors import CacheFormatError, TrainingError  # noqa: E402
from featcache.settings.specs import HeadsSpec  # noqa: E402
from featcache.training.folds import assign_folds  # noqa: E402
from featcache.training.heads.bag import HeadId, load_bag, save_bag  # noqa: E402  # after importorskip
from featcache.training.heads.examples import Examples  # noqa: E402
from featcache.training.heads.forward import normalize  # noqa: E402
from featcache.training.heads.inputs import fit_input, stored_rows  # noqa: E402
from featcache.training.heads.keras_models import head_model, input_model  # noqa: E402
from featcache.training.heads.lda import train_lda  # noqa: E402
from featcache.training.heads.logistic_regression import train_linear  # noqa: E402
from featcache.training.heads.partition import by_folds  # noqa: E402
from featcache.training.heads.presets import head_types, resolve_heads  # noqa: E402
from featcache.training.heads.trainer import train_heads  # noqa: E402
from featcache.training.metrics import judge, log_loss  # noqa: E402

CLASSES = 3


def accuracy(probabilities, labels):
    return judge(probabilities, labels).scores().accuracy


def rows(n=90, shape=(2, 2, 4), seed=0):
    """Features that tell the class, in a layout of a tap, sorted by class as folders are."""
    generator = np.random.default_rng(seed)
    labels = np.sort(generator.integers(0, CLASSES, n))
    centres = np.random.default_rng(9).normal(size=(CLASSES, *shape))
    return (generator.normal(size=(n, *shape)) + 1.5 * centres[labels]).astype(np.float16), labels


def train(features, labels, usable=None, spec=None, seeds=(0, 1), copies=(), folds=None, shape="dense"):
    spec = spec or HeadsSpec(folds=3, hidden=(8,), schedule=((1e-2, 6),), batch_size=16)
    folds = assign_folds(labels, [""] * len(labels), spec.folds, 0) if folds is None else folds
    usable = np.ones(len(labels), bool) if usable is None else usable
    plan = resolve_heads(spec, shape, features[0].size, len(labels), CLASSES)
    return train_heads(examples_of([features, *copies], labels, by_folds(folds, usable)), plan, seeds, Silent())


@pytest.fixture(scope="module")
def trained():
    features, labels = rows()
    usable = np.ones(len(labels), bool)
    usable[5] = False
    return features, labels, train(features, labels, usable)


def test_out_of_fold_rows_are_probabilities_and_unusable_ones_nan(trained):
    _, labels, bag = trained
    assert bag.out_of_fold.shape == (2, 90, CLASSES)
    assert np.isnan(bag.out_of_fold[:, 5]).all()
    known = np.arange(90) != 5
    assert np.allclose(bag.out_of_fold[:, known].sum(axis=2), 1, atol=1e-5)
    assert accuracy(bag.out_of_fold[0, known], labels[known]) > 0.8


def test_heads_are_seed_by_seed_and_differ(trained):
    _, _, bag = trained
    assert bag.heads == tuple(HeadId(seed, fold) for seed in (0, 1) for fold in range(3))
    assert bag.seeds == (0, 1)
    assert not np.allclose(bag.out_of_fold[0, 0], bag.out_of_fold[1, 0])


def test_out_of_fold_is_what_the_head_of_that_fold_predicts(trained):
    features, labels, bag = trained
    folds = assign_folds(labels, [""] * 90, 3, 0)
    said = bag.predict({"tap": features})
    for row in (0, 40, 89):
        assert np.allclose(bag.out_of_fold[1, row], said[3 + folds[row], row], atol=1e-6)
    assert np.allclose(bag.member_predictions({"tap": features})[1], said[3:].mean(axis=0), atol=1e-6)


def test_history_falls_and_has_every_epoch(trained):
    _, _, bag = trained
    assert bag.history.loss.shape == bag.history.fold_accuracy.shape == bag.history.seen_loss.shape == (6, 6)
    assert (bag.history.loss[-1] < bag.history.loss[0]).all()
    assert bag.history.fold_accuracy[-1].mean() > 0.7


def test_labels_without_meaning_stay_at_chance():
    """A leak between folds would show here: noise can't be told out of fold."""
    features, _ = rows(200)
    noise = np.random.default_rng(1).integers(0, CLASSES, 200)
    spec = HeadsSpec(folds=3, hidden=(32,), dropout=0.0, schedule=((1e-2, 15),), batch_size=16)
    bag = train(np.random.default_rng(2).normal(size=features.shape).astype(np.float16), noise, spec=spec)
    assert accuracy(bag.out_of_fold.mean(axis=0), noise) < 0.45
    assert bag.history.accuracy[-1].mean() > 0.6


def test_copies_of_a_validation_row_are_not_trained_on():
    """Identical copies would give a leak away: each row's own copy tells its random label."""
    features = np.random.default_rng(2).normal(size=(150, 16)).astype(np.float16)
    noise = np.random.default_rng(1).integers(0, CLASSES, 150)
    bag = train(features, noise, copies=[features, features])
    assert accuracy(bag.out_of_fold.mean(axis=0), noise) < 0.48


def test_two_runs_give_the_same_bytes_whatever_the_global_seeds(trained, tmp_path):
    features, labels, bag = trained
    usable = np.arange(90) != 5
    random.seed(os.getpid())
    keras.utils.set_random_seed(random.randrange(1 << 30))
    again = train(features, labels, usable)
    assert bag.out_of_fold.tobytes() == again.out_of_fold.tobytes()
    for number, run in enumerate((bag, again)):
        save_bag(run, tmp_path / str(number))
    assert (tmp_path / "0" / "bag.npz").read_bytes() == (tmp_path / "1" / "bag.npz").read_bytes()


def test_memory_mapped_features_train_the_same(trained, tmp_path):
    features, labels, bag = trained
    np.save(tmp_path / "f.npy", features)
    again = train(np.load(tmp_path / "f.npy", mmap_mode="r"), labels, np.arange(90) != 5)
    assert np.array_equal(bag.out_of_fold, again.out_of_fold, equal_nan=True)


@pytest.mark.parametrize("shape", ["dense", "recipe", "wide", "fast"])
def test_every_head_of_a_stored_bag_is_a_plain_keras_model_that_predicts_the_same(shape, tmp_path):
    features, labels = rows()
    spec = HeadsSpec(folds=2, hidden=(8, 6), schedule=((1e-2, 2),), batch_size=16)
    bag = train(features, labels, spec=spec, shape=shape)
    save_bag(bag, tmp_path / "heads", {"key": "k"})
    said = bag.predict({"tap": features})
    assert [path.name for path in tmp_path.iterdir()] == ["heads"]
    assert {path.name for path in (tmp_path / "heads").iterdir()} == {"bag.npz", "bag.json"}
    loaded = load_bag(tmp_path / "heads")
    values = input_model(loaded.seen_as)({"tap": features.astype(np.float32)})
    for number in range(4):
        head_model(loaded, number).save(tmp_path / "head.keras")
        model = keras.models.load_model(tmp_path / "head.keras")
        assert model.input_shape == (None, 16)
        assert np.allclose(keras.ops.convert_to_numpy(model(values, training=False)), said[number], atol=2e-6)
    assert (loaded.plan, loaded.heads, loaded.seen_as.taps) == (bag.plan, bag.heads, bag.seen_as.taps)
    assert np.array_equal(loaded.predict({"tap": features}), said)


def test_saving_replaces_the_whole_folder(trained, tmp_path):
    folder = tmp_path / "heads"
    folder.mkdir()
    (folder / "old.keras").write_text("of another run")
    save_bag(trained[2], folder)
    assert not (folder / "old.keras").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["heads"]


def test_a_failed_save_keeps_the_old_bag(trained, tmp_path, monkeypatch):
    folder = tmp_path / "heads"
    save_bag(trained[2], folder)
    before = sorted(path.name for path in folder.iterdir())
    monkeypatch.setattr("featcache.training.heads.bag.write_bag", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save_bag(trained[2], folder)
    assert [path.name for path in tmp_path.iterdir()] == ["heads"]
    assert sorted(path.name for path in folder.iterdir()) == before


def test_recomputed_statistics_are_those_of_the_heads_own_rows(trained):
    features, labels, bag = trained
    folds = assign_folds(labels, [""] * 90, 3, 0)
    own = (folds != 1) & (np.arange(90) != 5)
    model = head_model(bag, 1)
    before = keras.Model(model.input, model.get_layer("dense_0").output)
    active = keras.ops.convert_to_numpy(before(features[own].reshape(-1, 16).astype(np.float32), training=False))
    assert np.allclose(bag.weights["mean_0"][1], active.mean(axis=0), atol=1e-4)
    assert np.allclose(bag.weights["variance_0"][1], active.var(axis=0), rtol=1e-3, atol=1e-4)


def test_recipe_keeps_the_moving_averages():
    features, labels = rows()
    bag = train(features, labels, spec=HeadsSpec(folds=2, batch_size=16), seeds=(0,), shape="recipe")
    steps = 3 * -(-45 // 16)
    # after few steps of momentum 0.99 the averages still stand near where they began, at 0 and 1
    assert (bag.weights["variance_0"] >= 0.99**steps - 1e-6).all()


def test_a_damaged_bag_is_one_clear_error(trained, tmp_path):
    save_bag(trained[2], tmp_path / "heads")
    path = tmp_path / "heads" / "bag.npz"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(CacheFormatError, match=r"bag\.npz.*--rerun"):
        load_bag(tmp_path / "heads")
    with pytest.raises(CacheFormatError, match=r"bag\.npz"):
        load_bag(tmp_path / "absent")


def test_what_cannot_be_trained_says_why(trained):
    features, labels, bag = trained
    with pytest.raises(TrainingError, match="folds=1"):
        train(features, labels, folds=np.zeros(90, np.int32))
    with pytest.raises(TrainingError, match=r"labels from 3 to 5 are outside 0\.\.2"):
        train(features, labels + 3)
    with pytest.raises(TrainingError, match="every copy needs 90 rows"):
        train(features, labels, copies=[features[:50]])
    for wrong in ({"tap": features[:, :1]}, {"other": features}):
        for predict in (bag.predict, bag.member_predictions, lambda taps: list(bag.member_parts(taps))):
            with pytest.raises(TrainingError, match=r"don't fit heads that were trained on.*train the heads again"):
                predict(wrong)


def test_the_default_beats_a_standardised_logistic_regression():
    """On digits as they are, 64 pixels: the same relation that benchmarks measure on VGG16's features."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    digits = load_digits()
    pixels, labels, usable = digits.data[:900], digits.target[:900], np.ones(900, bool)
    folds, features = assign_folds(labels, [""] * 900, 3, 0), {"tap": pixels.astype(np.float16)}
    seen_as = fit_input(["tap"], [features], usable, normalise=True)
    examples = Examples(seen_as, [stored_rows(seen_as, features, None)], labels, by_folds(folds, usable))
    dense, linear, lda = (resolve_heads(HeadsSpec(folds=3), kind, 64, 900, 10) for kind in head_types(HeadsSpec()))
    bags = (
        train_heads(examples, dense, range(3), Silent()),
        train_linear(examples, linear, Silent()),
        train_lda(examples, lda, Silent()),
    )
    logarithms = [np.log(np.maximum(bag.out_of_fold.mean(axis=0), 1e-3)) for bag in bags]
    ours = normalize(np.exp(np.mean(logarithms, axis=0)))
    regression = np.empty((900, 10))
    for fold in range(3):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=500))
        model.fit(pixels[folds != fold], labels[folds != fold])
        regression[folds == fold] = model.predict_proba(pixels[folds == fold])
    assert log_loss(ours, labels) < log_loss(regression, labels)
    assert log_loss(bags[0].out_of_fold.mean(axis=0), labels) < log_loss(regression, labels)

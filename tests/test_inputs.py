"""What heads see of rows: powers and lengths by a plain formula, taps in their order, what is stored, and Keras."""

import os
from types import SimpleNamespace

import numpy as np
import pytest

from featcache.errors import TrainingError
from featcache.settings.specs import HeadsSpec, Tap
from featcache.training.heads.inputs import HeadInput, fit_input, head_inputs, normalised, stored_rows

N = 40
USABLE = np.arange(N) % 10 != 3


def taps(seed=0):
    """Two taps as a cache has them; with zeros, negative values and one row without any."""
    draw = np.random.default_rng(seed)
    features = {"flat": draw.gamma(0.5, 20, (N, 2, 2, 3)), "pooled": draw.normal(3, 5, (N, 7))}
    features["flat"][5] = 0
    features["flat"][:, 0, 0, 1] = 0
    return {tap: array.astype(np.float16) for tap, array in features.items()}


def by_the_formula(array):
    values = array.reshape(len(array), -1).astype(np.float64)
    powers = np.sign(values) * np.abs(values) ** 0.7
    lengths = np.linalg.norm(powers, axis=1, keepdims=True)
    return np.divide(powers * np.sqrt(values.shape[1]), lengths, out=np.zeros_like(powers), where=lengths > 0)


def expected_of(fitted_to, seen, names, usable=USABLE):
    """Centred by what it is fitted to, each tap divided by the fourth root of its mean variance, then all to variance 1."""
    fitted = {tap: np.concatenate([by_the_formula(copy[tap])[usable] for copy in fitted_to]) for tap in names}
    roots = {tap: np.sqrt(values.var(axis=0).mean()) for tap, values in fitted.items()}
    whole = np.sqrt(
        np.concatenate([values / np.sqrt(roots[tap]) for tap, values in fitted.items()], axis=1).var(axis=0).mean()
    )
    parts = [(by_the_formula(seen[tap]) - fitted[tap].mean(axis=0)) / np.sqrt(roots[tap]) / whole for tap in names]
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("names", [("flat",), ("pooled",), ("flat", "pooled"), ("pooled", "flat")])
def test_values_are_those_of_the_formula(names):
    copies, other = [taps(0), taps(1)], taps(2)
    seen_as = fit_input(names, copies, USABLE, normalise=True)
    assert tuple(seen_as.taps) == names
    assert seen_as.scale.shape == (len(names),)
    rows = seen_as.rows(other)
    assert rows.shape == (N, sum({"flat": 12, "pooled": 7}[tap] for tap in names))
    assert rows[:].dtype == np.float32
    assert np.allclose(rows[:], expected_of(copies, other, names), atol=2e-5)
    assert np.array_equal(rows[7:9], rows[:][7:9])
    assert np.array_equal(rows[np.array([30, 2])], rows[:][[30, 2]])


def test_a_row_of_zeros_is_zeros_and_signs_stay():
    values = normalised(np.array([[0, 0, 0, 0], [4, 0, -1, 0]], np.float32))
    assert not values[0].any()
    assert np.allclose(values[1], np.array([4**0.7, 0, -1, 0]) * 2 / np.sqrt(4**1.4 + 1))
    assert np.square(values[1]).mean() == pytest.approx(1)


def test_brightness_and_large_values_do_not_matter():
    values = np.abs(np.random.default_rng(0).normal(size=(3, 6))).astype(np.float32)
    assert np.allclose(normalised(values), normalised(values * 60_000), atol=1e-5)


def test_values_of_training_rows_have_mean_0_and_mean_variance_1():
    features = taps()
    values = fit_input(("flat", "pooled"), [features], USABLE, normalise=True).rows(features)[:][USABLE]
    assert np.allclose(values.mean(axis=0), 0, atol=1e-5)
    assert values.var(axis=0).mean() == pytest.approx(1, rel=1e-4)


def test_rows_that_are_not_usable_and_blocks_change_nothing(monkeypatch):
    features = taps()
    found = fit_input(("flat", "pooled"), [features], USABLE, normalise=True)
    for array in features.values():
        array[~USABLE] = 1000
    monkeypatch.setattr("featcache.training.heads.forward._BLOCK_VALUES", 300)
    again = fit_input(("flat", "pooled"), [features], USABLE, normalise=True)
    assert np.allclose(found.mean, again.mean, atol=1e-6)
    assert np.allclose(found.scale, again.scale)


def test_constant_taps_are_finite():
    features = {"tap": np.full((N, 4), 3, np.float16)}
    seen_as = fit_input(["tap"], [features], USABLE, normalise=True)
    assert not seen_as.rows(features)[:].any()
    assert np.isfinite(seen_as.rows({"tap": np.arange(8, dtype=np.float16).reshape(2, 4)})[:]).all()


def test_the_recipe_sees_the_features_as_they_are(tmp_path):
    features = taps()
    seen_as = fit_input(["flat"], [features], USABLE, normalise=False)
    assert (seen_as.mean, seen_as.scale) == (None, None)
    assert np.array_equal(seen_as.rows(features)[:], features["flat"].reshape(N, -1).astype(np.float32))
    np.save(tmp_path / "flat.npy", features["flat"])
    mapped = np.load(tmp_path / "flat.npy", mmap_mode="r")
    stored = stored_rows(seen_as, {"flat": mapped}, tmp_path)
    assert np.shares_memory(stored, mapped), "nothing is copied"
    assert stored.shape == (N, 12)


def test_normalised_rows_are_stored_in_float16_and_large_tables_on_the_disk(tmp_path, monkeypatch):
    features = taps()
    seen_as = fit_input(("flat", "pooled"), [features], USABLE, normalise=True)
    monkeypatch.setattr("featcache.core.scratch_arrays.MEMORY_BYTES", 100)
    monkeypatch.setattr("featcache.training.heads.forward._BLOCK_VALUES", 300)
    stored = stored_rows(seen_as, features, tmp_path)
    assert isinstance(stored, np.memmap)
    assert np.array_equal(stored, seen_as.rows(features)[:].astype(np.float16))
    assert list(tmp_path.iterdir()) == [], "the file has no name"


def test_features_that_do_not_fit_are_refused():
    seen_as = HeadInput({"flat": (2, 2, 3), "pooled": (7,)})
    for wrong in ({"flat": taps()["flat"]}, {**taps(), "pooled": np.zeros((N, 8), np.float16)}):
        with pytest.raises(TrainingError, match="don't fit heads that were trained on"):
            seen_as.rows(wrong)


def test_pooled_taps_are_seen_side_by_side_and_each_other_tap_alone():
    flat, mean, most = Tap("block5_pool"), Tap("block4_pool", "avg"), Tap("block5_pool", "max")
    both = {"pooled": ("block4_pool_avg", "block5_pool_max")}
    assert head_inputs([mean, flat, most], joined=True) == {**both, "block5_pool": ("block5_pool",)}
    assert head_inputs([mean, flat], joined=True) == {tap.name: (tap.name,) for tap in (mean, flat)}
    assert head_inputs([mean, most], joined=False) == {tap.name: (tap.name,) for tap in (mean, most)}


@pytest.mark.parametrize("names", [("pooled",), ("pooled", "flat")])
@pytest.mark.parametrize("normalise", [True, False])
def test_the_keras_model_gives_the_same_values(names, normalise):
    keras = pytest.importorskip("keras")
    from featcache.training.heads.keras_models import input_model

    features = taps()
    seen_as = fit_input(names, [features], USABLE, normalise=normalise)
    model = input_model(seen_as)
    inputs = {tap: features[tap].astype(np.float32) for tap in names}
    values = keras.ops.convert_to_numpy(model(inputs))
    assert np.allclose(values, seen_as.rows(features)[:], rtol=1e-6, atol=2e-5)


def test_types_of_heads_on_the_same_files_share_their_rows(tmp_path):
    """They are made again for other taps, and once a file was written again."""
    from featcache.stages.heads import _seen_rows

    class Backbone:
        label = ""

        def cache(self, split, copy):
            return SimpleNamespace(path=tmp_path / f"{split}{copy}")

        def owns(self, tap):
            return True

    class OneRun:
        settings = SimpleNamespace(heads=HeadsSpec())
        folder, backbones = tmp_path, [Backbone()]

        def inputs(self):
            return {"a": ("a",), "b": ("b",)}

    (tmp_path / "train0").touch()
    features = {"a": np.ones((4, 3), np.float16), "b": np.eye(4, dtype=np.float16)}
    run, usable = OneRun(), np.ones(4, bool)
    seen = [_seen_rows(run, name, [0], [features], usable) for name in ("a", "a", "b", "b")]
    assert [seen[0] is seen[1], seen[1] is seen[2], seen[2] is seen[3]] == [True, False, True]
    assert [rows.shape for _, (rows,) in seen] == [(4, 3), (4, 3), (4, 4), (4, 4)]
    os.utime(tmp_path / "train0", (1, 1))
    assert _seen_rows(run, "b", [0], [features], usable) is not seen[3]

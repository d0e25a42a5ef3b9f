"""Images unlike anything seen: distances to the training images over blocks, and what is said of them."""

from pathlib import Path

import numpy as np
import pytest

from featcache.inference.predictor import Prediction, prediction_lines, prediction_record, write_csv
from featcache.project import unlike
from featcache.project.unlike import SeenImages, farther_than


@pytest.fixture(params=[3, 2048])
def seen(request, monkeypatch):
    monkeypatch.setattr(unlike, "_BLOCK", request.param)
    features = np.random.default_rng(0).random((20, 6), np.float32)
    features[7] = features[2]
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    return SeenImages("avg", np.arange(20), units.astype(np.float16))


def nearest(distances):
    return np.sort(distances, axis=1)[:, :3].mean(axis=1)


def test_distances_are_to_the_nearest_over_all_blocks(seen):
    maps = np.random.default_rng(1).random((7, 2, 2, 6), np.float32)
    units = maps.mean(axis=(1, 2))
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    expected = nearest(1 - units @ seen.units.astype(np.float32).T)
    np.testing.assert_allclose(seen.distances(maps), expected, atol=1e-3)


def test_training_images_are_not_compared_with_themselves_their_twins_and_their_group(seen):
    distances = 1 - seen.units.astype(np.float64) @ seen.units.T.astype(np.float64)
    np.fill_diagonal(distances, np.inf)
    twins, groups = np.arange(20), np.arange(20) // 5
    twins[7] = 2
    for numbers in (twins, groups):
        apart = np.where(numbers[:, None] == numbers[None], np.inf, distances)
        quantiles = seen.quantiles([numbers])
        assert quantiles[::500] == pytest.approx(np.quantile(nearest(apart), [0, 0.5, 1]), abs=1e-3)
    assert seen.quantiles([np.zeros(20, int)]) == [], "one group has no others"


def test_many_rows_are_sampled_for_the_scale_and_all_are_searched(seen, monkeypatch):
    monkeypatch.setattr(unlike, "_CALIBRATED", 2)
    distances = 1 - seen.units.astype(np.float64) @ seen.units.T.astype(np.float64)
    np.fill_diagonal(distances, np.inf)
    assert seen.quantiles([])[::1000] == pytest.approx(sorted(nearest(distances)[[0, 19]]), abs=1e-3)


def test_an_image_without_features_is_far_and_shares_are_between_quantiles():
    assert SeenImages("avg", np.arange(2), np.eye(2, dtype=np.float16)).distances(np.zeros((1, 2))) == [1]
    assert farther_than(np.array([0.0, 0.25, 9]), [0.1, 0.2, 0.3]).tolist() == pytest.approx([0, 0.75, 1])


def test_what_is_unlike_is_named_in_table_json_and_csv(tmp_path):
    shares = (0.4, 0.9991, None)
    told = [Prediction(Path(f"{share}.png"), np.array([0.8, 0.2]), farther_than=share) for share in shares]
    records = [prediction_record(each, "ab") for each in told]
    assert [(each["unlike"], each["farther_than"]) for each in records] == [(False, 0.4), (True, 0.9991), (None, None)]
    lines = [*prediction_lines(told, "ab", 10)][1:]
    assert [line.endswith("unlike anything seen in training") for line in lines] == [False, True, False]
    assert [*write_csv(tmp_path / "told.csv", told, "ab")] == told
    assert [line.rsplit(",", 1)[1] for line in (tmp_path / "told.csv").read_text().splitlines()] == [
        *("farther_than", "0.4000", "0.9991", "")
    ]

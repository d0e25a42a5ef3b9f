"""Members' probabilities: joined by row id, stored, and refused when damaged."""

import dataclasses

import h5py
import numpy as np
import pytest

from featcache.core import disk
from featcache.errors import CacheFormatError, CacheMismatchError
from featcache.training import prediction_file
from featcache.training.prediction_file import stored_members, stored_record
from featcache.training.predictions import Predictions, joined_members


@pytest.fixture
def predictions():
    values = np.random.default_rng(0).dirichlet([1, 1, 1], (2, 4)).astype(np.float32)
    labels = np.array([0, 1, -1, 2], np.int32)
    return Predictions(("ä/1.jpg", "b", "c", "d"), labels, ("head 0", "head 1"), values, ("x", "y", "z"))


def test_load_returns_what_was_saved(predictions, tmp_path):
    path = tmp_path / "sub" / "out_of_fold.h5"
    predictions.save(path, {"key": "abc"})
    loaded = Predictions.load(path)
    assert (loaded.ids, loaded.members, loaded.class_names) == (
        predictions.ids, predictions.members, predictions.class_names,
    )  # fmt: skip
    assert np.array_equal(loaded.labels, predictions.labels)
    assert np.array_equal(loaded.probabilities, predictions.probabilities)
    assert stored_record(path)["key"] == "abc"
    assert [p.name for p in path.parent.iterdir()] == ["out_of_fold.h5"]


def test_align_joins_by_id(predictions):
    aligned = predictions.align(["d", "b"])
    assert aligned.labels.tolist() == [2, 1]
    assert np.array_equal(aligned.probabilities, predictions.probabilities[:, [3, 1]])


def test_align_names_what_is_missing(predictions):
    with pytest.raises(CacheMismatchError, match=r"1 are missing, first id='e'"):
        predictions.align(["b", "e"])


def test_scored_leaves_out_unknown_labels_and_nan(predictions):
    predictions.probabilities[1, 0] = np.nan
    assert predictions.scored().ids == ("b", "d")


def test_parts_that_do_not_fit_are_refused(predictions):
    with pytest.raises(CacheMismatchError, match=r"expected probabilities\(2, 4, 2\)"):
        Predictions(predictions.ids, predictions.labels, predictions.members, predictions.probabilities, ("x", "y"))
    with pytest.raises(CacheMismatchError, match="unique ids"):
        Predictions(("a", "a", "b", "c"), predictions.labels, predictions.members, predictions.probabilities,
                    predictions.class_names)  # fmt: skip


def test_damage_is_one_clear_error(predictions, tmp_path):
    path = tmp_path / "p.h5"
    predictions.save(path)
    with h5py.File(path, "r+") as file:
        del file["labels"]
    with pytest.raises(CacheFormatError, match=r"p\.h5: expected predictions; .*: remove it and run again"):
        Predictions.load(path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(CacheFormatError, match=r"p\.h5"):
        Predictions.load(path)
    assert stored_record(path) is None
    assert stored_record(tmp_path / "absent.h5") is None


def test_folds_are_kept_and_follow_their_rows(predictions, tmp_path):
    scored = dataclasses.replace(predictions, folds=np.array([1, 0, -1, 1], np.int32))
    scored.save(tmp_path / "out_of_fold.hdf5")
    loaded = Predictions.load(tmp_path / "out_of_fold.hdf5")
    assert loaded.folds.tolist() == [1, 0, -1, 1]
    assert loaded.align(["d", "b"]).folds.tolist() == [1, 0]
    with pytest.raises(CacheMismatchError, match="folds"):
        dataclasses.replace(predictions, folds=np.zeros(3, np.int32))


def test_members_of_other_folds_are_not_joined(predictions):
    names = ("other 0", "other 1")
    first = dataclasses.replace(predictions, folds=np.array([0, 1, -1, 1], np.int32))
    other = dataclasses.replace(first, members=names)
    assert joined_members([first, other]).folds.tolist() == [0, 1, -1, 1]
    for folds in (None, np.array([0, 0, -1, 1], np.int32)):
        with pytest.raises(CacheMismatchError, match="same folds"):
            joined_members([first, dataclasses.replace(other, folds=folds)])


def counting(monkeypatch):
    """The files whose bytes were read for their digest."""
    digest, read = prediction_file._rest_digest, []

    def noted(stream, start):
        read.append(stream.name)
        return digest(stream, start)

    monkeypatch.setattr(prediction_file, "_rest_digest", noted)
    return read


def test_names_of_members_cost_the_first_line(predictions, tmp_path, monkeypatch):
    path = tmp_path / "out_of_fold.hdf5"
    predictions.save(path)
    read = counting(monkeypatch)
    assert stored_members(path) == predictions.members
    assert read == []


def test_members_of_a_file_whose_first_line_does_not_name_them(predictions, tmp_path):
    path = tmp_path / "older.hdf5"
    predictions.save(path)
    content = path.read_bytes()
    names = b'"members": ["head 0", "head 1"], '
    assert names in content
    path.write_bytes(content.replace(names, b" " * len(names)))
    assert stored_members(path) == predictions.members
    path.write_bytes(b"")
    with pytest.raises(CacheFormatError):
        stored_members(path)


def test_a_file_is_held_to_its_digest_once_a_process_and_again_when_it_changed(predictions, tmp_path, monkeypatch):
    path = tmp_path / "out_of_fold.hdf5"
    predictions.save(path)
    read = counting(monkeypatch)
    Predictions.load(path)
    Predictions.load(path)
    assert len(read) == 2, "it was written a moment ago: a change could have the same time stamp"
    monkeypatch.setattr(disk, "SETTLE_NS", 0)
    for _ in range(3):
        Predictions.load(path)
    assert len(read) == 3
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CacheFormatError, match="not those that were written"):
        Predictions.load(path)

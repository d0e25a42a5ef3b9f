"""Members' probabilities: joined row by row, stored, and refused when damaged or of other rows."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest

from featcache.core import disk
from featcache.core.keys import file_digest
from featcache.core.rows import Rows
from featcache.errors import CacheFormatError, CacheMismatchError
from featcache.training.predictions import (
    Predictions,
    joined_members,
    stored_members,
    stored_probabilities,
    write_predictions,
)

LABELS = np.array([0, 1, -1, 2], np.int32)
ROWS = Rows(("ä/1.jpg", "b", "c", "d"), LABELS, [""] * 4, ["d"] * 4, [""] * 4)


@pytest.fixture
def predictions():
    values = np.random.default_rng(0).dirichlet([1, 1, 1], (2, 4)).astype(np.float32)
    labels = LABELS.copy()
    return Predictions(ROWS.ids, labels, ("head 0", "head 1"), values, ("x", "y", "z"), rows_key=ROWS.key)


def saved(predictions, folder):
    """Save them as a stage does; return the record's path."""
    folder.mkdir(exist_ok=True)
    record = folder / "bag.json"
    record.write_text(json.dumps({"key": "abc", "predictions": predictions.save(folder)}))
    return record


def test_load_returns_what_was_saved(predictions, tmp_path):
    loaded = Predictions.load(saved(predictions, tmp_path / "a"), ROWS)
    assert (loaded.ids, loaded.members, loaded.class_names) == (
        predictions.ids, predictions.members, predictions.class_names,
    )  # fmt: skip
    assert np.array_equal(loaded.labels, predictions.labels)
    assert np.array_equal(loaded.probabilities, predictions.probabilities)
    assert loaded.groups == ()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["bag.json", "out_of_fold.npy"]


def test_numpy_opens_the_file(predictions, tmp_path):
    saved(predictions, tmp_path)
    array = np.load(tmp_path / "out_of_fold.npy", mmap_mode="r")
    assert (array.dtype, array.shape) == (np.float32, (2, 4, 3))
    assert np.array_equal(array, predictions.probabilities)


def test_parts_are_put_where_they_belong(tmp_path):
    values = np.random.default_rng(0).random((3, 10, 2)).astype(np.float32)
    cuts = [(0, 2), (2, 3)]
    parts = [
        (first, slice(start, start + 3), values[first:last, start : start + 3])
        for first, last in cuts
        for start in (6, 0, 9, 3)
    ]
    record = write_predictions(tmp_path / "p.npy", ("a", "b", "c"), ("x", "y"), (10, "key"), parts)
    assert np.array_equal(np.load(tmp_path / "p.npy"), values)
    assert record["files"] == {"p.npy": file_digest(tmp_path / "p.npy")}


def test_predictions_of_other_rows_are_refused(predictions, tmp_path):
    record = saved(predictions, tmp_path)
    other = dataclasses.replace(ROWS, labels=np.zeros(4, np.int32))
    with pytest.raises(CacheFormatError, match="of other rows"):
        Predictions.load(record, other)


def test_groups_come_from_the_rows_and_follow_them(predictions, tmp_path):
    rows = dataclasses.replace(ROWS, groups=["p0", "", "p1", "p0"])
    loaded = Predictions.load(saved(dataclasses.replace(predictions, rows_key=rows.key), tmp_path), rows)
    assert loaded.take(np.array([3, 1])).groups == ["p0", ""]


def test_take_returns_rows_in_their_order(predictions):
    taken = predictions.take(np.array([3, 1]))
    assert taken.ids == ["d", "b"]
    assert taken.labels.tolist() == [2, 1]
    assert np.array_equal(taken.probabilities[:, :], predictions.probabilities[:, [3, 1]])


def test_scored_leaves_out_unknown_labels_and_nan(predictions):
    predictions.probabilities[1, 0] = np.nan
    assert predictions.scored().ids == ["b", "d"]


def test_parts_that_do_not_fit_are_refused(predictions):
    with pytest.raises(CacheMismatchError, match=r"not of \(2, 4, 2\) members, rows and classes"):
        Predictions(predictions.ids, predictions.labels, predictions.members, predictions.probabilities, ("x", "y"))
    with pytest.raises(CacheMismatchError, match="two members are called 'head 0'"):
        dataclasses.replace(predictions, members=("head 0", "head 0"))


def test_damage_is_one_clear_error(predictions, tmp_path):
    record = saved(predictions, tmp_path)
    for damage in ("{}", "", '{"predictions": {"members": ["head 0"]}}', '{"predictions": {"files": []}}'):
        record.write_text(damage)
        with pytest.raises(CacheFormatError, match=r"bag\.json: its predictions can't be used: .* and run again"):
            Predictions.load(record, ROWS)
    for read in (stored_members, stored_probabilities):
        with pytest.raises(CacheFormatError, match=r"absent, damaged or of an older version"):
            read(tmp_path / "absent.json")


def test_folds_are_kept_and_follow_their_rows(predictions, tmp_path):
    scored = dataclasses.replace(predictions, folds=np.array([1, 0, -1, 1], np.int32))
    loaded = Predictions.load(saved(scored, tmp_path), ROWS)
    assert loaded.folds.tolist() == [1, 0, -1, 1]
    assert loaded.take(np.array([3, 1])).folds.tolist() == [1, 0]
    with pytest.raises(CacheMismatchError, match="folds"):
        dataclasses.replace(predictions, folds=np.zeros(3, np.int32))


def test_members_of_other_folds_are_not_joined(predictions):
    names = ("other 0", "other 1")
    first = dataclasses.replace(predictions, folds=np.array([0, 1, -1, 1], np.int32))
    other = dataclasses.replace(first, members=names)
    assert joined_members([first, other]).folds.tolist() == [0, 1, -1, 1]
    for folds in (None, np.array([0, 0, -1, 1], np.int32)):
        with pytest.raises(CacheMismatchError, match="different folds"):
            joined_members([first, dataclasses.replace(other, folds=folds)])


def counting(monkeypatch):
    """The files whose bytes were read for their checksum."""
    digest, read = hashlib.file_digest, []

    def noted(stream, name):
        read.append(stream.name)
        return digest(stream, name)

    monkeypatch.setattr(hashlib, "file_digest", noted)
    return read


def test_names_of_members_cost_the_record_alone(predictions, tmp_path, monkeypatch):
    record = saved(predictions, tmp_path)
    read = counting(monkeypatch)
    assert stored_members(record) == predictions.members
    assert read == []


def test_a_file_is_held_to_its_checksum_once_a_process_and_again_when_it_changed(predictions, tmp_path, monkeypatch):
    record, path = saved(predictions, tmp_path), tmp_path / "out_of_fold.npy"
    read = counting(monkeypatch)
    Predictions.load(record, ROWS)
    Predictions.load(record, ROWS)
    assert len(read) == 2, "it was written a moment ago: a change could have the same time stamp"
    monkeypatch.setattr(disk, "SETTLE_NS", 0)
    for _ in range(3):
        Predictions.load(record, ROWS)
    assert len(read) == 3
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CacheFormatError, match=r"out_of_fold\.npy: checksum mismatch"):
        Predictions.load(record, ROWS)

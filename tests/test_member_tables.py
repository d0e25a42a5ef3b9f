"""Tables of several members on the same rows: indexed as one array is, and no result depends on how many rows are read at once."""

import dataclasses
import json
import os

import numpy as np
import pytest

from featcache.core import scratch_arrays
from featcache.core.rows import Rows
from featcache.ensemble.selection import select_ensemble
from featcache.errors import StorageError
from featcache.training import member_tables
from featcache.training.member_tables import joined, label_probabilities, selected, table_parts
from featcache.training.predictions import Predictions, joined_members

ROWS = Rows([f"r{row}" for row in range(90)], np.arange(90, dtype=np.int32) % 3, [""] * 90, ["d"] * 90, [""] * 90)


@pytest.fixture
def members(tmp_path):
    """Three members' predictions, one of them in a file, one with a row that it has no prediction for."""
    draw, labels = np.random.default_rng(0), np.arange(90, dtype=np.int32) % 3
    found = []
    for number in range(3):
        said = draw.dirichlet([1, 1, 1], (1, 90)).astype(np.float32)
        said[0, np.arange(90), labels] += 1
        said /= said.sum(axis=2, keepdims=True)
        if number == 1:
            said[0, 7] = np.nan
        ids, names = [f"r{row}" for row in range(90)], ("x", "y", "z")
        found.append(Predictions(ids, labels, (f"m{number}",), said, names, labels // 2, rows_key=ROWS.key))
    (tmp_path / "third").mkdir()
    (tmp_path / "third/bag.json").write_text(json.dumps({"predictions": found[2].save(tmp_path / "third")}))
    return [*found[:2], Predictions.load(tmp_path / "third/bag.json", ROWS)]


def test_joined_tables_are_indexed_as_one_array_is():
    draw = np.random.default_rng(0)
    one, two, order = draw.random((2, 7, 3), np.float32), draw.random((1, 7, 3), np.float32), np.array([6, 0, 3, 3, 1])
    tables = selected(joined([one, two]), order)
    whole = np.concatenate([one, two])[:, order]
    assert np.array_equal(joined([selected(one, order), two[:, order]])[:, :], whole)
    assert (tables.shape, len(tables)) == (whole.shape, 3)
    for rows in (slice(1, 4), np.array([4, 0, 0]), np.array([True, False, True, True, False])):
        assert np.array_equal(tables[:, rows], whole[:, rows])
        assert np.array_equal(tables[-1, rows], whole[-1, rows])
        assert np.array_equal(selected(tables, np.array([2, 4, 1]))[:, :2], whole[:, [2, 4]])
    assert np.array_equal(np.stack(list(tables)), whole)
    assert np.array_equal(
        label_probabilities(tables, np.array([4, 2]), np.array([0, 2])), whole[:, [4, 2], [0, 2]].astype(np.float64)
    )
    for wrong, error in ((3, IndexError), (slice(0, 1), TypeError), ([0], TypeError)):
        with pytest.raises(error):
            tables[wrong]


def test_no_result_depends_on_the_rows_read_at_once(members, monkeypatch, tmp_path):
    def results(folder):
        known = joined_members(members)
        scored = known.scored()
        built = select_ensemble(known)
        scored.save(folder)
        nested = np.empty((len(scored.ids), 3))
        for rows, part in built.nested_parts(scored):
            nested[rows] = part
        tables = [built.apply(scored), nested, scored.probabilities[:, :]]
        return (
            dataclasses.asdict(built),
            [table.tobytes() for table in tables],
            (folder / "out_of_fold.npy").read_bytes(),
        )

    whole = results(tmp_path)
    monkeypatch.setattr(member_tables, "_PART_VALUES", 1)
    monkeypatch.setattr("featcache.ensemble.selection._MEMORY_BYTES", 0)
    assert len(list(table_parts(members[0].probabilities))) == 90
    assert results(tmp_path) == whole


def test_a_large_array_stands_in_a_file_without_a_name(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch_arrays, "MEMORY_BYTES", 100)
    for shape, mapped in (((5, 5), False), ((5, 6), True)):
        array = scratch_arrays.allocate(shape, np.float32, tmp_path)
        assert isinstance(array, np.memmap) == mapped
        assert not array.any()
        array[:] = 1
        assert array.sum() == np.prod(shape)
    assert not isinstance(scratch_arrays.allocate((5, 6), np.float32, None), np.memmap)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [95, 22])
def test_where_room_cannot_be_reserved_it_is_written(number, tmp_path, monkeypatch):
    """EOPNOTSUPP and EINVAL: some network file systems; elsewhere a full disk would kill the process at the first write."""

    def refuse(*_):
        raise OSError(number, "no such call here")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    array = scratch_arrays.allocate((3, 700_000), np.int8, tmp_path, 0)
    assert (array.shape, array.any()) == ((3, 700_000), False)


def test_no_room_for_a_scratch_file_is_one_line(tmp_path):
    with pytest.raises(StorageError, match="scratch file"):
        scratch_arrays.allocate((1 << 60,), np.int8, tmp_path)

import logging

import numpy as np
import pytest
from cache_files import TAPS, features_of, make_header, make_rows, write_cache, write_rows

import featcache
from featcache.cache.layout import TapLayout
from featcache.cache.row_lookup import find_rows
from featcache.cache.writer import CacheWriter
from featcache.core.rows import Rows

KEYS = {tap.name: tap.key for tap in TAPS}


def check_copies(finder, rows, indices):
    copied = finder.copy(np.array(indices))
    for name, expected in features_of(rows, indices).items():
        np.testing.assert_array_equal(copied[name], expected)


def test_rows_are_found_by_digest_whatever_their_order_and_names(tmp_path):
    rows = make_rows(11)
    write_cache(tmp_path / "c.h5", rows)
    wanted = [rows.digests[7], "f" * 64, rows.digests[0], rows.digests[7], ""]
    finder = find_rows(tmp_path, KEYS, wanted)
    assert finder.found.tolist() == [True, False, True, True, False]
    assert finder.shapes == {tap.name: tap.shape for tap in TAPS}
    copied = finder.copy(np.array([0, 2, 3]))
    expected = features_of(rows, [7, 0, 7])
    for tap in TAPS:
        np.testing.assert_array_equal(copied[tap.name], expected[tap.name])


def test_taps_may_come_from_different_files_under_different_names(tmp_path):
    rows = make_rows(6)
    write_cache(tmp_path / "a.h5", rows, TAPS[:1])
    write_cache(tmp_path / "b.h5", rows, TAPS[1:])
    finder = find_rows(tmp_path, {"one": TAPS[0].key, "two": TAPS[1].key}, rows.digests)
    assert finder.found.all()
    copied, expected = finder.copy(np.arange(6)), features_of(rows, range(6))
    np.testing.assert_array_equal(copied["one"], expected["block5_pool"])
    np.testing.assert_array_equal(copied["two"], expected["block5_pool_avg"])


def test_other_settings_and_rejected_rows_are_not_found(tmp_path):
    rows = make_rows(6)
    write_cache(tmp_path / "c.h5", rows, rejected=(2,))
    assert find_rows(tmp_path, KEYS, rows.digests).found.tolist() == [True, True, False, True, True, True]
    other = find_rows(tmp_path, {"block5_pool": "c" * 64}, rows.digests)
    assert not other.found.any()
    assert other.shapes == {}
    half = find_rows(tmp_path, {**KEYS, "new": "c" * 64}, rows.digests)
    assert not half.found.any()
    with pytest.raises(ValueError, match="row=2 was not found"):
        find_rows(tmp_path, KEYS, rows.digests).copy(np.array([1, 2]))


def test_unreadable_images_never_match(tmp_path):
    rows = make_rows(2)
    empty = Rows(rows.ids, rows.labels, rows.groups, ["", rows.digests[1]], ["gone", ""])
    with CacheWriter(tmp_path / "c.h5", make_header(empty)) as writer:
        writer.write(np.arange(2), features_of(rows, range(2)), np.ones(2, np.uint8))
        writer.publish({})
    assert find_rows(tmp_path, KEYS, ["", rows.digests[1]]).found.tolist() == [False, True]


def test_durable_blocks_of_a_partial_count_unless_someone_writes_it(tmp_path):
    rows = make_rows(10)
    with CacheWriter(tmp_path / "c.h5", make_header(rows)) as writer:
        write_rows(writer, rows, range(9))
        writer._journal.close()
        assert not find_rows(tmp_path, KEYS, rows.digests).found.any()
    finder = find_rows(tmp_path, KEYS, rows.digests)
    assert finder.found.tolist() == [True] * 8 + [False] * 2
    check_copies(finder, rows, [7, 1])


def test_copies_survive_that_the_source_is_replaced(tmp_path):
    rows = make_rows(9)
    write_cache(tmp_path / "c.h5", rows)
    finder = find_rows(tmp_path, KEYS, rows.digests)
    write_cache(tmp_path / "c.h5", make_rows(3, prefix="x/"))
    check_copies(finder, rows, list(range(9)))


def test_damaged_blocks_and_files_are_not_copied_on(tmp_path, caplog):
    rows = make_rows(11)
    path = write_cache(tmp_path / "c.h5", rows)
    (tmp_path / "broken.h5").write_bytes(b"no HDF5")
    place = featcache.open(path)._structure.places["block5_pool"]
    with open(path, "r+b") as stream:
        stream.seek(place.offset + 5 * TAPS[0].row_bytes)
        stream.write(b"\x01\x02")
    with caplog.at_level(logging.WARNING):
        finder = find_rows(tmp_path, KEYS, rows.digests)
    assert np.flatnonzero(~finder.found).tolist() == [4, 5, 6, 7]
    assert "4 rows lie in damaged blocks" in caplog.text
    assert "broken.h5" in caplog.text
    check_copies(finder, rows, [0, 3, 8])


def test_no_folder_and_no_rows(tmp_path):
    assert find_rows(tmp_path / "none", KEYS, ["a" * 64]).found.tolist() == [False]
    write_cache(tmp_path / "c.h5", make_rows(4))
    assert find_rows(tmp_path, KEYS, []).found.shape == (0,)
    write_cache(tmp_path / "c.h5", make_rows(0))
    assert find_rows(tmp_path, KEYS, ["a" * 64]).found.tolist() == [False]


def test_many_rows_are_joined_without_an_object_a_row(tmp_path):
    tap = TapLayout("t", (1,), "d" * 64, {})
    n = 50_000
    rows = make_rows(n, prefix="")
    with CacheWriter(tmp_path / "c.h5", make_header(rows, (tap,), block_rows=n)) as writer:
        writer.write(np.arange(n), {"t": (np.arange(n) % 1000).astype(np.float16)[:, None]}, np.ones(n, np.uint8))
        writer.publish({})
    order = np.random.default_rng(0).permutation(n)
    finder = find_rows(tmp_path, {"t": tap.key}, [rows.digests[i] for i in order])
    assert finder.found.all()
    np.testing.assert_array_equal(finder.copy(np.arange(n))["t"][:, 0], (order % 1000).astype(np.float16))

"""Caches that version 0.1 wrote open, give their rows, and are resumed where they stopped.

``old_caches`` holds files of commit 224cb4c, made by its `CacheWriter` from the rows and features of `cache_files`: a finished one with row
3 rejected, and an unfinished one whose rows 0 to 8 were written in blocks of 4.
"""

import gzip
from pathlib import Path

import numpy as np
import pytest
from cache_files import TAPS, feature_bytes, features_of, make_header, make_rows, write_cache, write_rows

import featcache
from featcache.cache.check import check_cache
from featcache.cache.row_lookup import find_rows
from featcache.cache.writer import CacheWriter

OLD = Path(__file__).parent / "old_caches"
ROWS = make_rows(11)


@pytest.fixture
def folder(tmp_path):
    for file in OLD.iterdir():
        (tmp_path / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    return tmp_path


def test_a_finished_one_opens_with_the_same_rows_and_key(folder):
    path = folder / "finished.h5"
    reader = featcache.open(path)
    assert reader.key == make_header(ROWS).key
    assert reader.ids == list(ROWS.ids)
    for name, values in features_of(ROWS, range(11)).items():
        values[3] = 0
        np.testing.assert_array_equal(reader[name], values)
        found, ok = reader.statistics(name), np.delete(values, 3, axis=0).astype(np.float64)
        expected = {"rows": 10, "zeros": (ok == 0).mean(), "min": ok.min(), "max": ok.max(), "mean": ok.mean()}
        assert found == pytest.approx(expected)
        assert reader.run["statistics"][name] == pytest.approx(expected), "as it was recorded then"
    assert [fault for fault in check_cache(path) if "do not match its key" not in fault.message] == []
    assert path.read_bytes() == gzip.decompress((OLD / "finished.h5.gz").read_bytes())


@pytest.mark.parametrize(("remove", "found"), [("grown", 10), ("finished", 8), ("", 11)])
def test_their_rows_are_reused(folder, remove, found):
    for file in folder.glob(f"{remove}*") if remove else ():
        file.unlink()
    finder = find_rows(folder, {tap.name: tap.key for tap in TAPS}, ROWS.digests)
    assert finder.found.sum() == found
    rows = np.flatnonzero(finder.found)
    for name, values in features_of(ROWS, rows).items():
        np.testing.assert_array_equal(finder.copy(rows)[name], values)


def test_an_unfinished_one_is_resumed_at_its_last_durable_block(folder):
    with CacheWriter(folder / "grown.h5", make_header(ROWS)) as writer:
        assert writer.durable.tolist() == [True] * 8 + [False] * 3
        write_rows(writer, ROWS, range(8, 11))
        writer.publish({"host": "lab3", "seconds": 1.5})
    fresh = write_cache(folder / "fresh.h5", ROWS)
    assert feature_bytes(featcache.open(folder / "grown.h5")) == feature_bytes(featcache.open(fresh))

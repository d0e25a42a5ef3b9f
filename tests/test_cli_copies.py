"""`featcache export`: what comes out is what went in, or an error."""

import csv

import numpy as np
import pytest
from cache_files import make_header, make_rows, write_cache, write_rows

from featcache.cache.reader import open_cache
from featcache.cache.writer import CacheWriter
from featcache.cli import main


@pytest.fixture
def cache(tmp_path):
    return write_cache(tmp_path / "c.h5", make_rows(11), rejected=(3,))


def damage(path):
    at = open_cache(path)._structure.places["block5_pool"].offset
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(content)


def error(capsys, *arguments):
    capsys.readouterr()
    assert main([*map(str, arguments)]) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


def test_export_holds_the_same_values_in_the_same_order(cache, tmp_path, capsys):
    assert main(["export", str(cache), "--to", "npy", str(tmp_path / "out")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5
    reader = open_cache(cache)
    for name in reader.taps:
        exported = np.load(tmp_path / f"out/{name}.npy", mmap_mode="r", allow_pickle=False)
        assert exported.dtype == np.float16
        np.testing.assert_array_equal(exported, reader[name])
    np.testing.assert_array_equal(np.load(tmp_path / "out/label.npy"), reader.labels)
    np.testing.assert_array_equal(np.load(tmp_path / "out/status.npy"), reader.status)
    with open(tmp_path / "out/rows.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["id"] for row in rows] == reader.ids
    assert (rows[1]["class"], rows[0]["class"], rows[3]["status"]) == ("ant", "", "rejected")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.h5", "out"]


def test_export_of_an_empty_cache(tmp_path):
    path = write_cache(tmp_path / "n0.h5", make_rows(0))
    assert main(["export", str(path), str(tmp_path / "out")]) == 0
    assert np.load(tmp_path / "out/block5_pool.npy").shape == (0, 2, 3, 5)


def test_damaged_and_unfinished_caches_are_refused(cache, tmp_path, capsys):
    rows = make_rows(9)
    with CacheWriter(tmp_path / "d.h5", make_header(rows)) as writer:
        write_rows(writer, rows, range(5))
    assert "is unfinished" in error(capsys, "export", writer.partial, tmp_path / "out")
    damage(cache)
    before = sorted(tmp_path.iterdir())
    assert "4 rows are in blocks that do not match their checksums: run featcache repair" in error(
        capsys, "export", cache, tmp_path / "out"
    )
    assert sorted(tmp_path.iterdir()) == before, "nothing is left behind"


def test_export_replaces_nothing(cache, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    assert "out already exists: remove it or name another" in error(capsys, "export", cache, tmp_path / "out")

"""`featcache export`, `pack` and `unpack`: what comes out is what went in, byte for byte, or an error."""

import csv
import json
import subprocess
import sys

import h5py
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


@pytest.mark.parametrize("command", ["export", "pack"])
def test_damaged_and_unfinished_caches_are_refused(cache, tmp_path, capsys, command):
    more = [tmp_path / "out"] if command == "export" else []
    rows = make_rows(9)
    with CacheWriter(tmp_path / "d.h5", make_header(rows)) as writer:
        write_rows(writer, rows, range(5))
    assert "is unfinished" in error(capsys, command, writer.partial, *more)
    damage(cache)
    before = sorted(tmp_path.iterdir())
    assert "4 rows are in damaged ones: run featcache repair" in error(capsys, command, cache, *more)
    assert sorted(tmp_path.iterdir()) == before, "nothing is left behind"


def test_export_replaces_nothing(cache, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    assert "out already exists: remove it or name another" in error(capsys, "export", cache, tmp_path / "out")


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_packed_and_restored_byte_for_byte(cache, tmp_path, capsys, codec):
    if codec == "zstd":
        pytest.importorskip("hdf5plugin")
    original = cache.read_bytes()
    assert main(["pack", str(cache), "--codec", codec]) == 0
    packed = tmp_path / "c.h5.packed"
    assert str(packed) in capsys.readouterr().out
    assert cache.read_bytes() == original
    cache.unlink()
    assert main(["unpack", str(packed)]) == 0
    assert cache.read_bytes() == original
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.h5", "c.h5.packed"]


def test_any_hdf5_reader_opens_a_gzip_archive(cache, tmp_path):
    assert main(["pack", str(cache), "--to", str(tmp_path / "a.hdf5")]) == 0
    program = (
        "import sys, h5py, json; f = h5py.File(sys.argv[1]); assert 'hdf5plugin' not in sys.modules;"
        "print(json.dumps([f['block5_pool'][()].tolist(), f['id'].asstr()[()].tolist(), f['label'][()].tolist(), f.attrs['split'].decode()]))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "a.hdf5")], capture_output=True, text=True)
    features, ids, labels, split = json.loads(done.stdout or done.stderr)
    reader = open_cache(cache)
    np.testing.assert_array_equal(np.array(features, np.float16), reader["block5_pool"])
    assert (ids, labels, split) == (reader.ids, reader.labels.tolist(), "train")


def test_packing_pays_on_sparse_features(tmp_path):
    path = write_cache(tmp_path / "c.h5", make_rows(4000), block_rows=400, batch=400)
    assert main(["pack", str(path)]) == 0
    assert (tmp_path / "c.h5.packed").stat().st_size < 0.8 * path.stat().st_size


def test_nothing_is_replaced_by_pack_or_unpack(cache, tmp_path, capsys):
    assert main(["pack", str(cache)]) == 0
    assert "isn't there yet" in error(capsys, "pack", cache)
    assert "isn't there yet" in error(capsys, "unpack", tmp_path / "c.h5.packed")
    (tmp_path / "c.h5.packed").rename(tmp_path / "other")
    assert "--to" in error(capsys, "unpack", tmp_path / "other")


@pytest.mark.parametrize("what", ["features", "rest", "sha256", "places", "link", "format", "cut"])
def test_a_damaged_or_forged_archive_restores_nothing(cache, tmp_path, capsys, what):
    assert main(["pack", str(cache)]) == 0
    cache.unlink()
    packed = tmp_path / "c.h5.packed"
    if what == "cut":
        packed.write_bytes(packed.read_bytes()[:-2000])
    else:
        with h5py.File(packed, "r+") as file:
            if what == "features":
                file["block5_pool"][0, 0, 0, 0] += 1
            elif what == "rest":
                file["archive/rest"][100] ^= 1
            elif what == "sha256":
                file.attrs["sha256"] = "0" * 64
            elif what == "places":
                places = json.loads(file["archive"].attrs["places"])
                file["archive"].attrs["places"] = json.dumps([[0, 10**12, places[0][2]], *places[1:]])
            elif what == "link":
                del file["status"]
                file["status"] = h5py.ExternalLink("/etc/passwd", "/x")
            else:
                file.attrs["format"] = "something else"
    assert "expected a packed cache" in error(capsys, "unpack", packed)
    assert [path.name for path in tmp_path.iterdir()] == ["c.h5.packed"]


def test_zstd_without_its_plugin_says_what_to_install(cache, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    assert "pip install 'featcache[pack]'" in error(capsys, "pack", cache, "--codec", "zstd")
    assert main(["pack", str(cache)]) == 0


def test_an_archive_that_promises_more_than_the_disk_has_is_refused_before_it_is_restored(cache, tmp_path, capsys):
    assert main(["pack", str(cache)]) == 0
    cache.unlink()
    packed = tmp_path / "c.h5.packed"
    with h5py.File(packed, "r+") as file:
        file.attrs["size"] = 1 << 60
    told = error(capsys, "unpack", packed)
    assert "no space left" in told or "exceed the allowed file size" in told
    assert [path.name for path in tmp_path.iterdir()] == ["c.h5.packed"]

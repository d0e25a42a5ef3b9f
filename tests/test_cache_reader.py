import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest
from cache_files import NAMES, TAPS, features_of, make_header, make_rows, make_sets, write_cache, write_rows
from dask.base import compute

import featcache
from featcache.cache import check_cache, dask_arrays, export_npy
from featcache.cache.reader import stored_record
from featcache.cache.writer import CacheWriter
from featcache.errors import CacheError, CacheFormatError, CacheMismatchError, FeatcacheError
from featcache.inspection import feature_stats

ROWS = make_rows(11)


@pytest.fixture
def path(tmp_path):
    return write_cache(tmp_path / "c.h5", ROWS, rejected=(3,))


@pytest.fixture
def unfinished(tmp_path):
    with CacheWriter(tmp_path / "c.h5", make_header(ROWS)) as writer:
        write_rows(writer, ROWS, range(9))
    return writer.partial


def test_everything_that_was_written_comes_back(path):
    reader = featcache.open(str(path))
    header = make_header(ROWS)
    assert (reader.split, reader.copy, reader.key, reader.name) == ("train", 0, header.key, "bees")
    assert (reader.ids, reader.groups, reader.digests) == (ROWS.ids, ROWS.groups, ROWS.digests)
    assert (reader.settings, reader.class_names, reader.complete, len(reader)) == (
        {"weights": "random"},
        ("ant", "bée"),
        True,
        11,
    )
    assert tuple(reader.taps.values()) == TAPS
    np.testing.assert_array_equal(reader.labels, ROWS.labels)
    assert reader.status.tolist() == [1, 1, 1, 2, 1, 1, 1, 1, 1, 1, 1]
    assert reader.run["host"] == "lab3"
    assert reader.run["rows"] == {"total": 11, "ok": 10, "rejected": 1}
    assert "block5_pool (11, 2, 3, 5)" in repr(reader)
    assert stored_record(path) == {**reader.run, "key": header.key}


def test_features_are_a_read_only_memory_map_that_outlives_its_reader(path):
    mapped = featcache.open(path)["block5_pool"]
    assert isinstance(mapped, np.memmap)
    assert (mapped.shape, mapped.dtype, mapped.flags.writeable, mapped.flags.aligned) == (
        (11, 2, 3, 5),
        np.float16,
        False,
        True,
    )
    expected = features_of(ROWS, range(11))["block5_pool"]
    expected[3] = 0
    np.testing.assert_array_equal(mapped, expected)


def test_no_descriptor_is_left_open(path):
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(20):
        featcache.open(path).durable.all()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_an_unknown_tap_is_named_with_the_known_ones(path):
    reader = featcache.open(path)
    for ask in (reader.__getitem__, reader.dask, reader.statistics):
        for wrong in ("block4_pool", "block5_pool:max", "", ":", "block5_pool_avg:avg"):
            with pytest.raises(
                KeyError, match=f"tap='{wrong}' is not one of the taps block5_pool, block5_pool_avg of "
            ) as caught:
                ask(wrong)
            assert isinstance(caught.value, FeatcacheError)
            assert str(caught.value).startswith("tap="), "no repr, as a KeyError's"


def test_a_tap_may_be_written_as_settings_do(path):
    reader = featcache.open(path)
    np.testing.assert_array_equal(reader["block5_pool:avg"], reader["block5_pool_avg"])
    assert reader.statistics("block5_pool:avg") == reader.statistics("block5_pool_avg")
    assert reader.dask("block5_pool:avg").shape == reader["block5_pool_avg"].shape
    assert feature_stats.stats_record(path, "block5_pool:avg")["taps"].keys() == {"block5_pool_avg"}


def test_sums_of_large_features_do_not_overflow(tmp_path):
    features = {tap.name: np.full((300, *tap.shape), 30_000, np.float16) for tap in TAPS}
    for values in features.values():
        values[::2] = 60_000
    path = tmp_path / "c.h5"
    with CacheWriter(path, make_header(make_rows(300))) as writer:
        writer.write(np.arange(300), features, np.ones(300, np.uint8))
        writer.publish({})
    reader = featcache.open(path)
    for lazily in (reader.dask("block5_pool"), reader.to_xarray()["block5_pool"].data):
        assert lazily.dtype == np.float32
        mean, deviation = compute(lazily.mean(), lazily.std())
        assert (float(mean), float(deviation)) == (pytest.approx(45_000), pytest.approx(15_000))
    assert reader.statistics("block5_pool")["mean"] == pytest.approx(45_000)
    told = feature_stats.stats_record(path, "block5_pool")["taps"]["block5_pool"]["quantiles"]
    assert (told["mean"]["50"], told["deviation"]["50"]) == (pytest.approx(45_000), pytest.approx(15_000))


def test_dask_in_chunks(path, monkeypatch):
    monkeypatch.setattr(dask_arrays, "_CHUNK_BYTES", 4 * TAPS[0].row_bytes)
    array = featcache.open(path).dask("block5_pool")
    assert array.chunks == ((4, 4, 3), (2,), (3,), (5,))
    np.testing.assert_array_equal(array.compute(scheduler="synchronous"), featcache.open(path)["block5_pool"])
    again = pickle.loads(pickle.dumps(array))  # noqa: S301 - what dask does to reach another process
    np.testing.assert_array_equal(again[5].compute(), featcache.open(path)["block5_pool"][5])


def test_dask_notices_that_the_file_was_replaced(path):
    array = featcache.open(path).dask("block5_pool")
    write_cache(path, make_rows(11, prefix="x/"))
    with pytest.raises(CacheMismatchError, match="was replaced since it was opened; open it again"):
        array.compute()


def test_xarray_is_lazy_and_carries_the_columns(path):
    data = featcache.open(path).to_xarray()
    assert data["block5_pool"].chunks is not None
    assert data["id"].values[0] == "ünï/0.jpg"
    assert float(data["block5_pool"].isel(row=3).sum()) == 0
    np.testing.assert_array_equal(data["label"], ROWS.labels)


def test_frame(path):
    frame = featcache.open(path).frame()
    assert list(frame.columns) == ["id", "label", "class", "group", "status", "digest"]
    assert frame["class"].tolist()[:3] == [None, "ant", "bée"] or frame["class"].isna()[0]
    assert frame["status"].tolist()[2:5] == ["ok", "rejected", "ok"]
    assert frame["id"].tolist() == ROWS.ids


def test_no_rows_are_defined(tmp_path):
    reader = featcache.open(write_cache(tmp_path / "c.h5", make_rows(0)))
    assert reader["block5_pool"].shape == (0, 2, 3, 5)
    assert reader.dask("block5_pool").compute().shape == (0, 2, 3, 5)
    assert reader.to_xarray().sizes["row"] == len(reader.frame()) == len(reader.ids) == 0
    assert reader.statistics("block5_pool") == {"rows": 0, "zeros": None, "min": None, "max": None, "mean": None}
    assert reader.durable.shape == (0,)


def test_an_unfinished_file_says_how_far_it_is(unfinished):
    with pytest.raises(CacheFormatError, match="is unfinished: 8 of 11 rows are durable; run again to resume"):
        featcache.open(unfinished)
    reader = featcache.open(unfinished, partial=True)
    assert not reader.complete
    assert reader.status.tolist() == [1] * 8 + [0] * 3, "row 8 is written, but its block is not whole"
    assert reader.run == {}
    values = features_of(ROWS, range(8))["block5_pool"].astype(np.float64)
    assert reader.statistics("block5_pool")["mean"] == pytest.approx(values.mean())


def test_a_renamed_unfinished_file_is_still_unfinished(unfinished, tmp_path):
    shutil.copy(unfinished, tmp_path / "final.h5")
    with pytest.raises(CacheFormatError, match="is unfinished"):
        featcache.open(tmp_path / "final.h5")
    assert stored_record(tmp_path / "final.h5") is None


def test_what_is_not_there(tmp_path):
    with pytest.raises(CacheError, match=r"no feature cache at .*: no such file or directory; `featcache ls`"):
        featcache.open(tmp_path / "none.h5")
    assert stored_record(tmp_path / "none.h5") is None


def forge_link(file):
    del file["block5_pool"]
    file["block5_pool"] = h5py.ExternalLink("/etc/hosts", "/x")


def forge_extra_link(file):
    file["record/more"] = h5py.ExternalLink("other.h5", "/x")


def forge_soft_link(file):
    del file["label"]
    file["label"] = h5py.SoftLink("/row")


def forge_outside_storage(file):
    del file["block5_pool_avg"]
    file.create_dataset("block5_pool_avg", (11, 5), "<f2", external=[("/etc/hosts", 0, 110)])


def forge_virtual(file):
    del file["block5_pool_avg"]
    layout = h5py.VirtualLayout((11, 5), "<f2")
    layout[:] = h5py.VirtualSource("other.h5", "x", (11, 5))
    file.create_virtual_dataset("block5_pool_avg", layout)


def forge_chunked(file):
    del file["status"]
    file.create_dataset("status", data=np.ones(11, "u1"), chunks=(4,), compression="gzip")


def forge_other(name, value):
    def forge(file):
        file.attrs[name] = value

    return forge


def forge_dtype(file):
    del file["label"]
    file["label"] = np.zeros(11, "<i8")


def forge_group(file):
    del file["status"]
    file.create_group("status")


FORGERIES = {
    "external link": (forge_link, "'block5_pool' is a link to somewhere else"),
    "unknown external link": (forge_extra_link, "'more' is a link to somewhere else"),
    "soft link": (forge_soft_link, "'label' is a link to somewhere else"),
    "outside storage": (forge_outside_storage, "'block5_pool_avg' is not stored as contiguous"),
    "virtual": (forge_virtual, "'block5_pool_avg' is not stored as contiguous"),
    "chunked": (forge_chunked, "'status' is not stored as contiguous"),
    "schema": (forge_other("schema", np.int32(4)), "schema=4 is of another featcache version, not 2 or 3"),
    "schema of several labels": (forge_other("schema", np.int32(3)), "can't be read as a feature cache"),
    "format": (forge_other("format", np.bytes_(b"x")), "not a feature cache, but another HDF5 file"),
    "block_rows": (forge_other("block_rows", np.int64(0)), "block_rows=0"),
    "block_rows large": (forge_other("block_rows", np.int64(2)), "'journal/checksum'"),
    "taps": (forge_other("taps", np.bytes_(b"nothing")), "can't be read"),
    "text type": (forge_other("key", np.arange(3)), "attribute 'key' is int64, not a text of fixed length"),
    "dtype": (forge_dtype, "'label' is int64 (11,), not int32"),
    "group": (forge_group, "'status' is a group, not a dataset"),
    "missing": (lambda file: file.pop("record"), "can't be read"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_files_are_refused_in_one_line(path, name):
    forge, message = FORGERIES[name]
    with h5py.File(path, "r+") as file:
        forge(file)
    with pytest.raises(CacheFormatError) as caught:
        featcache.open(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_cut_at_any_length_are_refused(path, tmp_path):
    content = path.read_bytes()
    for length in [0, 1, 8, 96, 511, 2048, *range(3000, len(content), 7001), len(content) - 1]:
        (tmp_path / "cut.h5").write_bytes(content[:length])
        with pytest.raises(CacheFormatError, match=r"cut\.h5: "):
            featcache.open(tmp_path / "cut.h5")


def test_flipped_bytes_of_the_header_never_escape_as_another_error(path, tmp_path):
    content, draw = path.read_bytes(), np.random.default_rng(1)
    refused = 0
    for _ in range(150):
        forged = bytearray(content)
        for at in draw.integers(0, 16_000, 4):
            forged[at] ^= int(draw.integers(1, 256))
        (tmp_path / "f.h5").write_bytes(forged)
        try:
            reader = featcache.open(tmp_path / "f.h5")
            assert reader["block5_pool"].sum() is not None
        except CacheFormatError as error:
            refused += 1
            assert "\n" not in str(error)  # noqa: PT017
        except KeyError:
            pass  # the tap has another name now
    assert refused > 10


def test_a_damaged_run_record_is_a_format_error(path):
    place = featcache.open(path)._structure.places["record/run"]
    with open(path, "r+b") as stream:
        stream.seek(place.offset)
        stream.write(b"{{{{")
    with pytest.raises(CacheFormatError, match="record/run is not JSON"):
        featcache.open(path).run  # noqa: B018
    assert stored_record(path) is None


def test_importing_and_opening_stay_light(path):
    heavy = ["tensorflow", "keras", "pandas", "dask", "xarray", "sklearn", "luigi"]
    code = (
        "import sys, json, featcache\nassert 'h5py' not in sys.modules\n"
        f"reader = featcache.open({str(path)!r}); reader['block5_pool'].sum(); reader.durable.all()\n"
        f"print(json.dumps([name for name in {heavy!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
    with pytest.raises(AttributeError, match="no attribute 'close'"):
        featcache.close  # noqa: B018


def test_several_labels(tmp_path):
    rows = make_sets(11)
    path = write_cache(tmp_path / "sets.h5", rows, rejected=(3,))
    reader = featcache.open(path)
    assert reader.several
    assert reader.labels.dtype == np.int8
    assert reader.labels.tolist() == rows.labels.tolist()
    ant, bee = NAMES
    frame = reader.frame()
    assert [*frame] == ["id", "labels", "group", "status", "digest"]
    assert frame["labels"][:5].tolist() == [[ant], [ant, bee], None, [], [bee]]
    assert not [fault for fault in check_cache(path) if "match its key" not in fault.message]
    export_npy(path, tmp_path / "npy")
    assert np.load(tmp_path / "npy/labels.npy").tolist() == rows.labels.tolist()
    lines = (tmp_path / "npy/rows.csv").read_text("utf-8").splitlines()
    assert [line.split(",")[2] for line in lines[:6]] == ["class", ant, f"{ant}|{bee}", "", "", bee]
    content = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        content[file["labels"].id.get_offset()] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    assert "id, labels, group and digest: checksum mismatch" in [fault.message for fault in check_cache(path)]


def test_several_labels_resume(tmp_path):
    rows = make_sets(11)
    with CacheWriter(tmp_path / "c.h5", make_header(rows)) as writer:
        write_rows(writer, rows, range(8))
    with CacheWriter(tmp_path / "c.h5", make_header(rows)) as writer:
        assert writer.durable.sum() == 8
    changed = replace(rows, labels=np.where(rows.labels == 1, 0, rows.labels))
    assert make_header(changed).key != make_header(rows).key

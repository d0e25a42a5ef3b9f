"""docs/cache-format.md and real files say the same."""

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
from cache_files import NAMES, TAPS, digest_of, make_header, make_rows, make_sets, write_cache

import featcache
from featcache.cache.layout import CacheHeader, TapLayout
from featcache.cache.writer import CacheWriter
from featcache.core.rows import Rows
from featcache.errors import SourceError

DOC = Path(__file__).parent.parent / "docs" / "cache-format.md"
SCALE_ATTRIBUTES = {"description", "CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST"}


def doc_table(heading):
    section = DOC.read_text("utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip().strip("`") for cell in row] for row in rows]


def documented_datasets(label="label"):
    found = {}
    for name, _, dtype, _ in doc_table("Datasets"):
        if name in {"label", "labels"} - {label}:
            continue
        for tap in TAPS if "TAP" in name else TAPS[:1]:
            if name in ("TAP_y", "TAP_x") and len(tap.shape) == 1:
                continue
            found[name.replace("TAP", tap.name)] = dtype
    return found


def kind(dtype):
    return "text" if h5py.check_string_dtype(dtype) or dtype.kind == "S" else dtype.name


@pytest.fixture
def cache(tmp_path):
    return write_cache(tmp_path / "c.h5", make_rows(11), rejected=(3,))


def test_every_dataset_is_documented_and_every_documented_one_is_there(cache):
    found = {}
    with h5py.File(cache) as file:
        file.visititems(
            lambda name, item: found.update({name: kind(item.dtype)}) if isinstance(item, h5py.Dataset) else None
        )
    assert found == documented_datasets()


def test_every_attribute_is_documented_and_every_documented_one_is_there(cache):
    documented = {("/", name): dtype for place, name, dtype, _ in doc_table("Attributes") if place == "/"}
    documented |= {(t.name, name): d for place, name, d, _ in doc_table("Attributes") if place == "TAP" for t in TAPS}
    found = {}
    with h5py.File(cache) as file:
        objects = {"/": file, **{name: file[name] for name in documented_datasets()}}
        for place, item in objects.items():
            names = set(item.attrs) - SCALE_ATTRIBUTES
            found |= {(place, name): kind(item.attrs.get_id(name).dtype) for name in names}
            assert place == "/" or "description" in item.attrs
    assert found == documented


def test_shapes_are_as_documented(cache):
    sizes = {"n": 11, "k": len(NAMES), "b": 3}
    with h5py.File(cache) as file:
        for name, shape, _, _ in doc_table("Datasets"):
            if "TAP" in name or name == "labels" or not re.fullmatch(r"\([nkb]?,?( 16)?\)", shape):
                continue
            expected = tuple(
                sizes.get(part.strip(), part.strip()) for part in shape.strip("()").split(",") if part.strip()
            )
            assert file[name].shape == tuple(int(length) for length in expected), name
        assert file["journal/holder"].dtype.itemsize == 512
        assert file["record/run"].dtype.itemsize == 65536


def test_checksums_and_columns_are_as_documented(cache):
    import xxhash

    with h5py.File(cache) as file:
        block = b"".join(file[name][4:8].tobytes() for name in file.attrs["taps"].decode().split())
        assert xxhash.xxh3_128(block + file["status"][4:8].tobytes()).digest() == file["journal/checksum"][1].tobytes()
        columns = b"".join(file[name][:].tobytes() for name in ("id", "label", "group", "digest"))
        assert hashlib.sha256(columns).hexdigest() == file.attrs["columns_sha256"].decode()


@pytest.fixture
def sets(tmp_path):
    return write_cache(tmp_path / "sets.h5", make_sets(11), rejected=(3,))


def test_everything_is_contiguous_and_aligned(cache, sets):
    for path, label in ((cache, "label"), (sets, "labels")):
        with h5py.File(path) as file:
            for name in documented_datasets(label):
                assert file[name].chunks is None
                assert file[name].id.get_offset() % 64 == 0


def test_several_labels_are_as_documented(sets):
    found = {}
    with h5py.File(sets) as file:
        file.visititems(
            lambda name, item: found.update({name: kind(item.dtype)}) if isinstance(item, h5py.Dataset) else None
        )
        assert found == documented_datasets("labels")
        assert file.attrs["schema"] == 3
        assert file["labels"][:5].tolist() == [[1, 0], [1, 1], [255, 255], [0, 0], [0, 1]]
        assert [list(each.keys()) for each in file["labels"].dims] == [["row"], ["class_name"]]
        columns = b"".join(file[name][:].tobytes() for name in ("id", "labels", "group", "digest"))
        assert hashlib.sha256(columns).hexdigest() == file.attrs["columns_sha256"].decode()
    with xr.open_dataset(sets, engine="h5netcdf") as data:
        assert set(data.data_vars) == {tap.name for tap in TAPS}
        assert data["labels"].dims == ("row", "class_name")
    lazy = featcache.open(sets).to_xarray()
    assert lazy["labels"].sel(class_name=NAMES[1])[:5].values.tolist() == [0, 1, -1, 0, 1]


def test_the_reading_examples_of_the_page_work(cache, monkeypatch):
    monkeypatch.chdir(cache.parent)
    cache.rename("cache.h5")
    code = re.search(r"```python\n(.*?)```", DOC.read_text("utf-8"), re.DOTALL).group(1)
    names = {}
    exec(compile(code, str(DOC), "exec"), names)  # noqa: S102 - our own page
    assert names["ids"][0] == "ünï/0.jpg"
    np.testing.assert_array_equal(names["mapped"], names["features"])
    np.testing.assert_array_equal(names["lazy"].compute(), names["features"])
    names["data"].close()


@pytest.mark.parametrize("n", [0, 1, 11])
def test_xarray_opens_it_cleanly(tmp_path, n):
    path = write_cache(tmp_path / "c.h5", make_rows(n))
    with xr.open_dataset(path, engine="h5netcdf") as data:
        assert set(data.data_vars) == {tap.name for tap in TAPS}
        assert data["block5_pool"].dims == ("row", "block5_pool_y", "block5_pool_x", "block5_pool_channel")
        assert {"id", "label", "group", "digest", "status"} <= set(data.coords)
        assert data.sizes["row"] == n


@pytest.mark.skipif(not shutil.which("h5dump"), reason="hdf5-tools are not installed")
def test_h5ls_and_h5dump_explain_it(cache):
    listed = subprocess.run(["h5ls", "-r", str(cache)], capture_output=True, text=True, check=True).stdout
    assert "/block5_pool             Dataset {11, 2, 3, 5}" in listed
    dumped = subprocess.run(["h5dump", "-A", str(cache)], capture_output=True, text=True, check=True).stdout
    assert "index into class_name, -1 where unknown" in dumped
    assert "weights" in dumped


def test_the_same_rows_give_the_same_bytes_but_for_the_run(tmp_path):
    one, two = (write_cache(tmp_path / name / "c.h5", make_rows(11)) for name in ("a", "b"))
    assert one.read_bytes() == two.read_bytes()


def test_settings_and_class_names_beyond_the_attribute_limit(tmp_path):
    rows, names = make_rows(3), tuple(f"class {i}" for i in range(20_000))
    labels = Rows(rows.ids, np.array([0, 19_999, -1], np.int32), rows.groups, rows.digests, rows.reasons)
    header = CacheHeader("train", 0, digest_of("k"), "big", {"note": "x" * 100_000}, names, TAPS[1:], labels, 4)
    with CacheWriter(tmp_path / "c.h5", header) as writer:
        writer.write(np.arange(3), {TAPS[1].name: np.ones((3, 5), np.float16)}, np.ones(3, np.uint8))
        writer.publish({})
    reader = featcache.open(tmp_path / "c.h5")
    assert len(reader.settings["note"]) == 100_000
    assert reader.class_names == names


def test_names_of_files_that_are_no_utf8_come_back(tmp_path):
    rows = make_rows(1, prefix="caf\udce9/")
    assert featcache.open(write_cache(tmp_path / "c.h5", rows)).ids == list(rows.ids)


def test_a_nul_in_an_id_is_refused(tmp_path):
    with pytest.raises(SourceError, match="has a NUL character"):
        CacheWriter(tmp_path / "c.h5", make_header(make_rows(2, prefix="a\0"))).__enter__()


@pytest.mark.parametrize(
    ("taps", "message"),
    [
        ((TapLayout("id", (3,), "k", {}),), "id of id would be in the file twice, or is reserved"),
        (
            (TapLayout("a", (1, 2, 3), "k", {}), TapLayout("a_y", (3,), "k", {})),
            "a_y of a, a_y would be in the file twice",
        ),
        ((), "taps is empty"),
    ],
)
def test_taps_that_would_share_a_name_are_refused(taps, message):
    with pytest.raises(ValueError, match=message):
        make_header(make_rows(1), taps)

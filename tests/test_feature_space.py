"""Statistics, principal components and nearest rows against NumPy on the whole array."""

import subprocess
import sys

import numpy as np
import pytest
from cache_files import make_header, make_rows, write_cache

import featcache
from featcache.cache import dask_arrays
from featcache.cache.layout import TapLayout
from featcache.cache.writer import CacheWriter
from featcache.errors import CacheError, CacheMismatchError, SettingsError
from featcache.inspection import feature_space
from featcache.inspection.feature_space import (
    component_scores,
    feature_statistics,
    nearest_rows,
    principal_components,
    usable_rows,
)

WIDE = TapLayout("wide", (2, 2, 12), "c" * 64, {"tap": "wide"})
REJECTED = (3, 17, 40, 41, 42)


def in_chunks(monkeypatch, size):
    monkeypatch.setattr(dask_arrays, "_CHUNK_BYTES", size)
    monkeypatch.setattr(feature_space, "_FEW_BYTES", 0)


@pytest.fixture(params=[None, 10_000_000, 5 * WIDE.row_bytes], ids=["in memory", "one chunk", "many chunks"])
def reader(request, tmp_path, monkeypatch):
    """120 rows; in many chunks, one of which (rows 40 to 44) has hardly any row left."""
    monkeypatch.setattr(feature_space, "_FEW_DISTANCES", 7 * 120)
    if request.param:
        in_chunks(monkeypatch, request.param)
    return featcache.open(write_cache(tmp_path / "c.h5", make_rows(120), (WIDE,), block_rows=7, rejected=REJECTED))


def usable(reader):
    rows = np.setdiff1d(np.arange(len(reader)), REJECTED)
    return rows, np.asarray(reader["wide"])[rows].reshape(len(rows), -1).astype(np.float64)


def test_rejected_rows_are_left_out(reader):
    rows, expected = usable(reader)
    found = reader.dask("wide", usable=True)
    assert found.shape == expected.shape
    assert np.array_equal(found.compute(), expected)
    assert np.array_equal(usable_rows(reader), rows)


def test_statistics_are_those_of_the_whole_array(reader):
    _, expected = usable(reader)
    found = feature_statistics(reader, "wide")
    np.testing.assert_allclose(found["mean"], expected.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found["deviation"], expected.std(axis=0), rtol=1e-6)
    assert np.array_equal(found["min"], expected.min(axis=0))
    assert np.array_equal(found["max"], expected.max(axis=0))
    np.testing.assert_allclose(found["zeros"], (expected == 0).mean(axis=0))


@pytest.mark.parametrize("count", [3, 48, 500])
def test_principal_components_are_those_of_the_whole_array(reader, count):
    _, expected = usable(reader)
    centred = expected - expected.mean(axis=0)
    _, lengths, axes = np.linalg.svd(centred, full_matrices=False)
    found = principal_components(reader, "wide", count)
    kept = min(count, 48)
    assert found.axes.shape == (kept, 48)
    np.testing.assert_allclose(found.variances, (lengths**2 / len(expected))[:kept], rtol=1e-3)
    np.testing.assert_allclose(found.shares, (lengths**2 / (lengths**2).sum())[:kept], rtol=1e-3)
    assert np.abs(found.axes[0] @ axes[0]) > 0.999
    np.testing.assert_allclose(found.axes @ found.axes.T, np.eye(kept), atol=1e-4)
    assert (found.axes[np.arange(kept), np.abs(found.axes).argmax(axis=1)] > 0).all()
    scores = component_scores(reader, "wide", found)
    np.testing.assert_allclose(scores, centred @ found.axes.T, atol=1e-4)


def test_a_few_components_of_many_features_come_out_by_passes_over_the_rows(tmp_path):
    tap = TapLayout("wide", (10, 10, 3), "c" * 64, {})
    reader = featcache.open(write_cache(tmp_path / "c.h5", make_rows(60), (tap,), block_rows=7))
    whole = np.asarray(reader["wide"]).reshape(60, -1).astype(np.float64)
    lengths = np.linalg.svd(whole - whole.mean(axis=0), compute_uv=False)
    found = principal_components(reader, "wide", 2)
    # random features have a flat spectrum, the hardest for subspace iteration
    np.testing.assert_allclose(found.variances, lengths[:2] ** 2 / 60, rtol=0.02)


@pytest.mark.parametrize("shape", [(10, 10, 3), (2, 2, 12)], ids=["by passes", "whole"])
def test_few_rows_in_memory_give_the_bits_of_a_chunk(tmp_path, monkeypatch, shape):
    """The report's map is laid out by them, and where images lie changes with the last bit."""
    tap, taken = TapLayout("wide", shape, "c" * 64, {}), []
    reader = featcache.open(write_cache(tmp_path / "c.h5", make_rows(120), (tap,), rejected=REJECTED))
    queries = np.asarray(reader["wide"])[[0, 5]]
    for few_bytes in (1 << 24, 0):
        monkeypatch.setattr(feature_space, "_FEW_BYTES", few_bytes)
        found = principal_components(reader, "wide", 8)
        near = nearest_rows(reader, "wide", queries, 9, own=np.array([0, 5]))
        arrays = found.mean, found.axes, found.variances, found.shares, component_scores(reader, "wide", found), *near
        taken.append([array.tobytes() for array in arrays])
    assert taken[0] == taken[1]


def brute_force(queries, rows, metric, count, own=None):
    if metric == "cosine":
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    distances = np.linalg.norm(queries[:, None] - rows[None], axis=2)
    distances = distances**2 / 2 if metric == "cosine" else distances
    if own is not None:
        distances[np.arange(len(queries)), own] = np.inf
    order = np.argsort(distances, axis=1, kind="stable")[:, :count]
    return order, np.take_along_axis(distances, order, axis=1)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("count", [1, 9, 1000])
def test_nearest_rows_are_those_of_a_brute_force_search(reader, metric, count):
    rows, expected = usable(reader)
    queries = np.random.default_rng(0).random((300, 48))  # more than are compared at once
    order, distances = brute_force(queries, expected, metric, count)
    found, far = nearest_rows(reader, "wide", queries, count, metric)
    assert np.array_equal(found, rows[order])
    np.testing.assert_allclose(far, distances, rtol=1e-9)


def test_chunks_without_a_usable_row_hold_no_neighbour(tmp_path, monkeypatch):
    in_chunks(monkeypatch, 5 * WIDE.row_bytes)
    path = write_cache(tmp_path / "c.h5", make_rows(40), (WIDE,), block_rows=5, rejected=tuple(range(10, 40)))
    reader = featcache.open(path)
    for count in (2, 5, 10):
        found, _ = nearest_rows(reader, "wide", np.asarray(reader["wide"])[[3]], count)
        assert (found[0, 0], found.shape) == (3, (1, count))


def test_a_row_does_not_find_itself(reader):
    rows, expected = usable(reader)
    own = rows[[0, 5, 114]]
    queries = np.asarray(reader["wide"])[own]
    order, distances = brute_force(expected[[0, 5, 114]], expected, "cosine", 200, [0, 5, 114])
    found, far = nearest_rows(reader, "wide", queries, 200, own=own)
    assert found.shape == (3, len(rows) - 1)
    assert np.array_equal(found, rows[order[:, :-1]])
    np.testing.assert_allclose(far, distances[:, :-1], rtol=1e-9)


def test_equally_near_rows_come_in_the_order_of_the_file(tmp_path, monkeypatch):
    in_chunks(monkeypatch, 5 * WIDE.row_bytes)
    path = tmp_path / "same.h5"
    rows, taps = make_rows(20), (TapLayout("wide", (1, 1, 2), "c" * 64, {}),)
    features = {"wide": np.tile(np.array([1, 2], np.float16), (20, 1, 1, 1))}
    with CacheWriter(path, make_header(rows, taps)) as writer:
        writer.write(np.arange(20), features, np.ones(20, np.uint8))
        writer.publish({})
    found, far = nearest_rows(featcache.open(path), "wide", np.array([[1.0, 2.0], [0.0, 0.0]]), 20)
    assert found.tolist() == [list(range(20))] * 2
    np.testing.assert_allclose(far, [[0] * 20, [1] * 20], atol=1e-12)


def test_mistakes_are_reported(reader, tmp_path):
    with pytest.raises(SettingsError, match="manhattan"):
        nearest_rows(reader, "wide", np.ones((1, 48)), 1, "manhattan")
    with pytest.raises(CacheMismatchError, match=r"5 features a row, but wide in .* has 48"):
        nearest_rows(reader, "wide", np.ones((1, 5)), 1)
    with pytest.raises(SettingsError, match="count=0"):
        principal_components(reader, "wide", 0)
    empty = featcache.open(write_cache(tmp_path / "e.h5", make_rows(2), (WIDE,), rejected=(0, 1)))
    with pytest.raises(CacheError, match="all 2 are rejected"):
        feature_statistics(empty, "wide")


def test_rows_as_wide_as_those_of_large_photos(tmp_path):
    vgg = TapLayout("block5_pool", (7, 7, 512), "c" * 64, {})
    reader = featcache.open(write_cache(tmp_path / "w.h5", make_rows(4), (vgg,), rejected=(1,)))
    assert reader.dask("block5_pool", usable=True).shape == (3, 25_088)
    assert principal_components(reader, "block5_pool", 2).axes.shape == (2, 25_088)
    for count, rejected in ((2, (0, 1)), (0, ())):
        empty = featcache.open(write_cache(tmp_path / f"e{count}.h5", make_rows(count), (vgg,), rejected=rejected))
        assert empty.dask("block5_pool", usable=True).compute().shape == (0, 25_088)
        assert empty.dask("block5_pool").compute().shape == (count, 7, 7, 512)


def test_no_cluster_is_no_import_of_dask_distributed(tmp_path):
    path = write_cache(tmp_path / "c.h5", make_rows(20), (WIDE,), block_rows=7)
    program = """
import sys, numpy as np, featcache
from featcache.inspection.feature_space import *
reader = featcache.open(sys.argv[1])
component_scores(reader, "wide", principal_components(reader, "wide", 2))
nearest_rows(reader, "wide", np.ones((1, 48)), 1)
assert not {"dask", "xarray"} & {*sys.modules}, "few rows don't need it"
feature_statistics(reader, "wide")
sys.exit("distributed" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)

"""Small real caches for the tests: rows, headers, and features that depend on nothing but the row."""

import hashlib
from dataclasses import replace

import numpy as np

from featcache.cache.layout import CacheHeader, Status, TapLayout, file_key
from featcache.cache.writer import CacheWriter
from featcache.core.rows import Rows

TAPS = (
    TapLayout("block5_pool", (2, 3, 5), "a" * 64, {"tap": "block5_pool", "image_size": 48}),
    TapLayout("block5_pool_avg", (5,), "b" * 64, {"tap": "block5_pool:avg"}),
)
NAMES = ("ant", "bée")


def digest_of(text):
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def make_rows(n, prefix="ünï/", groups=True):
    ids = [f"{prefix}{i}.jpg" for i in range(n)]
    labels = np.arange(n, dtype=np.int32) % 3 - 1
    return Rows(ids, labels, [f"p{i % 4}" if groups else "" for i in range(n)], [digest_of(i) for i in ids], [""] * n)


def make_sets(n):
    """The rows of `make_rows`, with several labels each: of two classes every combination, and unknown ones."""
    labels = np.array([[1, 0], [1, 1], [-1, -1], [0, 0], [0, 1]], np.int8)
    return replace(make_rows(n), labels=labels[np.arange(n) % 5])


def make_header(rows, taps=TAPS, block_rows=4, split="train", settings=None):
    key = file_key({tap.name: tap.key for tap in taps}, rows.key, NAMES, split, 0)
    settings = {"weights": "random"} if settings is None else settings
    return CacheHeader(split, 0, key, "bees", settings, NAMES, taps, rows, block_rows)


def features_of(rows, indices, taps=TAPS):
    """Decided by the row's digest alone, as a backbone's are; every other value is 0, as after a relu."""
    features = {}
    for tap in taps:
        drawn = [np.random.default_rng(int(rows.digests[i][:12], 16)).normal(size=tap.shape) for i in indices]
        stacked = np.maximum(np.array(drawn, dtype=np.float32), 0).reshape(len(indices), *tap.shape)
        features[tap.name] = stacked.astype(np.float16)
    return features


def write_rows(writer, rows, indices, taps=TAPS, rejected=()):
    indices = np.asarray(indices, dtype=np.int64)
    status = np.where(np.isin(indices, rejected), Status.REJECTED, Status.OK).astype(np.uint8)
    writer.write(indices, features_of(rows, indices, taps), status)


def write_cache(path, rows, taps=TAPS, block_rows=4, batch=2, rejected=(), **header):
    """Write and publish a whole cache, two rows at a time."""
    with CacheWriter(path, make_header(rows, taps, block_rows, **header)) as writer:
        todo = np.flatnonzero(~writer.durable)
        for start in range(0, len(todo), batch):
            write_rows(writer, rows, todo[start : start + batch], taps, rejected)
        return writer.publish({"host": "lab3", "seconds": 1.5})


def feature_bytes(reader):
    return {name: np.asarray(reader[name]).tobytes() for name in reader.taps} | {"status": reader.status.tobytes()}

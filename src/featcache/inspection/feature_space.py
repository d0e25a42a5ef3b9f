"""A tap's features: statistics, principal components and nearest neighbours, out of core.

Features are dask arrays whose tasks map the cache file for themselves; they are computed by threads of this process, or
by the cluster that a `dask.distributed.Client` of this process is connected to. Rejected rows never count. Import this
module only when it is needed: dask takes a while.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import dask.array as da
import numpy as np
import numpy.typing as npt
from dask import config, threaded
from dask.base import compute

from featcache.cache import Reader
from featcache.errors import CacheError, CacheMismatchError, SettingsError
from featcache.project import usable_rows

METRICS = ("cosine", "euclidean")
_PASSES = 6  # over the features; each squares away what lies outside the wanted components
_MORE = 10  # directions beside those that are wanted, so that the last of them come out as well as the first
_SEED = 0
_QUERIES = 256  # compared with a chunk at once, so that their distances stay within a chunk's own size


@dataclass(frozen=True, eq=False)
class PrincipalComponents:
    """The k directions in which a tap's rows differ most.

    Attributes:
        mean: (d,) float32.
        axes: (k, d) float32, orthonormal; the largest number of each is positive.
        variances: (k,) float64, along each axis, largest first, by m.
        shares: (k,) float64 in 0..1, of all variance.
    """

    mean: npt.NDArray[np.float32]
    axes: npt.NDArray[np.float32]
    variances: npt.NDArray[np.float64]
    shares: npt.NDArray[np.float64]


def feature_statistics(reader: Reader, tap: str) -> dict[str, npt.NDArray[np.floating]]:
    """Compute statistics of each of a tap's d features over the m rows with status ok, in one pass.

    Returns:
        ``mean``, ``deviation`` (by m), ``zeros`` (the share of rows in which a feature is 0): (d,) float64; ``min``,
        ``max``: (d,) float32.

    Raises:
        CacheError: no row has status ok.
        UnknownTapError: the file has no such tap.
    """
    features = _features(reader, tap)
    wide = features.astype(np.float64)
    wanted = {
        "mean": wide.mean(axis=0),
        "deviation": wide.std(axis=0),
        "zeros": (features == 0).mean(axis=0),
        "min": features.min(axis=0),
        "max": features.max(axis=0),
    }
    with _computing():
        (found,) = compute(wanted)
    return dict(found)


def principal_components(reader: Reader, tap: str, count: int) -> PrincipalComponents:
    """Compute the first principal components of a tap by subspace iteration: some passes, in the memory of some chunks.

    Fewer than `count` come out where there are fewer rows or features.

    Raises:
        CacheError: no row has status ok.
        UnknownTapError: the file has no such tap.
        SettingsError: `count` is less than 1.
    """
    if count < 1:
        raise SettingsError(f"count={count}: at least 1 component is needed")
    features = _features(reader, tap)
    m, d = features.shape
    with _computing():
        mean = features.mean(axis=0, dtype=np.float64).astype(np.float32).compute()
        centred = features - mean
        width = min(count + _MORE, m, d)
        basis = np.eye(d, dtype=np.float32) if width == d else _principal_basis(centred, width)
        # what is left is tall and skinny, and its decomposition exact
        _, lengths, axes = da.linalg.tsqr(centred @ basis, compute_svd=True)
        total, lengths, axes = compute((centred.astype(np.float64) ** 2).sum(), lengths, axes)
    variances = lengths[:count].astype(np.float64) ** 2 / m
    axes = axes[:count] @ basis.T
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])
    return PrincipalComponents(mean, axes * signs[:, None], variances, variances * m / max(total, np.finfo(float).tiny))


def _principal_basis(centred: da.Array, width: int) -> npt.NDArray[np.float32]:
    """(d, width) orthonormal float32, close to the span of the first components.

    `da.linalg.svd_compressed` would keep every chunk in memory between its passes, or import dask.distributed.
    """
    start = np.random.default_rng(_SEED).normal(size=(centred.shape[1], width))
    basis = np.linalg.qr(start)[0].astype(np.float32)
    for _ in range(_PASSES):
        image = (centred.T @ (centred @ basis)).compute()
        basis = np.linalg.qr(image)[0]
    return basis


def component_scores(reader: Reader, tap: str, components: PrincipalComponents) -> npt.NDArray[np.float32]:
    """Return (m, k) float32: where the rows with status ok lie along the components of the same tap's features.

    Raises:
        CacheError: no row has status ok.
        UnknownTapError: the file has no such tap.
    """
    features = _features(reader, tap)
    with _computing():
        scores: npt.NDArray[np.float32] = ((features - components.mean) @ components.axes.T).compute()
    return scores


def nearest_rows(
    reader: Reader,
    tap: str,
    queries: npt.NDArray[np.floating],
    count: int,
    metric: str = "cosine",
    own: npt.NDArray[np.integer] | None = None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Find the rows of a tap that are nearest to each query: all are compared, in float64.

    Args:
        reader: the cache that is searched.
        tap: one of its taps.
        queries: (q, ...) features, as many a query as the tap has.
        count: k, how many; fewer come out where there are fewer rows.
        metric: ``cosine`` (1 - cosine; a row of zeros is at 1 from everything) or ``euclidean``.
        own: (q,) the row of the file that each query is itself, and doesn't find; -1 for none. None: none is.

    Returns:
        (q, k) rows of the file, nearest first, equally near ones in the file's order; and (q, k) their distances.

    Raises:
        CacheError: no row has status ok.
        CacheMismatchError: the queries have another number of features.
        UnknownTapError: the file has no such tap.
        SettingsError: `count` is less than 1, or there is no such metric.
    """
    if count < 1 or metric not in METRICS:
        raise SettingsError(
            f"count={count}, metric={metric!r}: count must be at least 1, metric {' or '.join(METRICS)}"
        )
    features = _features(reader, tap).astype(np.float64)
    wide = np.asarray(queries, np.float64).reshape(len(queries), -1)
    if wide.shape[1] != features.shape[1]:
        found = f"{wide.shape[1]} features a row, but {tap} in {reader.path} has {features.shape[1]}"
        raise CacheMismatchError(found)
    rows, excluded = usable_rows(reader), np.full(len(wide), -1) if own is None else np.asarray(own)
    count = min(count, len(rows) - bool(np.isin(excluded, rows).any()))
    if not count:
        raise CacheError(f"{reader.path} has no other row with status ok to compare with")
    distances = _distances(da.from_array(wide, chunks=(_QUERIES, -1)), features, metric)
    numbers = da.from_array(rows, chunks=features.chunks[0])
    distances = da.where(numbers[None, :] == excluded[:, None], np.inf, distances)
    # argtopk fails where the last chunks that it merges hold k columns or fewer: one column more
    distances = da.concatenate([distances, da.full((len(wide), 1), np.inf, chunks=(_QUERIES, 1))], axis=1)
    with _computing():
        found, nearest = compute(da.argtopk(distances, -count, axis=1), da.topk(distances, -count, axis=1))
    order = np.lexsort((found, nearest), axis=1)
    return rows[np.take_along_axis(found, order, axis=1)], np.take_along_axis(nearest, order, axis=1)


def _distances(queries: da.Array, rows: da.Array, metric: str) -> da.Array:
    """(q, m) float64, in chunks of queries and rows."""
    products, (ours, theirs) = queries @ rows.T, ((each**2).sum(axis=1) for each in (queries, rows))
    distances: da.Array
    if metric == "cosine":
        ours, theirs = (da.sqrt(each) for each in (ours, theirs))
        ours, theirs = (da.where(each > 0, each, 1) for each in (ours, theirs))
        distances = da.maximum(1 - products / ours[:, None] / theirs, 0)
    else:
        distances = da.sqrt(da.maximum(ours[:, None] + theirs - 2 * products, 0))
    return distances


def _features(reader: Reader, tap: str) -> da.Array:
    features = reader.dask(tap, usable=True)
    if not len(features):
        raise CacheError(f"{reader.path} has no usable row: all {len(reader)} are rejected or not written")
    return features


@contextmanager
def _computing() -> Iterator[None]:
    """Compute by threads of this process unless it is connected to a cluster.

    Asked for threads by name, dask would import dask.distributed to see whether somebody is connected. Each thread
    computes a chunk of its own: a matrix product must not take all cores.
    """
    from threadpoolctl import threadpool_limits

    alone = "distributed" not in sys.modules and config.get("scheduler", None) is None
    with config.set(scheduler=threaded.get) if alone else nullcontext(), threadpool_limits(1, user_api="blas"):
        yield

"""A tap's features: statistics, principal components and nearest neighbours, out of core.

Features are dask arrays whose tasks map the cache file for themselves; they are computed by threads of this process, or
by the cluster that a `dask.distributed.Client` of this process is connected to. Few rows are computed in memory, with the
same bits as one chunk of dask's, which takes half a second to import. Rejected rows never count.
"""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featcache.cache import Reader
from featcache.core.float16 import as_float32
from featcache.errors import CacheError, CacheMismatchError, SettingsError
from featcache.project import usable_rows

if TYPE_CHECKING:
    import dask.array as da

METRICS = ("cosine", "euclidean")
_PASSES = 6  # over the features; each squares away what lies outside the wanted components
_MORE = 10  # directions beside those that are wanted, so that the last of them come out as well as the first
_SEED = 0
_FEW_BYTES = 16 << 20  # of a tap in the file; less than a chunk
_FEW_DISTANCES = 1 << 22  # at once, of few rows
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
    features = _features(reader, tap, most_bytes=0)
    wide = features.astype(np.float64)
    wanted = {
        "mean": wide.mean(axis=0),
        "deviation": wide.std(axis=0),
        "zeros": (features == 0).mean(axis=0),
        "min": features.min(axis=0),
        "max": features.max(axis=0),
    }
    with _computing():
        return dict(zip(wanted, _computed(*wanted.values()), strict=True))


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
        (mean,) = _computed(features.mean(axis=0, dtype=np.float64).astype(np.float32))
        centred = features - mean
        width = min(count + _MORE, m, d)
        basis = np.eye(d, dtype=np.float32) if width == d else _principal_basis(centred, width)
        total, lengths, axes = _computed((centred.astype(np.float64) ** 2).sum(), *_decomposed(centred @ basis))
    variances = lengths[:count].astype(np.float64) ** 2 / m
    axes = axes[:count] @ basis.T
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])
    return PrincipalComponents(mean, axes * signs[:, None], variances, variances * m / max(total, np.finfo(float).tiny))


def _principal_basis(centred: "da.Array | npt.NDArray[np.float32]", width: int) -> npt.NDArray[np.float32]:
    """(d, width) orthonormal float32, close to the span of the first components.

    `da.linalg.svd_compressed` would keep every chunk in memory between its passes, or import dask.distributed.
    """
    start = np.random.default_rng(_SEED).normal(size=(centred.shape[1], width))
    basis = np.linalg.qr(start)[0].astype(np.float32)
    for _ in range(_PASSES):
        (image,) = _computed(centred.T @ (centred @ basis))
        basis = np.linalg.qr(image)[0]
    return basis


def _decomposed(tall: "da.Array | npt.NDArray[np.float32]") -> tuple[Any, Any]:
    """Singular values and right vectors of what is tall and skinny, exactly: chunk by chunk, then of what is left."""
    if isinstance(tall, np.ndarray):
        left = np.linalg.qr(np.linalg.qr(tall)[1])[1]
        return np.linalg.svd(left, full_matrices=False)[1:]
    import dask.array as da

    return da.linalg.tsqr(tall, compute_svd=True)[1:]  # type: ignore[no-any-return]  # dask has few types


def component_scores(reader: Reader, tap: str, components: PrincipalComponents) -> npt.NDArray[np.float32]:
    """Return (m, k) float32: where the rows with status ok lie along the components of the same tap's features.

    Raises:
        CacheError: no row has status ok.
        UnknownTapError: the file has no such tap.
    """
    features = _features(reader, tap)
    with _computing():
        scores: npt.NDArray[np.float32]
        (scores,) = _computed((features - components.mean) @ components.axes.T)
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
    nearest = _nearest_in_memory if isinstance(features, np.ndarray) else _nearest_out_of_core
    with _computing():
        numbers, distances = nearest(wide, features, metric, (rows, excluded), count)
    order = np.lexsort((numbers, distances), axis=1)
    return rows[np.take_along_axis(numbers, order, axis=1)], np.take_along_axis(distances, order, axis=1)


def _nearest_in_memory(
    queries: Any, features: Any, metric: str, own: tuple[Any, Any], count: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """(q, k) the nearest of m rows, and their distances; of `own`, (m,) and (q,), equal ones aren't compared."""
    step = max(1, _FEW_DISTANCES // len(features))
    numbers, far = np.empty((len(queries), count), np.int64), np.empty((len(queries), count))
    for part in (slice(start, start + step) for start in range(0, len(queries), step)):
        distances = np.where(own[0] == own[1][part, None], np.inf, _distances(queries[part], features, metric))
        numbers[part] = np.argsort(distances, axis=1, kind="stable")[:, :count]
        far[part] = np.take_along_axis(distances, numbers[part], axis=1)
    return numbers, far


def _nearest_out_of_core(
    queries: Any, features: Any, metric: str, own: tuple[Any, Any], count: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The same of dask's arrays, in any order."""
    import dask.array as da

    distances = _distances(da.from_array(queries, chunks=(_QUERIES, -1)), features, metric)
    numbers = da.from_array(own[0], chunks=features.chunks[0])
    distances = da.where(numbers[None, :] == own[1][:, None], np.inf, distances)
    # argtopk fails where the last chunks that it merges hold k columns or fewer: one column more
    distances = da.concatenate([distances, da.full((len(queries), 1), np.inf, chunks=(_QUERIES, 1))], axis=1)
    found: tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]] = _computed(
        da.argtopk(distances, -count, axis=1), da.topk(distances, -count, axis=1)
    )
    return found


def _distances(queries: Any, rows: Any, metric: str) -> Any:
    """(q, m) float64; of dask's arrays in chunks of queries and rows."""
    products, (ours, theirs) = queries @ rows.T, ((each**2).sum(axis=1) for each in (queries, rows))
    if metric == "cosine":
        ours, theirs = (np.sqrt(each) for each in (ours, theirs))
        ours, theirs = (np.where(each > 0, each, 1) for each in (ours, theirs))
        return np.maximum(1 - products / ours[:, None] / theirs, 0)
    return np.sqrt(np.maximum(ours[:, None] + theirs - 2 * products, 0))


def _features(reader: Reader, tap: str, most_bytes: int | None = None) -> Any:
    """(m, d) float32 of the rows with status ok; in memory if they are few, and no cluster is there to compute."""
    rows = usable_rows(reader)
    if not len(rows):
        raise CacheError(f"{reader.path} has no usable row: all {len(reader)} are rejected or not written")
    most_bytes = _FEW_BYTES if most_bytes is None else most_bytes
    if len(reader) * reader.taps[reader.tap_name(tap)].row_bytes > most_bytes or "distributed" in sys.modules:
        return reader.dask(tap, usable=True)
    return as_float32(reader[tap][rows]).reshape(len(rows), -1)


def _computed(*arrays: Any) -> tuple[Any, ...]:
    """The same in memory, where they are dask's."""
    if not any(hasattr(each, "dask") for each in arrays):
        return arrays
    from dask.base import compute

    return tuple(compute(*arrays))


@contextmanager
def _computing() -> Iterator[None]:
    """Compute by threads of this process unless it is connected to a cluster.

    Each thread computes a chunk of its own: a matrix product must not take all cores.
    """
    from threadpoolctl import threadpool_limits

    with _threads() if "dask" in sys.modules else nullcontext(), threadpool_limits(1, user_api="blas"):
        yield


def _threads() -> AbstractContextManager[Any]:
    """Asked for threads by name, dask would import dask.distributed to see whether somebody is connected."""
    from dask import config, threaded

    alone = "distributed" not in sys.modules and config.get("scheduler", None) is None
    return config.set(scheduler=threaded.get) if alone else nullcontext()

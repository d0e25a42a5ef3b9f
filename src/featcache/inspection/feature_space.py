"""What lies in a tap's features: statistics, principal components and nearest neighbours, out of core.

Features are dask arrays whose tasks map the cache file for themselves; they are computed by threads of this process, or
by the cluster that a `dask.distributed.Client` of this process is connected to. Rows that were set aside never count.
Imported only when asked for, as dask takes a while.
"""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import dask.array as da
import numpy as np
import numpy.typing as npt
from dask import config, threaded
from dask.base import compute
from dask.delayed import delayed

from featcache.cache import Reader, Status
from featcache.errors import CacheError, CacheMismatchError, SettingsError

METRICS = ("cosine", "euclidean")
_PASSES = 6  # over the features; each squares away what lies outside the wanted components
_MORE = 10  # directions beside those that are wanted, so that the last of them come out as well as the first
_SEED = 0
_QUERIES = 256  # compared with a chunk at once, so that their distances stay within a chunk's own size
_MERGED = 16

_Found = tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Statistics of each of a tap's d features over the m rows with status ok.

    Attributes:
        rows: m.
        mean: (d,) float64.
        deviation: (d,) float64, the standard deviation, by m.
        minimum: (d,) float32.
        maximum: (d,) float32.
        zeros: (d,) float64 in 0..1, the share of rows in which a feature is 0.
    """

    rows: int
    mean: npt.NDArray[np.float64]
    deviation: npt.NDArray[np.float64]
    minimum: npt.NDArray[np.float32]
    maximum: npt.NDArray[np.float32]
    zeros: npt.NDArray[np.float64]


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


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest rows of q queries.

    Attributes:
        rows: (q, k) int64, rows of the file, nearest first; of equally near ones the first in the file.
        distances: (q, k) float64; cosine: 0..2.
    """

    rows: npt.NDArray[np.int64]
    distances: npt.NDArray[np.float64]


def usable_rows(reader: Reader) -> npt.NDArray[np.int64]:
    """Return (m,) the rows with status ok: which rows of the file the rows of ``reader.dask(tap, usable=True)`` are."""
    return np.flatnonzero(np.asarray(reader.status) == Status.OK)


def feature_statistics(reader: Reader, tap: str) -> FeatureStatistics:
    """Compute the statistics of each feature of a tap, in one pass.

    Raises:
        CacheError: no row has status ok.
        UnknownTapError: the file has no such tap.
    """
    features = _features(reader, tap)
    wide = features.astype(np.float64)
    wanted = (
        wide.mean(axis=0),
        wide.std(axis=0),
        features.min(axis=0),
        features.max(axis=0),
        (features == 0).mean(axis=0),
    )
    with _computing():
        return FeatureStatistics(len(features), *compute(*wanted))


def principal_components(reader: Reader, tap: str, count: int) -> PrincipalComponents:
    """Compute the first principal components of a tap by subspace iteration: some passes, in the memory of some chunks.

    Args:
        reader: the cache.
        tap: one of its taps.
        count: k, how many; fewer come out where there are fewer rows or features.

    Raises:
        CacheError: no row has status ok.
        UnknownTapError: the file has no such tap.
        SettingsError: `count` is less than 1.
    """
    if count < 1:
        raise SettingsError(f"expected at least 1 component; got count={count}")
    features = _features(reader, tap)
    m, d = features.shape
    with _computing():
        mean = features.mean(axis=0, dtype=np.float64).astype(np.float32).compute()
        centred = features - mean
        width = min(count + _MORE, m, d)
        whole = np.eye(d, dtype=np.float32)
        basis = whole if width == d else _principal_basis(centred, width)
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
    """Return (m, k) float32: where the rows with status ok lie along the components.

    Raises:
        CacheError: no row has status ok.
        CacheMismatchError: the components are of a tap with another number of features.
        UnknownTapError: the file has no such tap.
    """
    features = _features(reader, tap)
    _check_width(reader, tap, len(components.mean))
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
) -> Neighbours:
    """Find the rows of a tap that are nearest to each query: all are compared, in float64.

    Args:
        reader: the cache that is searched.
        tap: one of its taps.
        queries: (q, ...) features, as many a query as the tap has.
        count: k, how many; fewer come out where there are fewer rows.
        metric: ``cosine`` (1 - cosine; a row of zeros is at 1 from everything) or ``euclidean``.
        own: (q,) the row of the file that each query is itself, and doesn't find; -1 for none. None: none is.

    Raises:
        CacheError: no row has status ok.
        CacheMismatchError: the queries have another number of features.
        UnknownTapError: the file has no such tap.
        SettingsError: `count` is less than 1, or there is no such metric.
    """
    if count < 1 or metric not in METRICS:
        raise SettingsError(f"expected count >= 1 and a metric of {', '.join(METRICS)}; got {count} and {metric!r}")
    features = _features(reader, tap)
    wide = np.asarray(queries, np.float64).reshape(len(queries), -1)
    _check_width(reader, tap, wide.shape[1])
    numbers = usable_rows(reader)
    leave_out = np.full(len(wide), -1) if own is None else _numbers_of(np.asarray(own), numbers)
    count = min(count, len(numbers) - bool((leave_out >= 0).any()))
    if not count:
        raise CacheError(f"{reader.path}: expected another row with status ok beside the one to compare; there is none")
    shared = delayed(wide if metric == "euclidean" else _directions(wide))
    firsts = np.cumsum([0, *features.chunks[0][:-1]])
    chunks = features.to_delayed().ravel()
    parts = [
        delayed(_nearest_in)(chunk, int(first), shared, leave_out, count, metric)
        for chunk, first in zip(chunks, firsts, strict=True)
    ]
    while len(parts) > 1:
        parts = [delayed(_merged)(parts[i : i + _MERGED], count) for i in range(0, len(parts), _MERGED)]
    with _computing():
        distances, found = parts[0].compute()
    return Neighbours(numbers[found], distances)


def _nearest_in(
    chunk: npt.NDArray[np.float32],
    first: int,
    queries: npt.NDArray[np.float64],
    leave_out: npt.NDArray[np.int64],
    count: int,
    metric: str,
) -> _Found:
    """The (q, k) nearest of one chunk, whose rows are numbered from `first` on."""
    wide = chunk.astype(np.float64)
    wide = wide if metric == "euclidean" else _directions(wide)
    found = []
    for start in range(0, len(queries), _QUERIES):
        some = slice(start, start + _QUERIES)
        distances = _distances(queries[some], wide, metric)
        mine = leave_out[some] - first
        inside = np.flatnonzero((mine >= 0) & (mine < len(wide)))
        distances[inside, mine[inside]] = np.inf
        found.append(_first(distances, np.broadcast_to(np.arange(first, first + len(wide)), distances.shape), count))
    return np.concatenate([part[0] for part in found]), np.concatenate([part[1] for part in found])


def _distances(queries: npt.NDArray[np.float64], rows: npt.NDArray[np.float64], metric: str) -> npt.NDArray[np.float64]:
    products = queries @ rows.T
    if metric == "cosine":
        return np.maximum(1 - products, 0)
    squares = np.square(queries).sum(axis=1)[:, None] + np.square(rows).sum(axis=1) - 2 * products
    return np.asarray(np.sqrt(np.maximum(squares, 0)))


def _first(distances: npt.NDArray[np.float64], numbers: npt.NDArray[np.int64], count: int) -> _Found:
    """The k nearest of each line, nearest first, equally near ones by number."""
    kept = min(count, distances.shape[1])
    bound = np.partition(distances, kept - 1, axis=1)[:, kept - 1]
    columns = np.empty((len(distances), kept), np.int64)
    for i, line in enumerate(distances):
        near = np.flatnonzero(line <= bound[i])
        columns[i] = near[np.lexsort((numbers[i, near], line[near]))][:kept]
    return np.take_along_axis(distances, columns, axis=1), np.take_along_axis(numbers, columns, axis=1)


def _merged(parts: list[_Found], count: int) -> _Found:
    return _first(np.hstack([part[0] for part in parts]), np.hstack([part[1] for part in parts]), count)


def _directions(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    directions: npt.NDArray[np.float64] = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return directions


def _numbers_of(rows: npt.NDArray[np.integer], usable: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Which of the usable rows each row is, -1 where it is none."""
    at = np.minimum(np.searchsorted(usable, rows), len(usable) - 1)
    return np.where(usable[at] == rows, at, -1)


def _features(reader: Reader, tap: str) -> da.Array:
    features = reader.dask(tap, usable=True)
    if not len(features):
        raise CacheError(f"{reader.path}: expected rows with status ok; all {len(reader)} were set aside")
    return features


def _check_width(reader: Reader, tap: str, found: int) -> None:
    expected = math.prod(reader.taps[reader.tap_name(tap)].shape)
    if expected != found:
        raise CacheMismatchError(f"{reader.path}: expected {expected} features a row, as {tap} has; got {found}")


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

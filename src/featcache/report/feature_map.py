"""Training rows in feature space: a map in two dimensions. Out of core."""

from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featcache.cache import Reader

Points = npt.NDArray[np.float64]

MAP_ROWS = 2_000
"""Points of the map, sampled from more rows."""

_COMPONENTS = 32
_SEED = 0
_PERPLEXITY = 30.0
_ROUNDS = 350  # 500 keep as many neighbours: benchmarks/RESULTS.md
_ANGLE = 0.8  # of Barnes and Hut's approximation: half of the time of 0.5, to the same picture


@dataclass(frozen=True, eq=False)
class Projected:
    """The usable training rows along a tap's first principal components.

    Attributes:
        rows: (m,) int64, rows of the cache and of the manifest.
        scores: (m, k) float32, the first component first.
        shares: (k,) of all variance.
    """

    rows: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    shares: npt.NDArray[np.float64]


def projected(train: Reader, tap: str) -> Projected:
    """Return all usable rows along the first principal components.

    Raises:
        CacheError: no row is usable.
    """
    from featcache.inspection import component_scores, principal_components
    from featcache.project import usable_rows

    components = principal_components(train, tap, _COMPONENTS)
    return Projected(usable_rows(train), component_scores(train, tap, components), components.shares)


def mapped_rows(space: Projected, wanted_rows: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return which rows a map shows, (p,) places among those of `space`, ascending: at most `MAP_ROWS`, and all that are wanted."""
    wanted = np.flatnonzero(np.isin(space.rows, wanted_rows))
    drawn = np.setdiff1d(sampled(len(space.rows), MAP_ROWS), wanted)
    spare = max(0, MAP_ROWS - len(wanted))
    return np.union1d(wanted, drawn[sampled(len(drawn), spare)]).astype(np.int64)


def feature_map(space: Projected, places: npt.NDArray[np.int64], pool: Executor) -> "Future[tuple[Points, Points]]":
    """Begin to lay out some rows in two dimensions, each twice, in a thread of `pool`; most of it needs no lock of Python's.

    Returns:
        (p, 2) by t-SNE: near each other where their features are, distances and axes mean nothing; (p, 2) along the first
        two principal components; both in 0..1. Each time the same.
    """
    scores = space.scores[places].astype(np.float32)
    plane = np.zeros((len(places), 2))
    plane[:, : min(2, scores.shape[1])] = scores[:, :2]
    if len(scores) < 10 or not scores.any():  # too few for t-SNE
        return pool.submit(lambda: (_unit(plane), _unit(plane)))
    import threadpoolctl
    from sklearn.manifold import TSNE  # here: what two threads import at once may be half there for one of them

    perplexity = min(_PERPLEXITY, (len(scores) - 1) / 3)
    init = (plane / (plane[:, 0].std() or 1.0) * 1e-4).astype(np.float32)
    method = TSNE(init=init, perplexity=perplexity, max_iter=_ROUNDS, angle=_ANGLE, random_state=_SEED)

    def lay_out() -> tuple[Points, Points]:
        with threadpoolctl.threadpool_limits(1):  # more threads add in another order, and the map is another one
            return _unit(np.asarray(method.fit_transform(scores), np.float64)), _unit(plane)

    return pool.submit(lay_out)


def sampled(rows: int, most: int) -> npt.NDArray[np.int64]:
    """Return all numbers below `rows`, or `most` of them, ascending, each time the same."""
    if rows <= most:
        return np.arange(rows)
    return np.sort(np.random.default_rng(_SEED).choice(rows, most, replace=False))


def _unit(points: Points) -> Points:
    """The same picture with both axes stretched to 0..1: a page is wider than it is high."""
    low, span = points.min(axis=0), np.ptp(points, axis=0)
    return np.asarray((points - low) / np.where(span > 0, span, 1.0))

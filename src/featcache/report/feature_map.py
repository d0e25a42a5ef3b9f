"""Training rows in feature space: a map in two dimensions. Out of core."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featcache.cache import Reader

MAP_ROWS = 2_000
"""Points of the map, sampled from more rows."""

_COMPONENTS = 32
_SEED = 0
_PERPLEXITY = 30.0
_ROUNDS = 500
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


def feature_map(
    space: Projected, wanted: npt.NDArray[np.integer]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Lay out at most `MAP_ROWS` rows in two dimensions, each twice, the `wanted` ones, by place, among them.

    Returns:
        (p,) which of the rows they are, ascending; (p, 2) by t-SNE: near each other where their features are, distances
        and axes mean nothing; (p, 2) along the first two principal components; both in 0..1. Each time the same.
    """
    drawn = np.setdiff1d(sampled(len(space.rows), MAP_ROWS), wanted)
    spare = max(0, MAP_ROWS - len(wanted))
    places = np.union1d(wanted, drawn[sampled(len(drawn), spare)]).astype(np.int64)
    scores = space.scores[places].astype(np.float64)
    plane = np.zeros((len(places), 2))
    plane[:, : min(2, scores.shape[1])] = scores[:, :2]
    return places, _unit(_neighbour_map(scores, plane)), _unit(plane)


def sampled(rows: int, most: int) -> npt.NDArray[np.int64]:
    """Return all numbers below `rows`, or `most` of them, ascending, each time the same."""
    if rows <= most:
        return np.arange(rows)
    return np.sort(np.random.default_rng(_SEED).choice(rows, most, replace=False))


def _neighbour_map(scores: npt.NDArray[np.float64], plane: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(p, 2) by t-SNE; of too few rows for it, the plane itself."""
    if len(scores) < 10 or not scores.any():
        return plane
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    perplexity = min(_PERPLEXITY, (len(scores) - 1) / 3)
    init = (plane / (plane[:, 0].std() or 1.0) * 1e-4).astype(np.float32)
    method = TSNE(init=init, perplexity=perplexity, max_iter=_ROUNDS, angle=_ANGLE, random_state=_SEED)
    with threadpool_limits(1):  # more threads add in another order, and the map is another one
        return np.asarray(method.fit_transform(scores.astype(np.float32)), np.float64)


def _unit(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The same picture with both axes stretched to 0..1: a page is wider than it is high."""
    low, span = points.min(axis=0), np.ptp(points, axis=0)
    return np.asarray((points - low) / np.where(span > 0, span, 1.0))

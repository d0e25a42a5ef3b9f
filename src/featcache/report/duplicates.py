"""Duplicate images in a data set: the same bytes, or so near in feature space that they must be the same picture."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt


def exact_duplicates(
    digests: Mapping[str, npt.NDArray[np.bytes_]], labels: Mapping[str, npt.NDArray[np.integer]]
) -> list[dict[str, Any]]:
    """Return groups of rows with the same digest: labels that differ first, then those across splits, then the others.

    Args:
        digests: split -> (n,) digests; empty ones are unknown and equal none.
        labels: split -> (n,) class indices, -1 where unknown.

    Returns:
        Of each group its ``places``, at least two of (split, row); ``across``: whether they are in more than one split,
        so that a scored image was trained on; ``labels``: whether their known labels differ: at least one is wrong.
    """
    splits = np.repeat(list(digests), [len(column) for column in digests.values()])
    rows = np.concatenate([np.arange(len(column)) for column in digests.values()])
    column = np.concatenate(list(digests.values()))
    _, group, counts = np.unique(column, return_inverse=True, return_counts=True)
    twice = np.flatnonzero((counts[group] > 1) & (column != b""))
    members: dict[int, list[tuple[str, int]]] = {}
    for same, split, row in zip(group[twice].tolist(), splits[twice].tolist(), rows[twice].tolist(), strict=True):
        members.setdefault(same, []).append((split, row))
    found = []
    for places in members.values():
        across = len({split for split, _ in places}) > 1
        known = {int(labels[split][row]) for split, row in places} - {-1}
        found.append({"places": places, "across": across, "labels": len(known) > 1})
    return sorted(found, key=lambda each: (not each["labels"], not each["across"]))


def near_pairs(points: npt.NDArray[np.floating], most: int) -> tuple[list[tuple[int, int, float]], float]:
    """Return the closest pairs of different rows, closest first, and the median distance to a nearest row.

    Each row is paired with its nearest other one; a pair is named once.

    Args:
        points: (n, k), n at least 2.
        most: pairs at most.

    Returns:
        (row, other row, distance), row < other row; and the median.
    """
    from sklearn.neighbors import NearestNeighbors

    points = points.astype(np.float64)
    search = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(points)
    nearest = search.kneighbors(return_distance=False)[:, 0]  # of others: no row is its own neighbour
    # the search subtracts large sums, which is no distance between equals: compute that of the pair itself
    distances = np.linalg.norm(points - points[nearest], axis=1)
    pairs = {(min(i, j), max(i, j)): d for i, (j, d) in enumerate(zip(nearest.tolist(), distances, strict=True))}
    closest = sorted(pairs.items(), key=lambda pair: (pair[1], pair[0]))[:most]
    return [(i, j, float(d)) for (i, j), d in closest], float(np.median(distances))

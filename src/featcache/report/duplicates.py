"""Duplicate images in a data set: the same bytes, or so near in feature space that they must be the same picture."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Duplicates:
    """Rows of the same content.

    Attributes:
        rows: (split, row) of each, at least two.
        across: whether they are in more than one split, so that a scored image was trained on.
        labels: whether their known labels differ: at least one is wrong.
    """

    rows: tuple[tuple[str, int], ...]
    across: bool
    labels: bool


def exact_duplicates(
    digests: Mapping[str, npt.NDArray[np.bytes_]], labels: Mapping[str, npt.NDArray[np.integer]]
) -> list[Duplicates]:
    """Return groups of rows with the same digest: labels that differ first, then those across splits, then the others.

    Args:
        digests: split -> (n,) digests; empty ones are unknown and equal none.
        labels: split -> (n,) class indices, -1 where unknown.
    """
    splits = [split for split in digests for _ in range(len(digests[split]))]
    if not splits:
        return []
    rows = np.concatenate([np.arange(len(column)) for column in digests.values()])
    known_labels = np.concatenate([labels[split] for split in digests])
    _, group, counts = np.unique(np.concatenate(list(digests.values())), return_inverse=True, return_counts=True)
    known = np.concatenate([column != b"" for column in digests.values()])
    twice = np.flatnonzero((counts[group] > 1) & known)
    found: dict[int, list[int]] = {}
    for place in twice.tolist():
        found.setdefault(int(group[place]), []).append(place)
    found_groups = []
    for places in found.values():
        where = tuple((splits[place], int(rows[place])) for place in places)
        across = len({split for split, _ in where}) > 1
        several = len({int(known_labels[place]) for place in places if known_labels[place] >= 0}) > 1
        found_groups.append(Duplicates(where, across, several))
    return sorted(found_groups, key=lambda each: (not each.labels, not each.across))


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

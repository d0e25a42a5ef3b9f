"""Images that stand twice in a data set: byte for byte, or so near in feature space that they must be the same picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_BLOCK = 1024


@dataclass(frozen=True)
class Copies:
    """Rows of the same content.

    Attributes:
        rows: (split, row) of each, at least two.
        across: whether they stand in more than one split: what is scored was trained on.
        labels: whether their known labels differ: at least one is wrong.
    """

    rows: tuple[tuple[str, int], ...]
    across: bool
    labels: bool


def exact_copies(
    digests: Mapping[str, npt.NDArray[np.bytes_]], labels: Mapping[str, npt.NDArray[np.integer]]
) -> list[Copies]:
    """Return groups of rows with the same digest: labels that differ first, then copies across splits, then the others.

    Args:
        digests: split -> (n,) digests; empty ones are unknown and equal none.
        labels: split -> (n,) class indices, -1 where unknown.
    """
    splits = [split for split in digests for _ in range(len(digests[split]))]
    if not splits:
        return []
    rows = np.concatenate([np.arange(len(column)) for column in digests.values()])
    told = np.concatenate([labels[split] for split in digests])
    _, group, counts = np.unique(np.concatenate(list(digests.values())), return_inverse=True, return_counts=True)
    known = np.concatenate([column != b"" for column in digests.values()])
    twice = np.flatnonzero((counts[group] > 1) & known)
    found: dict[int, list[int]] = {}
    for place in twice.tolist():
        found.setdefault(int(group[place]), []).append(place)
    copies = []
    for places in found.values():
        where = tuple((splits[place], int(rows[place])) for place in places)
        across = len({split for split, _ in where}) > 1
        several = len({int(told[place]) for place in places if told[place] >= 0}) > 1
        copies.append(Copies(where, across, several))
    return sorted(copies, key=lambda each: (not each.labels, not each.across))


def near_pairs(points: npt.NDArray[np.floating], most: int) -> tuple[list[tuple[int, int, float]], float]:
    """Return the closest pairs of different rows, closest first, and the median distance to a nearest row.

    Each row is paired with its nearest other one; a pair is named once.

    Args:
        points: (n, k), n at least 2.
        most: pairs at most.

    Returns:
        (row, other row, distance), row < other row; and the median.
    """
    nearest, distances = _nearest_others(points.astype(np.float64))
    pairs = {(min(i, j), max(i, j)): d for i, (j, d) in enumerate(zip(nearest, distances, strict=True))}
    closest = sorted(pairs.items(), key=lambda pair: (pair[1], pair[0]))[:most]
    return [(i, j, float(d)) for (i, j), d in closest], float(np.median(distances))


def _nearest_others(points: npt.NDArray[np.float64]) -> tuple[Sequence[int], npt.NDArray[np.float64]]:
    squares = np.square(points).sum(axis=1)
    nearest, distances = np.empty(len(points), np.int64), np.empty(len(points))
    for start in range(0, len(points), _BLOCK):
        some = np.arange(start, min(start + _BLOCK, len(points)))
        apart = squares[some, None] + squares[None, :] - 2 * points[some] @ points.T
        apart[np.arange(len(some)), some] = np.inf
        nearest[some] = apart.argmin(axis=1)
        # the difference of large sums is no distance between equals: compute that of the chosen pair itself
        distances[some] = np.sqrt(np.square(points[some] - points[nearest[some]]).sum(axis=1))
    return nearest.tolist(), distances

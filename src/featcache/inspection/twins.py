"""Images that are nearly the same: rows whose features point the same way. Block by block, so memory stays flat."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.cache import Reader
from featcache.core.progress import Progress
from featcache.core.scratch_arrays import allocate
from featcache.project import channel_means, unit_rows, usable_rows

LEAST = 0.85
"""Cosine of centred features from which on two photos are near duplicates (benchmarks/duplicates.py)."""
LEAST_DRAWN = 0.95
"""The same of digits and other small drawings, which differ less: those that different people drew reach 0.93."""
_BLOCK = 2048
_MOST_PAIRS = 1 << 22

Numbers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


def seen_taps(reader: Reader) -> list[str]:
    """Return the taps by which images are compared: the last two that are averaged over their places, or else the last."""
    taps = list(reader.taps)
    return [tap for tap in taps if tap.endswith("_avg")][-2:] or taps[-1:]


def usable_units(readers: Sequence[Reader], folder: Path | None) -> tuple[list[Numbers], npt.NDArray[np.float16]]:
    """Return the usable rows of each cache, and features of all of them, (n, d) of length 1; many are in a file in `folder`.

    They are those of `seen_taps` side by side: square roots of the mean over all places, less the mean of the first cache's
    rows, each tap of the same length, or all 0.
    """
    taps = seen_taps(readers[0])
    rows = [usable_rows(reader) for reader in readers]
    centres = [_mean(readers[0], tap, rows[0]) for tap in taps]
    table = allocate((sum(map(len, rows)), sum(map(len, centres))), np.float16, folder)
    place = 0
    for reader, mine in zip(readers, rows, strict=True):
        for part in _parts(mine):
            units = [unit_rows(_roots(reader, tap, part) - centre) for tap, centre in zip(taps, centres, strict=True)]
            table[place : place + len(part)] = np.concatenate(units, axis=1) / np.sqrt(len(taps))
            place += len(part)
    return rows, table


def _roots(reader: Reader, tap: str, rows: Numbers) -> Floats:
    values = channel_means(reader[tap][rows])
    return np.asarray(np.sign(values) * np.sqrt(np.abs(values)))


def _mean(reader: Reader, tap: str, rows: Numbers) -> Floats:
    sums = (_roots(reader, tap, part).sum(axis=0, dtype=np.float64) for part in _parts(rows))
    return np.asarray(sum(sums) / max(1, len(rows)), np.float32)


def joined_rows(
    units: npt.NDArray[np.floating], progress: Progress, least: float = LEAST
) -> tuple[Numbers, npt.NDArray[np.float32]]:
    """Join rows of unit features with a cosine of at least `least`, also by way of others.

    Returns:
        (n,) the first row of each row's group, itself where it is alone; (n,) its cosine to the most similar other row that
        is above `least`, else 0.
    """
    count = len(units)
    first, alike = np.arange(count), np.zeros(count, np.float32)
    for start in range(0, count, _BLOCK):
        ours, pairs = np.asarray(units[start : start + _BLOCK], np.float32), list[tuple[Numbers, Numbers]]()
        for other in range(start, count, _BLOCK):
            cosines = ours @ np.asarray(units[other : other + _BLOCK], np.float32).T
            if other == start:
                np.fill_diagonal(cosines, -1)
            cosines[cosines < least] = 0
            np.maximum(alike[start : start + _BLOCK], cosines.max(axis=1), out=alike[start : start + _BLOCK])
            np.maximum(alike[other : other + _BLOCK], cosines.max(axis=0), out=alike[other : other + _BLOCK])
            mine, theirs = np.nonzero(cosines)
            pairs.append((mine + start, theirs + other))
            if sum(len(each) for each, _ in pairs) > _MOST_PAIRS:
                first, pairs = _merged(first, pairs), []
        first = _merged(first, pairs)
        progress.advance(len(ours))
    return first, np.minimum(alike, 1)


def _merged(first: Numbers, pairs: Sequence[tuple[Numbers, Numbers]]) -> Numbers:
    """The groups after these pairs were joined, too."""
    if not any(len(mine) for mine, _ in pairs):
        return first
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count = len(first)
    mine, theirs = (np.concatenate(each) for each in zip((np.arange(count), first), *pairs, strict=True))
    graph = coo_matrix((np.ones(len(mine), np.int8), (mine, theirs)), (count, count))
    _, firsts, inverse = np.unique(
        connected_components(graph, directed=False)[1], return_index=True, return_inverse=True
    )
    merged: Numbers = firsts[inverse]
    return merged


def _parts(rows: Numbers) -> list[Numbers]:
    return [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)]

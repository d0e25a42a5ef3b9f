"""Images that are nearly the same: rows whose features point the same way. Block by block, so memory stays flat."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.cache import Reader, Status
from featcache.core.progress import Progress
from featcache.core.scratch_arrays import allocate

LEAST = 0.9
"""Cosine of centred features from which on two images are near duplicates (benchmarks/duplicates.py)."""
_BLOCK = 2048
_MOST_PAIRS = 1 << 22

Numbers = npt.NDArray[np.int64]


def seen_tap(reader: Reader) -> str:
    """Return the tap by which images are compared: the last that is averaged over its places, or else the last."""
    taps = list(reader.taps)
    return next((tap for tap in taps[::-1] if tap.endswith("_avg")), taps[-1])


def unit_features(
    reader: Reader, rows: npt.NDArray[np.integer], centre: npt.NDArray[np.float32] | None
) -> npt.NDArray[np.float32]:
    """Return (k, d) float32 of k rows: square roots of the mean over all places, less `centre`, of length 1 (or all 0).

    None leaves them as they are: what the centre is the mean of.
    """
    values = np.asarray(reader[seen_tap(reader)][rows], np.float32)
    values = values.reshape(len(values), -1, values.shape[-1]).mean(axis=1)
    values = np.asarray(np.sign(values) * np.sqrt(np.abs(values)))
    if centre is None:
        return values
    values -= centre
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.where(lengths > 0, lengths, 1))


def usable_units(readers: Sequence[Reader], folder: Path | None) -> tuple[list[Numbers], npt.NDArray[np.float16]]:
    """Return the usable rows of each cache, and the unit features of all of them, (n, d); many are in a file in `folder`.

    They are centred by the mean of the first cache.
    """
    rows = [np.flatnonzero(np.asarray(reader.status) == Status.OK) for reader in readers]
    first = list(_parts(rows[0]))
    total = sum(unit_features(readers[0], part, None).sum(axis=0, dtype=np.float64) for part in first)
    centre = np.asarray(total / max(1, len(rows[0])), np.float32)
    table = allocate((sum(map(len, rows)), centre.size), np.float16, folder)
    place = 0
    for reader, mine in zip(readers, rows, strict=True):
        for part in _parts(mine):
            table[place : place + len(part)] = unit_features(reader, part, centre)
            place += len(part)
    return rows, table


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

"""From what a backbone computed to float16 in the file, refusing what that can't hold."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
import numpy.typing as npt

from featcache.cache.file_parser import Structure
from featcache.cache.layout import FEATURE_DTYPE, FLOAT16_MAX, Status, TapLayout
from featcache.core.disk import disk, storage_errors
from featcache.errors import FeatureValueError

_EXPONENT = 0x7C00  # all exponent bits set: infinity or NaN
_MAGNITUDE = 0x7FFF


@dataclass(frozen=True, eq=False)
class StoredRows:
    """Rows as they go to the file: (k,) positions, of each tap (k, ...) from `stored_features`, and (k,) status."""

    rows: npt.NDArray[np.int64]
    stored: Mapping[str, npt.NDArray[np.float16]]
    status: npt.NDArray[np.uint8]

    @property
    def nbytes(self) -> int:
        """Bytes of the features."""
        return sum(array.nbytes for array in self.stored.values())

    def by_block(self, block_rows: int) -> dict[int, "StoredRows"]:
        """Return each block's part. One that is shorter than its block is a copy: it may wait, and nothing else with it."""
        blocks, whole = self.rows // block_rows, self
        if (np.diff(blocks) < 0).any():
            order = np.argsort(self.rows)
            blocks, whole = blocks[order], self._part(order)
        runs = _runs(blocks, step=0)
        return {
            int(blocks[start]): whole._part(slice(start, stop), copy=len(runs) > 1 and stop - start < block_rows)
            for start, stop in runs
        }

    def _part(self, chosen: slice | npt.NDArray[np.intp], *, copy: bool = False) -> "StoredRows":
        stored = {name: array[chosen].copy() if copy else array[chosen] for name, array in self.stored.items()}
        return StoredRows(self.rows[chosen], stored, self.status[chosen])


def stored_rows(
    structure: Structure,
    rows: npt.NDArray[np.integer],
    features: Mapping[str, npt.NDArray[np.floating]],
    status: npt.NDArray[np.uint8],
    ids: Sequence[str],
) -> StoredRows:
    """Return (k,) rows, every tap's (k, ...) features and (k,) status as they go to the file; rows and status are copied.

    Raises:
        FeatureValueError: an ok row holds NaN, infinity or a value beyond float16's range.
        ValueError: arrays that don't fit each other or the file.
    """
    taps = {tap.name: tap for tap in structure.taps}
    if set(features) != set(taps):
        raise ValueError(f"features are of the taps {sorted(features)}, not of {sorted(taps)}")
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or status.shape != rows.shape:
        raise ValueError(
            f"{rows.dtype} {rows.shape} and status {status.shape} are not integer rows and one status each"
        )
    if len(rows) and not (rows.min() >= 0 and rows.max() < structure.n):
        raise ValueError(f"rows {rows.min()} to {rows.max()} are not all from 0 to {structure.n - 1}")
    if not np.isin(status, (Status.OK, Status.REJECTED)).all():
        raise ValueError(f"status={sorted(set(status.tolist()))} is not only 1 (ok) and 2 (rejected)")
    for name, array in features.items():
        shape, found = (len(rows), *taps[name].shape), np.asarray(array)
        if found.shape != shape or found.dtype not in (np.float16, np.float32):
            raise ValueError(f"{name} is {found.dtype} {found.shape}, not float16 or float32 {shape}")
    places, status = rows.astype(np.int64), np.array(status, dtype=np.uint8)
    ok = status == Status.OK
    stored = {tap.name: stored_features(tap, np.asarray(features[tap.name]), ok, places, ids) for tap in structure.taps}
    return StoredRows(places, stored, status)


def stored_features(
    tap: TapLayout,
    features: npt.NDArray[np.floating],
    ok: npt.NDArray[np.bool_],
    rows: npt.NDArray[np.int64],
    ids: Sequence[str],
) -> npt.NDArray[np.float16]:
    """Return (k, ...) features as little-endian float16, contiguous, with zeros in rows that aren't ok.

    The message names the tap and the row, whose id is at its position, of (k,) `rows`, in `ids`.

    Raises:
        FeatureValueError: an ok row holds NaN, infinity or a value outside -65504 to 65504.
    """
    if not ok.all():
        features = features.copy()
        features[~ok] = 0
    if not _storable(features):
        at = tuple(np.argwhere(~(np.abs(features.astype(np.float64)) <= FLOAT16_MAX))[0])
        beyond = f"is outside -{FLOAT16_MAX:.0f} to {FLOAT16_MAX:.0f}, which float16 holds"
        advice = "look at this image and at the weights"
        raise FeatureValueError(f"tap {tap.name}: {features[at]} for id={ids[int(rows[at[0]])]!r} {beyond}: {advice}")
    return np.ascontiguousarray(features, dtype=FEATURE_DTYPE)


def put_rows(descriptor: int, structure: Structure, pieces: Sequence[StoredRows]) -> None:
    """Write rows where they belong, each stretch of consecutive ones in one go, whatever pieces it came in.

    Raises:
        StorageError: the disk refused.
    """
    with storage_errors(structure.path, "could not write"):
        for first, stretch in _stretches(pieces):
            for name in (*(tap.name for tap in structure.taps), "status"):
                columns = [(piece.status if name == "status" else piece.stored[name])[part] for piece, part in stretch]
                place = structure.places[name]
                views = [column.reshape(-1).view(np.uint8).data for column in columns]
                disk.pwritev(descriptor, views, place.offset + first * place.row_bytes)


def _stretches(pieces: Sequence[StoredRows]) -> list[tuple[int, list[tuple[StoredRows, slice]]]]:
    """Return the parts of pieces that follow each other in the file, and each stretch's first row."""
    runs = [
        (int(piece.rows[start]), piece, slice(start, stop))
        for piece in pieces
        for start, stop in _runs(piece.rows, step=1)
    ]
    found: list[tuple[int, list[tuple[StoredRows, slice]]]] = []
    following = -1
    for first, piece, part in sorted(runs, key=itemgetter(0)):
        if first != following:
            found.append((first, []))
        found[-1][1].append((piece, part))
        following = first + part.stop - part.start
    return found


def _runs(numbers: npt.NDArray[np.int64], step: int) -> list[tuple[int, int]]:
    """Return [start, stop) of each stretch in which every number is the one before plus `step`."""
    if not len(numbers):
        return []
    cuts = [0, *(np.flatnonzero(np.diff(numbers) != step) + 1).tolist(), len(numbers)]
    return list(itertools.pairwise(cuts))


def _storable(features: npt.NDArray[np.floating]) -> bool:
    if not features.size:
        return True
    if features.dtype == np.float16:  # integers, as numpy's float16 comparisons are scalar
        bits = np.ascontiguousarray(features).view(np.uint16)
        highest = bits.max()
        # without negative numbers, whose bits are above all others, as behind a relu, one look is enough
        return bool(highest < _EXPONENT) or (bool(highest > _MAGNITUDE) and int((bits & _MAGNITUDE).max()) < _EXPONENT)
    low, high = features.min(), features.max()  # NaN comes through both, and fails both comparisons
    return bool(low >= -FLOAT16_MAX and high <= FLOAT16_MAX)

"""From what a backbone computed to bytes in the file, refusing whatever float16 can't hold."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from featcache.cache.layout import FEATURE_DTYPE, FLOAT16_MAX, TapLayout
from featcache.cache.structure import Structure
from featcache.disk import disk, storage_errors
from featcache.errors import FeatureValueError

_EXPONENT = 0x7C00  # all exponent bits set: infinity or NaN
_MAGNITUDE = 0x7FFF
# Numbers looked at at once: they stay in a core's second-level cache for the second look, and it isn't so few that taking
# the interpreter's lock again and again would cost as much as looking.
_PIECE = 1 << 18


def stored_features(
    tap: TapLayout,
    features: npt.NDArray[np.floating],
    ok: npt.NDArray[np.bool_],
    rows: npt.NDArray[np.int64],
    ids: Sequence[str],
) -> npt.NDArray[np.float16]:
    """Return (k, ...) little-endian float16, contiguous, with zeros in rows that aren't ok.

    Args:
        tap: for the message.
        features: (k, ...) float16 or float32.
        ok: (k,), rows whose values count.
        rows: (k,), their positions in `ids`.
        ids: every row id of the file, for the message.

    Raises:
        FeatureValueError: an ok row holds NaN, infinity or a value outside -65504 to 65504.
    """
    if not ok.all():
        features = features.copy()
        features[~ok] = 0
    if not _storable(features):
        bad = next(i for i in range(len(features)) if not _storable(features[i]))
        value = features[bad][_unstorable(features[bad])][0]
        expected = f"expected features from {-FLOAT16_MAX:.0f} to {FLOAT16_MAX:.0f}, as float16 holds them"
        advice = "look at this image and at the weights"
        raise FeatureValueError(f"{expected}; got {value} for id={ids[int(rows[bad])]!r} in tap {tap.name}; {advice}")
    return np.ascontiguousarray(features, dtype=FEATURE_DTYPE)


def put_rows(
    descriptor: int,
    structure: Structure,
    rows: npt.NDArray[np.int64],
    stored: Mapping[str, npt.NDArray[np.float16]],
    status: npt.NDArray[np.uint8],
) -> None:
    """Write k rows where they belong, each stretch of consecutive ones in one go.

    Args:
        descriptor: the open file.
        structure: where everything lies in it.
        rows: (k,) their positions.
        stored: of each tap (k, ...), from `stored_features`.
        status: (k,) u1.

    Raises:
        StorageError: the disk refused.
    """
    columns: list[tuple[str, int, npt.NDArray[np.generic]]] = [("status", 1, status)]
    columns[:0] = [(tap.name, tap.row_bytes, stored[tap.name]) for tap in structure.taps]
    with storage_errors(structure.path, "could not write"):
        for start, stop in _runs(rows):
            for name, row_bytes, content in columns:
                offset = structure.places[name].offset + int(rows[start]) * row_bytes
                disk.pwrite(descriptor, content[start:stop].reshape(-1).view(np.uint8).data, offset)


def _runs(rows: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return [start, stop) of each stretch of consecutive rows, so that it goes out in one write."""
    if not len(rows):
        return []
    cuts = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
    return list(itertools.pairwise(cuts))


def _storable(features: npt.NDArray[np.floating]) -> bool:
    if not features.size:
        return True
    if features.dtype == np.float16:  # integers, as numpy's float16 comparisons are scalar
        bits = np.ascontiguousarray(features).view(np.uint16).reshape(-1)
        return all(_finite(bits[start : start + _PIECE]) for start in range(0, len(bits), _PIECE))
    low, high = features.min(), features.max()  # NaN comes through both, and fails both comparisons
    return bool(low >= -FLOAT16_MAX and high <= FLOAT16_MAX)


def _finite(bits: npt.NDArray[np.uint16]) -> bool:
    """Whether float16 given by their bits are neither infinite nor NaN."""
    highest = bits.max()
    # without negative numbers, whose bits are above all others, as behind a relu, one look is all
    return bool(highest < _EXPONENT) or (bool(highest > _MAGNITUDE) and int((bits & _MAGNITUDE).max()) < _EXPONENT)


def _unstorable(features: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    return ~(np.abs(features.astype(np.float64)) <= FLOAT16_MAX)

"""From what a backbone computed to what is stored, refusing whatever float16 can't hold."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from featcache.cache.layout import FEATURE_DTYPE, FLOAT16_MAX, TapLayout
from featcache.errors import FeatureValueError

_EXPONENT = 0x7C00  # all exponent bits set: infinity or NaN
_MAGNITUDE = 0x7FFF


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


def _storable(features: npt.NDArray[np.floating]) -> bool:
    if not features.size:
        return True
    if features.dtype == np.float16:  # integers, as numpy's float16 comparisons are scalar
        bits = np.ascontiguousarray(features).view(np.int16)
        if bits.max() >= _EXPONENT:
            return False
        # without negative numbers, as behind a relu, that is all, and nothing was copied
        return bool(bits.min() >= 0) or int((bits & _MAGNITUDE).max()) < _EXPONENT
    low, high = features.min(), features.max()  # NaN comes through both, and fails both comparisons
    return bool(low >= -FLOAT16_MAX and high <= FLOAT16_MAX)


def _unstorable(features: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    return ~(np.abs(features.astype(np.float64)) <= FLOAT16_MAX)

"""Images unlike anything seen: far from the training images, by the plain features of the first backbone.

Where `near_duplicates` are compared by how features differ from their mean, here it is by the features as they are: what
an image lacks of all that the others have tells strange ones apart (benchmarks/unlike.py).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.cache import Reader, open_cache
from featcache.core.scratch_arrays import allocate
from featcache.project.duplicates import unlike_record
from featcache.project.project import Project
from featcache.project.rejected_rows import usable_rows

FAR = 0.995
"""An image that is farther from the training images than this share of them is unlike anything seen."""
_NEAREST = 3
_BLOCK = 2048
_CALIBRATED = 5000  # rows at most, which measure that share well enough
_STEPS = 1001

Numbers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class SeenImages:
    """The training images as others are compared with them.

    Attributes:
        tap: of the first backbone, whose features are averaged over their places.
        rows: (n,) of the train cache, those with features.
        units: (n, d) float16 of length 1, or 0; many are in a file.
    """

    tap: str
    rows: Numbers
    units: npt.NDArray[np.float16]

    @classmethod
    def of(cls, train: Reader, folder: Path) -> "SeenImages":
        """Read them from the cache; `folder` is where a large table is kept meanwhile."""
        taps = list(train.taps)
        tap, rows = ([tap for tap in taps if tap.endswith("_avg")] or taps)[-1], usable_rows(train)
        units = allocate((len(rows), train[tap].shape[-1]), np.float16, folder)
        for start in range(0, len(rows), _BLOCK):
            part = slice(start, start + _BLOCK)
            units[part] = _units(train[tap][rows[part]])
        return cls(tap, rows, units)

    def quantiles(self, apart: Sequence[Numbers]) -> list[float]:
        """How far training images are from the others, as quantiles in equal steps from 0 to 1; [] where there are no others.

        Args:
            apart: of each (n,) numbers; rows with the same are not compared, nor is any with itself.
        """
        chosen = np.unique(np.linspace(0, len(self.rows) - 1, min(_CALIBRATED, len(self.rows))).astype(np.int64))
        columns = [(each[chosen], each) for each in (np.arange(len(self.rows)), *apart)]
        far = self._distances(self.units[chosen], columns)
        far = far[np.isfinite(far)]
        found: list[float] = np.quantile(far, np.linspace(0, 1, _STEPS)).round(5).tolist() if len(far) else []
        return found

    def distances(self, features: npt.NDArray[np.floating]) -> Floats:
        """Return (n,) mean cosine distances of images to the nearest training images, 0 to 1 where no feature is negative.

        Args:
            features: (n, d) or (n, h, w, d), of `tap`.
        """
        return self._distances(_units(features))

    def row_distances(self, reader: Reader) -> tuple[Numbers, Floats]:
        """Return the usable rows of another split, and their `distances`."""
        rows = usable_rows(reader)
        parts = [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)]
        return rows, np.concatenate([np.empty(0), *(self.distances(reader[self.tap][part]) for part in parts)])

    def _distances(self, units: npt.NDArray[np.float16], apart: Sequence[tuple[Numbers, Numbers]] = ()) -> Floats:
        """Block by block; NaN where nothing may be compared."""
        found = np.empty(len(units))
        for start in range(0, len(units), _BLOCK):
            mine = slice(start, start + _BLOCK)
            ours = units[mine].astype(np.float32)
            nearest = np.full((len(ours), _NEAREST), -np.inf, np.float32)
            for other in range(0, len(self.units), _BLOCK):
                theirs = slice(other, other + _BLOCK)
                cosines = ours @ self.units[theirs].astype(np.float32).T
                for own, each in apart:
                    cosines[own[mine, None] == each[None, theirs]] = -np.inf
                nearest = np.partition(np.concatenate([nearest, cosines], axis=1), -_NEAREST)[:, -_NEAREST:]
            there = np.isfinite(nearest)
            counts = there.sum(axis=1)
            means = np.where(there, nearest, 0).sum(axis=1) / np.maximum(counts, 1)
            found[mine] = np.where(counts, np.maximum(1 - means, 0), np.nan)
        return found


def farther_than(distances: Floats, quantiles: Sequence[float]) -> Floats:
    """Return (n,) the share, 0 to 1, of the training images that are nearer to the others than images at these distances."""
    return np.interp(distances, quantiles, np.linspace(0, 1, len(quantiles)))


def familiarity(project: Project) -> Callable[[Mapping[str, npt.NDArray[Any]]], Floats] | None:
    """Return what gives `farther_than` of images by their features, tap name, as inputs have it, -> (n, ...).

    None where `FindDuplicates` hasn't run, or the training features are gone.

    Raises:
        CacheError: they are damaged.
    """
    quantiles, cache = unlike_record(project).get("quantiles"), project.backbones[0].cache("train", 0)
    if not quantiles or not cache.is_complete():
        return None
    seen = SeenImages.of(open_cache(cache.path), project.folder)
    name = project.backbones[0].input_name(seen.tap)
    return lambda features: farther_than(seen.distances(features[name]), quantiles)


def channel_means(features: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Return (n, d) float32, of (n, d) or (n, h, w, d) features the mean over all places."""
    values = np.asarray(features, np.float32)
    return np.asarray(values.reshape(len(values), -1, values.shape[-1]).mean(axis=1))


def unit_rows(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return (n, d) rows brought to length 1, but for those that are all 0."""
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.where(lengths > 0, lengths, 1))


def _units(features: npt.NDArray[np.floating]) -> npt.NDArray[np.float16]:
    return unit_rows(channel_means(features)).astype(np.float16)

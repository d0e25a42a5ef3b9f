"""Finding rows that some cache of a folder already holds, by tap key and image digest."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.cache.file_lock import is_held
from featcache.cache.layout import PARTIAL_SUFFIX, Status, TapLayout
from featcache.cache.reader import Reader, open_cache
from featcache.core.texts import NOT_FOUND, FixedTexts, index_of
from featcache.errors import CacheError

_LOG = logging.getLogger(__name__)


class RowFinder:
    """Rows that need not be computed, and where they are; made by `find_rows`.

    Attributes:
        found: (n,) bool, True where every tap of a row is, with status ok, in a verified block.
        shapes: tap name -> (h, w, c) or (c,), as the caches have them; empty unless all taps are known.
    """

    def __init__(self, places: Mapping[str, "_TapRows"], count: int) -> None:
        self._places = places
        self.found: npt.NDArray[np.bool_] = np.zeros(count, dtype=bool)
        self.shapes = {name: place.shape for name, place in places.items() if place.shape is not None}
        if len(self.shapes) == len(places):
            self.found = np.logical_and.reduce([place.found for place in places.values()])
        else:
            self.shapes = {}

    def copy(self, indices: npt.NDArray[np.integer]) -> dict[str, npt.NDArray[np.float16]]:
        """Return the features of k found rows, tap name -> (k, h, w, c) or (k, c) float16.

        Raises:
            ValueError: a row was not found.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        missing = wanted[~self.found[wanted]]
        if len(missing):
            raise ValueError(
                f"row={missing[0]} was not found, nor were {len(missing) - 1} others: they can't be copied"
            )
        return {name: place.gather(wanted) for name, place in self._places.items()}


def find_rows(
    folder: Path, tap_keys: Mapping[str, str], digests: Sequence[str], others: Sequence[Path] = ()
) -> RowFinder:
    """Look for n rows in every published cache of a folder, or of `others`, and in what is durable of partials that nobody writes.

    A row is taken only from a block whose bytes match their checksum, so nothing damaged is copied on. A cache that
    can't be read is skipped with a logged warning. Features stay on the disk until `RowFinder.copy`.

    Args:
        folder: where the caches are; it need not exist.
        tap_keys: tap name -> row settings key, at least one; a tap is the same where the key is, whatever its name.
        digests: n content digests; "" is never found.
        others: more folders to look into.

    Example:
        >>> reader = open_cache("train.h5")
        >>> finder = find_rows(Path(), {"block5_pool": reader.taps["block5_pool"].key}, [reader.digests[2], "0" * 64])
        >>> finder.found.tolist()
        [True, False]
        >>> finder.copy(np.array([0]))["block5_pool"].shape
        (1, 2, 2, 3)
    """
    places = {name: _TapRows(key, len(digests)) for name, key in tap_keys.items()}
    for reader in (reader for each in (folder, *others) for reader in _readers(each)):
        try:
            _look_into(reader, digests, list(places.values()))
        except CacheError as error:
            _LOG.warning("not reused: %s", error)
    return RowFinder(places, len(digests))


class _TapRows:
    """Where one tap's rows are: for each wanted row a source and a row in it."""

    def __init__(self, key: str, count: int) -> None:
        self.key = key
        self.shape: tuple[int, ...] | None = None
        self.found: npt.NDArray[np.bool_] = np.zeros(count, bool)
        self._source = self._row = np.empty(0, np.int32)  # made when a cache with the tap is found
        self._sources: list[npt.NDArray[np.float16]] = []

    def tap_in(self, reader: Reader) -> TapLayout | None:
        """Return this tap as `reader` has it; of equal keys with unequal shapes the first seen counts."""
        taps = (tap for tap in reader.taps.values() if tap.key == self.key and self.shape in (None, tap.shape))
        return next(taps, None)

    def take(self, reader: Reader, tap: TapLayout, rows: npt.NDArray[np.int64]) -> None:
        """Note which of the (n,) `rows` of `reader` are new."""
        self.shape = tap.shape
        mine = (rows != NOT_FOUND) & ~self.found
        if not mine.any():
            return
        if not self._sources:
            self._source, self._row = np.zeros(len(rows), np.int32), np.zeros(len(rows), np.int32)
        self._source[mine], self._row[mine] = len(self._sources), rows[mine]
        self.found |= mine
        self._sources.append(reader[tap.name])

    def gather(self, wanted: npt.NDArray[np.int64]) -> npt.NDArray[np.float16]:
        """Return the features of k rows that were found."""
        features = np.empty((len(wanted), *(self.shape or ())), dtype=np.float16)
        sources, rows = self._source[wanted], self._row[wanted]
        for source in np.unique(sources).tolist():
            mine = sources == source
            features[mine] = self._sources[source][rows[mine]]
        return features


def _look_into(reader: Reader, digests: Sequence[str], places: Sequence[_TapRows]) -> None:
    """Note which rows of `reader` hold wanted digests that some tap still lacks, in blocks that are as they were written."""
    shared = [(place, tap) for place in places if (tap := place.tap_in(reader)) is not None]
    if not shared:
        return
    rows = rows_of_digests(reader, digests)
    rows[np.logical_and.reduce([place.found for place, _ in shared])] = NOT_FOUND
    hits = np.flatnonzero(rows != NOT_FOUND)
    sound = reader.verified_rows(rows[hits])
    if not sound.all() and reader.complete:
        _LOG.warning("%s: %d rows lie in damaged blocks and are computed again", reader.path, int((~sound).sum()))
    rows[hits[~sound]] = NOT_FOUND
    for place, tap in shared:
        place.take(reader, tap, rows)


def rows_of_digests(reader: Reader, digests: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return (n,) the row of each of n digests in a cache, -1 where there is none, or it was not written or rejected."""
    column = reader.digest_column
    rows = index_of(digests, FixedTexts(column))
    found = np.flatnonzero(rows != NOT_FOUND)
    there = rows[found]
    usable = (reader.stored_status[there] == Status.OK) & (column[there] != b"")
    rows[found[~usable]] = NOT_FOUND
    return rows


def _readers(folder: Path) -> Iterator[Reader]:
    for path in sorted(folder.glob("[!.]*.h5"), key=lambda path: (path.name.endswith(PARTIAL_SUFFIX), path.name)):
        partial = path.name.endswith(PARTIAL_SUFFIX)
        try:
            if not partial or not is_held(path):
                yield open_cache(path, partial=partial)
        except (CacheError, OSError) as error:
            _LOG.warning("not reused: %s", error)

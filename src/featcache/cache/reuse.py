"""Finding rows that some cache of a folder already holds, by tap key and image digest."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.cache.layout import PARTIAL_SUFFIX, Status, TapLayout, text_column
from featcache.cache.lock import is_held
from featcache.cache.reader import Reader, open_cache
from featcache.errors import CacheError

_LOG = logging.getLogger(__name__)
_NOWHERE = -1
_WORDS = 8  # 64 hexadecimal digits are eight 8-byte words
_ODD = np.uint64(0x9E3779B97F4A7C15)


class RowFinder:
    """Rows that need not be computed, and where they are; made by `find_rows`.

    Attributes:
        found: (n,) bool, True where every tap of a row stands, with status ok, in a verified block.
    """

    def __init__(
        self,
        taps: tuple[TapLayout, ...],
        sources: list[tuple[Reader, str]],
        source_of: Mapping[str, npt.NDArray[np.int32]],
        row_of: Mapping[str, npt.NDArray[np.int64]],
    ) -> None:
        self._taps, self._sources, self._source_of, self._row_of = taps, sources, source_of, row_of
        self.found: npt.NDArray[np.bool_] = np.all([source_of[tap.name] != _NOWHERE for tap in taps], axis=0)

    def copy(self, indices: npt.NDArray[np.integer]) -> dict[str, npt.NDArray[np.float16]]:
        """Return the features of k found rows, tap name -> (k, h, w, c) or (k, c) float16.

        Raises:
            ValueError: a row was not found.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        if not self.found[wanted].all():
            missing = wanted[~self.found[wanted]]
            raise ValueError(
                f"expected rows that were found; got {len(missing)} that were not, the first is row={missing[0]}"
            )
        return {tap.name: self._gather(tap, wanted) for tap in self._taps}

    def _gather(self, tap: TapLayout, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.float16]:
        features = np.empty((len(indices), *tap.shape), dtype=np.float16)
        sources, rows = self._source_of[tap.name][indices], self._row_of[tap.name][indices]
        for source in np.unique(sources).tolist():
            reader, name = self._sources[source]
            mine = sources == source
            features[mine] = reader[name][rows[mine]]
        return features


def find_rows(folder: Path, taps: tuple[TapLayout, ...], digests: Sequence[str]) -> RowFinder:
    """Look for n rows in every published cache of a folder, and in what is durable of partials that nobody writes.

    A row is taken only from a block whose bytes match their checksum, so nothing damaged is copied on. A cache that
    can't be read is skipped with a logged warning. Features stay on the disk until `RowFinder.copy`.

    Args:
        folder: where the caches are; it need not exist.
        taps: what each row needs; a tap is the same where key and shape are, whatever its name.
        digests: n content digests; "" is never found.
    """
    wanted = _Wanted(digests)
    source_of = {tap.name: np.full(len(digests), _NOWHERE, dtype=np.int32) for tap in taps}
    row_of = {tap.name: np.zeros(len(digests), dtype=np.int64) for tap in taps}
    sources: list[tuple[Reader, str]] = []
    for reader in _readers(folder):
        names = {(tap.key, tap.shape): tap.name for tap in reader.taps.values()}
        shared = [tap for tap in taps if (tap.key, tap.shape) in names]
        lacking = [tap for tap in shared if (source_of[tap.name] == _NOWHERE).any()]
        if not lacking:
            continue
        try:
            rows = _standing(reader, wanted, np.logical_or.reduce([source_of[tap.name] == _NOWHERE for tap in lacking]))
        except CacheError as error:
            _LOG.warning("not reused: %s", error)
            continue
        for tap in lacking:
            mine = (rows != _NOWHERE) & (source_of[tap.name] == _NOWHERE)
            if mine.any():
                source_of[tap.name][mine], row_of[tap.name][mine] = len(sources), rows[mine]
                sources.append((reader, names[tap.key, tap.shape]))
    return RowFinder(taps, sources, source_of, row_of)


class _Wanted:
    """Digests in an order in which another file's digests can be looked up without a Python object a row."""

    def __init__(self, digests: Sequence[str]) -> None:
        self.column = text_column(digests, width=64)
        self.hashes = _hashes(self.column)
        self.readable = self.column != b""

    def rows_in(self, column: npt.NDArray[np.bytes_], usable: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """Return (n,) positions of each wanted digest among the usable ones of `column`, -1 where it isn't there."""
        candidates = np.flatnonzero(usable)
        rows = np.full(len(self.column), _NOWHERE, dtype=np.int64)
        if not len(candidates) or not len(rows):
            return rows
        hashes = _hashes(np.asarray(column)[candidates])
        order = np.argsort(hashes, kind="stable")
        at = np.minimum(np.searchsorted(hashes, self.hashes, sorter=order), len(order) - 1)
        guesses = candidates[order[at]]
        # hashes only narrow the search; of two digests with one hash the second is computed again, never mistaken
        same = (np.asarray(column)[guesses] == self.column) & self.readable
        rows[same] = guesses[same]
        return rows


def _standing(reader: Reader, wanted: _Wanted, lacking: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return (n,) rows of `reader` that hold the lacking wanted digests, verified, -1 elsewhere."""
    usable = np.asarray(reader.stored_status) == Status.OK
    rows = np.where(lacking, wanted.rows_in(reader.digest_column, usable), _NOWHERE)
    hits = np.flatnonzero(rows != _NOWHERE)
    sound = reader.verified_rows(rows[hits])
    if not sound.all() and reader.complete:
        _LOG.warning("%s: %d rows lie in damaged blocks and are computed again", reader.path, int((~sound).sum()))
    rows[hits[~sound]] = _NOWHERE
    return rows


def _readers(folder: Path) -> Iterator[Reader]:
    paths = sorted(folder.glob("*.h5"), key=lambda path: (path.name.endswith(PARTIAL_SUFFIX), path.name))
    for path in paths:
        if path.name.startswith("."):
            continue
        try:
            if not path.name.endswith(PARTIAL_SUFFIX):
                yield open_cache(path)
            elif not is_held(path):
                yield open_cache(path, partial=True)
        except (CacheError, OSError) as error:
            _LOG.warning("not reused: %s", error)


def _hashes(column: npt.NDArray[np.bytes_]) -> npt.NDArray[np.uint64]:
    """Return (k,) 64-bit hashes of S64 texts; wrapping multiplication is what mixes them."""
    words = np.ascontiguousarray(column, dtype="S64").view(np.uint64).reshape(-1, _WORDS)
    mixed = np.zeros(len(words), dtype=np.uint64)
    for word in range(_WORDS):
        mixed = (mixed ^ words[:, word]) * _ODD
        mixed ^= mixed >> np.uint64(29)
    return mixed

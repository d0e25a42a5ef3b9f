"""Caches whose bytes are those that were written: what is trained on or handed on is held to its checksums first."""

from pathlib import Path

from featcache.cache.reader import Reader, open_cache
from featcache.errors import CacheFormatError


def checked_cache(path: Path) -> Reader:
    """Open a finished cache all of whose blocks match their checksums.

    Raises:
        CacheError: it isn't one; the message says what to do.
    """
    reader = open_cache(path)
    if not reader.durable.all():
        count = int((~reader.durable).sum())
        raise CacheFormatError(
            f"{path}: expected blocks that match their checksums; {count} rows are in damaged ones: run featcache repair {path}"
        )
    return reader

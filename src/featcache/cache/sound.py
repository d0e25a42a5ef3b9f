"""Caches whose bytes are those that were written: what is trained on or handed on is held to its checksums first."""

from pathlib import Path

from featcache.cache.reader import Reader, open_cache
from featcache.core.disk import settled
from featcache.errors import CacheFormatError

# Files that this process has read and found sound: each bag asks for those of all taps.
_SOUND: set[tuple[int, ...]] = set()


def checked_cache(path: Path) -> Reader:
    """Open a finished cache all of whose blocks match their checksums; a process reads a file once for that.

    Raises:
        CacheError: it isn't one; the message says what to do.
    """
    before = _seen(path)
    reader = open_cache(path)
    seen = before if before == _seen(path) else None  # else another file was put there meanwhile
    if seen is not None and seen in _SOUND:
        return reader
    if not reader.durable.all():
        count = int((~reader.durable).sum())
        raise CacheFormatError(
            f"{path}: expected blocks that match their checksums; {count} rows are in damaged ones: run featcache repair {path}"
        )
    if seen is not None:
        _SOUND.add(seen)
    return reader


def _seen(path: Path) -> tuple[int, ...] | None:
    try:
        return settled(path.stat())
    except OSError:
        return None

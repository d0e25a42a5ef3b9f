"""The faults of one feature cache, each with its cause."""

from collections.abc import Callable, Iterator
from pathlib import Path

from featcache.cache import check_cache
from featcache.inspection.verify.faults import FILE, Fault, reading_fault


def cache_faults(path: Path, alive: Callable[[str], None]) -> Iterator[Fault]:
    """Yield every fault of a published or unfinished feature cache; `alive` is called with what is read next."""
    for found in check_cache(path):
        cause = FILE if found.error is None else reading_fault(path, found.error).cause
        yield Fault(cause, found.message, found.block)

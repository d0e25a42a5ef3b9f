"""Frozen backbone features cached in HDF5, small heads trained on the cache, ensembles of heads."""

from typing import TYPE_CHECKING

from featcache._version import __version__
from featcache.errors import FeatcacheError

if TYPE_CHECKING:
    from featcache.cache import open_cache as open  # noqa: A004 - `featcache.open` is the point

__all__ = ["FeatcacheError", "__version__", "open"]


def __getattr__(name: str) -> object:
    """Import h5py only when a cache is opened; Luigi imports this package on every run."""
    if name == "open":
        from featcache.cache import open_cache

        return open_cache
    raise AttributeError(f"module 'featcache' has no attribute {name!r}")

"""Frozen backbone features cached in HDF5, small heads trained on the cache, ensembles of heads."""

from featcache._version import __version__
from featcache.errors import FeatcacheError

__all__ = ["FeatcacheError", "__version__"]

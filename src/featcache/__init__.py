"""Frozen backbone features cached in HDF5, small heads trained on the cache, ensembles of heads.

    project = featcache.fit("PHOTOS")     # everything, as `luigi --module pipeline Submit`
    project.predict("new photos")         # a pandas frame
    project.report()                      # one page about the run

`featcache.load_project` opens what was run before, `featcache.encode` gives features of any images, `featcache.open` a
feature cache. ``help(featcache.fit)`` and so on have examples.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from featcache._version import __version__
from featcache.errors import FeatcacheError

if TYPE_CHECKING:
    from featcache.api import FittedProject, encode, fit, load_project
    from featcache.cache import Reader, open_cache as open  # noqa: A004 - `featcache.open` is the point

__all__ = ["FeatcacheError", "FittedProject", "Reader", "__version__", "encode", "fit", "load_project", "open"]


def __getattr__(name: str) -> object:
    """Import what a name needs when it is asked for; Luigi imports this package on every run."""
    if name not in __all__:
        raise AttributeError(f"module 'featcache' has no attribute {name!r}")
    package, attribute = ("cache", "open_cache") if name == "open" else ("cache" if name == "Reader" else "api", name)
    return getattr(import_module(f"featcache.{package}"), attribute)


def __dir__() -> list[str]:
    """The public names alone, whatever else was imported."""
    return sorted(__all__)

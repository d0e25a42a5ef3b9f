"""What the `featcache` commands show of a project and of cache files: a record and lines each."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

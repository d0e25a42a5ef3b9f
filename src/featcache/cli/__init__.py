"""The `featcache` commands: each parses its arguments, calls the library and prints lines."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""featcache in Python: a project from settings to predictions, and features of any images; `featcache` itself exports it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

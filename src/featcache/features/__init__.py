"""The frozen backbone and the extraction of its features into caches. Knows nothing of heads or projects."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""Choosing and combining members, and the submission file. Knows nothing of caches or projects."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

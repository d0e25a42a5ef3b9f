"""Where images come from: sources, the manifest of their rows, decoding, augmentation. Knows nothing of caches or models."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

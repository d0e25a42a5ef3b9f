"""The settings as text, section by section, and the specs made of them. Knows nothing of caches or Keras."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

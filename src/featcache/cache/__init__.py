"""The feature cache file: its layout, writer, reader and reuse. Knows nothing of sources, Keras or Luigi."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

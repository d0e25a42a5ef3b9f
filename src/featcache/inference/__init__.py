"""The trained ensemble in use: predictions for new images, and its export as one Keras model."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

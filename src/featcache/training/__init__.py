"""What is trained on cached features and on images: heads and convnets, folds, predictions, metrics."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

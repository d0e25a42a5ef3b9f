"""Heads and convnets, folds, predictions and metrics. Knows nothing of the ensemble."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""A project: its settings, where its artifacts are, and which keys they carry. Knows nothing of stages or screens."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

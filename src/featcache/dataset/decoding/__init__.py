"""From a file's bytes to RGB pixels. Loaded at the first image: where Luigi schedules, nothing needs Pillow."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""Pillow as it is by itself, whatever other code in the process has set in its modules.

A notebook that once set ``ImageFile.LOAD_TRUNCATED_IMAGES`` would otherwise put half images into a cache.
"""

import logging
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from types import ModuleType

from PIL import AvifImagePlugin, GifImagePlugin, Image, ImageFile, PngImagePlugin, TiffImagePlugin

from featcache.dataset.decoding.versions import MAX_PIXELS

_DEFAULTS: tuple[tuple[ModuleType, str, object], ...] = (
    (ImageFile, "LOAD_TRUNCATED_IMAGES", False),
    (Image, "MAX_IMAGE_PIXELS", MAX_PIXELS // 2),
    (TiffImagePlugin, "READ_LIBTIFF", False),
    (GifImagePlugin, "LOADING_STRATEGY", GifImagePlugin.LoadingStrategy.RGB_AFTER_FIRST),
    (PngImagePlugin, "MAX_TEXT_CHUNK", 1 << 20),
    (PngImagePlugin, "MAX_TEXT_MEMORY", 64 << 20),
    (AvifImagePlugin, "DECODE_CODEC_CHOICE", "auto"),
)
# Whatever Pillow's readers are known to raise at damaged bytes; MemoryError is not the image's fault.
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RuntimeError,
    AssertionError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
# Warnings of Pillow about odd metadata in photos are of no use to the user, and `catch_warnings` isn't
# thread-safe. What matters comes as an exception.
warnings.filterwarnings("ignore", module=r"PIL\.|pillow_heif")
logging.getLogger("PIL").addHandler(logging.NullHandler())  # without any handler Python prints errors on stderr

_LOCK = threading.Lock()
_FOUND: list[tuple[ModuleType, str, object]] = []
_USERS = 0


@contextmanager
def as_it_came() -> Iterator[None]:
    """Put Pillow's global settings back to their defaults for as long as any thread is inside, then as they were found."""
    global _USERS
    with _LOCK:
        _USERS += 1
        for module, name, value in _DEFAULTS:
            found = getattr(module, name)
            if found != value:
                _FOUND.append((module, name, found))
                setattr(module, name, value)
    try:
        yield
    finally:
        with _LOCK:
            _USERS -= 1
            while not _USERS and _FOUND:
                setattr(*_FOUND.pop())


def image_sides(content: bytes) -> tuple[int, int] | None:
    """Return the (width, height) in pixels that an image's header gives, None where Pillow knows no such image."""
    try:
        with as_it_came(), Image.open(BytesIO(content)) as image:
            return image.size
    except DAMAGE:
        return None

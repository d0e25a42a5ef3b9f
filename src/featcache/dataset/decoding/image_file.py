"""An image file's bytes opened by the right one of Pillow's readers, or the reason why not; pixels are still to be loaded.

Reasons enter the keys of splits, and so of feature caches: their wording must not change.
"""

import io
from collections.abc import Callable

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from featcache.dataset.decoding import png, tiff
from featcache.dataset.decoding.pillow import DAMAGE, as_it_came
from featcache.dataset.decoding.signatures import box_format, what_it_is
from featcache.dataset.decoding.versions import MAX_PIXELS
from featcache.errors import RejectedImageError

_KNOWN = "JPEG, PNG, GIF, BMP, WEBP, TIFF, AVIF or HEIC"
_LONGEST = 200  # characters of a message of Pillow
_Opener = Callable[[bytes, list[str]], Image.Image]


@as_it_came()
def decoding_rules(content: bytes) -> list[str]:
    """Return the rules for kinds of images that were decoded differently, or not at all, when decoding was new; [] for most.

    Their names enter digests, and so caches: a name stays as long as what it does, and another rule gets another name.
    """
    if content.startswith(png.START):
        return png.rules(content)
    if content.startswith(tiff.STARTS):
        return tiff.rules(content)
    return [found] if (found := box_format(content)) else []


def opened(content: bytes, rules: list[str]) -> Image.Image:
    """Open an image file as far as its header goes, by its `decoding_rules`; a `RejectedImageError` says why it can't be."""
    if not content:
        raise RejectedImageError("the file is empty (0 bytes)")
    name, opener = _reader(content)
    try:
        image = opener(content, rules)
        width, height = image.size
    except Image.DecompressionBombError as error:  # the WebP reader's own guard
        raise RejectedImageError(f"possible decompression bomb: more than {MAX_PIXELS:,} pixels") from error
    except DAMAGE as error:
        fault = f"the {name} header is damaged, cut off or of a kind that isn't read"
        raise RejectedImageError(f"{fault}: {one_line(error)}") from error
    if min(width, height) < 1:
        raise RejectedImageError(f"an image of {width}x{height} pixels has none")
    if width * height > MAX_PIXELS:
        raise RejectedImageError(f"possible decompression bomb: {width}x{height} pixels, more than {MAX_PIXELS:,}")
    return image


def one_line(error: BaseException) -> str:
    """Return an exception's message in one line of bounded length."""
    return " ".join(str(error).split())[:_LONGEST] or type(error).__name__


def _reader(content: bytes) -> tuple[str, _Opener]:
    # Not by Image.open, which judges the size by a global setting and drops what is wrong with a header.
    start = content[:12]
    for name, magic, opener in _OPENERS:
        if start.startswith(magic):
            return name, opener
    if start.startswith(b"RIFF") and start[8:] == b"WEBP":
        return "WEBP", lambda content, _: WebPImagePlugin.WebPImageFile(io.BytesIO(content))
    if form := box_format(content):
        return form, _open_heic if form == "HEIC" else _open_avif
    what = what_it_is(content)
    unknown = f": its first bytes are not those of {_KNOWN}"
    raise RejectedImageError(f"not an image{f' but {what}' if what else unknown}")


def _open_png(content: bytes, rules: list[str]) -> Image.Image:
    return PngImagePlugin.PngImageFile(io.BytesIO(png.without_texts(content) if png.LONG_TEXTS in rules else content))


def _open_avif(content: bytes, _: list[str]) -> Image.Image:
    if not AvifImagePlugin.SUPPORTED:
        fault = "an AVIF image, which this installation of Pillow doesn't read"
        raise RejectedImageError(f"{fault}: convert it to JPEG or PNG")
    return AvifImagePlugin.AvifImageFile(io.BytesIO(content))


def _open_heic(content: bytes, _: list[str]) -> Image.Image:
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        install = "pip install 'featcache[heif]', or convert it to JPEG or PNG"
        raise RejectedImageError(f"a HEIC image, which is read with pillow-heif: {install}") from error
    reader: Callable[[io.BytesIO], Image.Image] = HeifImageFile
    return reader(io.BytesIO(content))


_OPENERS: tuple[tuple[str, bytes | tuple[bytes, ...], _Opener], ...] = (
    ("JPEG", b"\xff\xd8\xff", lambda content, _: JpegImagePlugin.JpegImageFile(io.BytesIO(content))),
    ("PNG", png.START, _open_png),
    ("GIF", (b"GIF87a", b"GIF89a"), lambda content, _: GifImagePlugin.GifImageFile(io.BytesIO(content))),
    ("BMP", b"BM", lambda content, _: BmpImagePlugin.BmpImageFile(io.BytesIO(content))),
    ("TIFF", tiff.STARTS, tiff.open_tiff),
)

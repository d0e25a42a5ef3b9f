"""From a file's bytes or an array to the (size, size, 3) RGB that a backbone sees."""

import io
import struct
import warnings
import zlib

import numpy as np
import numpy.typing as npt
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from featcache.errors import RejectedImageError

DECODE_VERSION = 1  # raise it when the same bytes would give other pixels
MAX_PIXELS = 178_956_970  # where Pillow itself speaks of a decompression bomb: half a gigabyte of RGB
DECODE_SETTINGS: dict[str, object] = {
    "version": DECODE_VERSION,
    "decoder": "Pillow",
    "filter": "bicubic, antialiased",
    "fit": "stretch",
    "scaled_decode": "JPEG, smallest of 1/8, 1/4, 1/2 with both sides >= 2 x image_size",
    "exif_orientation": "applied",
    "alpha": "on white",
    "icc_profile": "ignored",
    "sixteen_bit": "grey: value / 257, rounded; colour: high byte",
    "frame": "first",
}

# What Pillow has to say about odd metadata in the user's photos is no news to the user, and `catch_warnings` isn't
# thread-safe. What matters comes as an exception.
warnings.filterwarnings("ignore", module=r"PIL\.")

_KNOWN = "JPEG, PNG, GIF, BMP, WEBP or TIFF"
_ORIENTATION = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Whatever Pillow's readers are known to raise at damaged bytes; MemoryError is not the image's fault.
_DAMAGE = (
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


def decode_rgb(content: bytes, size: int | None) -> npt.NDArray[np.uint8]:
    """Decode an image file and stretch it to a square.

    EXIF orientation is applied, transparency is laid on white, only the first frame counts, and every mode becomes
    RGB. A JPEG much larger than `size` is decoded at a fraction of its size.

    Args:
        content: the bytes of a JPEG, PNG, GIF, BMP, WEBP or TIFF file; its name doesn't matter.
        size: side of the result in pixels; None keeps height and width.

    Returns:
        (size, size, 3) uint8 RGB, 0 to 255.

    Raises:
        RejectedImageError: it is none of these formats, damaged, truncated, or larger than `MAX_PIXELS`.
    """
    image = _opened(content)
    try:
        if size is not None and isinstance(image, JpegImagePlugin.JpegImageFile):
            image.draft(None, (2 * size, 2 * size))  # None keeps the mode
        image.load()
    except _DAMAGE as error:
        raise RejectedImageError(f"damaged or truncated {image.format}: {_one_line(error)}") from error
    try:
        flat = _flattened(image)
        turn = _TRANSPOSE.get(_orientation(image))
        upright = flat if turn is None else flat.transpose(turn)
        return _resized(upright, size)
    except _DAMAGE as error:
        raise RejectedImageError(f"{image.format} of mode {image.mode} can't be used: {_one_line(error)}") from error


def resize_rgb(array: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Stretch an (h, w) grey or (h, w, 3) RGB uint8 array to (size, size, 3) uint8 RGB, bicubic and antialiased."""
    return _resized(Image.fromarray(np.ascontiguousarray(array)), size)


def header_fault(content: bytes) -> str:
    """Return why an image file can't be used as far as its header tells, or "" if it may be sound."""
    try:
        _opened(content)
    except RejectedImageError as error:
        return str(error)
    return ""


def _reader(content: bytes) -> type[ImageFile.ImageFile] | None:
    # Pillow's readers by hand: Image.open judges the size by a global setting and through a warning.
    start = content[:12]
    if start.startswith(b"\xff\xd8\xff"):
        return JpegImagePlugin.JpegImageFile
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImagePlugin.PngImageFile
    if start.startswith((b"GIF87a", b"GIF89a")):
        return GifImagePlugin.GifImageFile
    if start.startswith(b"BM"):
        return BmpImagePlugin.BmpImageFile
    if start.startswith(b"RIFF") and start[8:] == b"WEBP":
        return WebPImagePlugin.WebPImageFile
    if start.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return TiffImagePlugin.TiffImageFile
    return None


def _opened(content: bytes) -> Image.Image:
    if not content:
        raise RejectedImageError("the file is empty (0 bytes)")
    reader = _reader(content)
    if reader is None:
        raise RejectedImageError(f"not an image: its first bytes are not those of {_KNOWN}")
    try:
        image = reader(io.BytesIO(content))
        width, height = image.size
    except Image.DecompressionBombError as error:  # the WebP reader's own guard
        raise RejectedImageError(f"possible decompression bomb: more than {MAX_PIXELS:,} pixels") from error
    except _DAMAGE as error:
        name = reader.__name__.removesuffix("ImageFile").upper()
        raise RejectedImageError(f"the {name} header is damaged or cut off") from error
    if min(width, height) < 1:
        raise RejectedImageError(f"an image of {width}x{height} pixels has none")
    if width * height > MAX_PIXELS:
        claim = f"{width}x{height} pixels, more than {MAX_PIXELS:,}"
        raise RejectedImageError(f"possible decompression bomb: {claim}")
    return image


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except _DAMAGE:
        return 1  # pixels with a broken EXIF block beside them are sound pixels


def _flattened(image: Image.Image) -> Image.Image:
    # Mode L or RGB; grey stays one channel until it is resized, a third of the work.
    if image.mode.startswith("I;16"):
        return _eight_bits(image)
    if image.mode in ("I", "F"):
        raise ValueError("its pixels have no fixed range; save it with 8 or 16 bits a channel")
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        white = Image.new("RGBA", opaque.size, "white")
        return Image.alpha_composite(white, opaque).convert("RGB")
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    wide = np.asarray(image).astype(np.uint32)
    grey = ((wide + 128) // 257).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[wide == transparent] = 255
    return Image.fromarray(grey)


def _resized(image: Image.Image, size: int | None) -> npt.NDArray[np.uint8]:
    if size is not None and image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.array(image.convert("RGB"))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__

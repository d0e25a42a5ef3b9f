"""TIFF's many layouts: which are read as Pillow reads them, which differently, and which not at all."""

import ctypes
import io
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImagePalette, TiffImagePlugin, _imaging

from featcache.dataset.decoding.pillow import DAMAGE
from featcache.errors import RejectedImageError

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
TWELVE_BITS = "TIFF of 12 bits, 4095 is white"
WHITE_IS_ZERO = "TIFF of 16 bits, 0 is white"
DARK_PALETTE = "TIFF with a palette of 8 bits"
BY_LIBTIFF = "TIFF read by libtiff"
PREMULTIPLIED = "TIFF of grey with premultiplied alpha"
_SIGNED, _FLOAT = 2, 3
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_PHOTOMETRICS = {
    _WHITE_IS_ZERO: "grey, 0 is white",
    _BLACK_IS_ZERO: "grey",
    _RGB: "RGB",
    _PALETTE: "palette",
    4: "mask",
    _CMYK: "CMYK",
    _YCBCR: "YCbCr",
    8: "CIE Lab",
    32803: "a sensor's raw values",
    34892: "a sensor's raw values",
}
_PREMULTIPLIED = 1  # of the tag ExtraSamples
_UNCOMPRESSED = 1
_SAVE = "save it as RGB or grey with 8 or 16 bits a channel"
# Pillow's words for a sound header of a kind that it doesn't know
_OF_A_KIND = ("unknown pixel mode", "Invalid value for samples per pixel")
_RAW, _OF_SIGNED, _ALPHA_APART = "TIFF of a camera", "TIFF of signed bytes", "TIFF with alpha in a plane apart"
_REFUSED = {
    _RAW: "TIFF that is a camera's raw file (DNG, NEF, CR2 or the like): develop it and save it as JPEG, PNG or TIFF",
    _OF_SIGNED: f"TIFF of signed values, whose black and white aren't known: {_SAVE}",
    _ALPHA_APART: f"TIFF with a plane of alpha apart from the grey or palette plane: {_SAVE}, pixel by pixel",
}


class _Layout(NamedTuple):
    photometric: int
    bits: tuple[int, ...]
    sample: int  # 1 unsigned, 2 signed, 3 float
    apart: bool  # a plane for each channel
    extra: tuple[int, ...]
    compression: int
    colours: tuple[int, ...]
    subsampling: tuple[int, ...] | None
    raw: bool


class _ByLibtiff(TiffImagePlugin.TiffImageFile):
    """A TIFF that libtiff reads even where Pillow would unpack it itself."""

    use_load_libtiff = property(lambda self: True, lambda self, value: None)


def rules(content: bytes) -> list[str]:
    """Return the rules by which a TIFF is decoded, or refused, that the first version of decoding got wrong; [] for most."""
    try:
        layout = _layout(content)
    except DAMAGE:  # opening it raises the same
        return []
    of_16 = layout.bits == (16,) and layout.sample == 1
    eights = set(layout.bits) == {8} and layout.extra in ((), (2,))
    planes = layout.apart and len(layout.bits) > 1 and not eights
    subsampled = layout.photometric == _YCBCR and (layout.apart or layout.subsampling not in (None, (1, 1)))
    found = {
        _RAW: layout.raw,
        _OF_SIGNED: layout.sample == _SIGNED and set(layout.bits) == {8},  # wider ones are refused by their mode
        _ALPHA_APART: layout.apart and len(layout.bits) == 2 and layout.extra in ((1,), (2,)),
        TWELVE_BITS: layout.bits == (12,),
        WHITE_IS_ZERO: of_16 and layout.photometric == _WHITE_IS_ZERO,
        DARK_PALETTE: layout.photometric == _PALETTE and 0 < max(layout.colours, default=0) < 256,
        BY_LIBTIFF: layout.compression == _UNCOMPRESSED and (planes or subsampled),
        PREMULTIPLIED: layout.photometric == _BLACK_IS_ZERO and layout.extra == (_PREMULTIPLIED,),
    }
    return [rule for rule, applies in found.items() if applies]


def open_tiff(content: bytes, applying: list[str]) -> Image.Image:
    """Open a TIFF by its `rules`; its pixels are still to be loaded.

    Raises:
        RejectedImageError: it is of a kind that isn't read.
        Exception: one of `DAMAGE`, at damaged bytes.
    """
    for rule in applying:
        if rule in _REFUSED:
            raise RejectedImageError(_REFUSED[rule])
    _silence()
    reader = _ByLibtiff if BY_LIBTIFF in applying else TiffImagePlugin.TiffImageFile
    try:
        image = reader(io.BytesIO(content))
    except SyntaxError as error:
        if reason := _unknown(content, str(error)):
            raise RejectedImageError(reason) from error
        raise
    if DARK_PALETTE in applying:
        image.palette = ImagePalette.raw("RGB;L", bytes(image.tag_v2[TiffImagePlugin.COLORMAP]))
    return image


def grey_levels(wide: npt.NDArray[np.uint32], applying: list[str]) -> npt.NDArray[np.uint8]:
    """Return 12- or 16-bit greys, (h, w) uint32 up to 4095 or 65535, as (h, w) uint8, 0 black and 255 white, rounded."""
    if TWELVE_BITS in applying:
        return ((wide * 255 + 2047) // 4095).astype(np.uint8)
    if WHITE_IS_ZERO in applying:
        wide = 65535 - wide
    return ((wide + 128) // 257).astype(np.uint8)


def _layout(content: bytes) -> _Layout:
    tags = _directory(content)

    def numbers(tag: int, default: Any = ()) -> tuple[int, ...]:
        value = tags.get(tag, default)
        return tuple(value) if isinstance(value, tuple) else (value,)

    channels = tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)
    bits = numbers(TiffImagePlugin.BITSPERSAMPLE, 1)
    thumbnail = tags.get(254, 0) & 1 and TiffImagePlugin.SUBIFD in tags
    return _Layout(
        photometric=tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0),
        bits=bits * min(channels, 16) if len(bits) == 1 else bits,
        sample=numbers(TiffImagePlugin.SAMPLEFORMAT, 1)[0],
        apart=tags.get(TiffImagePlugin.PLANAR_CONFIGURATION, 1) == 2,
        extra=numbers(TiffImagePlugin.EXTRASAMPLES),
        compression=tags.get(TiffImagePlugin.COMPRESSION, _UNCOMPRESSED),
        colours=numbers(TiffImagePlugin.COLORMAP),
        subsampling=numbers(TiffImagePlugin.YCBCRSUBSAMPLING) or None,
        raw=bool(50706 in tags or content[8:10] == b"CR" or thumbnail),
    )


def _directory(content: bytes) -> TiffImagePlugin.ImageFileDirectory_v2:
    """The tags of the first image."""
    tags = TiffImagePlugin.ImageFileDirectory_v2(content[: 16 if 43 in content[2:4] else 8])
    tags._tag_data_limit = len(content)
    stream = io.BytesIO(content)
    stream.seek(tags.next)
    tags.load(stream)
    return tags


def _unknown(content: bytes, words: str) -> str:
    """Why a TIFF with a sound header isn't read, by the error that Pillow raises; "" where the header isn't sound."""
    try:
        layout = _layout(content)
    except DAMAGE:
        return ""
    if layout.compression not in TiffImagePlugin.COMPRESSION_INFO:
        return f"TIFF with compression {layout.compression} isn't read: save it without compression, or with LZW or Deflate"
    if words not in _OF_A_KIND:
        return ""
    if layout.sample == _FLOAT:
        return "TIFF of float values: its pixels have no fixed range; save it with 8 or 16 bits a channel"
    kind = {1: "", _SIGNED: "signed "}.get(layout.sample, "odd ")
    photometric = _PHOTOMETRICS.get(layout.photometric, f"photometric interpretation {layout.photometric}")
    depth = " and ".join(map(str, sorted(set(layout.bits))))
    byte_order = "big-endian" if content.startswith(b"MM") else "little-endian"
    return f"TIFF of {len(layout.bits)} x {depth} {kind}bits ({photometric}, {byte_order}) isn't read: {_SAVE}"


@cache
def _silence() -> None:
    """Keep the lines that libtiff itself writes to stderr off the screen, where Pillow's libtiff can be reached."""
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(_imaging.__file__)
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            handler = getattr(library, name)
            handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            handler(None)

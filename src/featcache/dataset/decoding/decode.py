"""From a file's bytes or an array to the (size, size, 3) RGB that a backbone sees."""

import numpy as np
import numpy.typing as npt
from PIL import Image, JpegImagePlugin

from featcache.core import keys
from featcache.dataset.decoding import png, tiff
from featcache.dataset.decoding.image_file import decoding_rules, one_line, opened
from featcache.dataset.decoding.pillow import DAMAGE, as_it_came
from featcache.errors import RejectedImageError
from featcache.settings import CROP, PAD, STRETCH

BORDER = (124, 116, 104)
"""ImageNet's mean colour, of padded images' borders: to networks that subtract it, it is as nothing."""
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


def decode_rgb(
    content: bytes, size: int | None, rules: list[str] | None = None, fit: str = STRETCH
) -> npt.NDArray[np.uint8]:
    """Decode an image file and bring it to a square.

    EXIF orientation is applied, transparency is laid on white, only the first frame counts, and every mode becomes
    RGB. A JPEG much larger than `size` is decoded at a fraction of its size.

    Args:
        content: the bytes of a JPEG, PNG, GIF, BMP, WEBP, TIFF, AVIF or HEIC file.
        size: side of the result in pixels; None keeps height and width.
        rules: the image's `decoding_rules`, where the caller knows them already.
        fit: ``stretch``; ``crop`` to the largest centred square; or ``pad``: the whole image on a square of `BORDER`.

    Returns:
        (size, size, 3) uint8 RGB, 0 to 255.

    Raises:
        RejectedImageError: it is none of these formats, of a kind that isn't read, damaged, truncated, or larger than
            `featcache.dataset.decoding.versions.MAX_PIXELS`.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (40, 30), "red").save(file, "PNG")
        >>> pixels = decode_rgb(file.getvalue(), 8)
        >>> pixels.shape, pixels[0, 0].tolist()
        ((8, 8, 3), [255, 0, 0])
    """
    rules = decoding_rules(content) if rules is None else rules
    with as_it_came():
        image = opened(content, rules)
        try:
            if size is not None and isinstance(image, JpegImagePlugin.JpegImageFile):
                image.draft(None, (2 * size, 2 * size))  # None keeps the mode
            image.load()
            transparent = png.see_through(content, image) if png.TRANSPARENT in rules else None
        except DAMAGE as error:
            raise RejectedImageError(f"damaged or truncated {image.format}: {one_line(error)}") from error
        try:
            flat = _flattened(image, rules, transparent)
            turn = _TRANSPOSE.get(_orientation(image))
            return _resized(flat if turn is None else flat.transpose(turn), size, fit)
        except DAMAGE as error:
            raise RejectedImageError(f"{image.format} of mode {image.mode} can't be used: {one_line(error)}") from error


def resize_rgb(array: npt.NDArray[np.uint8], size: int, fit: str = STRETCH) -> npt.NDArray[np.uint8]:
    """Bring an (h, w) grey or (h, w, 3) RGB uint8 array to (size, size, 3) uint8 RGB, bicubic and antialiased.

    `fit` is as for `decode_rgb`.
    """
    return _resized(Image.fromarray(np.ascontiguousarray(array)), size, fit)


def header_fault(content: bytes, rules: list[str] | None = None) -> str:
    """Return why an image file can't be used, judging by its header, or "" if it may be sound."""
    rules = decoding_rules(content) if rules is None else rules
    try:
        with as_it_came():
            opened(content, rules)
    except RejectedImageError as error:
        return str(error)
    return ""


def image_digest(content: bytes, rules: list[str] | None = None) -> str:
    """Return the digest by which the rows of an image file are known: 64 hexadecimal digits.

    It is the SHA-256 of the bytes; of the bytes and the rules where a rule for its kind of image came later than
    `DECODE_VERSION`, as caches may hold other pixels, or none, under the digest of the bytes alone.
    """
    plain = keys.bytes_digest(content)
    rules = decoding_rules(content) if rules is None else rules
    return keys.digest([plain, *rules]) if rules else plain


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except DAMAGE:
        return 1  # pixels with a broken EXIF block beside them are sound pixels


def _flattened(image: Image.Image, rules: list[str], transparent: Image.Image | None) -> Image.Image:
    # Mode L or RGB; grey stays one channel until it is resized, a third of the work.
    if image.mode.startswith("I;16"):
        return _eight_bits(image, rules)
    if image.mode in ("I", "F"):
        raise ValueError("its pixels have no fixed range; save it with 8 or 16 bits a channel")
    if transparent is not None:
        return Image.composite(Image.new("RGB", image.size, "white"), image.convert("RGB"), transparent)
    if image.has_transparency_data:
        straight = image.convert("LA") if image.mode == "La" else image
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, straight.convert("RGBA")).convert("RGB")
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _eight_bits(image: Image.Image, rules: list[str]) -> Image.Image:
    wide = np.asarray(image).astype(np.uint32)
    grey = tiff.grey_levels(wide, rules)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[wide == transparent] = 255
    return Image.fromarray(grey)


def _resized(image: Image.Image, size: int | None, fit: str) -> npt.NDArray[np.uint8]:
    if size is None:
        return np.array(image.convert("RGB"))
    width, height = image.size
    if fit == CROP:
        side = min(image.size)
        left, top = (width - side) // 2, (height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    if fit != PAD:
        return _scaled(image, size, size)
    # scaled before it is padded: of a long strip the padded square might not fit into memory
    longest = max(image.size)
    width, height = (max(1, (2 * side * size + longest) // (2 * longest)) for side in image.size)
    left, top = (size - width) // 2, (size - height) // 2
    padded = np.full((size, size, 3), BORDER, np.uint8)
    padded[top : top + height, left : left + width] = _scaled(image, width, height)
    return padded


def _scaled(image: Image.Image, width: int, height: int) -> npt.NDArray[np.uint8]:
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))

"""How images are decoded, as keys of features and listings record it; for where Luigi schedules, without Pillow."""

from importlib.util import find_spec

MAX_PIXELS = 178_956_970  # where Pillow itself speaks of a decompression bomb: half a gigabyte of RGB
MOST_BYTES = 1 << 31  # of one image file: what is larger is no image, and would only fill the memory
DECODE_VERSION = 1  # raise it when all bytes would give other pixels; for one kind of image, see `decode.image_digest`
DECODE_SETTINGS: dict[str, object] = {
    "version": DECODE_VERSION,
    "decoder": "Pillow",
    "filter": "bicubic, antialiased",
    "fit": "stretch",  # or another [Features] image_fit
    "scaled_decode": "JPEG, smallest of 1/8, 1/4, 1/2 with both sides >= 2 x image_size",
    "exif_orientation": "applied",
    "alpha": "on white",
    "icc_profile": "ignored",
    "sixteen_bit": "grey: value / 257, rounded; colour: high byte",
    "frame": "first",
}


def optional_formats() -> list[str]:
    """Return the formats that are read here but not in every installation: elsewhere their rows are rejected."""
    needed = {"AVIF": "PIL._avif", "HEIC": "pillow_heif"}
    return [name for name, module in needed.items() if find_spec(module) is not None]

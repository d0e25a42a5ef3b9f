"""The headers of most JPEG files, looked at without Pillow, at a fifteenth of its time. What isn't plain is left to Pillow."""

from featcache.dataset.decoding.signatures import box_format
from featcache.dataset.decoding.versions import MAX_PIXELS

_START, _MARKER = b"\xff\xd8\xff", 0xFF
_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive
_TABLES, _SCAN = 0xDB, 0xDA
_SKIPPED = frozenset({0xC4, 0xDD, 0xFE})  # Huffman tables, restart interval, comment
_JFIF, _EXIF, _ADOBE, _PHOTOSHOP = 0xE0, 0xE1, 0xEE, 0xED
_APPS = frozenset(range(0xE0, 0xF0)) - {_PHOTOSHOP}
_LEAST = 16  # of an application's segment, so that whatever Pillow reads of it is there; of Adobe's it reads less
_TABLE_BYTES = 65  # a table's number and its values of 8 bits
_INCHES_OR_CENTIMETRES = (1, 2)


def is_plain(content: bytes) -> bool:
    """Whether it is a JPEG file whose header Pillow is known to find sound; False also where only Pillow can tell."""
    if not content.startswith(_START) or box_format(content):
        return False
    at, end, framed, exif, resolution = 2, len(content), False, False, False
    while at + 4 <= end and content[at] == _MARKER:
        marker, start = content[at + 1], at + 4
        length = content[at + 2] << 8 | content[at + 3]
        at += 2 + length
        if length < 2 or at > end:
            return False
        if marker in _SKIPPED:
            continue
        if marker == _SCAN:  # without a resolution, Pillow looks for it in Exif's
            return framed and (resolution or not exif)
        if marker == _TABLES:
            sound = (length - 2) % _TABLE_BYTES == 0 and max(content[start:at:_TABLE_BYTES], default=0) < 16
        elif marker in _FRAMES:
            sound = framed = not framed and _is_frame(content[start:at])
        else:
            sound = marker in _APPS and length >= _LEAST - 2 * (marker == _ADOBE)
            if marker == _JFIF and content.startswith(b"JFIF", start):
                resolution |= content[start + 7] in _INCHES_OR_CENTIMETRES
            exif |= marker == _EXIF and content.startswith(b"Exif\0\0", start)
        if not sound:
            return False
    return False


def _is_frame(segment: bytes) -> bool:
    if len(segment) < 6 or segment[0] != 8 or segment[5] not in (1, 3, 4) or len(segment) != 6 + 3 * segment[5]:
        return False
    return 1 <= int.from_bytes(segment[1:3], "big") * int.from_bytes(segment[3:5], "big") <= MAX_PIXELS

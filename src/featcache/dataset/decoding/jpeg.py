"""The headers of most JPEG files, looked at without Pillow, at a twentieth of its time. What isn't plain is left to Pillow."""

import struct

from featcache.dataset.decoding.versions import MAX_PIXELS

_START, _MARKER = b"\xff\xd8\xff", 0xFF
_SEGMENT = struct.Struct(">BBH")  # marker, kind, length
_FRAME = struct.Struct(">BHHB")  # bits, height, width, components
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
    if not content.startswith(_START) or content[4:8] == b"ftyp":  # an AVIF or HEIC image could begin like that
        return False
    try:
        return _is_plain(content)
    except struct.error:  # it is cut off
        return False


def _is_plain(content: bytes) -> bool:
    at, end, framed, exif, resolution, segment = 2, len(content), False, False, False, _SEGMENT.unpack_from
    while True:  # a million files have ten million segments
        marker, kind, length = segment(content, at)
        start, at = at + _SEGMENT.size, at + 2 + length
        if marker != _MARKER or length < 2 or at > end:
            return False
        if kind in _SKIPPED:
            continue
        if kind == _TABLES:
            sound = content[start] < 16 if length == 2 + _TABLE_BYTES else _are_tables(content[start:at])
        elif kind == _SCAN:  # without a resolution, Pillow looks for it in Exif's
            return framed and (resolution or not exif)
        elif kind in _FRAMES:
            bits, height, width, components = _FRAME.unpack_from(content, start)
            sound = framed = not framed and bits == 8 and components in (1, 3, 4) and length == 8 + 3 * components
            sound &= 1 <= height * width <= MAX_PIXELS
        else:
            sound = kind in _APPS and length >= _LEAST - 2 * (kind == _ADOBE)
            if kind == _JFIF and content.startswith(b"JFIF", start):
                resolution |= content[start + 7] in _INCHES_OR_CENTIMETRES
            exif |= kind == _EXIF and content.startswith(b"Exif\0\0", start)
        if not sound:
            return False


def _are_tables(segment: bytes) -> bool:
    """Whether it has whole tables of 8 bits, or none."""
    return len(segment) % _TABLE_BYTES == 0 and max(segment[::_TABLE_BYTES], default=0) < 16

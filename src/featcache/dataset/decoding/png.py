"""What Pillow doesn't read of a PNG as the specification has it: some transparent colours, and long texts beside the pixels."""

import io
import struct
import zlib
from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from PIL import Image, PngImagePlugin

START = b"\x89PNG\r\n\x1a\n"
TRANSPARENT = "PNG's transparent colour at the file's own depth"
LONG_TEXTS = "PNG without its long texts"
_LEVELS = {2: 85, 4: 17}  # bits of a grey value -> what one step of it is in 8 bits
_WRONG = frozenset({(2, 0), (4, 0), (16, 2)})  # bits and colour type, where Pillow makes another colour transparent
_TEXTS = frozenset({b"iCCP", b"tEXt", b"zTXt", b"iTXt"})
_MOST = 1 << 20  # bytes that Pillow unpacks of one text or profile
_MOST_ALL = 64 << 20  # and of all
_LEAST_PACKED = 1000  # zlib makes at most 1032 bytes of one
_LONG = 1 << 16


class _Chunk(NamedTuple):
    name: bytes
    start: int  # of its length, before the name
    end: int  # behind its checksum


def rules(content: bytes) -> list[str]:
    """Return the rules by which a PNG is decoded that the first version of decoding got wrong or refused."""
    if len(content) < 33:
        return []
    chunks = list(_chunks(content))
    transparent = (content[24], content[25]) in _WRONG and any(chunk.name == b"tRNS" for chunk in chunks)
    lengths = accumulate(_length(content, chunk) for chunk in chunks if chunk.name in _TEXTS)
    applying = {TRANSPARENT: transparent, LONG_TEXTS: any(length > _MOST_ALL for length in lengths)}
    return [rule for rule, applies in applying.items() if applies]


def without_texts(content: bytes) -> bytes:
    """Return the file without long colour profiles and texts, which no pixel depends on."""
    chunks = (chunk for chunk in _chunks(content) if chunk.name not in _TEXTS or _length(content, chunk) <= _LONG)
    return START + b"".join(content[chunk.start : chunk.end] for chunk in chunks)


def see_through(content: bytes, image: Image.Image) -> Image.Image:
    """Return where the transparent colour of a grey or RGB PNG is, as an image of mode 1; `image` was read of `content`."""
    colour, bits = image.info.pop("transparency"), content[24]
    if bits in _LEVELS:  # Pillow spreads the values, but not the colour, to 0 to 255
        same = np.asarray(image) == (colour & 2**bits - 1) * _LEVELS[bits]
    else:
        # Pillow keeps the high bytes alone; read as if the low bytes were the high ones, the file gives the others.
        other = PngImagePlugin.PngImageFile(io.BytesIO(without_texts(content)))
        other.tile = [tile._replace(args="RGB;16L") for tile in other.tile]
        other.load()
        high, low, wanted = np.asarray(image), np.asarray(other), np.array(colour)
        same = ((high == wanted >> 8) & (low == wanted & 255)).all(axis=-1)
    return Image.fromarray(same)


def _chunks(content: bytes) -> Iterator[_Chunk]:
    """Yield the chunks up to the last, or up to where the file is damaged or cut off, the rest as one."""
    at = len(START)
    while at < len(content):
        length, name = struct.unpack(">I4s", content[at : at + 8]) if at + 8 <= len(content) else (0, b"")
        end = at + 12 + length
        whole = name.isalpha() and end <= len(content) and name != b"IEND"
        yield _Chunk(name, at, end if whole else len(content))
        at = end if whole else len(content)


def _length(content: bytes, chunk: _Chunk) -> int:
    """The bytes of a text or profile, unpacked where it is packed; more than all may have for what Pillow refuses to unpack."""
    data = content[chunk.start + 8 : chunk.end - 4]
    packed = data.partition(b"\0")[2]
    if chunk.name == b"iTXt" and packed[:1] == b"\1":
        packed = packed[2:].split(b"\0", 2)[-1]
    elif chunk.name in (b"iCCP", b"zTXt"):
        packed = packed[1:]
    else:
        packed = b""
    if len(packed) < _LEAST_PACKED:
        return len(data)
    unpacker = zlib.decompressobj()
    try:
        unpacked = len(unpacker.decompress(packed, _MOST))
    except zlib.error:
        return len(data)
    return max(len(data), unpacked) + (_MOST_ALL if unpacker.unconsumed_tail else 0)

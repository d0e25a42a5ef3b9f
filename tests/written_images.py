"""PNG and TIFF files written value by value, without Pillow, so that what is read can be held to what was written."""

import itertools
import struct
import zlib

import numpy as np

PNG_START = b"\x89PNG\r\n\x1a\n"


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def packed(values, bits, order=">"):
    """Rows of (h, n) unsigned values as bytes: several to a byte up to 7 bits, 12-bit pairs, else in the byte order."""
    if bits in (8, 16, 32):
        return [row.astype(f"{order}u{bits // 8}").tobytes() for row in values]
    shifts = np.arange(bits - 1, -1, -1)
    return [np.packbits((row[:, None].astype(np.int64) >> shifts) & 1).tobytes() for row in values]


def png(values, colour, bits, *chunks, after=(), interlaced=False):
    """A PNG of (h, w, c) values with `chunks` ((name, data) pairs) before its pixels and `after` behind them."""
    height, width, _ = values.shape
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    adam7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    passes = adam7 if interlaced else [(0, 0, 1, 1)]
    parts = [values[y::down, x::right] for y, x, down, right in passes]
    rows = [row for part in parts if part.size for row in packed(part.reshape(len(part), -1), bits)]
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", data), *after, (b"IEND", b"")]
    return PNG_START + b"".join(itertools.starmap(chunk, parts))


def tiff(
    values, bits, photometric, *, order="<", sample=1, deflate=False, planar=False, tags=(), strip=None, kind=None
):
    """A TIFF of (h, w, c) values.

    Args:
        values: unsigned values, or of `kind`.
        bits: of each value.
        photometric: 0 white is zero, 1 black is zero, 2 RGB, 3 palette, 5 CMYK, 6 YCbCr, 8 CIE Lab.
        sample: 1 unsigned, 2 signed, 3 float.
        tags: more (number, type, values): type 3 is 16 bits, 4 is 32.
        strip: rows of a strip; None for all.
        kind: a NumPy dtype without byte order, where values aren't unsigned.
    """
    height, width, channels = values.shape
    planes = [values[:, :, [c]] for c in range(channels)] if planar else [values]
    strip = strip or height
    strips = []
    for plane in planes:
        rows = plane.reshape(height, -1)
        lines = [row.astype(order + kind).tobytes() for row in rows] if kind else packed(rows, bits, order)
        strips += [b"".join(lines[y : y + strip]) for y in range(0, height, strip)]
    if deflate:
        strips = [zlib.compress(data) for data in strips]
    content = bytearray((b"II*\0" if order == "<" else b"MM\0*") + bytes(4))
    offsets = []
    for data in strips:
        offsets.append(len(content))
        content += data + bytes(len(data) % 2)
    entries = [
        (256, 4, [width]), (257, 4, [height]), (258, 3, [bits] * channels), (259, 3, [8 if deflate else 1]),
        (262, 3, [photometric]), (273, 4, offsets), (277, 3, [channels]), (278, 4, [strip]),
        (279, 4, [len(data) for data in strips]), (284, 3, [1 + planar]), (339, 3, [sample] * channels), *tags,
    ]  # fmt: skip
    directory, extra = b"", bytearray()
    entries.sort()
    after = len(content) + 2 + 12 * len(entries) + 4
    for number, form, numbers in entries:
        data = struct.pack(f"{order}{len(numbers)}{'H' if form == 3 else 'I'}", *numbers)
        if len(data) > 4:
            place, data = after + len(extra), data + bytes(len(data) % 2)
            extra += data
            data = struct.pack(f"{order}I", place)
        directory += struct.pack(f"{order}HHI", number, form, len(numbers)) + data.ljust(4, b"\0")
    content[4:8] = struct.pack(f"{order}I", len(content))
    return bytes(content + struct.pack(f"{order}H", len(entries)) + directory + bytes(4) + extra)

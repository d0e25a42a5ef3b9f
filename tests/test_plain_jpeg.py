"""`is_plain` may only say yes where Pillow finds nothing wrong with a JPEG's header, and must for the usual ones."""

import io
import random

import pytest
from PIL import Image

from featcache.dataset.decoding.decode import header_fault
from featcache.dataset.decoding.image_file import decoding_rules
from featcache.dataset.decoding.jpeg import is_plain


def segment(marker, data):
    return bytes([0xFF, marker]) + (len(data) + 2).to_bytes(2, "big") + data


def jpeg(mode="RGB", **how):
    file = io.BytesIO()
    Image.linear_gradient("L").resize((24, 17)).convert(mode).save(file, "JPEG", **how)
    return file.getvalue()


def with_segment(content, added, before=b"\xff\xdb"):
    at = content.index(before)
    return content[:at] + added + content[at:]


EXIF = segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0")
PLAIN = {
    "rgb": jpeg(),
    "grey": jpeg("L"),
    "cmyk": jpeg("CMYK"),
    "progressive": jpeg(progressive=True),
    "optimized": jpeg(optimize=True, quality=97),
    "one table": jpeg(qtables=[[1] * 64]),
    "resolution": jpeg(dpi=(72, 72)),
    "profile": jpeg(icc_profile=bytes(70_000)),
    "comment": jpeg(comment=b"of old"),
    "restarts": with_segment(jpeg(), segment(0xDD, b"\0\4")),
    "adobe": with_segment(jpeg(), segment(0xEE, b"Adobe\0\x64\0\0\0\0\1")),
    "exif beside a resolution": with_segment(jpeg(dpi=(72, 72)), EXIF),
    "xmp": with_segment(jpeg(), segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>")),
}
LEFT_TO_PILLOW = {
    "exif": with_segment(jpeg(), EXIF),
    "photoshop": with_segment(jpeg(), segment(0xED, b"Photoshop 3.0\0008BIM\4\4")),
    "short profile": with_segment(jpeg(), segment(0xE2, b"ICC_PROFILE\0\1")),
    "short JFIF": with_segment(jpeg(), segment(0xE0, b"JFIF")),
    "12 bits": jpeg().replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"),
    "no rows": jpeg().replace(b"\xff\xc0\0\x11\x08\0\x11", b"\xff\xc0\0\x11\x08\0\0"),
    "a bomb": jpeg().replace(b"\xff\xc0\0\x11\x08\0\x11\0\x18", b"\xff\xc0\0\x11\x08" + b"\xff" * 4),
    "table of 16 bits": with_segment(jpeg(), segment(0xDB, b"\x10" + bytes(128))),
    "cut table": with_segment(jpeg(), segment(0xDB, bytes(64))),
    "no frame": jpeg().replace(b"\xff\xc0", b"\xff\xfe"),
    "two frames": with_segment(jpeg(), segment(0xC0, b"\x08\0\x11\0\x18\1\1\x11\0")),
    "padding": with_segment(jpeg(), b"\xff"),
    "junk": with_segment(jpeg(), b"\0"),
    "cut off": jpeg()[:300],
    "two bytes": b"\xff\xd8",
    "PNG": b"\x89PNG\r\n\x1a\n",
    "empty": b"",
}


@pytest.mark.parametrize("content", PLAIN.values(), ids=PLAIN)
def test_usual_headers_need_no_pillow(content):
    assert is_plain(content)
    assert (header_fault(content), decoding_rules(content)) == ("", [])


@pytest.mark.parametrize("content", LEFT_TO_PILLOW.values(), ids=LEFT_TO_PILLOW)
def test_what_may_be_wrong_is_left_to_pillow(content):
    assert not is_plain(content)


def test_a_damaged_header_is_never_called_plain():
    draw, plain, faults = random.Random(3), 0, 0
    for content in PLAIN.values():
        end = content.index(b"\xff\xda") + 14
        for _ in range(150):
            damaged = bytearray(content[: draw.choice((end, end, draw.randrange(end)))])
            for _ in range(draw.randint(0, 3)):
                place = draw.randrange(max(len(damaged), 1))
                damaged[place : place + 1] = bytes(
                    [draw.choice((0, 1, 0x10, 0xC0, 0xDA, 0xE1, 0xFF, draw.randrange(256)))]
                )
            found = bytes(damaged)
            if is_plain(found):
                plain += 1
                assert (header_fault(found), decoding_rules(found)) == ("", []), found
            else:
                faults += 1
    assert min(plain, faults) > 300

"""Every depth, mode and layout of images: pixels as they were written, or a rejected row for a reason that helps."""

import builtins
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st
from images import encoded, make_folder, picture
from PIL import GifImagePlugin, Image, ImageFile, PngImagePlugin, TiffImagePlugin
from written_images import png, tiff

from featcache.core import keys
from featcache.dataset import decoding, digest_cache
from featcache.dataset.decoding import decode, versions
from featcache.dataset.decoding.decode import decode_rgb, header_fault, image_digest
from featcache.dataset.listing import build_manifest
from featcache.dataset.sources.source import open_source
from featcache.errors import RejectedImageError, SourceChangedError
from featcache.settings.specs import DatasetSpec

HELPS = ("save it ", "convert it ", "develop it ")


def random():
    return np.random.default_rng(5)  # the same for each test, whichever others run


def drawn(channels, bits, height=9, width=13):
    """(h, w, channels) values; the first pixel is all zeros, the second all ones."""
    values = random().integers(0, 2**bits, (height, width, channels))
    values[0, 0], values[0, 1] = 0, 2**bits - 1
    return values


def on_white(colour, alpha):
    """Colour and alpha, each 0..1, as 0..255 on white."""
    return 255 * (colour * alpha + 1 - alpha)


def assert_close(content, expected, tolerance):
    decoded = decode_rgb(content, None)
    assert decoded.dtype == np.uint8
    assert decoded.shape == (*expected.shape[:2], 3)
    assert np.abs(decoded - expected).max() <= tolerance
    assert header_fault(content) == ""


def assert_refused(content, words="."):
    with pytest.raises(RejectedImageError, match=words) as caught:
        decode_rgb(content, None)
    assert_reason(content, str(caught.value))
    assert any(words in str(caught.value) for words in HELPS), str(caught.value)


def assert_reason(content, reason):
    assert reason.isprintable()
    assert header_fault(content) in ("", reason)


# ---- TIFF

BOTH = pytest.mark.parametrize("deflate", [False, True])
ORDERS = pytest.mark.parametrize("order", ["<", ">"])


@BOTH
@ORDERS
@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8, 10, 12, 14, 16, 32])
@pytest.mark.parametrize("photometric", [0, 1, 2])
def test_tiff_depths(photometric, bits, order, deflate):
    values = drawn(3 if photometric == 2 else 1, bits)
    content = tiff(values, bits, photometric, order=order, deflate=deflate)
    read = {0: {1, 2, 4, 8}, 1: {1, 2, 4, 8, 16}, 2: {8, 16}}[photometric]
    if bits in read or (order == "<" and (photometric, bits) in {(0, 16), (1, 12)}):
        shown = 255 * values / (2**bits - 1)
        assert_close(content, 255 - shown if photometric == 0 else shown, 1)
    else:
        assert_refused(content, "bits a channel")


@BOTH
@ORDERS
@pytest.mark.parametrize("kind", ["i1", "i2", "i4", "f2", "f4", "f8"])
@pytest.mark.parametrize("photometric", [0, 1, 2])
def test_tiff_values_without_a_range_are_refused(photometric, kind, order, deflate):
    values = random().integers(0, 100, (5, 6, 3 if photometric == 2 else 1))
    form = 3 if kind[0] == "f" else 2
    bits = 8 * int(kind[1])
    assert_refused(tiff(values, bits, photometric, order=order, deflate=deflate, sample=form, kind=kind))


@BOTH
@ORDERS
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("extra", [0, 1, 2])
@pytest.mark.parametrize("photometric", [1, 2])
def test_tiff_alpha(photometric, extra, bits, apart, order, deflate):
    most, channels = 2**bits - 1, 3 if photometric == 2 else 1
    values = drawn(channels + 1, bits)
    if extra == 1:  # premultiplied: no colour above alpha
        values[..., :-1] = np.minimum(values[..., :-1], values[..., -1:])
    colour, alpha = values[..., :-1] / most, values[..., -1:] / most
    shown = 255 * colour if extra == 0 else 255 * (colour + 1 - alpha) if extra == 1 else on_white(colour, alpha)
    content = tiff(values, bits, photometric, order=order, deflate=deflate, planar=apart, tags=[(338, 3, [extra])])
    grey = photometric == 1 and (bits == 16 or (apart and extra))
    if grey and not (apart and not extra):
        assert_refused(content)
    else:
        assert_close(content, np.broadcast_to(shown, (*shown.shape[:2], channels)), 3)


@BOTH
@ORDERS
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
def test_tiff_colour_planes(bits, apart, order, deflate):
    options = {"order": order, "deflate": deflate, "planar": apart, "strip": 4}
    rgb, cmyk = drawn(3, bits), drawn(4, bits)
    assert_close(tiff(rgb, bits, 2, **options), 255 * rgb / (2**bits - 1), 1)
    ink = cmyk / (2**bits - 1)
    assert_close(tiff(cmyk, bits, 5, **options), 255 * (1 - ink[..., :3]) * (1 - ink[..., 3:]), 2)


@BOTH
@ORDERS
@pytest.mark.parametrize("shift", [0, 8])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_tiff_palette_of_eight_or_sixteen_bits(bits, shift, order, deflate):
    colours = random().integers(0, 256, (3, 2**bits))
    colours[0, 0] = 255
    tag = (320, 3, (colours << shift).ravel().tolist())
    values = drawn(1, bits)
    assert_close(tiff(values, bits, 3, order=order, deflate=deflate, tags=[tag]), colours.T[values[..., 0]], 0)


@BOTH
@pytest.mark.parametrize("apart", [False, True])
def test_tiff_ycbcr(apart, deflate):
    values = drawn(3, 8)
    values[..., 1:] = 128 + (values[..., 1:] - 128) // 4
    y, blue, red = values[..., 0], values[..., 1] - 128.0, values[..., 2] - 128.0
    rgb = np.stack([y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue], axis=-1)
    content = tiff(values, 8, 6, deflate=deflate, planar=apart, tags=[(530, 3, [1, 1])])
    assert_close(content, np.clip(rgb, 0, 255), 3)


@BOTH
def test_tiff_ycbcr_with_a_colour_for_four_pixels(deflate):
    height, width, luma = 6, 8, drawn(1, 8, 6, 8)[..., 0]
    blocks = luma.reshape(height // 2, 2, width // 2, 2).transpose(0, 2, 1, 3).reshape(height // 2, width // 2, 4)
    units = np.concatenate([blocks, np.full((height // 2, width // 2, 2), 128)], axis=-1)
    plain = tiff(units.reshape(height // 2, -1, 1), 8, 6, deflate=deflate, tags=[(530, 3, [2, 2])])
    content = bytearray(plain)
    for tag, value in ((256, width), (257, height), (278, height), (277, 3)):
        form = 4 if tag != 277 else 3
        place = content.index(struct.pack("<HHI", tag, form, 1)) + 8
        content[place : place + 4] = struct.pack("<I", value)
    assert_close(bytes(content), np.repeat(luma[..., None], 3, axis=2), 2)


def test_tiff_lab():
    grey = np.zeros((4, 12, 3), np.int64)
    grey[..., 0] = np.linspace(0, 255, 12).round()
    lightness = grey[..., :1] / 2.55
    light = np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness * 27 / 24389)
    shown = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert_close(tiff(grey, 8, 8), np.broadcast_to(255 * shown, grey.shape), 2)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("bits", "photometric", "apart"), [(12, 1, False), (16, 0, False), (16, 2, True)])
def test_tiff_orientation_holds_for_what_is_read_in_another_way(bits, photometric, apart, orientation):
    values = drawn(3 if photometric == 2 else 1, bits)
    shown = 255 * values / (2**bits - 1)
    shown = 255 - shown if photometric == 0 else shown
    turned = {2: "[:, ::-1]", 3: "[::-1, ::-1]", 4: "[::-1]", 5: ".transpose(1, 0, 2)"}
    turned |= {6: ".transpose(1, 0, 2)[:, ::-1]", 7: ".transpose(1, 0, 2)[::-1, ::-1]", 8: ".transpose(1, 0, 2)[::-1]"}
    expected = eval(f"shown{turned.get(orientation, '')}")  # noqa: S307 - a slice from the line above
    assert_close(tiff(values, bits, photometric, planar=apart, tags=[(274, 3, [orientation])]), expected, 1)


def test_tiff_that_is_a_raw_file_is_not_taken_for_its_thumbnail():
    content = tiff(drawn(3, 8), 8, 2, tags=[(254, 4, [1]), (330, 4, [8])])
    assert_refused(content, r"camera's raw file \(DNG, NEF, CR2 or the like\): develop it")
    assert_refused(tiff(drawn(3, 8), 8, 2, tags=[(50706, 3, [1, 4])]), "raw file")


def test_tiff_of_an_unknown_compression_says_so():
    content = tiff(drawn(1, 8), 8, 1)
    place = content.index(struct.pack("<HHII", 259, 3, 1, 1))
    assert_refused(
        content[: place + 8] + struct.pack("<I", 34713) + content[place + 12 :], "compression 34713 isn't read"
    )


# ---- PNG, GIF, WEBP

COLOURS = [(0, 1, bits) for bits in (1, 2, 4, 8, 16)] + [
    (c, n, b) for c, n in ((2, 3), (4, 2), (6, 4)) for b in (8, 16)
]


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("colour", "channels", "bits"), COLOURS)
def test_png_depths(colour, channels, bits, interlaced):
    values = drawn(channels, bits)
    shown = values / (2**bits - 1)
    shown = on_white(shown[..., :-1], shown[..., -1:]) if channels in (2, 4) else 255 * shown
    assert_close(png(values, colour, bits, interlaced=interlaced), shown, 3)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("colour", "channels", "bits"), [kind for kind in COLOURS if kind[0] in (0, 2)])
def test_png_transparent_colour_is_the_one_named_and_no_other(colour, channels, bits, interlaced):
    values = drawn(channels, bits)
    for y, x in ((0, 0), (0, 1), (4, 5)):  # black, white, another
        wanted = values[y, x]
        values[5, 5] = wanted
        values[5, 6] = wanted ^ 1  # differs in the lowest bit
        values[5, 7] = wanted[::-1] >> (bits // 2)
        chunk = (b"tRNS", struct.pack(f">{channels}H", *wanted))
        same = (values == wanted).all(axis=-1, keepdims=True)
        expected = np.where(same, 255, 255 * values / (2**bits - 1))
        assert_close(png(values, colour, bits, chunk, interlaced=interlaced), expected, 2)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_of_a_transparent_grey_only_the_bits_of_the_depth_count(bits):
    values = drawn(1, bits)
    expected = np.where(values == 2**bits - 1, 255, 255 * values / (2**bits - 1))
    expected[values == 1] = 255
    assert_close(png(values, 0, bits, (b"tRNS", struct.pack(">H", 2**bits * 3 + 1))), expected, 0)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_png_palette_with_alpha(bits):
    colours = random().integers(0, 256, (2**bits, 3))
    values = drawn(1, bits)
    for count in {1, 2 ** (bits - 1), 2**bits}:
        for given_alpha in (random().integers(0, 256, count), np.r_[[255] * (count - 1), 0], np.zeros(count, int)):
            alpha = np.full(2**bits, 255)
            alpha[:count] = given_alpha
            chunks = (b"PLTE", colours.astype("u1").tobytes()), (b"tRNS", given_alpha.astype("u1").tobytes())
            assert_close(
                png(values, 3, bits, *chunks), on_white(colours / 255, alpha[:, None] / 255)[values[..., 0]], 2
            )


def test_gif_and_webp_transparency():
    rgba = np.dstack([picture(), np.full((24, 32), 255, np.uint8)])
    rgba[:12, :, 3] = 0
    for form, options, tolerance in (("WEBP", {"lossless": True}, 0), ("GIF", {}, 12)):
        decoded = decode_rgb(encoded(rgba, form, **options), None).astype(int)
        assert decoded[:12].min() == 255
        assert abs(decoded[12:] - picture()[12:]).mean() <= tolerance


PACKED = zlib.compress(b"x" * (2 << 20))
TEXTS = {
    "profile": (b"iCCP", b"name\0\0" + PACKED),
    "packed text": (b"zTXt", b"name\0\0" + PACKED),
    "packed Unicode": (b"iTXt", b"name\0\1\0\0\0" + PACKED),
    "text": (b"tEXt", b"name\0" + b"y" * (65 << 20)),
}


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("text", TEXTS)
def test_png_with_long_texts_is_sound(text, before):
    values = drawn(3, 8)
    place = (TEXTS[text],) if before else ()
    assert_close(png(values, 2, 8, *place, after=() if before else (TEXTS[text],)), values, 0)


def test_png_orientation_stays_where_texts_are_left_out():
    exif = Image.Exif()
    exif[0x0112] = 6
    chunks = TEXTS["profile"], (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    values = drawn(3, 8)
    assert_close(png(values, 2, 8, *chunks), values.transpose(1, 0, 2)[:, ::-1], 0)


def test_png_with_a_long_profile_keeps_its_transparent_colour_and_the_orientation_in_a_short_text():
    values = drawn(3, 16)
    xmp = b"XML:com.adobe.xmp\0\0\0\0\0" + b'<x:xmpmeta><a tiff:Orientation="3"/></x:xmpmeta>'
    chunks = (b"iTXt", xmp), TEXTS["profile"], (b"tRNS", struct.pack(">3H", *values[4, 4]))
    expected = 255 * values / 65535
    expected[4, 4] = 255
    assert_close(png(values, 2, 16, *chunks), expected[::-1, ::-1], 2)


def test_a_bomb_beside_long_texts_is_still_one():
    content = bytearray(png(drawn(3, 8), 2, 8, TEXTS["profile"]))
    content[16:24] = struct.pack(">II", 40_000, 40_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    assert "possible decompression bomb" in header_fault(bytes(content))


# ---- AVIF and HEIC


def heic(image, **options):
    stream = io.BytesIO()
    pytest.importorskip("pillow_heif").from_pillow(image).save(stream, format="HEIF", quality=-1, **options)
    return stream.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
@pytest.mark.parametrize("form", ["AVIF", "HEIC"])
def test_avif_and_heic(form, mode):
    image = Image.fromarray(picture())
    if mode == "RGBA":
        image.putalpha(128)
    image = image.convert(mode)
    content = heic(image) if form == "HEIC" else encoded(image, "AVIF", quality=95)
    expected = np.asarray(image.convert("RGB")).astype(float)
    expected = expected * 128 / 255 + 127 if mode == "RGBA" else expected
    assert abs(decode_rgb(content, None) - expected).mean() < 6
    assert header_fault(content) == ""
    with pytest.raises(RejectedImageError):
        decode_rgb(content[: len(content) // 2], 8)


@pytest.mark.parametrize("form", ["AVIF", "HEIC"])
def test_avif_and_heic_are_turned_once(form):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(picture(16, 32))
    if form == "HEIC":
        pytest.importorskip("pillow_heif").register_heif_opener()
    content = encoded(image, {"HEIC": "HEIF"}.get(form, form), quality=95, exif=exif.tobytes())
    expected = picture(16, 32).transpose(1, 0, 2)[:, ::-1].astype(int)
    assert abs(decode_rgb(content, None) - expected).mean() < 6


@pytest.mark.parametrize("mode", ["RGB;16", "I;16"])
def test_heic_of_ten_bits(mode):
    heif = pytest.importorskip("pillow_heif")
    wide = np.zeros((32, 32, 3 if mode == "RGB;16" else 1), np.uint16)
    wide[:] = np.linspace(0, 65535, 32, dtype=np.uint16)[None, :, None]
    stream = io.BytesIO()
    heif.from_bytes(mode=mode, size=(32, 32), data=wide.tobytes()).save(stream, quality=95)
    assert_close(stream.getvalue(), np.broadcast_to(wide / 257, (32, 32, 3)), 3)


HEIC_START = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)


def test_heic_without_its_reader_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "pillow_heif":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    assert header_fault(HEIC_START) == (
        "a HEIC image, which is read with pillow-heif: pip install 'featcache[heif]', or convert it to JPEG or PNG"
    )


# ---- what isn't an image

NOT_IMAGES = {
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "an HTML page": b"\n<!DOCTYPE html><html><body>404</body></html>",
    "an HTML page, such": b"<html>not found</html>",
    "an SVG drawing": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "an XML or HTML": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "a JSON text": b'{"error": {"code": 404}}',
    "a text that begins with 'not found'": b"not found",
    "a PDF document": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3",
    "a Photoshop file": b"8BPS\0\1" + bytes(20),
    "a ZIP archive": b"PK\3\4\x14\0" + bytes(20),
    "gzip data": b"\x1f\x8b\x08\0",
    "a JPEG 2000 image": b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 ",
    "a JPEG XL image": b"\xff\x0a\xfa\x7f",
    "an MP4 or QuickTime video": b"\0\0\0\x20ftypisom\0\0\2\0isomiso2",
    "a camera's raw file (CR3)": b"\0\0\0\x18ftypcrx \0\0\0\1crx isom",
    "a Windows icon": b"\0\0\1\0\1\0\x10\x10",
    "a Netpbm image": b"P6\n4 4\n255\n" + bytes(48),
    "a DICOM file": bytes(128) + b"DICM" + bytes(9),
    "a tar archive": b"a.jpg".ljust(257, b"\0") + b"ustar\0",
    "an AVI video": b"RIFF\x24\0\0\0AVI LIST",
    "a NumPy array": b"\x93NUMPY\1\0",
    "50 zero bytes": bytes(50),
}


@pytest.mark.parametrize("what", NOT_IMAGES)
def test_what_is_no_image_is_named_with_a_fix(what):
    reason = header_fault(NOT_IMAGES[what])
    assert reason.startswith(f"not an image but {what}")
    assert ": " in reason
    with pytest.raises(RejectedImageError, match=r"^not an image but"):
        decode_rgb(NOT_IMAGES[what], 8)


def test_other_bytes_are_just_not_an_image():
    assert header_fault(b"\x80\x81\x82\x83" * 9).startswith("not an image: its first bytes are not those of JPEG")


@given(st.binary(max_size=300))
@example(b"")
@example(b"\xff\xfe<\0")
@example(b"[" * 3000)
def test_any_bytes_get_one_line(content):
    reason = header_fault(content)
    assert "\n" not in reason
    assert reason.isprintable()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF"])
def test_a_damaged_header_says_why(form):
    content = encoded(picture(), form)
    cut = content[: {"TIFF": 9, "BMP": 20, "GIF": 8}.get(form, 40)]
    assert len(header_fault(cut).rpartition("isn't read: ")[2]) > 3, header_fault(cut)


def test_images_that_cannot_be_read_are_rows_all_the_same(tmp_path):
    root = make_folder(tmp_path / "data")
    (root / "test").mkdir()
    names = ["1.heif", "2.jp2", "3.SVG", "4.psd", "5.NEF", "6.jxl", "7.dcm", "8.jpg"]
    for name in names:
        (root / "test" / name).write_bytes(b"8BPS" + bytes(9))
    (root / "test" / "notes.pdf").write_bytes(b"%PDF")
    test = build_manifest(DatasetSpec("x", "folder", root), tmp_path / "out").splits["test"]
    assert test.ids == names
    assert set(test.reasons) == {"not an image but a Photoshop file (PSD): export it as PNG"}


# ---- one image's digest, everybody else's keys

CHANGED = {
    "12 bits": tiff(drawn(1, 12), 12, 1),
    "white is zero": tiff(drawn(1, 16), 16, 0),
    "planes": tiff(drawn(3, 16), 16, 2, planar=True),
    "palette": tiff(drawn(1, 8), 8, 3, tags=[(320, 3, [200] * 768)]),
    "premultiplied": tiff(drawn(2, 8) | [0, 255], 8, 1, tags=[(338, 3, [1])]),
    "signed": tiff(drawn(1, 8), 8, 1, sample=2),
    "tRNS 2": png(drawn(1, 2), 0, 2, (b"tRNS", b"\0\1")),
    "tRNS 4": png(drawn(1, 4), 0, 4, (b"tRNS", b"\0\1")),
    "tRNS 16": png(drawn(3, 16), 2, 16, (b"tRNS", bytes(6))),
    "texts": png(drawn(3, 8), 2, 8, TEXTS["profile"]),
    "texts behind": png(drawn(3, 8), 2, 8, after=[TEXTS["packed text"]]),
    "AVIF": encoded(picture(), "AVIF"),
}
SAME = {form: encoded(picture(), form) for form in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")} | {
    "grey 16": encoded(Image.fromarray(np.zeros((3, 3), np.uint16))),
    "tRNS grey 16": png(drawn(1, 16), 0, 16, (b"tRNS", b"\1\2")),
    "tRNS RGB": png(drawn(3, 8), 2, 8, (b"tRNS", bytes(6))),
    "tRNS palette": png(drawn(1, 8), 3, 8, (b"PLTE", bytes(768)), (b"tRNS", b"\1\2")),
    "texts": png(drawn(3, 8), 2, 8, (b"zTXt", b"a\0\0" + zlib.compress(b"x" * 2000)), (b"tEXt", b"a\0" + b"y" * 3000)),
    "RGB 16": png(drawn(3, 16), 2, 16),
    "TIFF planes": tiff(drawn(3, 8), 8, 2, planar=True),
    "TIFF deflate": tiff(drawn(3, 16), 16, 2, planar=True, deflate=True),
    "TIFF palette": tiff(drawn(1, 8), 8, 3, tags=[(320, 3, [200 << 8] * 768)]),
    "float": tiff(drawn(1, 8), 32, 1, sample=3, kind="f4"),
    "HTML": b"<html>",
    "empty": b"",
    "cut": encoded(picture())[:30],
}


@pytest.mark.parametrize("kind", SAME)
def test_an_image_read_as_ever_keeps_its_digest(kind):
    assert image_digest(SAME[kind]) == keys.bytes_digest(SAME[kind])


@pytest.mark.parametrize("kind", CHANGED)
def test_an_image_read_in_another_way_has_another_digest(kind):
    content = CHANGED[kind]
    assert image_digest(content) != keys.bytes_digest(content)
    assert len(image_digest(content)) == 64
    assert image_digest(content) == image_digest(bytes(content))


def test_a_listing_of_old_is_looked_at_again_and_only_those_rows_change(tmp_path, monkeypatch):
    root = make_folder(tmp_path / "data")
    for number, content in enumerate(CHANGED.values()):
        (root / "train" / "ants" / f"changed_{number}.tif").write_bytes(content)
    spec = DatasetSpec("x", "folder", root)
    with monkeypatch.context() as past:
        past.setattr(decoding, "image_digest", lambda content, _: keys.bytes_digest(content))
        past.setattr(digest_cache, "LISTING_VERSION", 2)
        old = build_manifest(spec, tmp_path / "out").splits["train"]
    new = build_manifest(spec, tmp_path / "out").splits["train"]
    assert list(new.ids) == list(old.ids)
    differing = [row for row, *both in zip(old.ids, old.digests, new.digests, strict=True) if both[0] != both[1]]
    assert sorted(differing) == sorted(f"ants/changed_{number}.tif" for number in range(len(CHANGED)))
    source = open_source(spec)
    for location, digest, before, listed in zip(new.locations, new.digests, old.digests, new.listed, strict=True):
        if listed:
            assert source.load(location, digest, 8).shape == (8, 8, 3)
        if digest != before:
            with pytest.raises(SourceChangedError):
                source.load(location, before, 8)


def test_copies_of_one_image_have_one_digest(tmp_path):
    root = make_folder(tmp_path / "data")
    for name in ("a.tif", "b.tif"):
        (root / "train" / "ants" / name).write_bytes(CHANGED["12 bits"])
    train = build_manifest(DatasetSpec("x", "folder", root), tmp_path / "out").splits["train"]
    digests = dict(zip(train.ids, train.digests, strict=True))
    assert digests["ants/a.tif"] == digests["ants/b.tif"]


def test_a_reader_installed_since_has_the_files_looked_at_again(tmp_path, monkeypatch):
    root = make_folder(tmp_path / "data")
    (root / "train" / "ants" / "x.heic").write_bytes(HEIC_START)
    spec = DatasetSpec("x", "folder", root)
    with monkeypatch.context() as past:
        past.setattr(digest_cache, "optional_formats", list)
        past.setattr(decoding, "header_fault", lambda content, _: "install it" if b"heic" in content else "")
        assert "install it" in list(build_manifest(spec, tmp_path / "out").splits["train"].reasons)
    assert "install it" not in list(build_manifest(spec, tmp_path / "out").splits["train"].reasons)
    assert versions.optional_formats() in (["AVIF"], ["AVIF", "HEIC"])


# ---- nothing outside decides, nothing gets out

GLOBALS = [
    (ImageFile, "LOAD_TRUNCATED_IMAGES", True),
    (Image, "MAX_IMAGE_PIXELS", 10),
    (Image, "MAX_IMAGE_PIXELS", None),
    (TiffImagePlugin, "READ_LIBTIFF", True),
    (PngImagePlugin, "MAX_TEXT_CHUNK", 10),
    (PngImagePlugin, "MAX_TEXT_MEMORY", 10),
    (GifImagePlugin, "LOADING_STRATEGY", GifImagePlugin.LoadingStrategy.RGB_ALWAYS),
]


def outcome(content):
    try:
        return decode_rgb(content, 8).tobytes(), header_fault(content), image_digest(content)
    except RejectedImageError as error:
        return str(error), header_fault(content), image_digest(content)


@pytest.mark.parametrize(("module", "name", "value"), GLOBALS)
def test_settings_of_pillow_change_nothing_and_stay(module, name, value, monkeypatch):
    contents = [*SAME.values(), *CHANGED.values()] + [content[: len(content) // 2] for content in SAME.values()]
    before = [outcome(content) for content in contents]
    monkeypatch.setattr(module, name, value)
    assert [outcome(content) for content in contents] == before
    assert getattr(module, name) == value


def test_numpy_settings_change_nothing():
    before = [outcome(content) for content in CHANGED.values()]
    with np.errstate(all="raise"):
        assert [outcome(content) for content in CHANGED.values()] == before


COMPRESSIONS = ["tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "zstd", "group4"]
DAMAGED = [*SAME.values(), *CHANGED.values()] + [
    encoded(Image.fromarray(picture()).convert("1" if how == "group4" else "RGB"), "TIFF", compression=how)
    for how in COMPRESSIONS
]
changes = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=6)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore:Image size:RuntimeWarning")
def test_damaged_files_print_nothing(capfd):
    @settings(max_examples=200, deadline=None)
    @given(
        st.sampled_from([content for content in DAMAGED if 0 < len(content) < 100_000]), changes, st.floats(0.1, 1.5)
    )
    def damage(content, where, cut):
        mutated = bytearray(content)
        for place, value in where:
            mutated[place % len(mutated)] = value
        mutated = bytes(mutated[: int(cut * len(mutated))])
        fault = header_fault(mutated)
        try:
            assert decode_rgb(mutated, 8).shape == (8, 8, 3)
        except RejectedImageError as error:
            assert_reason(mutated, str(error))
        else:
            assert fault == ""
        image_digest(mutated)

    damage()
    assert capfd.readouterr() == ("", "")


# ---- any image at all


@st.composite
def written(draw):
    """A file, and its (h, w, 3) pixels 0..255; None where it may be refused."""
    form = draw(st.sampled_from(["png", "tiff"]))
    bits = draw(st.sampled_from([1, 2, 4, 8, 16] if form == "png" else [1, 2, 4, 8, 10, 12, 14, 16, 32]))
    height, width, seed = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(0, 99))
    numbers = np.random.default_rng(seed)
    most = 2**bits - 1

    def values(channels):
        return numbers.integers(0, draw(st.sampled_from([2, most + 1])), (height, width, channels))

    if form == "png":
        colour, channels = draw(st.sampled_from([(0, 1), (2, 3), (4, 2), (6, 4)] if bits >= 8 else [(0, 1)]))
        drawn = values(channels)
        shown, chunks = drawn / most, ()
        if channels in (2, 4):
            shown = on_white(shown[..., :-1], shown[..., -1:]) / 255
        elif draw(st.booleans()):
            wanted = drawn[0, 0]
            shown = np.where((drawn == wanted).all(axis=-1, keepdims=True), 1, shown)
            chunks = ((b"tRNS", struct.pack(f">{channels}H", *wanted)),)
        content = png(drawn, colour, bits, *chunks, interlaced=draw(st.booleans()))
        return content, np.broadcast_to(255 * shown, (height, width, 3))
    photometric = draw(st.sampled_from([0, 1, 2]))
    drawn = values(3 if photometric == 2 else 1)
    options = {"order": draw(st.sampled_from("<>")), "deflate": draw(st.booleans()), "strip": draw(st.integers(1, 9))}
    apart = photometric == 2 and draw(st.booleans())
    shown = 255 * drawn / most
    shown = 255 - shown if photometric == 0 else shown
    return tiff(drawn, bits, photometric, planar=apart, **options), np.broadcast_to(shown, (height, width, 3))


def test_any_image_is_read_as_written_or_refused(capfd):
    @settings(max_examples=200, deadline=None)
    @given(written(), st.sampled_from([None, 1, 8]))
    def read(made, size):
        content, expected = made
        fault = header_fault(content)
        try:
            decoded = decode_rgb(content, size)
        except RejectedImageError:
            decoded = None
        if decoded is None:
            assert_refused(content)
            assert content[:2] in (b"II", b"MM"), "every sound PNG is read"
            return
        assert fault == ""
        assert decoded.dtype == np.uint8
        if size is None:
            assert np.abs(decoded - expected).max() <= 3
        else:
            assert decoded.shape == (size, size, 3)
            whole = decode.resize_rgb(np.clip(expected, 0, 255).round().astype(np.uint8), size)
            assert np.abs(decoded.astype(int) - whole).max() <= 4

    read()
    assert capfd.readouterr() == ("", "")

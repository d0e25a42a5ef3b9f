import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from images import encoded, picture
from PIL import Image

from featcache.core import keys
from featcache.dataset.decoding.decode import BORDER, decode_rgb, header_fault, resize_rgb
from featcache.dataset.decoding.versions import DECODE_SETTINGS
from featcache.errors import RejectedImageError

LOSSLESS = ["PNG", "BMP", "TIFF"]
FORMATS = [*LOSSLESS, "JPEG", "GIF", "WEBP"]


@pytest.mark.parametrize("form", LOSSLESS)
def test_lossless_formats_keep_every_pixel(form):
    image = picture()
    np.testing.assert_array_equal(decode_rgb(encoded(image, form), None), image)


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_is_told_by_its_content(form):
    decoded = decode_rgb(encoded(picture(), form), 16)
    assert decoded.shape == (16, 16, 3)
    assert decoded.dtype == np.uint8
    wanted = resize_rgb(picture(), 16).astype(int)
    assert abs(decoded - wanted).mean() < (12 if form == "GIF" else 6)  # GIF has 256 colours


def test_resizing_is_antialiased_bicubic():
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    small = resize_rgb(stripes, 8)
    assert small.shape == (8, 8, 3)
    inner = small[:, 1:-1].astype(int)
    assert abs(inner - 127).max() < 8  # without antialiasing it is 0 or 255
    # Golden values; whatever changes them must raise DECODE_VERSION.
    assert resize_rgb(np.arange(0, 240, 15, dtype=np.uint8).reshape(4, 4), 2)[..., 0].tolist() == [[44, 71], [154, 181]]


def test_grey_gives_three_equal_channels():
    grey = picture()[..., 0]
    np.testing.assert_array_equal(decode_rgb(encoded(grey), None), np.stack([grey] * 3, axis=-1))


def test_one_bit_and_palette():
    image = Image.fromarray(picture())
    assert set(np.unique(decode_rgb(encoded(image.convert("1")), None))) == {0, 255}
    palette = image.convert("P", palette=Image.Palette.ADAPTIVE)
    np.testing.assert_array_equal(decode_rgb(encoded(palette), None), np.asarray(palette.convert("RGB")))


def test_alpha_is_laid_on_white():
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[..., 0], rgba[:2, :, 3], rgba[2, :, 3] = 200, 255, 128
    decoded = decode_rgb(encoded(rgba), None)
    assert decoded[0, 0].tolist() == [200, 0, 0]
    assert decoded[3, 0].tolist() == [255, 255, 255]
    assert abs(decoded[2, 0].astype(int) - [227, 127, 127]).max() <= 1


def test_grey_alpha_and_palette_transparency_are_laid_on_white():
    la = Image.merge("LA", [Image.new("L", (2, 2), 10), Image.new("L", (2, 2), 0)])
    assert decode_rgb(encoded(la), None).min() == 255
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([9, 9, 9, 70, 80, 90])
    palette.putpixel((1, 0), 1)
    for form in ("PNG", "GIF"):
        decoded = decode_rgb(encoded(palette, form, transparency=0), None)
        assert decoded[0, 0].tolist() == [255, 255, 255]
        assert decoded[0, 1].tolist() == [70, 80, 90]


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_cut(form):
    wide = np.array([[0, 128, 129, 257], [32768, 65535, 65407, 65406]], np.uint16)
    decoded = decode_rgb(encoded(Image.fromarray(wide), form), None)[..., 0]
    assert decoded.tolist() == [[0, 0, 1, 1], [128, 255, 255, 254]]


def test_sixteen_bit_transparency():
    wide = Image.fromarray(np.array([[0, 7000]], np.uint16))
    ihdr, rest = encoded(wide)[:33], encoded(wide)[33:]
    trns = struct.pack(">I4sH", 2, b"tRNS", 7000) + struct.pack(">I", zlib.crc32(b"tRNS" + struct.pack(">H", 7000)))
    assert decode_rgb(ihdr + trns + rest, None)[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk(form):
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert abs(decode_rgb(encoded(cmyk, form), None)[0, 0].astype(int) - [255, 0, 0]).max() < 6


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_without_a_range_are_rejected(mode):
    with pytest.raises(RejectedImageError, match="no fixed range; save it with 8 or 16 bits"):
        decode_rgb(encoded(Image.new(mode, (4, 4)), "TIFF"), 8)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(form, orientation):
    upright = picture(16, 32)
    flips = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
        7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda a: a.transpose(1, 0, 2)[::-1],
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if form == "JPEG" else {"lossless": True} if form == "WEBP" else {}
    decoded = decode_rgb(encoded(upright, form, exif=exif, **options), None)
    expected = flips[orientation](upright)
    assert decoded.shape == expected.shape
    assert abs(decoded.astype(int) - expected).mean() < 6


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # the module's own filter, which pytest takes away
def test_broken_exif_beside_sound_pixels_is_no_reason_to_reject():
    content = encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert decode_rgb(content, 8).shape == (8, 8, 3)


@pytest.mark.parametrize("form", ["GIF", "TIFF", "WEBP"])
def test_first_frame(form):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    decoded = decode_rgb(encoded(frames[0], form, save_all=True, append_images=frames[1:]), None)
    assert decoded[4, 4, 0] > 240
    assert decoded[4, 4, 2] < 15


@pytest.mark.parametrize(("side", "size", "scaled"), [(640, 40, 80), (639, 40, 160), (160, 40, 80), (159, 40, 159)])
def test_scaled_decode_keeps_twice_the_target(side, size, scaled):
    content = encoded(picture(side, side + 64), "JPEG")
    reference = Image.open(io.BytesIO(content))
    reference.draft(None, (2 * size, 2 * size))
    assert reference.size[1] == scaled
    np.testing.assert_array_equal(
        decode_rgb(content, size), np.asarray(reference.resize((size, size), Image.Resampling.BICUBIC))
    )


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize(("height", "width"), [(31, 60), (60, 31), (200, 331), (333, 200), (12, 12)])
def test_crop_takes_the_largest_centred_square(height, width, form):
    content = encoded(picture(height, width), form)
    reference = Image.open(io.BytesIO(content))
    if form == "JPEG":
        reference.draft(None, (48, 48))
    side, (wide, high) = min(reference.size), reference.size
    assert form == "PNG" or side >= min(48, height, width), "what is cut out keeps twice the target, too"
    left, top = (wide - side) // 2, (high - side) // 2
    square = reference.crop((left, top, left + side, top + side)).resize((24, 24), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(decode_rgb(content, 24, fit="crop"), np.asarray(square))


@pytest.mark.parametrize(
    ("height", "width", "high", "wide"),
    [(30, 60, 12, 24), (60, 30, 24, 12), (7, 7, 24, 24), (1, 900, 1, 24), (50, 24, 24, 12)],
)
def test_pad_shows_all_of_the_image_on_the_mean_colour(height, width, high, wide):
    image = picture(height, width)
    padded = decode_rgb(encoded(image), 24, fit="pad")
    inner = Image.fromarray(image).resize((wide, high), Image.Resampling.BICUBIC)
    top, left = (24 - high) // 2, (24 - wide) // 2
    expected = np.full((24, 24, 3), BORDER, np.uint8)
    expected[top : top + high, left : left + wide] = np.asarray(inner)
    np.testing.assert_array_equal(padded, expected)
    np.testing.assert_array_equal(resize_rgb(image, 24, "pad"), expected)


def test_a_photo_is_turned_before_it_is_cut(tmp_path):
    image, exif = picture(30, 61), Image.Exif()
    exif[0x0112] = 6
    turned = decode_rgb(encoded(image, "PNG", exif=exif), 12, fit="crop")
    np.testing.assert_array_equal(turned, resize_rgb(np.rot90(image, -1), 12, "crop"))


def test_a_long_strip_is_padded_in_little_memory():
    strip = np.zeros((2, 60_000, 3), np.uint8)  # its square would have 10 GB
    assert decode_rgb(encoded(strip), 8, fit="pad")[3].max() == 0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"the file is empty \(0 bytes\)"),
        (b"<html>not found</html>", "not an image"),
        (b"\xff\xd8\xff", "JPEG header is damaged"),
        (encoded(picture())[:20], "PNG header is damaged"),
        (b"BM" + bytes(60), "BMP|has none"),
    ],
)
def test_header_faults(content, reason):
    with pytest.raises(RejectedImageError, match=reason) as caught:
        decode_rgb(content, 8)
    assert header_fault(content) == str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", FORMATS)
def test_truncated(form):
    content = encoded(picture(96, 96), form)
    with pytest.raises(RejectedImageError):
        decode_rgb(content[: len(content) // 2], 8)


def test_only_decoding_finds_a_cut_off_end():
    content = encoded(picture(96, 96), "JPEG")
    assert header_fault(content) == ""
    assert header_fault(content[:-500]) == ""
    with pytest.raises(RejectedImageError, match="damaged or truncated JPEG"):
        decode_rgb(content[:-500], 8)


def bomb(width, height):
    content = bytearray(encoded(picture()))
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def test_decompression_bomb_is_known_from_the_header():
    assert "possible decompression bomb: 13378x13377 pixels" in header_fault(bomb(13378, 13377))
    assert header_fault(bomb(13377, 13377)) == ""  # large, with Pillow's warning from half of it on, but no bomb


def test_settings_can_enter_a_key():
    assert len(keys.digest(DECODE_SETTINGS)) == 64


SEEDS = [encoded(picture(12, 12), form) for form in FORMATS] + [
    encoded(Image.fromarray(picture(12, 12)).convert("P"), "PNG"),
    encoded(Image.fromarray(picture(12, 12)).convert("CMYK"), "JPEG", progressive=True),
    encoded(Image.fromarray(picture(12, 12)).convert("RGBA"), "TIFF", compression="tiff_lzw"),
]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore:Image size:RuntimeWarning")
@settings(max_examples=600, deadline=None)
@given(
    content=st.sampled_from(SEEDS),
    changes=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=8),
    cut=st.one_of(st.none(), st.integers(0, 2000)),
)
def test_mutated_files_are_decoded_or_rejected_and_nothing_else(content, changes, cut):
    mutated = bytearray(content)
    for place, value in changes:
        mutated[place % len(mutated)] = value
    fault = ""
    try:
        decoded = decode_rgb(bytes(mutated[:cut]), 8)
    except RejectedImageError as error:
        fault = str(error)
    assert fault or decoded.shape == (8, 8, 3)
    assert "\n" not in fault


@pytest.mark.shared
def test_every_real_image_decodes(shared):
    files = [path for path in sorted((shared / "data" / "brain-mri").rglob("*")) if path.is_file()]
    assert len(files) == 253
    for path in files:
        assert decode_rgb(path.read_bytes(), 48).shape == (48, 48, 3)

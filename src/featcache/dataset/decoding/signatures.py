"""What a file is by its first bytes, and what to do about one that isn't an image; the wording enters keys, see `image_file`."""

import json

_CONVERT = "convert it to JPEG or PNG"
_RAW = "develop it and save it as JPEG, PNG or TIFF"
_AGAIN = "download the image again"
_UNPACK = "unpack it"
_FRAMES = "save its frames as JPEG or PNG"
_EXPORT = "export it as PNG"
_LFS, _PULL = "a Git LFS pointer, not the file that it stands for", "run `git lfs pull`"

# first bytes -> what it is, and the fix; the first that fits counts
_STARTS = (
    (b"version https://git-lfs.github.com/", _LFS, _PULL),
    (b"version https://hawser.github.com/", _LFS, _PULL),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image", _CONVERT),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image", _CONVERT),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image", _CONVERT),
    (b"\xff\x0a", "a JPEG XL image", _CONVERT),
    (b"II\xbc", "a JPEG XR image", _CONVERT),
    (b"8BPS", "a Photoshop file (PSD)", _EXPORT),
    (b"gimp xcf", "a GIMP file (XCF)", _EXPORT),
    (b"\0\0\1\0", "a Windows icon (ICO)", _CONVERT),
    (b"\0\0\2\0", "a Windows cursor or a TGA image", _CONVERT),
    (b"DDS ", "a DirectDraw surface (DDS)", _CONVERT),
    (b"v/1\1", "an OpenEXR image", _CONVERT),
    (b"#?RADIANCE", "a Radiance HDR image", _CONVERT),
    (b"qoif", "a QOI image", _CONVERT),
    (b"FUJIFILMCCD-RAW", "a camera's raw file (RAF)", _RAW),
    (b"IIRO", "a camera's raw file (ORF)", _RAW),
    (b"IIRS", "a camera's raw file (ORF)", _RAW),
    (b"MMOR", "a camera's raw file (ORF)", _RAW),
    (b"IIU\0", "a camera's raw file (RW2)", _RAW),
    (b"SIMPLE  =", "a FITS file", _CONVERT),
    (b"%PDF", "a PDF document", "save its pages as PNG"),
    (b"%!PS", "a PostScript file", _EXPORT),
    (b"PK\3\4", "a ZIP archive or an Office document", _UNPACK),
    (b"\x1f\x8b", "gzip data", _UNPACK),
    (b"BZh", "bzip2 data", _UNPACK),
    (b"\xfd7zXZ\0", "xz data", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "Zstandard data", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video", _FRAMES),
    (b"\0\0\1\xba", "an MPEG video", _FRAMES),
    (b"OggS", "an Ogg file (sound or video)", _FRAMES),
    (b"ID3", "an MP3 sound file", "remove it"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "save its images as PNG"),
    (b"\x93NUMPY", "a NumPy array", "save it as PNG"),
    (b"SQLite format 3\0", "an SQLite database", "remove it"),
    (b"\x7fELF", "a program", "remove it"),
    (b"MZ", "a Windows program", "remove it"),
    (b"\0\5\x16\7", "an AppleDouble file, which macOS puts beside the real one", "remove it"),
)
# brands of the ISO base media format: bytes 8 to 12 of what has "ftyp" at 4
_BRANDS = {
    b"crx ": ("a camera's raw file (CR3)", _RAW),
    b"jp2 ": ("a JPEG 2000 image", _CONVERT),
    b"jxl ": ("a JPEG XL image", _CONVERT),
}
_PIXMAPS = frozenset((b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"P7", b"Pf", b"PF"))
_AVIF = frozenset((b"avif", b"avis"))
_HEIF = frozenset((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1"))
_LOOK = 1024  # bytes of a text that are looked at


def box_format(content: bytes) -> str:
    """Return ``AVIF`` or ``HEIC`` for an image of these, by its brands, else ""."""
    if content[4:8] != b"ftyp":
        return ""
    end = min(int.from_bytes(content[:4], "big"), 256)
    brands = {content[8:12], *(content[at : at + 4] for at in range(16, end, 4))}
    if content[8:12] in _AVIF | _HEIF:
        return "AVIF" if brands & _AVIF else "HEIC"
    return ""


def what_it_is(content: bytes) -> str:
    """Return in a phrase what a file is that isn't an image of a known format, and the fix; "" where neither is known."""
    for start, what, fix in _STARTS:
        if content.startswith(start):
            return f"{what}: {fix}"
    what, fix = _by_more(content) or _text(content) or ("", "")
    return f"{what}: {fix}" if what else ""


def _by_more(content: bytes) -> tuple[str, str] | None:
    if content[4:8] == b"ftyp":
        return _BRANDS.get(content[8:12], ("an MP4 or QuickTime video", _FRAMES))
    if content.startswith(b"RIFF"):
        kind = {b"AVI ": "an AVI video", b"WAVE": "a WAV sound file"}.get(content[8:12], "a RIFF file")
        return kind, _FRAMES if content[8:12] == b"AVI " else "remove it"
    if content[128:132] == b"DICM":
        return "a DICOM file", _CONVERT
    if content[257:262] == b"ustar":
        return "a tar archive", _UNPACK
    if content[:2] in _PIXMAPS and content[2:3].isspace():
        return "a Netpbm image (PBM, PGM, PPM)", _CONVERT
    if not content.strip(b"\0"):
        return f"{len(content)} zero bytes, as an interrupted download or copy leaves them", "get the image again"
    return None


def _text(content: bytes) -> tuple[str, str] | None:
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    text = content[: 2 * _LOOK].decode("utf-16" if wide else "utf-8-sig", "replace")[:_LOOK].lstrip()
    if not text or any(ord(letter) < 32 and letter not in "\t\n\r\f" for letter in text):
        return None
    small = text.lower()
    if small.startswith(("<!doctype html", "<html", "<head", "<body", "<script")):
        return "an HTML page, such as servers send in place of a missing image", _AGAIN
    if "<svg" in small:
        return "an SVG drawing", _EXPORT
    if small.startswith("<"):
        return "an XML or HTML text", _AGAIN
    if _is_json(text):
        return "a JSON text", _AGAIN
    if text.count("\ufffd") * 10 > len(text):
        return None
    return f"a text that begins with {text[:30].partition(chr(10))[0].strip()!a}", _AGAIN


def _is_json(text: str) -> bool:
    """Whether a text, which may be cut off, begins as JSON's objects and lists do."""
    if not text.startswith(("{", "[")):
        return False
    try:
        json.JSONDecoder().raw_decode(text)
    except json.JSONDecodeError as error:
        return error.pos > 1
    except RecursionError:
        return True
    return True

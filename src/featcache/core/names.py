"""When two names are the same name: exactly, or in Unicode's composed form (NFC), as macOS writes accents apart (NFD).

Classes, header columns, groups and ids all go by this rule. Case and punctuation never make two ids the same; only a
header's columns are found among the classes whatever their case and blanks, as a table writes ``red_car`` for ``Red car``.
"""

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

# What images are called, those included that are not read: a table may name an image by what it was before it was converted.
IMAGE_SUFFIXES = (
    *("jpg", "jpeg", "jpe", "jfif", "pjpeg", "png", "apng", "gif", "bmp", "dib", "webp", "tif", "tiff"),
    *("avif", "heic", "heif", "hif", "jp2", "j2k", "jpf", "jpx", "jxl", "jxr", "svg", "psd", "ico", "tga"),
    *("exr", "hdr", "eps", "pbm", "pgm", "ppm", "pnm", "dcm"),
    *("dng", "cr2", "cr3", "nef", "arw", "orf", "raf", "rw2", "raw"),
)
_SUFFIX = re.compile(rf"(?<=[^/])\.({'|'.join(IMAGE_SUFFIXES)})\Z", re.IGNORECASE)
_SEPARATORS = re.compile(r"[\s_-]+")


def composed(name: str) -> str:
    """Return the form in which names are compared: letter and accent as one character (NFC)."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def clash(names: Iterable[str]) -> tuple[str, str] | None:
    """Return the first two names of a list that are the same name, or None; ``repr`` or `ascii` shows how they differ."""
    seen: dict[str, str] = {}
    for name in names:
        form = composed(name)
        if form in seen:
            return seen[form], name
        seen[form] = name
    return None


def shown(name: str) -> str:
    """Return a name for a message: as it is, or as Python writes it where it would break the line or can't be seen."""
    return name if name.isprintable() and name.strip() == name and name else repr(name)


def first_names(names: Sequence[str], most: int = 3, form: Callable[[str], str] = repr) -> str:
    """Return the first names of a list for a message: ``'a', 'b', 'c', ... (12 in all)``."""
    return ", ".join(map(form, names[:most])) + (f", ... ({len(names)} in all)" if len(names) > most else "")


def did_you_mean(name: str, known: Iterable[str], most: int = 1, form: str = "{}") -> str:
    """Return ``, did you mean A, B or C?`` for the nearest known names, whatever the case; "" where none is near."""
    lowered = {each.lower(): form.format(each) for each in known}
    near = [lowered[each] for each in difflib.get_close_matches(name.lower().replace("-", "_"), lowered, most)]
    return f", did you mean {' or '.join(filter(None, (', '.join(near[:-1]), near[-1])))}?" if near else ""


def stem(name: str) -> str:
    """Return a file's name or path without the suffix of an image; all other dots belong to the name (``1.2.840.1``)."""
    return _SUFFIX.sub("", name)


def match_columns(columns: Sequence[str], classes: Sequence[str]) -> list[int | None]:
    """Return for each column which class it names, None where it names none or could name several; one to one.

    Names are compared exactly, then composed, then whatever their case and with blanks, ``_`` and ``-`` as equals. A
    way of comparing counts only for names that differ from all others of their list by it.
    """
    found: list[int | None] = [None] * len(columns)
    taken: set[int] = set()
    for form in (str, composed, _loose):
        theirs, ours = _distinct(columns, form), _distinct(classes, form)
        for name, column in theirs.items():
            if found[column] is None and name in ours and ours[name] not in taken:
                found[column] = ours[name]
                taken.add(ours[name])
    return found


def _distinct(names: Sequence[str], form: Callable[[str], str]) -> dict[str, int]:
    """The place of each name, by its form, but for names that share theirs with others."""
    forms = [form(name) for name in names]
    count = Counter(forms)
    return {each: place for place, each in enumerate(forms) if count[each] == 1}


def _loose(name: str) -> str:
    return composed(_SEPARATORS.sub(" ", composed(name.strip()).casefold()))

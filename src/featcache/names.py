"""When two names are the same name: exactly, or in Unicode's composed form (NFC), as macOS writes accents apart (NFD).

Classes, header columns, groups and ids all go by this rule. Case and punctuation never make two ids the same.
"""

import unicodedata
from collections.abc import Iterable


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

"""Digests of everything that decides an artifact's values.

A key is the SHA-256 of canonical, typed JSON: 5 and 5.0 are the same number, 5 and "5" are not.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from featcache.core.disk import settled
from featcache.core.paths import regular

NAME_BYTES = 224  # of the 255 that file systems take: the rest is for a temporary file of an unfinished one
SHORT = 8
_DIGESTS: dict[tuple[int, ...], str] = {}  # of files in the state in which this process read them

_ALLOWED = "keys are made of None, bool, int, float, str, lists and string-keyed mappings"


def canonical_json(value: object) -> str:
    """Return the one JSON text of `value`: sorted keys, no blanks, whole floats as integers.

    Raises:
        TypeError: anything else is in `value`; a key must not depend on a `repr`.
        ValueError: a float is NaN or infinite.
    """
    return json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest(value: object) -> str:
    """Return the key of `value`: 64 hexadecimal digits, SHA-256 of its canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()


def short(key: str) -> str:
    """Return the first 8 digits of a key, as file names carry them."""
    return key[:SHORT]


def bytes_digest(content: bytes | memoryview) -> str:
    """Return the SHA-256 of `content` as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def short_name(name: str, more: int = 0) -> str:
    """Return `name` as a file system takes it with `more` bytes behind: a long one's beginning and a digest of the whole."""
    raw, most = name.encode("utf-8", "surrogateescape"), NAME_BYTES - more
    if len(raw) <= most:
        return name
    return f"{raw[: most - SHORT - 1].decode('utf-8', 'ignore')}-{short(bytes_digest(raw))}"


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits, in flat memory.

    Raises:
        OSError: it is no regular file, or can't be read.
    """
    with open(path, "rb", opener=regular) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_digest_once(path: Path) -> str:
    """As `file_digest`, but a process reads a file again only where it may have changed.

    Raises:
        OSError: it is no regular file, or can't be read.
    """
    with open(path, "rb", opener=regular) as stream:
        state = settled(os.fstat(stream.fileno()))
        found = _DIGESTS.get(state or ()) or hashlib.file_digest(stream, "sha256").hexdigest()
        if state is not None:
            _DIGESTS[state] = found
        return found


def _canonical(value: object) -> object:
    if value is None or isinstance(value, (bool, str, int)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"value={value!r} can't be in a key: it is not finite")
        return int(value) if value.is_integer() else value
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            raise TypeError(f"a mapping with the keys {sorted(map(repr, value))[:3]} can't be in a key: {_ALLOWED}")
        return {name: _canonical(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    raise TypeError(f"type={type(value).__name__} can't be in a key: {_ALLOWED}")

"""Small JSON files that say what an artifact is: read leniently, written atomically."""

import json
from collections.abc import Mapping
from pathlib import Path

from featcache.core import disk, paths


def read_json(path: Path) -> dict[str, object] | None:
    """The JSON object in `path`, or None when it isn't there or is no JSON object."""
    try:
        content = json.loads(paths.read_bytes(path).decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Replace `path`, atomically and durably.

    Raises:
        StorageError: the disk is full, read-only or not permitted.
    """
    disk.write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

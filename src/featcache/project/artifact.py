"""What a stage makes, and when it counts as complete: never because a path exists, only by the key that it carries."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from featcache.cache import stored_record
from featcache.core import keys
from featcache.core.json_records import read_json


@dataclass(frozen=True)
class Artifact:
    """What a stage makes: where it is, and the key it must carry to be complete.

    Attributes:
        path: a JSON record, or a feature cache, which carries its own key.
        key: what settings and inputs demand now; None while something upstream isn't there.
        content: a file whose SHA-256 the record must hold, for formats that can't carry a key; None for none.
        inputs: what the key was made of, for the record: what of it changed is why the stage runs again.
    """

    path: Path
    key: str | None
    content: Path | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)

    def record_header(self, run: str) -> dict[str, object]:
        """What the record needs so that the artifact counts as complete, made by `run`, and can be explained."""
        return {"key": self.key, "run": run, "inputs": self.inputs}

    def record(self) -> Mapping[str, object] | None:
        """The stored record, or None when there is nothing sound at `path`."""
        if self.path.suffix == ".json":
            return read_json(self.path)
        try:
            seen = self.path.stat()
        except OSError:
            return None
        return _cache_record(self.path, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)

    def is_complete(self, run: str | None = None) -> bool:
        """Whether the artifact carries the key; with `run`, also whether that run of the program made it."""
        record = self.record() if self.key else None
        if record is None or record.get("key") != self.key or run not in (None, record.get("run")):
            return False
        if not _are_there(self.path.parent, record.get("files", {})):
            return False
        return self.content is None or _digest(self.content) == record.get("content_digest")


def _digest(path: Path) -> str:
    """The SHA-256 of a file, "" where it can't be read."""
    try:
        return keys.file_digest(path)
    except OSError:
        return ""


def _are_there(folder: Path, files: object) -> bool:
    """Whether the files that a record names (name -> bytes) are there in their length; a stat each."""
    if not isinstance(files, Mapping):
        return False
    try:
        return all((folder / str(name)).stat().st_size == size for name, size in files.items())
    except OSError:
        return False


@lru_cache(maxsize=64)
def _cache_record(path: Path, *seen: int) -> Mapping[str, object] | None:
    """The record inside a feature cache, read once while the file is the one `seen`: a scheduling asks many times."""
    del seen
    return stored_record(path)

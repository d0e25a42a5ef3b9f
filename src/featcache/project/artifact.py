"""What a stage makes, and when it counts as complete: never because a path exists, only by the key that it carries."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from featcache.cache import stored_record
from featcache.core import keys
from featcache.core.disk import copy_file
from featcache.core.json_records import read_json


@dataclass(frozen=True)
class Artifact:
    """What a stage makes: where it is, and the key it must carry to be complete.

    A file that people look for under one name is `shown`: a copy of the file of that name beside `path`. The record holds
    the SHA-256 of both as ``content_digest``, and is copied beside `shown`, last.
    """

    path: Path  #: a JSON record, or a feature cache, which carries its own key
    key: str | None  #: what settings and inputs demand now; None while something upstream isn't there
    inputs: Mapping[str, Any] = field(default_factory=dict)  #: what the key was made of, for the record
    shown: Path | None = None

    @property
    def content(self) -> Path:
        """The file of which `shown` is a copy, or else the record."""
        return self.path.with_name(self.shown.name) if self.shown else self.path

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
        """Whether it carries the key and is shown; with `run`, also whether that run of the program made it."""
        record = self._keyed_record(run)
        if record is None or self.shown is None:
            return record is not None
        return self.shown_key() == self.key and digest_of(self.shown) == record.get("content_digest")

    def is_stored(self) -> bool:
        """Whether it carries the key, whatever is shown: then only `show` is left to do."""
        record = self._keyed_record(None)
        return record is not None and (self.shown is None or digest_of(self.content) == record.get("content_digest"))

    def show(self, *others: Path) -> None:
        """Replace what is shown by copies of content and record; `others`, which could be taken for it, are removed.

        Raises:
            StorageError: the disk is full, read-only or not permitted.
        """
        if self.shown is not None:
            copy_file(self.content, self.shown)
            for other in others:
                other.unlink(missing_ok=True)
            copy_file(self.path, self.shown.with_name(self.path.name))

    def shown_key(self) -> object:
        """The key of what is shown, None where nothing is: by the record beside it."""
        return (read_json(self.shown.with_name(self.path.name)) or {}).get("key") if self.shown else None

    def _keyed_record(self, run: str | None) -> Mapping[str, object] | None:
        record = self.record() if self.key else None
        if record is None or record.get("key") != self.key or run not in (None, record.get("run")):
            return None
        files, folder = record.get("files", {}), self.path.parent
        try:
            there = isinstance(files, Mapping) and all((folder / name).stat().st_size == files[name] for name in files)
        except OSError:
            return None
        return record if there else None


def key_of(inputs: Mapping[str, Any]) -> str | None:
    """Return the key of what is made from `inputs`; None while something of ``upstream`` isn't known or isn't there."""
    return keys.digest(inputs) if _is_known(inputs["upstream"]) else None


def _is_known(upstream: object) -> bool:
    if isinstance(upstream, Mapping):
        upstream = list(upstream.values())
    if isinstance(upstream, list):
        return bool(upstream) and all(map(_is_known, upstream))
    return upstream is not None


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, "" where it can't be read."""
    try:
        return keys.file_digest_once(path)  # Luigi asks several times whether a stage is complete
    except OSError:
        return ""


@lru_cache(maxsize=64)
def _cache_record(path: Path, *seen: int) -> Mapping[str, object] | None:
    """The record inside a feature cache, read once while the file is the one `seen`: a scheduling asks many times."""
    del seen
    return stored_record(path)

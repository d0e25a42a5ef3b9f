"""The listed rows of a data set, and their two files: `manifest.arrow` has the rows, `manifest.json` what scheduling needs."""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from featcache.core import keys
from featcache.core.disk import disk, replacing, write_text
from featcache.core.json_records import read_json
from featcache.core.names import first_names
from featcache.core.rows import SPLITS, Rows, has_label, is_several, label_counts
from featcache.dataset.manifest_rows import read_rows, write_rows
from featcache.errors import CacheFormatError, SourceError

MANIFEST_VERSION = 1  # raise it when the same data set would give other rows
SCHEMA = 2
ROWS_NAME = "manifest.arrow"
JSON_NAME = "manifest.json"
_ROWS_OF_SCHEMA_1 = "manifest.csv"
_AGAIN = "run IndexImages again (luigi --module pipeline IndexImages --rerun)"


@dataclass(frozen=True, eq=False)
class Manifest:
    """Every row of a data set."""

    class_names: tuple[str, ...]  #: in natural order; labels are indices into it
    splits: Mapping[str, Rows]  #: the rows of every split that has some; ``train`` is always there
    settings: Mapping[str, object]  #: the source's name and what else decides the listing; never a path
    left_out: Mapping[str, int] = field(default_factory=dict)  #: files not listed, by suffix or what is wrong with them

    def __post_init__(self) -> None:
        """Put the splits in their order and leave out empty ones."""
        rows = {name: self.splits[name] for name in SPLITS if name in self.splits and len(self.splits[name])}
        object.__setattr__(self, "splits", rows)

    @cached_property
    def key(self) -> str:
        """The digest of everything that is listed; locations and files that were left out don't count."""
        splits = {name: rows.key for name, rows in self.splits.items()}
        return keys.digest([MANIFEST_VERSION, list(self.class_names), self.settings, splits])

    @property
    def several(self) -> bool:
        """Whether a row has any number of the classes as its labels, and not one class."""
        return any(is_several(rows.labels) for rows in self.splits.values())

    def save(self, folder: Path, record: Mapping[str, object] | None = None) -> None:
        """Write `manifest.arrow`, then `manifest.json`, which has its checksum and `record` too, each atomically.

        Raises:
            StorageError: the disk is full, read-only or not permitted.
        """
        with replacing(folder / ROWS_NAME) as temporary:
            written = write_rows(temporary, self.class_names, self.splits, several=self.several)
        summary = {**(record or {}), **self.summary(), "arrow": written}
        write_text(folder / JSON_NAME, json.dumps(summary, indent=1) + "\n")
        with contextlib.suppress(OSError):
            disk.unlink(folder / _ROWS_OF_SCHEMA_1)

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Read what `save` wrote; the rows' texts stay in the file, which is memory-mapped.

        Raises:
            CacheFormatError: the files are absent, damaged or don't belong together.
        """
        stored = _stored_summary(folder)
        if stored is None:
            raise CacheFormatError(f"{folder / JSON_NAME} is not a manifest of schema {SCHEMA}: {_AGAIN}")
        path = folder / ROWS_NAME
        try:
            rows = read_rows(path, stored)
            manifest = cls(tuple(stored["class_names"]), rows, stored["settings"], stored["left_out"])
            if manifest.key != stored["key"]:
                raise ValueError(f"their key is {keys.short(manifest.key)}, not {keys.short(stored['key'])}")
        except (OSError, ValueError, SourceError) as error:
            fault = f"{path} doesn't hold the rows that {JSON_NAME} lists ({error})"
            raise CacheFormatError(f"{fault}: {_AGAIN}") from error
        return manifest

    def summary(self) -> dict[str, object]:
        """The content of `manifest.json`: schema, key, class names, settings, and per split its rows, key and rejected.

        And `several`, which is True, where rows have several labels.
        """
        splits = {
            name: {"rows": len(rows), "key": rows.key, "rejected": int((~rows.listed).sum())}
            for name, rows in self.splits.items()
        }
        return {
            "schema": SCHEMA,
            "key": self.key,
            "class_names": list(self.class_names),
            "settings": dict(self.settings),
            "left_out": dict(self.left_out),
            "splits": splits,
            **({"several": True} if self.several else {}),
        }


def stored_manifest(folder: Path) -> dict[str, Any] | None:
    """Return `manifest.json` alone, as `Manifest.summary` has it, without reading any rows.

    None when it is absent, damaged or of another schema, or `manifest.arrow` is gone or of another length.
    """
    try:
        seen, size = (folder / JSON_NAME).stat(), (folder / ROWS_NAME).stat().st_size
    except OSError:
        return None
    stored = _known_summary(folder, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
    return stored if stored and size == stored["arrow"]["bytes"] else None


@lru_cache(maxsize=4)
def _known_summary(folder: Path, *seen: int) -> dict[str, Any] | None:
    """The summary, read once while the file is the one `seen`: a scheduling asks many times."""
    del seen
    return _stored_summary(folder)


def _stored_summary(folder: Path) -> dict[str, Any] | None:
    """What `Manifest.save` wrote; None where anything hasn't the form that it gives it."""
    stored: dict[str, Any] | None = read_json(folder / JSON_NAME)
    kinds = {
        "schema": int,
        "key": str,
        "class_names": list,
        "settings": dict,
        "left_out": dict,
        "splits": dict,
        "arrow": dict,
    }
    if not _has(stored, kinds) or stored["schema"] != SCHEMA or not set(stored["splits"]) <= set(SPLITS):
        return None
    sound = _has(stored["arrow"], {"bytes": int, "xxh3_128": str})
    sound &= all(isinstance(name, str) for name in stored["class_names"])
    sound &= all(_has(split, {"rows": int, "key": str, "rejected": int}) for split in stored["splits"].values())
    return stored if sound else None


def _has(record: object, kinds: Mapping[str, type]) -> TypeGuard[dict[str, Any]]:
    return isinstance(record, dict) and all(isinstance(record.get(name), kind) for name, kind in kinds.items())


def check_training(where: str, class_names: tuple[str, ...], rows: Rows) -> None:
    """Raise a `SourceError` where there are fewer than two classes, or a class has no usable image."""
    if len(rows) == 0:
        raise SourceError(f"{where} has no training images: put them there and run again")
    if len(class_names) < 2:
        only = first_names(class_names)
        raise SourceError(f"{where} has only class {only}, at least 2 classes are needed: add images of another")
    counts = label_counts(rows.labels[rows.listed], len(class_names))
    scarce = [f"{name!r} has 0" for name, count in zip(class_names, counts, strict=True) if not count]
    if scarce:
        label = int(np.flatnonzero(counts == 0)[0])
        missed = next(iter(np.flatnonzero(~rows.listed & has_label(rows.labels, label)).tolist()), None)
        reason = "" if missed is None else f" ({rows.ids[missed]!r} can't be used: {rows.reasons[missed]})"
        needed = "each class needs a usable image: add images or remove the class"
        raise SourceError(f"{where}: class {first_names(scarce, 3, str)}{reason}, {needed}")

"""The listed rows of a data set, and their two files: `manifest.csv` for people and readers, `manifest.json` for keys."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from featcache.core import keys
from featcache.core.disk import replacing, write_text
from featcache.core.json_records import read_json
from featcache.core.rows import SPLITS, Rows
from featcache.core.texts import CHUNK
from featcache.dataset.stored_rows import COLUMNS, read_splits
from featcache.errors import CacheFormatError, SourceError

MANIFEST_VERSION = 1  # raise it when the same data set would give other rows
SCHEMA = 1
CSV_NAME = "manifest.csv"
JSON_NAME = "manifest.json"


@dataclass(frozen=True, eq=False)
class Manifest:
    """Every row of a data set.

    Attributes:
        class_names: the classes in natural order; labels are indices into it.
        splits: the rows of every split that has some; ``train`` is always there.
        settings: the source's name and what else decides the listing; never a path.
        left_out: how many files were not listed, by suffix or by what is wrong with them.
    """

    class_names: tuple[str, ...]
    splits: Mapping[str, Rows]
    settings: Mapping[str, object]
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Put the splits in their order and leave out empty ones."""
        rows = {name: self.splits[name] for name in SPLITS if name in self.splits and len(self.splits[name])}
        object.__setattr__(self, "splits", rows)

    @cached_property
    def key(self) -> str:
        """The digest of everything that is listed; locations and files that were left out don't count."""
        splits = {name: rows.key for name, rows in self.splits.items()}
        return keys.digest([MANIFEST_VERSION, list(self.class_names), self.settings, splits])

    def save(self, folder: Path, record: Mapping[str, object] | None = None) -> None:
        """Write `manifest.csv`, then `manifest.json`, which vouches for it, each atomically.

        Args:
            folder: of the data set's artifacts.
            record: what else `manifest.json` shall say of its making; it doesn't enter the key.

        Raises:
            StorageError: the disk is full, read-only or not permitted.
        """
        with (
            replacing(folder / CSV_NAME) as temporary,
            open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream,
        ):
            lines = csv.writer(stream)
            lines.writerow(COLUMNS)
            for split, rows in self.splits.items():
                lines.writerows(self._lines(split, rows))
        summary = {**(record or {}), **self.summary(), "csv_bytes": (folder / CSV_NAME).stat().st_size}
        write_text(folder / JSON_NAME, json.dumps(summary, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Read what `save` wrote; the rows' texts stay in the file that was opened.

        Raises:
            CacheFormatError: the files are absent, damaged or don't belong together.
        """
        path = folder / CSV_NAME
        again = "run IndexImages again (luigi --module pipeline IndexImages --rerun)"
        stored = _stored_summary(folder)
        if stored is None:
            raise CacheFormatError(f"{folder / JSON_NAME}: expected a manifest of schema {SCHEMA}, found none; {again}")
        names = tuple(stored["class_names"])
        try:
            splits = read_splits(path, names)
            manifest = cls(names, splits, stored["settings"], stored["left_out"])
        except (OSError, ValueError, csv.Error, SourceError) as error:
            raise CacheFormatError(f"{path}: expected the rows of the manifest; {error!r}; {again}") from error
        if manifest.key != stored["key"]:
            found = f"got key={keys.short(manifest.key)}"
            raise CacheFormatError(f"{path}: expected rows of key={keys.short(stored['key'])}; {found}; {again}")
        return manifest

    def _lines(self, split: str, rows: Rows) -> Iterator[tuple[str, ...]]:
        names = (*self.class_names, "")  # -1, an unknown label, is the last
        texts = (rows.ids, rows.groups, rows.digests, rows.reasons, rows.locations)
        for start in range(0, len(rows), CHUNK):
            part = slice(start, start + CHUNK)
            columns = zip(rows.labels[part].tolist(), *(column[part] for column in texts), strict=True)
            for label, row, group, digest, reason, location in columns:
                yield split, row, names[label], group, digest, "rejected" if reason else "ok", reason, location

    def summary(self) -> dict[str, object]:
        """What `manifest.json` says: schema, key, class names, settings, and per split its rows, key and rejected."""
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
        }


def stored_manifest(folder: Path) -> dict[str, Any] | None:
    """Return `manifest.json` alone: schema, key, class_names, settings, left_out and per split rows, key, rejected.

    No CSV is read. None when it is absent, damaged or of another schema, or when the CSV is gone or of another length.
    """
    stored = _stored_summary(folder)
    try:
        return stored if stored is not None and (folder / CSV_NAME).stat().st_size == stored.get("csv_bytes") else None
    except OSError:
        return None


def _stored_summary(folder: Path) -> dict[str, Any] | None:
    stored: dict[str, Any] | None = read_json(folder / JSON_NAME)
    return stored if stored is not None and stored.get("schema") == SCHEMA and _is_summary(stored) else None


def _is_summary(stored: Mapping[str, Any]) -> bool:
    """Whether everything has the form that `Manifest.save` gives it, for those who go on without asking."""
    kinds = {"key": str, "class_names": list, "settings": dict, "left_out": dict, "splits": dict}
    if not _has(stored, kinds) or not all(isinstance(name, str) for name in stored["class_names"]):
        return False
    known = set(stored["splits"]) <= set(SPLITS)
    return known and all(_has(split, {"rows": int, "key": str, "rejected": int}) for split in stored["splits"].values())


def _has(record: object, kinds: Mapping[str, type]) -> bool:
    return isinstance(record, dict) and all(isinstance(record.get(name), kind) for name, kind in kinds.items())


def check_training(where: str, class_names: tuple[str, ...], rows: Rows) -> None:
    """Refuse training rows that no out-of-fold prediction can come from.

    Raises:
        SourceError: there are fewer than two classes, or a class has fewer than two usable images.
    """
    if len(rows) == 0:
        raise SourceError(f"{where}: expected training images; got none: put them there and run again")
    if len(class_names) < 2:
        got = f"got class_names={list(class_names)}"
        raise SourceError(f"{where}: expected at least 2 classes; {got}: add images of another class and run again")
    counts = np.bincount(rows.labels[rows.listed], minlength=len(class_names))
    scarce = [f"{name!r} has {count}" for name, count in zip(class_names, counts, strict=True) if count < 2]
    if scarce:
        label = int(np.flatnonzero(counts < 2)[0])
        missed = next(iter(np.flatnonzero(~rows.listed & (rows.labels == label)).tolist()), None)
        reason = "" if missed is None else f" ({rows.ids[missed]!r} can't be used: {rows.reasons[missed]})"
        expected = "expected at least 2 usable images in every class, as each is predicted by heads that didn't see it"
        more = f" and {len(scarce) - 3} more" if len(scarce) > 3 else ""
        raise SourceError(
            f"{where}: {expected}; class {', '.join(scarce[:3])}{more}{reason}: add images or remove the class"
        )

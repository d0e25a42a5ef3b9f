"""`featcache show` and `ls`: cache files as records and as lines."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featcache.cache import Reader, Status, open_cache
from featcache.core import keys, paths
from featcache.core.formatting import Lines, Table, age_text, printable, size_text
from featcache.errors import CacheError

FIRST_ROWS = 5


def cache_record(path: Path, *, stats: bool = False) -> dict[str, Any]:
    """Return everything `featcache show` prints about one file, finished or not, as JSON-able values.

    With `stats` also each tap's statistics, for which all features are read.

    Raises:
        CacheError: the file isn't there, or is no sound feature cache.
    """
    reader = open_cache(path, partial=True)
    status = np.asarray(reader.stored_status if reader.complete else reader.status)
    taps = {
        tap.name: {
            "shape": [len(reader), *tap.shape],
            "dtype": "float16",
            "bytes": len(reader) * tap.row_bytes,
            "key": tap.key,
            "settings": dict(tap.settings),
            **({"statistics": reader.statistics(tap.name)} if stats else {}),
        }
        for tap in reader.taps.values()
    }
    return {
        "path": str(path),
        "complete": reader.complete,
        "name": reader.name,
        "split": reader.split,
        "copy": reader.copy,
        "key": reader.key,
        "bytes": reader.size,
        "rows": len(reader),
        "status": {kind.text: int((status == kind).sum()) for kind in Status},
        "class_names": list(reader.class_names),
        "taps": taps,
        "settings": dict(reader.settings),
        "run": {name: value for name, value in reader.run.items() if name not in ("rows", "statistics")},
        "first_rows": _first_rows(reader, status),
    }


def cache_lines(record: Mapping[str, Any]) -> Lines:
    """Return a `cache_record` as lines and tables."""
    state = "complete" if record["complete"] else "unfinished"
    counts = ", ".join(f"{count:,} {text}" for text, count in record["status"].items() if count)
    names = record["class_names"]
    facts = [
        ("  key", record["key"]),
        ("  rows", f"{record['rows']:,}" + (f" ({counts})" if counts else "")),
        ("  classes", f"{len(names):,}" + (f": {_shortened(names)}" if names else "")),
    ]
    about = f"{record['name']}: {record['split']}, copy {record['copy']}, {state}, {size_text(record['bytes'])}"
    parts: list[str | Table] = [printable(record["path"]), printable(f"  {about}"), Table(facts)]
    for name, tap in record["taps"].items():
        shape = " x ".join(f"{length:,}" for length in tap["shape"])
        parts += ["", printable(f"tap {name}")]
        parts.append(
            Table(
                [
                    ("  shape", f"{shape} {tap['dtype']}, {size_text(tap['bytes'])}"),
                    *([("  statistics", _statistics_text(tap["statistics"]))] if "statistics" in tap else []),
                    *((f"  {key}", _value_text(value)) for key, value in tap["settings"].items()),
                ]
            )
        )
    for title in ("settings", "run"):
        if record[title]:
            parts += ["", title, Table([(f"  {key}", _value_text(value)) for key, value in record[title].items()])]
    if record["first_rows"]:
        rows = [[f"  {row['id']}", row["class"], row["group"], row["status"]] for row in record["first_rows"]]
        parts += ["", "first rows", Table(rows, ("  id", "class", "group", "status"))]
    return parts


def listing(folders: Sequence[Path], now: float) -> list[dict[str, Any]]:
    """Return one record a cache file found in or below the folders; "error" is why one can't be read.

    Args:
        folders: folders, or single files.
        now: seconds since the epoch, for ages.

    Raises:
        CacheError: a folder isn't there.
    """
    return [_listed(path, now) for folder in folders for path in _cache_files(folder)]


LISTING_COLUMNS = ("split", "copy", "taps", "shape", "rows", "rejected", "size", "age", "key", "state", "file")


def listing_cells(record: Mapping[str, Any]) -> list[str]:
    """Return a `listing` record as the texts of `LISTING_COLUMNS`."""
    size, age = size_text(record["bytes"]), age_text(record["age_seconds"])
    if record["error"]:
        return ["?", "?", "?", "?", "?", "?", size, age, "?", "unreadable", printable(record["path"])]
    state = "complete" if record["complete"] else f"partial, {record['durable_rows']:,} durable"
    return [
        record["split"],
        str(record["copy"]),
        ", ".join(record["taps"]),
        ", ".join("x".join(map(str, shape)) for shape in record["taps"].values()),
        f"{record['rows']:,}",
        "?" if record["rejected"] is None else f"{record['rejected']:,}",
        size,
        age,
        keys.short(record["key"]),
        state,
        printable(record["path"]),
    ]


def _cache_files(folder: Path) -> Iterator[Path]:
    what = paths.what_is(folder)
    if what not in (paths.FOLDER, paths.NOTHING):  # a file, or something that fails when it is opened
        yield folder
        return
    if what == paths.NOTHING:
        raise CacheError(f"there is no folder {str(folder)!r} with feature caches")
    for place, _, names in sorted(os.walk(folder)):
        for name in sorted(names):
            if name.endswith(".h5") and not name.startswith("."):
                yield Path(place) / name


def _listed(path: Path, now: float) -> dict[str, Any]:
    record: dict[str, Any] = {"path": str(path), "error": ""}
    try:
        stat = path.stat()
        record |= {"bytes": stat.st_size, "age_seconds": now - stat.st_mtime}
        reader = open_cache(path, partial=True)
    except (CacheError, OSError) as error:
        reason = f"{path}: {paths.fault(error)}" if isinstance(error, OSError) else str(error)
        return {"bytes": 0, "age_seconds": 0.0} | record | {"error": reason}
    rejected = int((np.asarray(reader.stored_status) == Status.REJECTED).sum()) if reader.complete else None
    return record | {
        "complete": reader.complete,
        "split": reader.split,
        "copy": reader.copy,
        "taps": {tap.name: list(tap.shape) for tap in reader.taps.values()},
        "rows": len(reader),
        "durable_rows": reader.journaled_rows,
        "rejected": rejected,
        "key": reader.key,
    }


def _first_rows(reader: Reader, status: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    first = slice(FIRST_ROWS)
    columns = zip(
        reader.ids[first], reader.labels[first].tolist(), reader.groups[first], reader.digests[first], strict=True
    )
    rows = []
    for row, (name, label, group, digest) in enumerate(columns):
        known = 0 <= label < len(reader.class_names)
        kind = int(status[row])
        text = Status(kind).text if kind in tuple(Status) else str(kind)
        cells = {"id": name, "label": label, "class": reader.class_names[label] if known else "", "group": group}
        rows.append(cells | {"status": text, "digest": digest})
    return rows


def _statistics_text(found: Mapping[str, Any]) -> str:
    if found["mean"] is None:
        return "no rows"
    return (
        f"zeros {found['zeros']:.1%}, mean {found['mean']:.4g}, min {found['min']:.4g}, max {found['max']:.4g}"
        f" over {found['rows']:,} rows"
    )


def _value_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _shortened(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8])
    return f"{shown}, ..." if len(names) > len(names[:8]) else shown

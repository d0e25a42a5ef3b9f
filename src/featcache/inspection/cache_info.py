"""`featcache show` and `ls`: cache files as records and as lines."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featcache.cache import Reader, Status, copy_name, open_cache
from featcache.core import keys, paths
from featcache.core.formatting import Lines, Table, age_text, printable, size_text
from featcache.core.rows import BETWEEN_NAMES, label_names
from featcache.errors import CacheError

FIRST_ROWS = 5
LISTING_COLUMNS = ("split", "copy", "taps", "shape", "rows", "rejected", "size", "age", "key", "state", "file")
_NAMES = 8


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
    shown = ", ".join(names[:_NAMES]) + (", ..." if len(names) > _NAMES else "")
    facts = {
        "key": record["key"],
        "rows": f"{record['rows']:,}" + (f" ({counts})" if counts else ""),
        "classes": f"{len(names):,}" + (f": {shown}" if names else ""),
    }
    about = f"{record['name']}: {record['split']}, {copy_name(record['copy'])}, {state}, {size_text(record['bytes'])}"
    parts: list[str | Table] = [printable(record["path"]), printable(f"  {about}"), _facts(facts)]
    settings = [tap["settings"] for tap in record["taps"].values()]
    shared = {key: value for key, value in settings[0].items() if all(own.get(key) == value for own in settings)}
    shared = shared if len(settings) > 1 else {}
    for name, tap in record["taps"].items():
        shape = " x ".join(f"{length:,}" for length in tap["shape"])
        facts = {"shape": f"{shape} {tap['dtype']}, {size_text(tap['bytes'])}"}
        if "statistics" in tap:
            facts["statistics"] = _statistics_text(tap["statistics"])
        own = {key: value for key, value in tap["settings"].items() if key not in shared}
        parts += ["", printable(f"tap {name}"), _facts(facts | own)]
    for title, facts in (("all taps", shared), ("settings", record["settings"]), ("run", record["run"])):
        if facts:
            parts += ["", title, _facts(facts)]
    if record["first_rows"]:
        rows = [[f"  {row['id']}", row["class"], row["group"], row["status"]] for row in record["first_rows"]]
        label = "labels" if "labels" in record["first_rows"][0] else "class"
        parts += ["", "first rows", Table(rows, ("  id", label, "group", "status"))]
    return parts


def listing(folders: Sequence[Path], now: float) -> list[dict[str, Any]]:
    """Return one record a cache file found in or below the folders (or files); "error" is why one can't be read.

    Raises:
        CacheError: a folder isn't there.
    """
    return [_listed(path, now) for folder in folders for path in _cache_files(folder)]


def listing_lines(records: Sequence[Mapping[str, Any]], folders: Sequence[Path]) -> Lines:
    """Return the `listing` of folders as a table, or a line where there is nothing."""
    if records:
        return [Table([_listing_cells(record) for record in records], LISTING_COLUMNS, paths=True)]
    places = ", ".join(map(str, folders))
    return [printable(f"no feature caches in {places}; `luigi --module pipeline Submit` makes some")]


def _listing_cells(record: Mapping[str, Any]) -> list[str]:
    size, age, path = size_text(record["bytes"]), age_text(record["age_seconds"]), printable(record["path"])
    if record["error"]:
        return [*"??????", size, age, "?", "unreadable", path]
    return [
        record["split"],
        copy_name(record["copy"]).removeprefix("copy "),
        ", ".join(record["taps"]),
        ", ".join("x".join(map(str, shape)) for shape in record["taps"].values()),
        f"{record['rows']:,}",
        "?" if record["rejected"] is None else f"{record['rejected']:,}",
        size,
        age,
        keys.short(record["key"]),
        "complete" if record["complete"] else f"partial, {record['durable_rows']:,} durable",
        path,
    ]


def _cache_files(folder: Path) -> Iterator[Path]:
    found = paths.what_is(folder)
    if found == paths.NOTHING:
        raise CacheError(f"there is no folder {str(folder)!r} with feature caches")
    if found != paths.FOLDER:  # a file, or something that fails when it is opened
        yield folder
    for place, _, names in sorted(os.walk(folder)):
        yield from (Path(place) / name for name in sorted(names) if name.endswith(".h5") and not name.startswith("."))


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
    rows = []
    for row, kind in enumerate(status[:FIRST_ROWS].tolist()):
        names = label_names(reader.labels, row, reader.class_names)
        rows.append(
            {
                "id": reader.ids[row],
                **({"labels": names} if reader.several else {"label": int(reader.labels[row])}),
                "class": BETWEEN_NAMES.join(names or ()),
                "group": reader.groups[row],
                "status": Status(kind).text if kind in tuple(Status) else str(kind),
                "digest": reader.digests[row],
            }
        )
    return rows


def _facts(values: Mapping[str, object]) -> Table:
    """A line each, indented."""
    texts = {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in values.items()
    }
    return Table([(f"  {name}", text) for name, text in texts.items()])


def _statistics_text(found: Mapping[str, Any]) -> str:
    if found["mean"] is None:
        return "no rows"
    numbers = ", ".join(f"{name} {found[name]:.4g}" for name in ("mean", "min", "max"))
    return f"zeros {found['zeros']:.1%}, {numbers} over {found['rows']:,} rows"

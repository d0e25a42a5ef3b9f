"""The rejected images, and why."""

import csv
from typing import Any

from featcache.core.paths import regular
from featcache.errors import CacheFormatError
from featcache.project import Project

_MOST = 200


def rejected_rows(project: Project) -> dict[str, Any]:
    """Return ``total``, and the first 200 as ``rows`` of split, id and reason.

    Raises:
        CacheFormatError: `rejected.csv` is missing or damaged.
    """
    path, rows, total = project.folder / "rejected.csv", [], 0
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="", opener=regular) as stream:
            for row in csv.DictReader(stream, strict=True):
                total += 1
                if total <= _MOST:
                    rows.append([row["split"], row["id"], row["reason"]])
    except (OSError, csv.Error, KeyError) as error:
        raise CacheFormatError(
            f"{path} is not a table of rejected images ({error!r}): run ExtractFeatures with --rerun"
        ) from error
    return {"total": total, "rows": rows}

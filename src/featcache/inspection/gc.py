"""`featcache gc`: removing what neither the current settings nor remembered runs use."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from featcache.cache import lock
from featcache.core.disk import TEMPORARY, disk, storage_errors
from featcache.core.folder_lock import folder_lock
from featcache.core.formatting import Lines, Table, age_text, printable, size_text
from featcache.core.paths import is_file, is_folder
from featcache.errors import CacheLockedError
from featcache.inspection.disk_usage import (
    LEFTOVER,
    PARTIAL,
    Item,
    inventory,
    item_record,
    remembered_bytes,
    remembered_lines,
)
from featcache.project import Project

_SETTLED_SECONDS = 60.0  # a younger leftover may be the work of a running process


def removal_record(
    project: Project, now: float, notice: Callable[[str], None], *, remove: bool, keep_bytes: int = 0
) -> dict[str, Any]:
    """Find what neither the current settings nor remembered runs use, oldest first, and with `remove` remove it.

    The newest unused things up to `keep_bytes` stay; leftovers of killed runs never do. `now` is in seconds since the
    epoch, `notice` is called with the holder of the folder's lock, if there is one.

    Raises:
        SourceError, SettingsError: what is used isn't known.
        StorageError: something can't be removed.
    """
    if remove and is_folder(project.folder):
        with folder_lock(project.folder, "gc", notice):
            found = inventory(project)
            items = [item for item in _surplus(found, now, keep_bytes) if _removed(item)]
    else:
        found = inventory(project)
        items = _surplus(found, now, keep_bytes)
    return {
        "folder": str(project.folder),
        "removed": remove,
        "bytes": sum(item.size for item in items),
        "remembered_bytes": remembered_bytes(found),
        "items": [item_record(item, now) for item in items],
    }


def removal_lines(record: Mapping[str, Any]) -> Lines:
    """Return a `removal_record` as lines and a table."""
    if not record["items"]:
        return [printable(f"{record['folder']}: nothing to remove"), *remembered_lines(record)]
    did = "removed" if record["removed"] else "would remove"
    rows = [
        [did, size_text(i["size"]), age_text(i["age_seconds"]), i["kind"], os.path.relpath(i["path"], record["folder"])]
        for i in record["items"]
    ]
    hint = "" if record["removed"] else "; --yes removes it"
    total = f"{size_text(record['bytes'])}{hint}"
    return [printable(record["folder"]), Table(rows, paths=True), total, *remembered_lines(record)]


def _surplus(items: Sequence[Item], now: float, keep_bytes: int) -> list[Item]:
    """What is removed, oldest first: all leftovers, and what doesn't fit into `keep_bytes`, filled with the newest."""
    surplus, total = [], 0
    for item in sorted(items, key=lambda item: (-item.changed, str(item.path))):
        if item.removable and item.kind == LEFTOVER:
            surplus += [item] if now - item.changed >= _SETTLED_SECONDS else []
        elif item.removable:
            total += item.size  # what is older than something that doesn't fit isn't kept either
            surplus += [item] if total > keep_bytes else []
    return sorted(surplus, key=lambda item: (item.changed, str(item.path)))


def _removed(item: Item) -> bool:
    """Remove it, unless another process began to write it or removed it meanwhile."""
    with storage_errors(item.path, "could not remove"), suppress(FileNotFoundError):
        if is_folder(item.path) and not item.path.is_symlink():
            # Renamed first: a kill leaves a leftover, never half a bag.
            aside = item.path.with_name(f"{TEMPORARY}gc-{item.path.name.removeprefix(TEMPORARY)}")
            disk.replace(item.path, aside)
            shutil.rmtree(aside)
        elif item.kind == PARTIAL and is_file(item.path):
            descriptor = os.open(item.path, os.O_RDWR | os.O_CLOEXEC)
            try:
                lock(descriptor, item.path)
                disk.unlink(item.path)
            except CacheLockedError:
                return False
            finally:
                os.close(descriptor)
        else:
            disk.unlink(item.path)
        return True
    return False

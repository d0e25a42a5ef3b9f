"""What lies in a project's folder, what of it the settings in force reach, and removing what they don't."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from featcache.cache import PARTIAL_SUFFIX, is_held, lock, open_cache, partial_path
from featcache.core.disk import disk, is_abandoned, storage_errors
from featcache.core.folder_lock import folder_lock
from featcache.core.formatting import Lines, Table, age_text, printable, size_text
from featcache.core.paths import is_file, is_folder
from featcache.dataset import preview_images
from featcache.errors import CacheError, CacheLockedError, SettingsError
from featcache.project import Project
from featcache.training import PartialFolder

CACHE, PARTIAL, BAG, CONVNET = "cache", "partial", "bag", "convnet"
PREDICTIONS, ENSEMBLE, SUBMISSION, REPORT = "predictions", "ensemble", "submission", "report"
LEFTOVER, OTHER = "leftover", "other"
_RESULTS = {"predictions": PREDICTIONS, "ensembles": ENSEMBLE, "submissions": SUBMISSION, "reports": REPORT}
_LEFTOVER = ".tmp-"
_SETTLED_SECONDS = 60.0  # a younger leftover may be somebody's work at this moment


@dataclass(frozen=True)
class Item:
    """One thing in the folder that is kept or removed as a whole.

    Attributes:
        path: a file, or the folder of a bag, a convnet or a result.
        kind: `CACHE`, `PARTIAL`, `BAG`, `CONVNET` (a member's networks, finished or not), `PREDICTIONS`, `ENSEMBLE`,
            `SUBMISSION`, `REPORT`, `LEFTOVER` or `OTHER`.
        size: bytes of all its files.
        changed: when it was last written, in seconds since the epoch.
        reached: whether the settings in force ask for it, or could take rows from it.
        held: whether a live process is writing it.
    """

    path: Path
    kind: str
    size: int
    changed: float
    reached: bool
    held: bool = False

    @property
    def removable(self) -> bool:
        """Whether nobody would miss it."""
        return not self.reached and not self.held


def inventory(project: Project) -> list[Item]:
    """Return everything in the project's folder.

    Raises:
        SourceError: the images can't be listed, so what is reached isn't known.
        SettingsError: the weights or the precision aren't settled yet, so what is reached isn't known.
    """
    if project.manifest().key is None and is_file(project.folder / "manifest.json"):
        project = project.assuming(preview_images(project.settings.dataset, project.folder, project.listing))
    reach = _Reach(project)
    return [item for path in _entries(project.folder) if (item := _item(path, reach)) is not None]


def usage_record(project: Project, now: float) -> dict[str, Any]:
    """Return `inventory` as JSON-able values, largest first, with the totals of each kind."""
    items = sorted(inventory(project), key=lambda item: -item.size)
    kinds = {item.kind: 0 for item in items}
    for item in items:
        kinds[item.kind] += item.size
    return {
        "folder": str(project.folder),
        "bytes": sum(item.size for item in items),
        "unreached_bytes": sum(item.size for item in items if item.removable),
        "kinds": kinds,
        "items": [_record(item, now) for item in items],
    }


def usage_lines(record: Mapping[str, Any]) -> Lines:
    """Return a `usage_record` as lines and a table."""
    rows = []
    for item in record["items"]:
        state = "being written" if item["held"] else "in use" if item["reached"] else "unreached"
        path = os.path.relpath(item["path"], record["folder"])
        rows.append([size_text(item["size"]), age_text(item["age_seconds"]), item["kind"], state, path])
    kinds = ", ".join(f"{kind} {size_text(size)}" for kind, size in record["kinds"].items())
    lines: list[str | Table] = [
        printable(record["folder"]),
        Table(rows, ("size", "age", "kind", "state", "path"), paths=True),
    ]
    lines.append(f"{size_text(record['bytes'])} in all ({kinds or 'nothing there'})")
    if record["unreached_bytes"]:
        lines.append(
            f"{size_text(record['unreached_bytes'])} unreached by the settings in force; featcache gc removes it"
        )
    return lines


def removal_record(
    project: Project, now: float, notice: Callable[[str], None], *, remove: bool, keep_bytes: int = 0
) -> dict[str, Any]:
    """Find what the settings in force don't reach, oldest first, and with `remove` remove it.

    Args:
        project: the settings.
        now: seconds since the epoch.
        notice: is told who holds the folder, when someone does.
        remove: False only says what would be removed.
        keep_bytes: the newest unreached things up to this size stay; leftovers of killed runs never do.

    Raises:
        SourceError, SettingsError: what is reached isn't known.
        StorageError: something can't be removed.
    """
    if not is_folder(project.folder):
        return {"folder": str(project.folder), "removed": remove, "bytes": 0, "items": []}
    if not remove:
        items = _surplus(inventory(project), now, keep_bytes)
    else:
        with folder_lock(project.folder, "gc", notice):
            items = [item for item in _surplus(inventory(project), now, keep_bytes) if _removed(item)]
    found = [_record(item, now) for item in items]
    return {"folder": str(project.folder), "removed": remove, "bytes": sum(i.size for i in items), "items": found}


def removal_lines(record: Mapping[str, Any]) -> Lines:
    """Return a `removal_record` as lines and a table."""
    if not record["items"]:
        return [printable(f"{record['folder']}: nothing to remove")]
    did = "removed" if record["removed"] else "would remove"
    rows = [
        [did, size_text(i["size"]), age_text(i["age_seconds"]), i["kind"], os.path.relpath(i["path"], record["folder"])]
        for i in record["items"]
    ]
    again = "" if record["removed"] else "; --yes removes it"
    return [printable(record["folder"]), Table(rows, paths=True), f"{size_text(record['bytes'])}{again}"]


class _Reach:
    """What the settings in force ask for."""

    def __init__(self, project: Project) -> None:
        caches = [(project.features(*cache), project.tap_keys(cache[1])) for cache in project.caches()]
        if any(artifact.key is None for artifact, _ in caches):
            raise SettingsError(
                "expected settled weights and precision; what these settings reach isn't known yet: "
                "run `luigi --module pipeline ExtractFeatures` first"
            )
        self.paths = {artifact.path for artifact, _ in caches}
        self.paths |= {partial_path(artifact.path, artifact.key or "") for artifact, _ in caches}
        self.paths |= {source.path.parent for sources in project.member_sources().values() for source in sources}
        self.paths |= {PartialFolder(member.path.parent, member.key or "").path for member in project.convnets()}
        results = [project.ensemble(), project.submission(), project.report()]
        results += [project.predictions(split) for split in project.scored_splits()]
        self.paths |= {result.path.parent for result in results}
        # Rows for what isn't there yet are copied from any cache that has them.
        self.taps = {key for artifact, taps in caches if not artifact.is_complete() for key in taps.values()}
        self.known = bool(caches)

    def reaches(self, path: Path, kind: str) -> bool:
        """Whether `path` is asked for, or holds features that are."""
        if kind == OTHER or not self.known or path in self.paths:
            return kind != LEFTOVER
        if kind not in (CACHE, PARTIAL):
            return False
        try:
            return bool(self.taps & {tap.key for tap in open_cache(path, partial=True).taps.values()})
        except CacheError:
            return False


def _entries(folder: Path) -> Iterator[Path]:
    """Files of the folder and of its rooms; a bag is one entry."""
    for path in sorted(folder.iterdir()) if is_folder(folder) else []:
        inside = [path]
        if is_folder(path) and not path.name.startswith(_LEFTOVER) and not path.is_symlink():
            with suppress(OSError):  # then it is an entry of its own, which isn't ours to look at
                inside = sorted(path.iterdir())
        yield from inside


def _item(path: Path, reach: _Reach) -> Item | None:
    kind = _kind(path)
    try:
        files = [path, *path.rglob("*")] if is_folder(path) and not path.is_symlink() else [path]
        stats = [file.lstat() for file in files]
        held = not is_abandoned(path) if kind == LEFTOVER else is_file(path) and is_held(path)
    except OSError:
        return None  # gone meanwhile, or not ours to look at: then it isn't ours to remove
    size = sum(stat.st_size for file, stat in zip(files, stats, strict=True) if not is_folder(file))
    return Item(path, kind, size, max(stat.st_mtime for stat in stats), reach.reaches(path, kind), held)


def _kind(path: Path) -> str:
    room = path.parent.name
    if path.name.startswith(_LEFTOVER):
        return LEFTOVER
    if room == "features" and path.suffix == ".h5":
        return PARTIAL if path.name.endswith(PARTIAL_SUFFIX) else CACHE
    if room == "convnets" and is_folder(path):
        return CONVNET
    if room == "heads" and is_file(path / "bag.json"):
        return BAG
    if room in _RESULTS and (is_folder(path) or path.suffix == ".hdf5"):  # a file: made by featcache 0.1
        return _RESULTS[room]
    return OTHER


def _surplus(items: Sequence[Item], now: float, keep_bytes: int) -> list[Item]:
    """What goes, oldest first: all leftovers, and of the rest what doesn't fit into `keep_bytes`, newest first."""
    surplus = [item for item in items if item.removable and item.kind == LEFTOVER]
    surplus = [item for item in surplus if now - item.changed >= _SETTLED_SECONDS]
    kept, full = 0, False
    unreached = [item for item in items if item.removable and item.kind != LEFTOVER]
    for item in sorted(unreached, key=lambda item: (-item.changed, str(item.path))):
        kept += item.size
        full = full or kept > keep_bytes
        if full:
            surplus.append(item)
    return sorted(surplus, key=lambda item: (item.changed, str(item.path)))


def _removed(item: Item) -> bool:
    """Remove it, unless someone began to write it or removed it meanwhile."""
    with storage_errors(item.path, "could not remove"), suppress(FileNotFoundError):
        if is_folder(item.path) and not item.path.is_symlink():
            # Out of the way first: a kill leaves a leftover, never half a bag.
            aside = item.path.with_name(f"{_LEFTOVER}gc-{item.path.name.removeprefix(_LEFTOVER)}")
            disk.replace(item.path, aside)
            shutil.rmtree(aside)
            return True
        if item.kind == PARTIAL and is_file(item.path):
            descriptor = os.open(item.path, os.O_RDWR | os.O_CLOEXEC)
            try:
                lock(descriptor, item.path)
                disk.unlink(item.path)
            except CacheLockedError:
                return False
            finally:
                os.close(descriptor)
            return True
        disk.unlink(item.path)
        return True
    return False


def _record(item: Item, now: float) -> dict[str, Any]:
    record = asdict(item) | {"path": str(item.path), "age_seconds": round(now - item.changed, 3)}
    del record["changed"]
    return record

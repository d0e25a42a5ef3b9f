"""`featcache du`: what the project's folder holds, and whether the current settings use it."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from featcache.cache import PARTIAL_SUFFIX, is_held, open_cache, partial_path
from featcache.core.disk import TEMPORARY, is_abandoned
from featcache.core.formatting import Lines, Table, age_text, printable, size_text
from featcache.core.paths import is_file, is_folder
from featcache.dataset import preview_images
from featcache.errors import CacheError, SettingsError
from featcache.project import COMPARE, RUNS, Project, comparison_project, remembered_runs
from featcache.training import PartialFolder

CACHE, PARTIAL, LEFTOVER, OTHER = "cache", "partial", "leftover", "other"
_RESULTS = {
    "predictions": "predictions",
    "ensembles": "ensemble",
    "submissions": "submission",
    "reports": "report",
    RUNS: "run",
}


@dataclass(frozen=True)
class Item:
    """One thing in the folder that is kept or removed as a whole: a file, or the folder of a bag, a convnet or a result.

    Attributes:
        kind: ``cache``, ``partial``, ``bag``, ``convnet`` (a member's networks, finished or not), ``predictions``,
            ``ensemble``, ``submission``, ``report``, ``run`` (what is remembered of one), ``leftover`` or ``other``.
        size: bytes of all its files.
        changed: when it was last written, in seconds since the epoch.
        reached: whether the current settings use it, or can copy rows from it.
        held: whether a live process is writing it.
        remembered: whether a remembered run needs it.
    """

    path: Path
    kind: str
    size: int
    changed: float
    reached: bool
    held: bool = False
    remembered: bool = False

    @property
    def removable(self) -> bool:
        """Whether nothing needs it."""
        return not self.reached and not self.held and not self.remembered

    @property
    def state(self) -> str:
        """The first reason to keep it, in a word."""
        states = {"being written": self.held, "used": self.reached, "remembered": self.remembered, "unused": True}
        return next(state for state, applies in states.items() if applies)


def inventory(project: Project) -> list[Item]:
    """Return everything in the project's folder.

    Raises:
        SourceError: the images can't be listed, so what is used isn't known.
        SettingsError: the weights or the precision aren't resolved yet, so what is used isn't known.
    """
    if project.manifest().key is None and is_file(project.folder / "manifest.json"):
        project = project.assuming(preview_images(project.settings.dataset, project.folder, project.listing))
    caches = [(each.cache(split, copy), each.tap_keys(copy)) for each, split, copy in project.caches()]
    if any(cache.key is None for cache, _ in caches):
        raise SettingsError(
            "weights or precision are not resolved yet, so what these settings use isn't known: "
            "run `luigi --module pipeline ExtractFeatures` first"
        )
    used, remembered = used_paths(project), {path for run in remembered_runs(project) for path in run.needs()}
    used |= {partial_path(cache.path, cache.key or "") for cache, _ in caches}
    used |= {PartialFolder(member.path.parent, member.key or "").path for member in project.convnets()}
    if compared := project.settings.compare.backbones:
        comparison = comparison_project(project, compared)
        found = [backbone.cache(split, copy) for backbone, split, copy in comparison.caches()]
        used |= {path for cache in found for path in (cache.path, partial_path(cache.path, cache.key or ""))}
    # Rows of missing caches are copied from any cache that has them.
    taps = {key for cache, found in caches if not cache.is_complete() for key in found.values()}

    def is_reached(path: Path, kind: str) -> bool:
        if kind == OTHER or not caches or path in used:
            return kind != LEFTOVER
        with suppress(CacheError):
            return kind in (CACHE, PARTIAL) and any(
                tap.key in taps for tap in open_cache(path, partial=True).taps.values()
            )
        return False

    items = (_item(path, is_reached) for path in _entries(project.folder))
    return [replace(item, remembered=item.path in remembered) for item in items if item is not None]


def used_paths(project: Project) -> set[Path]:
    """Return the caches of the current settings, and the folders of everything else that they make."""
    results = [project.ensemble(), project.submission(), project.report()]
    results += [project.predictions(split) for split in project.scored_splits()]
    results += [source for sources in project.member_sources().values() for source in sources]
    caches = {backbone.cache(split, copy).path for backbone, split, copy in project.caches()}
    return caches | {result.path.parent for result in results}


def usage_record(project: Project, now: float) -> dict[str, Any]:
    """Return `inventory` as JSON-able values, largest first, with the totals of each kind."""
    items = sorted(inventory(project), key=lambda item: -item.size)
    kinds = Counter[str]()
    for item in items:
        kinds[item.kind] += item.size
    return {
        "folder": str(project.folder),
        "bytes": sum(item.size for item in items),
        "unreached_bytes": sum(item.size for item in items if item.removable),
        "remembered_bytes": remembered_bytes(items),
        "kinds": kinds,
        "items": [item_record(item, now) for item in items],
    }


def usage_lines(record: Mapping[str, Any]) -> Lines:
    """Return a `usage_record` as lines and a table."""
    rows = []
    for item in record["items"]:
        path = os.path.relpath(item["path"], record["folder"])
        rows.append([size_text(item["size"]), age_text(item["age_seconds"]), item["kind"], item["state"], path])
    kinds = ", ".join(f"{kind} {size_text(size)}" for kind, size in record["kinds"].items())
    unreached = f"{size_text(record['unreached_bytes'])} not used by the current settings; featcache gc removes it"
    return [
        printable(record["folder"]),
        Table(rows, ("size", "age", "kind", "state", "path"), paths=True),
        f"{size_text(record['bytes'])} in total ({kinds or 'empty'})",
        *([unreached] if record["unreached_bytes"] else []),
        *remembered_lines(record),
    ]


def remembered_bytes(items: Sequence[Item]) -> int:
    """Return how much is kept for remembered runs alone."""
    return sum(item.size for item in items if item.state == "remembered")


def remembered_lines(record: Mapping[str, Any]) -> list[str]:
    """Return a line about a record's ``remembered_bytes``, if there are any."""
    count = record["remembered_bytes"]
    return (
        [f"{size_text(count)} kept for remembered runs; featcache runs --forget RUN lets gc remove it"] if count else []
    )


def _entries(folder: Path) -> Iterator[Path]:
    """The files of the folder and of its folders; a bag is one entry."""
    for path in sorted(folder.iterdir()) if is_folder(folder) else []:
        if path.name == COMPARE and is_folder(path) and not path.is_symlink():
            yield from _entries(path)
            continue
        inside = [path]
        if is_folder(path) and not path.name.startswith(TEMPORARY) and not path.is_symlink():
            with suppress(OSError):  # a folder that may not be read is one entry
                inside = sorted(path.iterdir())
        yield from inside


def _item(path: Path, is_reached: Callable[[Path, str], bool]) -> Item | None:
    kind = _kind(path)
    try:
        files = [path, *path.rglob("*")] if is_folder(path) and not path.is_symlink() else [path]
        stats = [file.lstat() for file in files]
        held = not is_abandoned(path) if kind == LEFTOVER else is_file(path) and is_held(path)
    except OSError:
        return None  # gone meanwhile, or without permission to look at it
    size = sum(stat.st_size for file, stat in zip(files, stats, strict=True) if not is_folder(file))
    return Item(path, kind, size, max(stat.st_mtime for stat in stats), is_reached(path, kind), held)


def _kind(path: Path) -> str:
    room = path.parent.name
    if path.name.startswith(TEMPORARY):
        return LEFTOVER
    if room == "features" and path.suffix == ".h5":
        return PARTIAL if path.name.endswith(PARTIAL_SUFFIX) else CACHE
    if room == "convnets" and is_folder(path):
        return "convnet"
    if room == "heads" and is_file(path / "bag.json"):
        return "bag"
    if room in _RESULTS and (is_folder(path) or path.suffix == ".hdf5"):  # a file: made by featcache 0.1
        return _RESULTS[room]
    return OTHER


def item_record(item: Item, now: float) -> dict[str, Any]:
    """Return an item as JSON-able values, with its age in place of its time."""
    record = asdict(item) | {"path": str(item.path), "age_seconds": round(now - item.changed, 3), "state": item.state}
    del record["changed"]
    return record

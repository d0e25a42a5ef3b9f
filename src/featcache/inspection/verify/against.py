"""Sound files against what they should be of now: the manifest beside them, luigi.cfg, and, deep, the images themselves."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from featcache.cache import PARTIAL_SUFFIX, Reader, file_key, open_cache
from featcache.core.formatting import pluralize
from featcache.core.texts import NOT_FOUND, index_of
from featcache.dataset import Manifest, preview_images, reread_images, stored_manifest
from featcache.errors import FeatcacheError
from featcache.inspection.staleness import cached_rows_changed, features_reason, record_reason
from featcache.inspection.verify.faults import DISK, FILE, SETTINGS, UNKNOWN, Fault
from featcache.inspection.verify.other_files import kind_of
from featcache.project import Artifact, Project

_UNREADABLE = "can't be read"


def demand_faults(paths: Sequence[Path], project: Project, *, deep: bool) -> Iterator[tuple[Path, Fault]]:
    """Yield the path and fault of every file that isn't what settings or images demand now.

    Args:
        paths: files whose structure is sound.
        project: the settings in force; files outside its folder are held to the manifest beside them alone.
        deep: read every image of the source again.
    """
    if project.manifest().key is None:
        try:
            project.foresee(preview_images(project.settings.dataset, project.folder, project.listing))
        except FeatcacheError as error:
            mine = [path for path in paths if path.is_relative_to(project.folder)]
            yield from ((path, Fault(UNKNOWN, f"the images can't be listed: {error}")) for path in mine)
            paths = [path for path in paths if path not in mine]
    for path in paths:
        try:
            found = _cache(path, project, deep) if path.suffix == ".h5" else _record(path, project)
            yield from ((path, fault) for fault in found)
        except FeatcacheError as error:
            yield path, Fault(UNKNOWN, str(error))


def _cache(path: Path, project: Project, deep: bool) -> Iterator[Fault]:
    if path.name.endswith(PARTIAL_SUFFIX):
        return
    reader, mine = open_cache(path), path.is_relative_to(project.folder)
    yield from _rows(path, reader)
    if mine and path not in {project.features(*cache).path for cache in project.caches()}:
        reason = features_reason(project, reader, reader.copy)
        asked = f"no settings in force ask for copy {reader.copy} of {reader.split}"
        yield Fault(SETTINGS, f"made with other settings: {reason or asked}")
    if deep:
        yield from _source(reader, project) if mine else _unknown_source(project)


def _rows(path: Path, reader: Reader) -> Iterator[Fault]:
    folder = path.parent.parent
    stored = stored_manifest(folder)
    if stored is None:
        return
    listed = stored["splits"].get(reader.split, {"rows": 0, "key": ""})
    taps = {tap.name: tap.key for tap in reader.taps.values()}
    if reader.key == file_key(taps, listed["key"], stored["class_names"], reader.split, reader.copy):
        if reader.class_names != tuple(stored["class_names"]):
            yield Fault(FILE, "expected the class names that its key was made of; class_name holds others")
        return
    if len(reader) != listed["rows"]:
        yield Fault(SETTINGS, f"expected {listed['rows']:,} rows as manifest.json lists them; got {len(reader):,}")
    reason = cached_rows_changed(reader, Manifest.load(folder))
    yield Fault(SETTINGS, f"made from another listing: {reason or 'its key is not that of these rows and settings'}")


def _source(reader: Reader, project: Project) -> Iterator[Fault]:
    rows = _reread(project).splits.get(reader.split)
    places = index_of(reader.ids, rows.ids if rows is not None else ())
    gone: list[str] = []
    changed: list[str] = []
    unreadable: list[str] = []
    reason = ""
    for row, digest, place in zip(reader.ids, reader.digests, map(int, places), strict=True):
        if rows is None or place == NOT_FOUND:
            gone.append(row)
        elif rows.digests[place] != digest:
            failed = rows.reasons[place].startswith(_UNREADABLE)
            reason = rows.reasons[place] if failed and not unreadable else reason
            (unreadable if failed else changed).append(row)
    for rows_found, what in ((gone, "gone"), (changed, "changed")):
        if rows_found:
            yield Fault(
                SETTINGS, f"of the source, {pluralize(len(rows_found), 'image')} {what}, e.g. {rows_found[0]!r}"
            )
    if unreadable:
        yield Fault(DISK, f"of the source, {pluralize(len(unreadable), 'image')} {reason}, e.g. {unreadable[0]!r}")


def _unknown_source(project: Project) -> Iterator[Fault]:
    message = f"luigi.cfg's artifacts are in {project.folder}, so this file's images aren't known: run it where its luigi.cfg is, or use --set"
    yield Fault(UNKNOWN, message)


@lru_cache(maxsize=1)
def _reread(project: Project) -> Manifest:
    """The whole source, read once for all its caches."""
    return reread_images(project.settings.dataset)


def _record(path: Path, project: Project) -> Iterator[Fault]:
    if not path.is_relative_to(project.folder):
        return
    artifact = _demanded(path, project)
    if artifact is None:
        return
    record = Artifact(path, None).record() or {}
    if path == artifact.path and record.get("key") == artifact.key:
        return
    if kind_of(path) == "manifest":
        yield Fault(SETTINGS, "the images or the source's settings changed since it was written")
        return
    reason, upstream = record_reason(artifact, [path])
    changed = "; ".join(filter(None, [reason, f"upstream: {upstream[0]}" if upstream else ""]))
    yield Fault(SETTINGS, f"made from other settings or results: {changed}")


def _demanded(path: Path, project: Project) -> Artifact | None:
    """The artifact that should be at `path`, or, for a bag of other settings, the one of its tap and shape that should be there."""
    kind = kind_of(path)
    if kind == "bag":
        record = Artifact(path, None).record() or {}
        return next(
            (project.bag(*bag) for bag in project.bags() if bag == (record.get("tap"), record.get("shape"))), None
        )
    known = [project.manifest(), project.ensemble(), project.submission()]
    known += [project.predictions(split) for split in project.scored_splits()] + project.convnets()
    known += [project.report()] if project.settings.report.enabled else []
    return next((artifact for artifact in known if artifact.path == path), None)

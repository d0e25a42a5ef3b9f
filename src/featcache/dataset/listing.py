"""The first stage: list a data set, and find out cheaply whether it is still the one listed."""

import contextlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from featcache.core import paths
from featcache.core.disk import storage_errors
from featcache.core.json_records import read_json, write_json
from featcache.core.progress import Progress, Silent
from featcache.dataset import decoding
from featcache.dataset.corrections import with_corrections
from featcache.dataset.decoding.versions import optional_formats
from featcache.dataset.digest_cache import DigestCache
from featcache.dataset.file_checks import FileChecks, contents_digest
from featcache.dataset.file_stats import FileStats, stat_file, stats_digest
from featcache.dataset.groups import group_file, with_groups
from featcache.dataset.manifest import Manifest, stored_manifest
from featcache.dataset.sources.folder import ImageFiles
from featcache.dataset.sources.source import open_source
from featcache.errors import SourceError
from featcache.settings import DatasetSpec

LISTING_VERSION = 3  # raise it when the same files would be listed, checked or digested differently
LISTING_CSV = "listing.csv"
LISTING_JSON = "listing.json"
_NAMED = ("table", "filename")  # sources of which a setting says where the test images are
_SURVEYED = 64  # images whose sizes are looked at before anything is listed
_GROUPS, _CORRECTIONS = "groups:", "corrections:"  # no image's location starts with these


class Listing(NamedTuple):
    """`listing.json`: the last listing in short, so that an unchanged one needs no CSV."""

    asked: dict[str, str]  #: the settings that were asked for
    root: str  #: where the files were; a moved data set is read again
    stats: str  #: digest of all stats
    contents: str  #: digest of all locations and contents, which decide the manifest
    settled: bool  #: no file was changed in the clock tick in which it was read
    key: str  #: the manifest's key

    @classmethod
    def load(cls, folder: Path) -> "Listing | None":
        """Read it; None when it is absent, damaged, of another version, or made where other formats are read."""
        stored: dict[str, Any] | None = read_json(folder / LISTING_JSON)
        if stored is None or stored.pop("version", None) != [LISTING_VERSION, *optional_formats()]:
            return None
        try:
            return cls(**stored)
        except TypeError:  # other fields
            return None


def list_files(spec: DatasetSpec) -> FileStats | None:
    """Return the stats of all files that a listing is based on, without reading any; None where that can't be done."""
    try:
        return _files(spec)
    except SourceError:
        return None


def list_images(
    spec: DatasetSpec, folder: Path, progress: Progress | None = None, files: FileStats | None = None
) -> Manifest:
    """List every image of a data set, and keep in `folder` what the listing is based on (but not the manifest).

    Only files whose size or time stamps are new since the last listing in `folder` are read; `progress` counts them, and
    gets a notice of what is left out or rejected. `files` is what `list_files` saw, so that a run sees one state of the
    data set; None to look now.

    Raises:
        SourceError: the data set is missing, empty, damaged or not laid out as its source expects.
        StorageError: `folder` can't be written.
    """
    progress = Silent() if progress is None else progress
    with storage_errors(folder, "could not make"):
        folder.mkdir(parents=True, exist_ok=True)
    digests = _known_digests(spec, folder)
    try:
        files = _files(spec) if files is None else files
        manifest = _listed(spec, digests, progress, files)
    except BaseException:
        _keep_digests(digests, spec, folder, files)
        raise
    digests.save(folder / LISTING_CSV)
    _save_listing(folder, spec, files, digests, manifest.key)
    _notify(manifest, progress)
    return manifest


def preview_images(spec: DatasetSpec, folder: Path, files: FileStats | None = None) -> Manifest:
    """Return the manifest that `list_images` would, or raise what it would, and write nothing."""
    return _listed(spec, _known_digests(spec, folder), Silent(), _files(spec) if files is None else files)


def survey_images(spec: DatasetSpec) -> tuple[Manifest, list[tuple[int, int]]]:
    """Return what a listing would find without reading any image, so with nothing rejected by its content.

    Beside it the (width, height) in pixels of some training images, evenly spaced, as far as these are image files.

    Raises:
        SourceError: as `list_images`.
    """
    source = open_source(spec)
    manifest = source.list_rows(_files(spec), Unread(), Silent())
    if ":" in spec.groups:
        manifest = with_groups(manifest, *group_file(spec.groups, spec.path))
    rows = manifest.splits["train"]
    if not isinstance(source, ImageFiles):
        return manifest, []
    chosen = np.unique(np.linspace(0, len(rows) - 1, _SURVEYED).astype(int)).tolist()
    sizes = []
    for location in (rows.locations[row] for row in chosen):
        with contextlib.suppress(OSError, SourceError):
            sizes.append(decoding.image_sides(source.content(location)) if location else None)
    return manifest, [sides for sides in sizes if sides]


class Unread(DigestCache):
    """Knows no digest, and has none made."""

    def digest_all(self, files: FileStats, *_: object) -> FileChecks:
        """Return that nothing is known of the files."""
        return FileChecks(files)


def _listed(spec: DatasetSpec, digests: DigestCache, progress: Progress, files: FileStats) -> Manifest:
    _examine_tables(files, digests)  # before they are read, so that a change meanwhile is found by the next run
    manifest = open_source(spec).list_rows(files, digests, progress)
    if ":" in spec.groups:
        manifest = with_groups(manifest, *group_file(spec.groups, spec.path))
    return manifest if spec.corrections is None else with_corrections(manifest, spec.corrections)


def current_key(spec: DatasetSpec, folder: Path, files: FileStats | None) -> str | None:
    """Return the key of the manifest in `folder` if listing the data set now would give the same.

    While nothing changed, nothing is read but two short JSON files. Of `files`, which `list_files` saw, those with a new
    stat are read, and if their contents are the old ones, the key holds and the listing is updated, as far as `folder`
    can be written. None if there is no manifest, if it would change, or if the data set can't be listed.
    """
    stored, listing = stored_manifest(folder), Listing.load(folder)
    if files is None or stored is None or listing is None or listing.key != stored["key"]:
        return None
    if listing.asked != _asked(spec):
        return None
    if listing.root == _root(spec) and listing.settled and listing.stats == stats_digest(files):
        return listing.key
    digests = _known_digests(spec, folder)
    try:
        open_source(spec).examine(files, digests, Silent())
        _examine_tables(files, digests)
    except SourceError:
        return None
    if contents_digest(digests.used) != listing.contents:
        _keep_digests(digests, spec, folder, files)
        return None
    with contextlib.suppress(OSError):  # what can't be kept costs another reading, and must not stop a question
        digests.save(folder / LISTING_CSV)
        _save_listing(folder, spec, files, digests, listing.key)
    return listing.key


def _files(spec: DatasetSpec) -> FileStats:
    files = open_source(spec).files()
    if ":" in spec.groups:
        path = group_file(spec.groups, spec.path)[0]
        files.tables[path] = stat_file(_GROUPS + spec.groups, path)
    if spec.corrections is not None:
        path = paths.expanded(spec.corrections, "[Dataset] corrections")
        files.tables[path] = stat_file(_CORRECTIONS, path)
    return files


def _examine_tables(files: FileStats, digests: DigestCache) -> None:
    for path, stat in files.tables.items():
        digests.digest_all(FileStats([stat]), {stat.location: path}.__getitem__, None, Silent())


def _known_digests(spec: DatasetSpec, folder: Path) -> DigestCache:
    listing = Listing.load(folder)
    there = listing is not None and listing.root == _root(spec)
    return DigestCache.load(folder / LISTING_CSV) if there else DigestCache()


def _keep_digests(digests: DigestCache, spec: DatasetSpec, folder: Path, files: FileStats | None) -> None:
    # What was read needn't be read again, though no manifest came of it. The stored listing stays with its manifest, as
    # another process may be using both.
    listing = Listing.load(folder)
    if (
        files is None
        or not any(len(part.files) for part in digests.used)
        or (listing is not None and listing.root != _root(spec))
    ):
        return
    with contextlib.suppress(OSError):
        digests.save(folder / LISTING_CSV, unused=True)
        if listing is None:
            _save_listing(folder, spec, files, digests, key="")


def _save_listing(folder: Path, spec: DatasetSpec, files: FileStats, digests: DigestCache, key: str) -> None:
    settled = all(part.all_settled() for part in digests.used)
    contents = contents_digest(digests.used)
    listing = Listing(_asked(spec), _root(spec), stats_digest(files), contents, settled, key)
    write_json(folder / LISTING_JSON, {"version": [LISTING_VERSION, *optional_formats()], **listing._asdict()})


def _asked(spec: DatasetSpec) -> dict[str, str]:
    own = {"table": spec.table, "id": spec.id, "label": ",".join(spec.label), "split": spec.split}
    own |= {"images": ",".join(spec.images), "test": spec.test, "pattern": spec.pattern}
    own |= {"separator": spec.separator}
    own |= {"corrections": "" if spec.corrections is None else "a file"}  # whose content is digested
    return {"source": spec.source, "groups": spec.groups} | {name: text for name, text in own.items() if text}


def _root(spec: DatasetSpec) -> str:
    return "" if spec.path is None else repr(os.path.realpath(paths.expanded(spec.path, "[Dataset] path")))


def _notify(manifest: Manifest, progress: Progress) -> None:
    if manifest.left_out:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(manifest.left_out.items()))
        progress.notice(f"not listed: {kinds}")
    if "test" not in manifest.splits:
        fix = "name them by [Dataset] test" if manifest.settings["source"] in _NAMED else "put them into PATH/test"
        progress.notice(f"no test images, which predictions and the submission need: {fix}")
    for split, rows in manifest.splits.items():
        rejected = np.flatnonzero(~rows.listed)
        if len(rejected):
            first = f"{rows.ids[rejected[0]]!r} ({rows.reasons[rejected[0]]})"
            progress.notice(f"{split}: {len(rejected)} of {len(rows)} images rejected, e.g. {first}")

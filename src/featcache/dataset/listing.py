"""The first stage: list a data set, and find out cheaply whether it is still the one listed."""

import contextlib
import os
from pathlib import Path

import numpy as np

from featcache.core import paths
from featcache.core.disk import storage_errors
from featcache.core.progress import Progress, Silent
from featcache.dataset.digest_cache import DigestCache, Listing, contents_digest
from featcache.dataset.file_stats import FileStats, stat_file, stats_digest
from featcache.dataset.groups import group_file, with_groups
from featcache.dataset.manifest import Manifest, stored_manifest
from featcache.dataset.sources.source import open_source
from featcache.errors import SourceError
from featcache.settings import DatasetSpec

LISTING_CSV = "listing.csv"
LISTING_JSON = "listing.json"
_GROUPS = "groups:"  # no image's location starts with it


def build_manifest(spec: DatasetSpec, folder: Path, progress: Progress | None = None) -> Manifest:
    """List every image of a data set and save the manifest in `folder`: `list_images` and `Manifest.save` in one.

    Raises:
        SourceError: the data set is missing, empty, damaged or not laid out as its source expects.
        StorageError: `folder` can't be written.
    """
    manifest = list_images(spec, folder, progress)
    manifest.save(folder)
    return manifest


def list_files(spec: DatasetSpec) -> FileStats | None:
    """Return the stats of all files that a listing is based on, without reading any; None when the data set can't be listed."""
    try:
        return _files(spec)
    except SourceError:
        return None


def list_images(
    spec: DatasetSpec, folder: Path, progress: Progress | None = None, files: FileStats | None = None
) -> Manifest:
    """List every image of a data set, and keep in `folder` what the listing is based on (but not the manifest).

    Only files whose size or time stamps are new since the last listing in `folder` are read.

    Args:
        spec: where the images are.
        folder: of the data set's artifacts.
        progress: counts the files, and gets a notice of what is left out or rejected.
        files: what `list_files` saw, so that a run sees one state of the data set; None to look now.

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
    _listing(spec, files, digests, manifest.key).save(folder / LISTING_JSON)
    _notify(manifest, progress)
    return manifest


def preview_images(spec: DatasetSpec, folder: Path, files: FileStats | None = None) -> Manifest:
    """Return the manifest that `list_images` would, and write nothing.

    Raises:
        SourceError: the data set is missing, empty, damaged or not laid out as its source expects.
    """
    return _listed(spec, _known_digests(spec, folder), Silent(), files)


def _listed(spec: DatasetSpec, digests: DigestCache, progress: Progress, files: FileStats | None) -> Manifest:
    source = open_source(spec)
    files = _files(spec) if files is None else files
    manifest = source.list_rows(files, digests, progress)
    if spec.groups:
        _examine_groups(spec, files, digests)
        manifest = with_groups(manifest, *group_file(spec.groups, spec.path))
    return manifest


def current_key(
    spec: DatasetSpec, folder: Path, files: FileStats | None, progress: Progress | None = None
) -> str | None:
    """Return the key of the manifest in `folder` if listing the data set now would give the same.

    While nothing changed, nothing is read but two short JSON files. Files with a new stat are read, and if their
    contents are the old ones, the key holds and the listing is updated, as far as `folder` can be written.

    Args:
        spec: where the images are.
        folder: of the data set's artifacts.
        files: what `list_files` saw.
        progress: counts the files that must be read.

    Returns:
        The key; None if there is no manifest, if it would change, or if the data set can't be listed (`list_images`
        then raises).
    """
    stored, listing = stored_manifest(folder), Listing.load(folder / LISTING_JSON)
    if files is None or stored is None or listing is None:
        return None
    if listing.asked != _asked(spec) or listing.key != stored["key"]:
        return None
    if listing.root == _root(spec) and listing.settled and listing.stats == stats_digest(files):
        return listing.key
    digests = _known_digests(spec, folder)
    try:
        open_source(spec).examine(files, digests, Silent() if progress is None else progress)
        _examine_groups(spec, files, digests)
    except SourceError:
        return None
    if contents_digest(digests.used) != listing.contents:
        _keep_digests(digests, spec, folder, files)
        return None
    with contextlib.suppress(
        OSError
    ):  # a listing that can't be kept costs another reading, and must not stop a question
        digests.save(folder / LISTING_CSV)
        _listing(spec, files, digests, listing.key).save(folder / LISTING_JSON)
    return listing.key


def _files(spec: DatasetSpec) -> FileStats:
    files = open_source(spec).files()
    if spec.groups:
        files.groups = stat_file(_GROUPS + spec.groups, group_file(spec.groups, spec.path)[0])
    return files


def _examine_groups(spec: DatasetSpec, files: FileStats, digests: DigestCache) -> None:
    if files.groups is not None:
        digests.digest(group_file(spec.groups, spec.path)[0], files.groups)


def _known_digests(spec: DatasetSpec, folder: Path) -> DigestCache:
    listing = Listing.load(folder / LISTING_JSON)
    if listing is None or listing.root != _root(spec):
        return DigestCache()
    return DigestCache.load(folder / LISTING_CSV)


def _keep_digests(digests: DigestCache, spec: DatasetSpec, folder: Path, files: FileStats | None) -> None:
    # What was read needn't be read again, though no manifest came of it. The stored listing stays with its manifest, as
    # another process may be using both.
    listing = Listing.load(folder / LISTING_JSON)
    if files is None or not any(map(len, digests.used)) or (listing is not None and listing.root != _root(spec)):
        return
    with contextlib.suppress(OSError):
        digests.save(folder / LISTING_CSV, unused=True)
        if listing is None:
            _listing(spec, files, digests, key="").save(folder / LISTING_JSON)


def _listing(spec: DatasetSpec, files: FileStats, digests: DigestCache, key: str) -> Listing:
    return Listing.of(_asked(spec), _root(spec), stats_digest(files), digests.used, key)


def _asked(spec: DatasetSpec) -> dict[str, str]:
    return {"source": spec.source, "groups": spec.groups}


def _root(spec: DatasetSpec) -> str:
    return "" if spec.path is None else repr(os.path.realpath(paths.expanded(spec.path, "[Dataset] path")))


def _notify(manifest: Manifest, progress: Progress) -> None:
    if manifest.left_out:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(manifest.left_out.items()))
        progress.notice(f"not listed: {kinds}")
    if "test" not in manifest.splits:
        progress.notice("no test images, which predictions and the submission need: put them into PATH/test")
    for split, rows in manifest.splits.items():
        rejected = np.flatnonzero(~rows.listed)
        if len(rejected):
            first = f"{rows.ids[rejected[0]]!r} ({rows.reasons[rejected[0]]})"
            progress.notice(f"{split}: {len(rejected)} of {len(rows)} images rejected, e.g. {first}")

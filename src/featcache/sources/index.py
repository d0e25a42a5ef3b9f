"""The first stage: list a data set, and tell cheaply whether it is still the one listed."""

import contextlib
from pathlib import Path

from featcache.disk import storage_errors
from featcache.errors import SourceError, StorageError
from featcache.progress import Progress, Silent
from featcache.sources.groups import group_file, with_groups
from featcache.sources.listing import (
    DigestCache,
    Examined,
    FileStat,
    Listing,
    contents_digest,
    stat_file,
    stats_digest,
)
from featcache.sources.manifest import Manifest, stored_manifest
from featcache.sources.source import open_source
from featcache.specs import DatasetSpec

LISTING_CSV = "listing.csv"
LISTING_JSON = "listing.json"
_GROUPS = "groups:"  # no image's location starts with it


def index_images(spec: DatasetSpec, folder: Path, progress: Progress | None = None) -> Manifest:
    """List every image of a data set and save the manifest and what it rests on in `folder`.

    Only files whose size or time stamps are new since the last listing in `folder` are read.

    Raises:
        SourceError: the data set is missing, empty, damaged or not laid out as its source expects.
        StorageError: `folder` can't be written.
    """
    progress = Silent() if progress is None else progress
    with storage_errors(folder, "could not make"):
        folder.mkdir(parents=True, exist_ok=True)
    digests = _known_digests(spec, folder)
    try:
        manifest = open_source(spec).list_rows(digests, progress)
        if spec.groups:
            path, column = group_file(spec.groups, spec.path)
            digests.digest(path, stat_file(_GROUPS + spec.groups, path))
            manifest = with_groups(manifest, path, column)
    except BaseException:
        if digests.used:
            _save_quietly(digests, spec, folder, key="")  # what has been read needn't be read again
        raise
    manifest.save(folder)
    digests.save(folder / LISTING_CSV)
    _listing(spec, digests.used, manifest.key).save(folder / LISTING_JSON)
    _tell(manifest, progress)
    return manifest


def current_key(spec: DatasetSpec, folder: Path, progress: Progress | None = None) -> str | None:
    """Return the key of the manifest in `folder` if listing the data set now would give the same.

    Costs a stat a file while nothing changed. Files with a new stat are read, and if their contents are the old ones,
    the key stands and the listing is brought up to date, as far as `folder` can be written.

    Returns:
        The key; None if there is no manifest, if it would change, or if the data set can't be listed (`index_images`
        then says why).
    """
    stored, listing = stored_manifest(folder), Listing.load(folder / LISTING_JSON)
    if stored is None or listing is None or listing.asked != _asked(spec) or listing.key != stored["key"]:
        return None
    try:
        files = _files(spec)
        same_place = listing.root == _root(spec)
        if same_place and listing.settled and listing.stats == stats_digest(files):
            return listing.key
        digests = _known_digests(spec, folder)
        _examine(spec, files, digests, Silent() if progress is None else progress)
    except SourceError:
        return None
    unchanged = contents_digest(digests.used) == listing.contents
    _save_quietly(digests, spec, folder, key=listing.key if unchanged else "")
    return listing.key if unchanged else None


def _files(spec: DatasetSpec) -> list[FileStat]:
    files = open_source(spec).files()
    if spec.groups:
        files.append(stat_file(_GROUPS + spec.groups, group_file(spec.groups, spec.path)[0]))
    return files


def _examine(spec: DatasetSpec, files: list[FileStat], digests: DigestCache, progress: Progress) -> None:
    images = [file for file in files if not file.location.startswith(_GROUPS)]
    open_source(spec).examine(images, digests, progress)
    for file in files[len(images) :]:
        digests.digest(group_file(spec.groups, spec.path)[0], file)


def _known_digests(spec: DatasetSpec, folder: Path) -> DigestCache:
    listing = Listing.load(folder / LISTING_JSON)
    if listing is None or listing.root != _root(spec):
        return DigestCache()
    return DigestCache.load(folder / LISTING_CSV)


def _save_quietly(digests: DigestCache, spec: DatasetSpec, folder: Path, key: str) -> None:
    # A listing that can't be kept costs another reading; it must not stop whoever only asks.
    with contextlib.suppress(StorageError, OSError):
        digests.save(folder / LISTING_CSV, unused=not key)
        _listing(spec, digests.used, key).save(folder / LISTING_JSON)


def _listing(spec: DatasetSpec, used: list[Examined], key: str) -> Listing:
    return Listing.of(_asked(spec), _root(spec), used, key)


def _asked(spec: DatasetSpec) -> dict[str, str]:
    return {"source": spec.source, "groups": spec.groups}


def _root(spec: DatasetSpec) -> str:
    return "" if spec.path is None else repr(str(spec.path.expanduser().resolve()))


def _tell(manifest: Manifest, progress: Progress) -> None:
    if manifest.left_out:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(manifest.left_out.items()))
        progress.notice(f"not listed: {kinds}")
    for split, rows in manifest.splits.items():
        rejected = [index for index, reason in enumerate(rows.reasons) if reason]
        if rejected:
            first = f"{rows.ids[rejected[0]]!r} ({rows.reasons[rejected[0]]})"
            progress.notice(f"{split}: {len(rejected)} of {len(rows)} images are set aside, e.g. {first}")

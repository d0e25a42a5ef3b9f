"""The checks of files: ``python -m featcache.inspection.verify.checks FILE ...`` prints each fault as a line of JSON.

An empty line ends the faults of a file.
"""

import errno
import json
import os
import resource
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featcache.cache import PARTIAL_SUFFIX, Reader, check_cache, file_key, open_cache
from featcache.core import keys
from featcache.core.disk import system_error
from featcache.core.json_records import read_json
from featcache.core.paths import is_file, regular
from featcache.dataset import Manifest, stored_manifest
from featcache.ensemble import Ensemble
from featcache.errors import CacheError, CacheFormatError, FeatcacheError
from featcache.inspection.staleness import cached_rows_changed
from featcache.training import RECORD_FILE, load_bag, stored_probabilities, table_parts

DISK, FILE, SETTINGS, UNKNOWN = "disk", "file", "settings", "unknown"
CACHE = "feature cache"
DONE = b"\n"  # what the child writes after a file's faults
# The disk's own failures, apart from a file that is gone or may not be read, of which nothing is known.
_DISK_ERRORS = frozenset({errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE, errno.ETIMEDOUT, errno.EREMOTEIO})
_MEMORY_BYTES = 16 << 30  # a damaged size ends in an error, not in swapping everything else out


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        cause: ``disk`` (it can't be read), ``file`` (it is damaged), ``settings`` (it is sound, but its rows are not
            those of the manifest beside it) or ``unknown`` (it could not be checked).
        message: one line.
        unreadable: reading the file hangs or crashes, so nothing can be copied from it.
    """

    cause: str
    message: str
    unreadable: bool = False


def kind_of(path: Path) -> str:
    """Return what a file is by its name; "" for what isn't an artifact."""
    return CACHE if path.suffix == ".h5" else _RECORDS.get(path.name, ("",))[0]


def file_faults(path: Path) -> Iterator[Fault]:
    """Yield the faults of a file that `kind_of` knows."""
    yield from _guarded(path, _cache(path) if path.suffix == ".h5" else _RECORDS[path.name][1](path))


def _guarded(path: Path, found: Iterator[Fault]) -> Iterator[Fault]:
    """Yield what a check finds, and as its last fault the error that ended it."""
    try:
        yield from found
    except (FeatcacheError, OSError) as error:
        broken = system_error(error, _DISK_ERRORS)
        failed = broken or error
        if isinstance(failed, OSError) and failed.errno:
            yield Fault(DISK if broken else UNKNOWN, f"{path.name} can't be read: {os.strerror(failed.errno)}")
        else:
            yield Fault(FILE, str(error).removeprefix(f"{path}: "))


def _cache(path: Path) -> Iterator[Fault]:
    """Every fault of a feature cache, finished or not, in flat memory."""
    for found in check_cache(path):
        cause = FILE if found.error is None else DISK if found.error.errno in _DISK_ERRORS else UNKNOWN
        yield Fault(cause, found.message)
    with suppress(CacheError):  # of a structure that is damaged, which is reported already
        if not path.name.endswith(PARTIAL_SUFFIX):
            yield from _listed_rows(open_cache(path, partial=True))


def _listed_rows(reader: Reader) -> Iterator[Fault]:
    """The rows are those of the manifest beside the file, if there is one."""
    folder = reader.path.parent.parent
    if stored_manifest(folder) is None:
        return
    try:
        manifest = Manifest.load(folder)
    except FeatcacheError as error:
        yield Fault(UNKNOWN, f"its rows could not be compared: {error}")
        return
    rows, taps = manifest.splits.get(reader.split), {tap.name: tap.key for tap in reader.taps.values()}
    key = file_key(taps, rows.key if rows else "", manifest.class_names, reader.split, reader.copy)
    if reader.key != key:
        changed = cached_rows_changed(reader, manifest) or "its key is not that of these rows"
        count = f"{len(reader):,} rows here, {len(rows or ()):,} in the manifest"
        yield Fault(SETTINGS, f"other rows than the manifest lists ({count}); {changed}")
    elif reader.class_names != manifest.class_names:
        yield Fault(FILE, "class_name: not the class names that the file's key was made from")


def _bag(path: Path) -> Iterator[Fault]:
    yield from _guarded(path, _trained(path))
    bag = load_bag(path.parent)
    arrays = {**bag.weights, "input/mean": bag.seen_as.mean, "input/scale": bag.seen_as.scale}
    wrong = [name for name, array in arrays.items() if array is not None and not np.isfinite(array).all()]
    if wrong:
        yield Fault(FILE, f"weights that are NaN or infinite: {', '.join(wrong)}")


def _trained(path: Path) -> Iterator[Fault]:
    """The out-of-fold predictions, the Keras models and the record of a bag or a convnet."""
    yield from _guarded(path, _predictions(path))
    for model in sorted(path.parent.glob("*.keras")):
        try:
            with open(model, "rb", opener=regular) as stream, zipfile.ZipFile(stream) as archive:
                damaged = archive.testzip()
        except zipfile.BadZipFile as error:
            yield Fault(FILE, f"{model.name} is not a Keras model: {error}")
            continue
        if damaged:
            yield Fault(FILE, f"{model.name}: checksum mismatch in {damaged}")
    files = _record(path).get("files")
    missing = [name for name in (files if isinstance(files, dict) else ()) if not is_file(path.parent / name)]
    if missing:
        yield Fault(FILE, f"missing beside it: {', '.join(sorted(missing))}")


def _predictions(path: Path) -> Iterator[Fault]:
    rows = 0
    for _, part in table_parts(stored_probabilities(path)):
        present = part[~np.isnan(part).all(axis=2)]  # a member may have no prediction for a row
        rows += int((~np.isfinite(present).all(axis=1)).sum())
    if rows:
        yield Fault(FILE, f"predictions that are NaN or infinite in {rows} rows")


def _published(path: Path) -> Iterator[Fault]:
    """A record, and the file beside it whose digest it has."""
    digest, names = _record(path).get("content_digest"), _CONTENTS[path.name]
    files = [file for name in names if is_file(file := path.with_name(name))]
    if not files:
        yield Fault(FILE, f"{' or '.join(names)} is missing")
    elif digest not in {keys.file_digest(file) for file in files}:
        yield Fault(FILE, f"{files[0].name} was changed after it was written: SHA-256 mismatch")


def _loaded(path: Path) -> Iterator[Fault]:
    """A manifest, whose rows are compared with its key, or an ensemble: sound if it can be loaded."""
    if path.name == "ensemble.json":
        Ensemble.load(path)
    else:
        Manifest.load(path.parent)
    yield from ()


def _record(path: Path) -> dict[str, Any]:
    """A JSON record with a key; what can't be read is an OSError, anything else a CacheFormatError."""
    open(path, "rb", opener=regular).close()
    record = read_json(path)
    if record is None or not isinstance(record.get("key"), str):
        raise CacheFormatError(f"{path}: not a JSON record with a key")
    return record


_CONTENTS = {"submission.json": ("submission.csv", "submission.csv.gz"), "report.json": ("index.html",)}
# File name -> what it is, and its check.
_RECORDS: dict[str, tuple[str, Callable[[Path], Iterator[Fault]]]] = {
    "manifest.json": ("manifest", _loaded),
    "bag.json": ("bag", _bag),
    RECORD_FILE: ("convnet", _trained),
    "predictions.json": ("predictions", _predictions),
    "ensemble.json": ("ensemble", _loaded),
    "submission.json": ("submission", _published),
    "report.json": ("report", _published),
}


def main() -> None:
    """Check the files that the command line names."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (min({soft, hard, _MEMORY_BYTES} - {resource.RLIM_INFINITY}), hard))
    for name in sys.argv[1:]:
        for fault in file_faults(Path(name)):
            sys.stdout.write(json.dumps(asdict(fault)) + "\n")
            sys.stdout.flush()
        sys.stdout.buffer.write(DONE)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()

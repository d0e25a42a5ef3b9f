"""The artifacts folder's file system: room, speed, durability and locks, tried with a file that is removed again."""

import errno
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from featcache.core.disk import disk, temporary_name
from featcache.core.folder_lock import try_lock
from featcache.core.formatting import size_text
from featcache.errors import StorageError
from featcache.inspection.doctor.check import FAIL, PASS, WARN, Check

_PIECE = os.urandom(1 << 20)
_PIECES = 64
_LITTLE, _TOO_LITTLE = 10 * 10**9, 10**9  # bytes
_FAST, _SLOW = 400e6, 60e6  # bytes a second
_FORGETFUL = ("tmpfs", "ramfs")
_ELSEWHERE = "set [Paths] artifacts to a folder on a local disk"


def storage_checks(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> Iterator[Check]:
    """Yield checks of the file system that `folder` is on, or will be on; the folder itself isn't made.

    Args:
        folder: the artifacts folder.
        mounts: where Linux lists file systems.
    """
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    yield _room(place)
    path = temporary_name(place / "doctor")
    try:
        with open(path, "xb", buffering=0) as stream:
            yield _speed(stream.fileno(), place, _kind(place, mounts))
            yield _locks(stream.fileno(), path)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = "free some of it: featcache gc" if full else f"permit it, or {_ELSEWHERE}"
        yield Check("writing", FAIL, f"{place} can't be written: {error.strerror}", fix)
    finally:
        if path.exists():
            disk.unlink(path)


def _room(place: Path) -> Check:
    free = shutil.disk_usage(place).free
    told = f"{size_text(free)} free in {place}"
    if free < _LITTLE:
        fix = "featcache plan says what a run needs, featcache gc frees what nothing needs"
        return Check("disk room", FAIL if free < _TOO_LITTLE else WARN, told, fix)
    return Check("disk room", PASS, told)


def _speed(descriptor: int, place: Path, kind: str) -> Check:
    """Write and sync 64 MiB as extraction does."""
    begun = time.perf_counter()
    for piece in range(_PIECES):
        disk.pwrite(descriptor, _PIECE, piece * len(_PIECE))
    disk.fsync(descriptor)
    written = time.perf_counter()
    disk.pwrite(descriptor, _PIECE[:4096], 0)
    disk.fsync(descriptor)
    synced = time.perf_counter() - written
    disk.fsync_folder(place)
    rate = _PIECES * len(_PIECE) / max(written - begun, 1e-9)
    word = "fast" if rate >= _FAST else "usual" if rate >= _SLOW else "slow"
    told = f"{word}: {size_text(rate)}/s with fsync, {1000 * synced:.1f} ms for a small one, {kind}"
    if kind in _FORGETFUL:
        return Check("disk speed", WARN, f"{told}, which forgets everything at a restart", _ELSEWHERE)
    return Check("disk speed", WARN, told, _ELSEWHERE) if word == "slow" else Check("disk speed", PASS, told)


def _locks(descriptor: int, path: Path) -> Check:
    """A second open file must not get the lock that the first one holds."""
    with open(path, "rb+", buffering=0) as second:
        try:
            if not try_lock(descriptor, path):
                raise StorageError("a new file's lock is held by someone")
            if try_lock(second.fileno(), path):
                return Check("file locks", FAIL, f"locks in {path.parent} hold nobody off", _ELSEWHERE)
        except StorageError as error:
            return Check("file locks", FAIL, str(error), _ELSEWHERE)
    return Check("file locks", PASS, "one process at a time can hold a file")


def _kind(place: Path, mounts: Path) -> str:
    """The file system's type, of the mount point nearest above `place`."""
    found = {Path("/"): "an unknown file system"}
    try:
        for line in mounts.read_text(errors="replace").splitlines():
            _, point, kind, *_ = line.split()
            found[Path(point)] = kind
    except (OSError, ValueError):
        return "an unknown file system"
    return next(found[path] for path in (place.resolve(), *place.resolve().parents) if path in found)

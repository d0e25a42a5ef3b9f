"""The artifacts folder's file system: free space, writing and locks, tried with a file that is removed again."""

import errno
import shutil
from pathlib import Path

from featcache.core.disk import disk, temporary_name
from featcache.core.folder_lock import try_lock
from featcache.core.formatting import size_text
from featcache.inspection.doctor.check import FAIL, PASS, WARN, Check

_LOW, _TOO_LOW = 10 * 10**9, 10**9  # bytes
_ELSEWHERE = "set [Paths] artifacts to a folder on a local disk"


def disk_check(folder: Path) -> Check:
    """Check the file system of the artifacts folder, which need not exist yet and isn't created."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    found = f"{size_text(free)} free in {place}"
    path = temporary_name(place / "doctor")
    try:
        if not _can_lock(path):
            return Check("disk", FAIL, f"file locks do not work in {place}", _ELSEWHERE)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = "free some space: featcache gc" if full else f"permit it, or {_ELSEWHERE}"
        return Check("disk", FAIL, f"{place} can't be written: {error.strerror or error}", fix)
    finally:
        if path.exists():
            disk.unlink(path)
    if free < _LOW:
        fix = "featcache plan estimates what a run needs, featcache gc removes what nothing needs"
        return Check("disk", FAIL if free < _TOO_LOW else WARN, found, fix)
    return Check("disk", PASS, f"{found}; writing and file locks work")


def _can_lock(path: Path) -> bool:
    """Write a new file; whether one process at a time can lock it."""
    with open(path, "xb", buffering=0) as first, open(path, "rb+", buffering=0) as second:
        disk.pwrite(first.fileno(), bytes(4096), 0)
        disk.fsync(first.fileno())
        return try_lock(first.fileno(), path) and not try_lock(second.fileno(), path)

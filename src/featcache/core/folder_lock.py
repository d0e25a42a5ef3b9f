"""One stage at a time in one artifacts folder: an flock, which the kernel drops with its process, and a record of its holder."""

import errno
import fcntl
import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from featcache.core.disk import TEMPORARY, disk, is_abandoned, owner, storage_errors
from featcache.core.paths import is_folder, regular
from featcache.errors import StorageError

LOCK_NAME = ".lock"
_RECORD_BYTES = 512
_POLL_SECONDS = 0.1
HELD = (errno.EWOULDBLOCK, errno.EACCES)
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
_LOG = logging.getLogger(__name__)


def holder_record(**more: str) -> dict[str, object]:
    """Return this process as a holder: pid, host and now in UTC, and `more` beside."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname()[:200], "since": now, **more}


def holder_words(record: Mapping[str, object]) -> str:
    """Return a `holder_record` as text, e.g. ``process 4711 on lab3 since 2026-11-22T16:58:47+00:00``."""
    stage = f", running {record['stage']}" if "stage" in record else ""
    return f"process {record['pid']} on {record['host']} since {record['since']}{stage}"


@contextmanager
def folder_lock(folder: Path, stage: str, notice: Callable[[str], None]) -> Iterator[None]:
    """Hold `folder` while the block lasts; while another process does, notify who and wait.

    Unfinished files of a killed holder (hidden ``.tmp-*``, never read) are removed by the next one; what a live process
    is writing there, such as ``featcache predict --csv``, is not.

    Args:
        folder: of a data set's artifacts; made if it doesn't exist.
        stage: what the folder is held for, for those who wait.
        notice: called once with who holds the folder, and again when the holder changes.

    Raises:
        StorageError: the folder can't be written, or its file system has no locks.
    """
    path, noticed = folder / LOCK_NAME, None

    def wait() -> None:
        nonlocal noticed
        record = _read_record(path)
        if record is not None and record != noticed:
            noticed = record
            notice(f"{folder} is in use by {holder_words(record)}; waiting for it to finish")
        time.sleep(_POLL_SECONDS)

    descriptor = held_file(path, wait)
    try:
        left = _read_record(path)
        if left is not None:
            _LOG.warning("%s: %s died; resuming from what it finished", folder, holder_words(left))
            _remove_leftovers(folder, str(left.get("owner", "")))
        _write_record(descriptor, json.dumps(holder_record(stage=stage, owner=owner())).encode("ascii"))
        yield
    finally:
        _write_record(descriptor, b"")
        os.close(descriptor)


def held_file(path: Path, wait: Callable[[], None], flags: int = 0) -> int:
    """Lock `path`, made empty if it isn't there, and return its descriptor; closing that lets go.

    Args:
        path: the file; of this name when this returns, whatever was renamed meanwhile.
        wait: called each time that someone else holds it; what it raises ends the waiting.
        flags: further ones of `os.open`.

    Raises:
        StorageError: the file can't be opened, or its file system has no locks.
    """
    while True:
        with storage_errors(path, "could not open"):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | flags, 0o666)
        try:
            locked = try_lock(descriptor, path)
            # between opening and locking the file may have been removed or replaced: then this lock guards nothing
            with suppress(FileNotFoundError):
                if locked and os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if not locked:
            wait()


def try_lock(descriptor: int, path: Path) -> bool:
    """Lock an open file without waiting; False while someone else holds it.

    Raises:
        StorageError: the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            return False
        if error.errno in _NO_LOCKS:
            raise StorageError(
                f"could not lock {path}: its file system has no locks: set [Paths] artifacts to a folder on another one"
            ) from error
        raise
    return True


def _read_record(path: Path) -> dict[str, object] | None:
    try:
        with open(path, "rb", opener=regular) as stream:
            record = json.loads(stream.read(_RECORD_BYTES).rstrip(b"\0"))
        holder_words(record)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(record)


def _write_record(descriptor: int, content: bytes) -> None:
    # The lock holds without it, and the stage reports a full disk better, with what it needs.
    with suppress(OSError):
        disk.pwrite(descriptor, content[:_RECORD_BYTES].ljust(_RECORD_BYTES, b"\0"), 0)


def _remove_leftovers(folder: Path, dead: str) -> None:
    rooms = [entry for entry in folder.iterdir() if is_folder(entry)]
    results = (entry for room in rooms for entry in room.glob("*") if is_folder(entry))  # such as ensembles/KEY/
    for parent in (folder, *rooms, *results):
        for leftover in parent.glob(f"{TEMPORARY}*"):
            if not is_abandoned(leftover, dead):
                continue
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                with suppress(OSError):  # harmless, and the next run tries again
                    disk.unlink(leftover)

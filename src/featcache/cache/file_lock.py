"""One writer for one partial file: an flock that the kernel drops with its process, and who holds it."""

import fcntl
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from featcache.cache.file_parser import read_structure
from featcache.cache.layout import HOLDER_BYTES
from featcache.core.folder_lock import HELD, held_file, holder_record, holder_words, try_lock
from featcache.core.paths import regular
from featcache.errors import CacheFormatError, CacheLockedError

_LOOK_SECONDS = 0.5  # `is_held` takes microseconds, and much more where the machine is busy


def hold(path: Path, flags: int = 0) -> int:
    """Lock `path`, made empty if it isn't there, and return its descriptor; closing that lets go.

    `flags` are further ones of `os.open`.

    Raises:
        CacheLockedError: another process, or another writer of this one, holds it; the message names it.
        StorageError: the file can't be opened, or its file system has no locks.
    """
    return held_file(path, _patience(path), flags)


def lock(descriptor: int, path: Path) -> None:
    """Lock an open file.

    Raises:
        CacheLockedError: someone else holds it.
        StorageError: the file system has no locks.
    """
    wait = _patience(path)
    while not try_lock(descriptor, path):
        wait()


def _patience(path: Path) -> Callable[[], None]:
    """Return what waits a little, and raises after as long as somebody may take who only looks whether it is held."""
    end = time.monotonic() + _LOOK_SECONDS

    def wait() -> None:
        if time.monotonic() >= end:
            raise CacheLockedError(f"{path} is being written by {holder(path)}; wait for it or stop it, then run again")
        time.sleep(_LOOK_SECONDS / 50)

    return wait


def is_held(path: Path) -> bool:
    """Return whether some live process is writing `path`; False when it isn't there."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO of that name would wait
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            return True
        raise
    finally:
        os.close(descriptor)
    return False


def holder_json() -> bytes:
    """Return this process as the file's holder: pid, host and now, `HOLDER_BYTES` long."""
    return json.dumps(holder_record()).encode("ascii").ljust(HOLDER_BYTES, b"\0")


def holder(path: Path) -> str:
    """Return who wrote its name into `path`, in words, e.g. ``process 4711 on lab3 since 2026-11-22T16:58:47+00:00``."""
    try:
        with open(path, "rb", opener=regular) as stream:
            structure = read_structure(stream, path)
            raw = os.pread(stream.fileno(), HOLDER_BYTES, structure.places["journal/holder"].offset)
        return holder_words(json.loads(raw.rstrip(b"\0")))
    except (CacheFormatError, OSError, ValueError, KeyError, TypeError):
        return "another process that has just started"

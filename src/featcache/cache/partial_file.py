"""The unfinished file of a cache: taking hold of it, trusting only what its checksums prove, tidying up."""

import errno
import glob
import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np

from featcache.cache.block_checksums import columns_sha256, read_journal, sound_blocks
from featcache.cache.create import create
from featcache.cache.file_lock import hold, holder_json, lock
from featcache.cache.file_parser import Structure, read_structure
from featcache.cache.layout import CacheHeader, partials_of
from featcache.core.disk import TEMPORARY, disk, replacing, storage_errors
from featcache.core.paths import is_file
from featcache.errors import CacheFormatError, CacheLockedError, StorageError

SHARED_FLAGS = os.O_DSYNC
_LOG = logging.getLogger(__name__)


def take(
    path: Path, header: CacheHeader, *, fresh: bool = False, shared: bool = False
) -> tuple[int, Structure, list[int]]:
    """Lock the partial file `path`, recreate it unless it is a sound one of `header`, and verify its blocks.

    Returns the locked descriptor, the file's structure, and its durable blocks.

    With `shared` other machines write rows, too. Then each write goes to the disk by itself, no byte more than was
    written: an NFS client would otherwise round it up to whole pages, and put back what it had seen of its neighbours.

    Raises:
        CacheLockedError: another process, or another writer of this one, holds it.
        StorageError: no space for the whole file, no permission, a failing disk.
    """
    flags = SHARED_FLAGS if shared else 0
    descriptor = hold(path, flags)
    try:
        structure, durable = None if fresh else _resumable(descriptor, path, header), []
        if structure is None:
            descriptor = _recreate(descriptor, path, header, flags)
            structure = _structure(descriptor, path)
        else:
            _allocate(descriptor, structure.size, path)
            durable = _verify(descriptor, structure)
        with storage_errors(path, "could not write"):
            disk.pwrite(descriptor, holder_json(), structure.places["journal/holder"].offset)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, structure, durable


def remove_superseded(path: Path) -> None:
    """Remove the partial files of `path` that no process holds, of whatever key; the finished file makes them useless.

    Raises:
        StorageError: one can't be removed.
    """
    for candidate in filter(is_file, partials_of(path)):
        try:
            descriptor = os.open(candidate, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            lock(descriptor, candidate)
            with storage_errors(candidate, "could not remove"):
                disk.unlink(candidate)
        except CacheLockedError:
            _LOG.info("%s is held by another process and stays", candidate)
        finally:
            os.close(descriptor)
    with storage_errors(path.parent, "could not write"):
        disk.fsync_folder(path.parent)


def _structure(descriptor: int, path: Path) -> Structure:
    with open(descriptor, "rb", closefd=False) as stream:
        return read_structure(stream, path)


def _resumable(descriptor: int, path: Path, header: CacheHeader) -> Structure | None:
    """Return the structure of a partial that is whole and holds the header's rows, else None."""
    if os.fstat(descriptor).st_size == 0:
        return None
    try:
        structure = _structure(descriptor, path)
        columns = columns_sha256(descriptor, structure)
    except CacheFormatError as error:
        _LOG.warning("starting over: %s", error)
        return None
    taps = {(tap.name, tap.shape, tap.key) for tap in structure.taps}
    same = taps == {(tap.name, tap.shape, tap.key) for tap in header.taps} and structure.key == header.key
    if not same or not columns == structure.columns_sha256 == header.columns_sha256:
        _LOG.warning("starting over: %s is damaged or holds other rows than key %s", path, header.key)
        return None
    return structure


def _recreate(descriptor: int, path: Path, header: CacheHeader, flags: int) -> int:
    """Put a fresh file in the place of the locked one, and return its own locked descriptor.

    The new inode is locked before it gets the name, and the old one's lock is kept until then: at no moment could
    another writer take hold of the name.
    """
    with storage_errors(path, "could not clear the way for"):
        # of a writer killed here; the lock is ours
        for leftover in path.parent.glob(f"{TEMPORARY}*-{glob.escape(path.name)}"):
            disk.unlink(leftover)
    fresh = -1
    try:
        with replacing(path) as temporary:
            with open(temporary, "wb") as stream:  # HDF5, left to find a full disk, would print its inner errors
                _allocate(stream.fileno(), header.least_bytes, path)
            create(temporary, header)
            fresh = os.open(temporary, os.O_RDWR | os.O_CLOEXEC | flags)
            lock(fresh, temporary)
            _allocate(fresh, os.fstat(fresh).st_size, path)
    except BaseException:
        if fresh >= 0:
            os.close(fresh)
        if os.fstat(descriptor).st_size == 0:  # made only to be locked
            with suppress(OSError):  # the first error is the one to report
                disk.unlink(path)
        raise
    os.close(descriptor)
    return fresh


def _allocate(descriptor: int, size: int, path: Path) -> None:
    """Reserve the whole file's space."""
    try:
        with storage_errors(path, "could not reserve space for"):
            disk.allocate(descriptor, size)
    except StorageError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOSPC, errno.EDQUOT):
            needed, free = size / 1e6, shutil.disk_usage(path.parent).free / 1e6
            advice = "make room or put the artifacts on another disk, then run again"
            raise StorageError(f"{path} needs {needed:,.1f} MB, {free:,.1f} MB are free; {advice}") from error
        raise


def _verify(descriptor: int, structure: Structure) -> list[int]:
    """Return the blocks whose bytes match their checksum, and take the other checksums out of the journal."""
    journaled = np.flatnonzero(read_journal(descriptor, structure).any(axis=1)).tolist()
    sound = sound_blocks(descriptor, structure, journaled)
    damaged, checksums = sorted(set(journaled) - set(sound)), structure.places["journal/checksum"]
    with storage_errors(structure.path, "could not write"):
        for block in damaged:
            _LOG.warning("%s: block %d does not match its checksum and is computed again", structure.path, block)
            disk.pwrite(descriptor, bytes(checksums.row_bytes), checksums.offset + block * checksums.row_bytes)
        disk.pwrite(descriptor, b"\0", structure.places["journal/complete"].offset)
        if damaged:
            disk.fsync(descriptor)
    return sound

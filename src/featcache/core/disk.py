"""The few calls that change a disk, in one place: a thin layer that durability tests can record and replay.

Everything that featcache keeps is written through `disk` (the instance at the end), in the order data, fsync, rename,
fsync of the folder. Nothing else in the package calls `os.pwrite`, `os.pwritev`, `os.fsync`, `os.replace` or `os.unlink`.
"""

import errno
import fcntl
import itertools
import os
import re
import secrets
import shutil
import socket
import time
import zlib
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from featcache.core.paths import SPECIAL, what_is
from featcache.errors import StorageError

_REASONS = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would exceed the allowed file size",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "operation not permitted",
    errno.EIO: "the disk reports an input/output error",
    errno.ENAMETOOLONG: "the name is too long for the file system",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "something that is not a folder has this name",
    errno.EISDIR: "a folder has this name",
    errno.ELOOP: "a link in the path leads in a circle",
    errno.ESTALE: "the file server no longer knows it",
    errno.ENXIO: "it is not a file",
}
SETTLE_NS = 2_000_000_000  # the coarsest time stamps in use (FAT) tick every two seconds
_MOST_BUFFERS = 1024  # IOV_MAX of Linux and macOS
_ERRNO = re.compile(r"errno = (\d+)")
TEMPORARY = ".tmp-"  # how the name of everything unfinished begins
_MADE_BY = re.compile(re.escape(TEMPORARY) + r"(?P<owner>(?P<machine>[0-9a-f]{8})\.(?P<pid>\d+))\.[0-9a-f]{6}-")
_DAY = 86_400.0
_NAME_BYTES = 255  # of one name, in the file systems of today


@contextmanager
def storage_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn an `OSError` of the disk itself, also one that HDF5 reports, into one `StorageError` line that names `path`."""
    try:
        yield
    except StorageError:
        raise
    except (OSError, RuntimeError) as error:
        named = _ERRNO.search(str(error))  # by HDF5
        number = getattr(error, "errno", None) or (int(named[1]) if named else None)
        if number not in _REASONS:
            raise
        raise StorageError(
            f"{doing} {path}: {_REASONS[number]}; finished work is saved: fix this and run again"
        ) from error


def system_error(error: BaseException, numbers: Collection[int] | None = None) -> OSError | None:
    """Return what the operating system reported beneath an error, as HDF5 and others wrap it: one of `numbers`, or any."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno and (numbers is None or cause.errno in numbers):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


class Disk:
    """Writes, syncs and renames. Methods take raw file descriptors or paths and raise `OSError` unchanged."""

    def pwrite(self, descriptor: int, content: bytes | memoryview, offset: int) -> None:
        """Write all of `content` at `offset`, looping over short writes."""
        view = memoryview(content).cast("B")
        while len(view):
            written = os.pwrite(descriptor, view, offset)
            view, offset = view[written:], offset + written

    def pwritev(self, descriptor: int, contents: Sequence[memoryview], offset: int) -> None:
        """Write `contents` one after the other from `offset` on, in as few calls as the system allows; loops as `pwrite`."""
        views = deque(view.cast("B") for view in contents)
        while views:
            written = os.pwritev(descriptor, list(itertools.islice(views, _MOST_BUFFERS)), offset)
            offset += written
            while views and written >= len(views[0]):
                written -= len(views.popleft())
            if written:
                views[0] = views[0][written:]

    def fsync(self, descriptor: int) -> None:
        """Return once the file's bytes are on the disk."""
        if hasattr(fcntl, "F_FULLFSYNC"):  # macOS: its fsync leaves them in the disk's own memory
            with suppress(OSError):  # a network file system may not know it, and fsync raises what else is wrong
                fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
                return
        os.fsync(descriptor)

    def allocate(self, descriptor: int, size: int) -> None:
        """Reserve `size` bytes now, so that a full disk is known before the work."""
        # where only the file system can't, as NFS and some overlays, the writes themselves find a full disk
        if not size or reserve(descriptor, size) or hasattr(os, "posix_fallocate"):
            return
        volume, taken = os.fstatvfs(descriptor), 512 * os.fstat(descriptor).st_blocks
        if size - taken > volume.f_bavail * volume.f_frsize:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def replace(self, source: Path, target: Path) -> None:
        """Rename `source` over `target` and sync the folder, so that the name survives a power loss."""
        os.replace(source, target)
        self.fsync_folder(target.parent)

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        os.unlink(path)

    def fsync_folder(self, folder: Path) -> None:
        """Return once the folder's entries are on the disk."""
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def reserve(descriptor: int, size: int) -> bool:
    """Reserve the first `size` bytes of a file, at least 1; return False where its system or file system can't.

    Raises:
        OSError: the disk is full, or fails otherwise.
    """
    if not hasattr(os, "posix_fallocate"):  # macOS
        return False
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        return False
    return True


disk = Disk()


def temporary_name(path: Path, what: str = "") -> Path:
    """Return a new hidden name beside `path`, with its suffix, that contains this process and machine."""
    prefix = f"{TEMPORARY}{_machine()}.{os.getpid()}.{secrets.token_hex(3)}-{what}"
    return path.with_name(prefix + os.fsdecode(os.fsencode(path.name)[-(_NAME_BYTES - len(prefix)) :]))


def is_abandoned(temporary: Path, dead: str = "") -> bool:
    """Whether no live process can still be writing what has a `temporary_name`, or one of an older version.

    Processes of other machines can't be checked, but for the `dead` one if its `owner` is known: theirs is abandoned when
    it hasn't changed for a day.
    """
    made = _MADE_BY.match(temporary.name)
    if made is None or made["owner"] == dead:
        return True
    if made["machine"] != _machine():
        with suppress(OSError):  # gone meanwhile
            return time.time() - temporary.lstat().st_mtime > _DAY
        return False
    with suppress(PermissionError):  # another user's, and alive
        try:
            os.kill(int(made["pid"]), 0)
        except (ProcessLookupError, OverflowError):
            return True
    return False


def owner() -> str:
    """Return this process and machine, as `temporary_name` has them."""
    return f"{_machine()}.{os.getpid()}"


@cache
def _machine() -> str:
    """Return the digest of a machine or container; process numbers are unique only within one."""
    try:
        numbers = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # no Linux
        numbers = ""
    return f"{zlib.crc32(f'{socket.gethostname()} {numbers}'.encode()):08x}"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` (same suffix); on success it is synced and renamed over `path`.

    Whatever raises inside removes the temporary file and leaves `path` as it was; a killed process leaves at most a hidden
    file that starts with ``.tmp-`` and is never read.

    Raises:
        StorageError: the disk is full, read-only or not permitted, or `path` is a FIFO, a socket or a device.
    """
    if (what := what_is(path)) in SPECIAL:  # /dev/stdout must stay what it is
        raise StorageError(f"could not write {path}: it is {what}, not a file: name another")
    with storage_errors(path, "could not write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_name(path)
        try:
            yield temporary
            with open(temporary, "rb+") as stream:
                disk.fsync(stream.fileno())
            disk.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, atomically and durably."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Replace `path` by `content` as UTF-8, atomically and durably."""
    write_bytes(path, content.encode("utf-8"))


def copy_file(source: Path, target: Path) -> None:
    """Replace `target` by the bytes of `source`, atomically and durably; raises `OSError` if that can't be read."""
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


@contextmanager
def replacing_folder(folder: Path, *, new: bool = False) -> Iterator[Path]:
    """Yield an empty temporary folder beside `folder`; on success all in it is synced and it replaces `folder`.

    Whatever raises inside removes it again; a killed process leaves at most a hidden folder that starts with ``.tmp-``.

    Raises:
        StorageError: the disk is full, read-only or not permitted, or `new`, and there is something of this name.
    """
    if new and os.path.lexists(folder):
        raise StorageError(f"{folder} already exists: remove it or name another")
    with storage_errors(folder, "could not write"):
        temporary = temporary_name(folder)
        try:
            temporary.mkdir(parents=True)
            yield temporary
            replace_folder(temporary, folder, new=new)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(temporary: Path, folder: Path, *, new: bool = False) -> None:
    """Sync all of `temporary`, which lies beside `folder`, and rename it over `folder`, which with `new` isn't there.

    Who reads meanwhile finds the old folder, the new one or, for a moment, none.
    """
    for parent, _, names in os.walk(temporary, topdown=False):
        for name in sorted(names):
            with open(Path(parent, name), "rb+") as stream:
                disk.fsync(stream.fileno())
        disk.fsync_folder(Path(parent))
    old = temporary_name(folder, "old-")
    if not new and folder.exists():
        disk.replace(folder, old)
    disk.replace(temporary, folder)
    if old.exists():
        shutil.rmtree(old)


def settled(found: os.stat_result) -> tuple[int, ...] | None:
    """Return what identifies a file's current state; None while a change could hide in a tick of the clock."""
    if abs(time.time_ns() - found.st_ctime_ns) < SETTLE_NS:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

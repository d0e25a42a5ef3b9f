"""The one place that examines and opens paths that the user names or that a folder lists.

Only regular files are opened: a FIFO would wait for ever, a device has no end. Examining never raises; opening raises an
`OSError` whose `fault` is a phrase for a message or a row's reason.
"""

import errno
import os
import stat
from functools import partial
from pathlib import Path

from featcache.errors import SettingsError

FILE, FOLDER, NOTHING = "a file", "a folder", "nothing there"
_PIECE = 1 << 20
SPECIAL = ("a FIFO", "a socket", "a device")
_KINDS = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: FOLDER,
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def expanded(path: Path, setting: str) -> Path:
    """Return `path` with ``~`` and ``~user`` put in full; messages name the `setting`, e.g. ``[Dataset] path``.

    Raises:
        SettingsError: that user has no home folder, or it can't be a path.
    """
    if "\0" in str(path):
        raise SettingsError(f"{setting}={str(path)!r} is not a path: it contains a NUL character")
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise SettingsError(
            f"{setting}={str(path)!r}: {path.parts[0]!r} has no home folder: write the path in full"
        ) from error


def to_be_made(path: Path, name: str, setting: str) -> Path:
    """Return the absolute path of a folder, in which there is a folder `name` or can be one.

    Raises:
        SettingsError: something else has one of these names, it can't be read, or the current folder was deleted.
    """
    for folder in (path, path / name):
        found = what_is(folder)
        if found == FOLDER and not os.access(folder, os.R_OK | os.X_OK):
            found = "a folder without read permission"
        if found not in (FOLDER, NOTHING):
            raise SettingsError(f"{setting}: {folder} is {found}: name a folder, existing or new")
    try:
        return path.absolute()
    except FileNotFoundError as error:
        raise SettingsError("the current folder was deleted: change to another one and run again") from error


def is_file(path: Path) -> bool:
    """Whether it is a regular file, through links; False where that can't be known."""
    return os.path.isfile(path)  # noqa: PTH113 - Path's own raises where it can't be known


def is_folder(path: Path) -> bool:
    """Whether it is a folder, through links; False where that can't be known."""
    return os.path.isdir(path)  # noqa: PTH112 - as above


def what_is(path: Path) -> str:
    """Return in a few words what a path leads to, e.g. ``a FIFO``, ``nothing there`` or ``a link that leads in a circle``."""
    try:
        return _KINDS.get(stat.S_IFMT(path.stat().st_mode), "no file")
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            return "a link to nothing" if path.is_symlink() else NOTHING
        cause = fault(error)
        return cause[:1].lower() + cause[1:]
    except ValueError:
        return "a name with a NUL character"


def modified(path: Path) -> int:
    """Return when it was last written, in nanoseconds; -1 where that can't be known."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return -1


def fault(error: OSError) -> str:
    """Return an error's cause in a few words, without number and path."""
    if error.errno == errno.ELOOP:
        return "a link that leads in a circle"
    return error.strerror or " ".join(str(error).split())


def regular(path: str, flags: int) -> int:
    """Open a regular file: for ``open(path, opener=regular)``.

    Raises:
        OSError: it is something else, or can't be opened.
    """
    return _opened(path, flags)[0]


def _opened(path: str, flags: int, *, known: bool = False) -> tuple[int, os.stat_result]:
    if not known:  # opening a device may already do something; `os.stat`, as a `Path` costs more than the call itself
        _refuse_others(path, os.stat(path).st_mode)  # noqa: PTH116
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO put there meanwhile doesn't wait either
    try:
        status = os.fstat(descriptor)
        _refuse_others(path, status.st_mode)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor, status


def read_bytes(path: Path | str, most: int | None = None, *, known: bool = False) -> bytes:
    """Return the content of a regular file of at most so many bytes, or of any size.

    `known` says that it was seen just now that the file is a regular one, so that only a change since is found.

    Raises:
        OSError: it is something else or larger, or can't be read.
    """
    # by the system's own calls, as few as can be: a data set has a million files
    descriptor, status = _opened(os.fspath(path), os.O_RDONLY, known=known)
    try:
        if most is not None and status.st_size > most:
            raise OSError(errno.EFBIG, f"{status.st_size:,} bytes, more than {most:,}", str(path))
        content = os.read(descriptor, status.st_size + 1)
        if len(content) != status.st_size:  # it grows or shrinks, comes in pieces, or its system knows no sizes
            content += b"".join(iter(partial(os.read, descriptor, _PIECE), b""))
        return content
    finally:
        os.close(descriptor)


def _refuse_others(path: str, mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "a folder, not a file", path)
    raise OSError(errno.EINVAL, f"{_KINDS.get(stat.S_IFMT(mode), 'no file')}, not a file", path)

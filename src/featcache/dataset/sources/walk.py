"""Walking folders: what systems and programs put into them is skipped, and links that lead in a circle end."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from featcache.core import paths
from featcache.dataset.natural_sort import natural
from featcache.errors import SourceError

Entry = os.DirEntry[str]
Above = frozenset[tuple[int, int]]  # device and inode of every folder on the way down

# Folders that unpackers, file servers and file systems make, in lower case; hidden ones need no name here.
_SYSTEM = frozenset(
    {"__macosx", "@eadir", "#recycle", "lost+found", "$recycle.bin", "recycler", "system volume information"}
)


def entries(path: Path) -> Iterator[Entry]:
    """Yield what lies in a folder, hidden entries included; a `SourceError` where it can't be listed."""
    try:
        with os.scandir(path) as found:
            yield from found
    except OSError as error:
        raise SourceError(f"{str(path)!r} can't be listed: {paths.fault(error)}: correct this and run again") from error


def is_folder(entry: Entry) -> bool:
    """Whether it is a folder, through links; False where that can't be known."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_hidden(entry: Entry) -> bool:
    """Whether its name begins with a dot."""
    return entry.name.startswith(".")


def is_system(entry: Entry) -> bool:
    """Whether it is a folder that no person made, by its name, e.g. ``__MACOSX``."""
    return entry.name.lower() in _SYSTEM


def suffix(name: str) -> str:
    """Return a file name's suffix in lower case with its dot, "" where it has none; fast, for a million names."""
    return name[name.rfind(".") :].lower() if "." in name else ""


def below(path: Path, above: Above) -> Above | None:
    """Return `above` with the folder itself; None where it is one of them, as a link to a folder above would never end."""
    try:
        status = path.stat()
    except OSError as error:
        cause = paths.fault(error)
        raise SourceError(f"{str(path)!r} can't be looked at: {cause}: correct this and run again") from error
    here = (status.st_dev, status.st_ino)
    return None if here in above else above | {here}


def files_below(path: Path, wanted: Callable[[str], bool]) -> Iterator[Path]:
    """Yield the files of `wanted` names in and below a folder, in natural order; without hidden entries and system folders."""
    waiting: list[tuple[Path, Above | None]] = [(path, frozenset())]  # None for a file; the next one is the last
    while waiting:
        place, above = waiting.pop()
        if above is None:
            yield place
            continue
        here = below(place, above)
        if here is None:
            continue
        found = [(entry.name, is_folder(entry)) for entry in entries(place) if not is_hidden(entry)]
        for name, folder in sorted(found, key=lambda entry: natural(entry[0]), reverse=True):
            if folder and name.lower() not in _SYSTEM:
                waiting.append((place / name, here))
            elif not folder and wanted(name):
                waiting.append((place / name, None))

"""Images that aren't where a folder source looks for them: where they are instead, and the fix."""

import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from featcache.core.formatting import printable
from featcache.core.names import first_names
from featcache.dataset.sources.walk import entries, files_below, is_folder, is_hidden, is_system, suffix
from featcache.errors import SourceError

IsImage = Callable[[str], bool]

# What others call the folders of the splits, in lower case; the splits' own names count in any other case.
LOOK_ALIKES = {
    "train": ("train", "training"),
    "valid": ("valid", "val", "validation", "dev"),
    "test": ("test", "testing", "tests", "test1"),
}
_SPLIT_NAMES = {name for known in LOOK_ALIKES.values() for name in known}
_PACKED = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
_MOST = 200  # folders that are looked into for a hint
_SHOWN = 3


def look_alikes(path: Path, splits: Mapping[str, Path]) -> Iterator[str]:
    """Yield for each folder that is called nearly like a split, and isn't its, what is left out with it, and why."""
    for name in _folders(path):
        for split, known in LOOK_ALIKES.items():
            if name == split or name.lower() not in known:
                continue
            with suppress(OSError, KeyError):  # where case doesn't count it may be the split's own folder
                if (path / name).samefile(splits[split]):
                    continue
            yield f"folder {name}/, as it isn't called {split}"


def class_folders(path: Path, is_image: IsImage) -> list[str]:
    """Return the folders with images right in them, where no folder is called nearly like a split, nor `path` like train."""
    folders = list(_folders(path))
    if {path.name.lower(), *map(str.lower, folders)} & _SPLIT_NAMES:
        return []
    return [name for name in folders[:_MOST] if _first_image(path / name, is_image, deep=False)]


def no_training_folder(path: Path, is_image: IsImage) -> str:
    """Return the message for a data set without a folder ``train``: what is there instead, and the fix."""
    return f"{_shown(path)} has no folder train/<class>/{_instead(path, list(_folders(path)), is_image)}"


def _instead(path: Path, folders: Sequence[str], is_image: IsImage) -> str:
    named = next((name for name in folders if name.lower() in LOOK_ALIKES["train"]), None)
    if named is not None:
        return f", but {named!r}: rename it to train"
    for name in folders[:_MOST]:
        inside = next((n for n in _folders(path / name, quiet=True) if n.lower() in LOOK_ALIKES["train"]), None)
        if inside is not None:
            return f", but {_shown(Path(name, inside))}: set [Dataset] path = {_shown(path / name)}"
    might_be = [name for name in folders[:_MOST] if name.lower() not in _SPLIT_NAMES]
    classes = [name for name in might_be if _first_image(path / name, is_image, deep=False)]
    if classes and path.name.lower() in LOOK_ALIKES["train"]:
        return f", but the classes themselves ({first_names(classes)}): set [Dataset] path = {_shown(path.parent)}"
    if classes:
        move = f"cd {shlex.quote(str(path))} && mkdir train && mv {' '.join(map(shlex.quote, classes[:_SHOWN]))}"
        more = " ..." if len(classes) > _SHOWN else ""
        return f", but folders with images right in it ({first_names(classes)}): move the classes there: {printable(move)}{more} train"
    files = [entry.name for entry in entries(path) if not is_hidden(entry) and not is_folder(entry)]
    packed = next((name for name in files if name.lower().startswith("train") and suffix(name) in _PACKED), None)
    if packed is not None:
        return f", but {packed!r}: unpack it there"
    count = sum(map(is_image, files))
    if count:
        return f", but {count} images right in it: make a folder train/<class>/ for each class and move them there"
    return ": make it, or set [Dataset] path"


def empty_classes(train: Path, names: Sequence[str], n_classes: int, is_image: IsImage) -> str:
    """Return the message for class folders of `train`, some of `n_classes`, that hold no image."""
    deeper = next(filter(None, (_first_image(train / name, is_image) for name in names[:_MOST])), None)
    if deeper is not None:
        where = deeper.relative_to(train).parts[0]
        fix = f"move the folders that hold images from {_shown(train / where)} into {_shown(train)}"
        if where.lower() in LOOK_ALIKES["train"]:
            fix = f"set [Dataset] path = {_shown(train)}"
        return f"{_shown(train)}: in {where!r} the images lie deeper than train/<class>/, e.g. {_shown(deeper)}: {fix}"
    empty = ", ".join(f"{name!r} has 0 ({_content(train / name)})" for name in names[:_SHOWN])
    empty += f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    if len(names) == n_classes:
        return f"{_shown(train)} has no training images: class {empty}: put them there and run again"
    fix = "add images or remove the class"
    return f"{_shown(train)}: class {empty}, each class needs a usable image: {fix}"


def count_images(folder: Path, is_image: IsImage) -> int:
    """Return how many images lie in and below a folder, 0 where that can't be known."""
    try:
        return sum(1 for _ in files_below(folder, is_image))
    except SourceError:
        return 0


def _content(folder: Path) -> str:
    found = list(entries(folder))
    kinds = Counter(
        printable(suffix(entry.name)) or "no suffix" for entry in found if not is_folder(entry) and not is_hidden(entry)
    )
    if kinds:
        return "it holds only " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(_SHOWN))
    if any(is_hidden(entry) for entry in found):
        return "it holds only names that begin with a dot"
    return "it holds only folders, without images" if found else "its folder is empty"


def _folders(path: Path, *, quiet: bool = False) -> Iterator[str]:
    """Yield the names of a folder's visible folders, sorted; none with `quiet` where it can't be listed."""
    try:
        found = (entry for entry in entries(path) if is_folder(entry))
        yield from sorted(entry.name for entry in found if not is_hidden(entry) and not is_system(entry))
    except SourceError:
        if not quiet:
            raise


def _first_image(folder: Path, is_image: IsImage, *, deep: bool = True) -> Path | None:
    try:
        if deep:
            return next(files_below(folder, is_image), None)
        found = islice(entries(folder), 1000)
        return next((Path(entry.path) for entry in found if is_image(entry.name) and not is_folder(entry)), None)
    except SourceError:
        return None


def _shown(path: Path) -> str:
    """A path in one line, whatever its names hold."""
    return printable(str(path))

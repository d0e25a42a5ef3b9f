"""What a folder's images and tables are: the settings of [Dataset] that list it, found once and then written down."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from featcache.core import paths
from featcache.dataset.guess_columns import Columns, guess_columns
from featcache.dataset.natural_sort import natural
from featcache.dataset.sources import walk
from featcache.dataset.sources.idx import NAME as IDX_NAME
from featcache.dataset.sources.joining import arrow_texts
from featcache.dataset.sources.misplaced import LOOK_ALIKES, class_folders
from featcache.dataset.sources.parquet import image_column
from featcache.dataset.sources.scan import Scan, is_image
from featcache.dataset.sources.table_header import names_pixels
from featcache.dataset.sources.tables import SUFFIXES, column_names
from featcache.errors import SourceError

PATTERN = r"(?P<label>[^/]*?[^\W\d_])[ ._-]*\d+\.\w+$"
_NAMED = re.compile(PATTERN)
_NO_TRAINING = re.compile(r"(?<![a-z])test|submission", re.IGNORECASE)
_TABLE_ORDER = [
    re.compile(text, re.IGNORECASE)
    for text in (r"train", r"train[^/]*|.*/train[^/]*|train/.*", r".*label.*", r".*meta.*", r".*")
]
_UNREADABLE = (".dcm", ".dicom")  # often beside the same images in a readable form
_DEEPEST = 3
_FEWEST = 2  # images of a class

Settings = dict[str, str]


def recognise(path: Path, given: Mapping[str, str], sample: Sequence[str] = ()) -> Settings:
    """Return the settings of [Dataset] for the images of a folder: source, path and whatever the source needs.

    Args:
        path: the folder; where it holds nothing but one folder, that one is taken.
        given: settings that are decided.
        sample: the name of the sample submission in that folder, and its columns; () where there is none.

    Raises:
        SourceError: nothing is recognised, or something could be several things: the message names the setting.
    """
    found = {"source": "", "path": str(path), **given}
    source = found["source"]
    files = [entry.name for entry in walk.entries(path) if not walk.is_folder(entry) and not walk.is_hidden(entry)]
    if source in ("", "idx") and any(map(IDX_NAME.fullmatch, files)):
        return {**found, "source": "idx"}
    tables = sorted(_tables(path), key=natural)
    if source in ("", "csv") and "train.csv" in tables and names_pixels(column_names(path / "train.csv")):
        return {**found, "source": "csv"}
    parquet = [name for name in tables if name.endswith(".parquet")]
    if source in ("", "parquet") and (columns := _image_columns(path, parquet)):
        return _parquet(path, found, *columns)
    scan = Scan()
    scan.tree(path, "")
    usable = [name for name in scan.files.locations if not name.lower().endswith(_UNREADABLE)]
    images = arrow_texts(usable or scan.files.locations)
    classes = _class_folders(path)
    if source in ("", "table"):
        table = _training_table(
            path, found, tables, images, named_only=bool(classes) and paths.is_folder(path / "train")
        )
        if table:
            return _table(path, found, table, images, sample)
    if source in ("", "filename") and not classes and (pattern := _pattern(path, images)):
        return {**found, "source": "filename", **pattern, **given}
    return {**found, "source": source or "folder", **_groups(path, tables, images, given)}


def only_folder(path: Path) -> Path:
    """Return the folder itself, or the one that is all that it holds, as archives often have it."""
    for _ in range(_DEEPEST):
        found = [entry for entry in walk.entries(path) if not walk.is_hidden(entry) and not walk.is_system(entry)]
        if len(found) != 1 or not walk.is_folder(found[0]) or found[0].name.lower() in LOOK_ALIKES["train"]:
            break
        path = Path(found[0].path)
    return path


def _tables(path: Path, prefix: str = "") -> Iterator[str]:
    """The tables in a folder and in its folders."""
    for entry in walk.entries(path):
        if walk.is_hidden(entry):
            continue
        if not walk.is_folder(entry):
            if entry.name.lower().endswith(SUFFIXES):
                yield prefix + entry.name
        elif not prefix and not walk.is_system(entry):
            yield from _tables(Path(entry.path), f"{entry.name}/")


def _image_columns(path: Path, tables: Sequence[str]) -> tuple[str, list[str]] | None:
    for name in tables:
        try:
            column = image_column(path / name)
        except SourceError:
            continue
        return column, [other for other in column_names(path / name) if other != column]
    return None


def _parquet(path: Path, found: Settings, image: str, others: Sequence[str]) -> Settings:
    labels = [name for name in others if name in ("label", "labels", "class", "target")] or others
    if len(labels) != 1 and "label" not in found:
        shown = ", ".join(labels) or "(none)"
        raise SourceError(f"{path}: [Dataset] label could be {shown}: say which, --set Dataset.label=COLUMN")
    return {"label": labels[0], "images": image, **found, "source": "parquet"} if labels else found


def _class_folders(path: Path) -> list[str]:
    train = path / "train"
    if not paths.is_folder(train):
        return class_folders(path, is_image)
    folders = [Path(entry.path) for entry in walk.entries(train) if walk.is_folder(entry) and not walk.is_hidden(entry)]
    return [folder.name for folder in folders if any(is_image(entry.name) for entry in walk.entries(folder))]


def _training_table(
    path: Path, found: Settings, tables: Sequence[str], images: Any, *, named_only: bool
) -> tuple[str, Columns] | None:
    """The table of the training rows; with `named_only` one that is called so, as class folders have labels, too."""
    names = [found["table"]] if found.get("table") else [name for name in tables if not _NO_TRAINING.search(name)]
    for kind in _TABLE_ORDER[: 3 if named_only and "table" not in found else None]:
        for name in names:
            if kind.fullmatch(name.partition(".")[0]):
                columns = guess_columns(path, name, images, found.get("id", ""))
                if columns is not None and columns.rest():
                    return name, columns
    return None


def _table(path: Path, found: Settings, table: tuple[str, Columns], images: Any, sample: Sequence[str]) -> Settings:
    name, columns = table
    label = found.get("label") or ", ".join(columns.label(path / name, sample[2:]))
    settings = {"table": name, "id": columns.id, "label": label}
    if separator := columns.separator(label):
        settings["separator"] = separator
    if groups := columns.groups():
        settings["groups"] = groups
    if split := columns.split():
        return {**settings, "split": split, **found, "source": "table"}
    folders = _folders(images, columns.found)
    test = _test_folder(path, folders)
    if test:
        settings["test"] = test
    in_folder = sum(place.startswith(f"{test}/") for place in images.to_pylist()) if test else 0
    if sample:
        of_sample = guess_columns(path, sample[0], images)
        if of_sample is not None and len(of_sample.found) != in_folder:
            settings["test"] = sample[0]
            folders |= _folders(images, of_sample.found)
    if "" not in folders:
        settings["images"] = ", ".join(sorted(folders, key=natural))
    return {**settings, **found, "source": "table"}


def _folders(images: Any, found: Any) -> set[str]:
    """The folders at the top that hold the images found, "" for the data set's own."""
    names = images.take(found.drop_null()).to_pylist()
    return {name.partition("/")[0] if "/" in name else "" for name in names}


def _test_folder(path: Path, training: set[str]) -> str:
    """A folder of images that is called like one of test images, "" where there is none."""
    names = (entry.name for entry in walk.entries(path) if walk.is_folder(entry) and not walk.is_hidden(entry))
    other = (name for name in sorted(names, key=natural) if _NO_TRAINING.search(name) and name not in training)
    return next((name for name in other if any(walk.files_below(path / name, is_image))), "")


def _pattern(path: Path, images: Any) -> Settings | None:
    """Settings of labels in file names, such as cat.0.jpg: where each of several precedes numbers in two names or more."""
    train = next((name for name in LOOK_ALIKES["train"] if paths.is_folder(path / name)), "")
    test = _test_folder(path, {train})
    names = [name for name in images.to_pylist() if name.startswith(f"{train}/" if train else "")]
    names = [name for name in names if not test or not name.startswith(f"{test}/")]
    labels = Counter(match["label"] for match in map(_NAMED.search, names) if match)
    if len(labels) < 2 or sum(labels.values()) < len(names) or min(labels.values()) < _FEWEST:
        return None
    return {"pattern": PATTERN, **({"images": train} if train else {}), **({"test": test} if test else {})}


def _groups(path: Path, tables: Sequence[str], images: Any, given: Mapping[str, str]) -> Settings:
    """Groups of images in class folders, by a table of their names."""
    for name in tables if "groups" not in given else ():
        columns = guess_columns(path, name, images) if not _NO_TRAINING.search(name) else None
        if columns is not None and columns.groups():
            return {"groups": f"{name}:{columns.groups()}"}
    return dict(given)

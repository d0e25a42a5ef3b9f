"""Images in folders: ``PATH/train/<class>/*``, ``PATH/valid/<class>/*`` and ``PATH/test/**``."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache import keys
from featcache.errors import SourceChangedError, SourceError
from featcache.progress import Progress
from featcache.rows import UNKNOWN_LABEL, Rows
from featcache.sources.decode import decode_rgb, header_fault
from featcache.sources.listing import DigestCache, FileStat, stat_file
from featcache.sources.manifest import Manifest, check_training

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"})
_NUMBER = re.compile(r"([0-9]+)")
_Entry = os.DirEntry[str]


class FolderSource:
    """Lists and reads the image files below one folder. A file's location is its path below it, with ``/``."""

    def __init__(self, path: Path):
        self.path = path

    def files(self) -> list[FileStat]:
        """Look at every image file, without reading any; in no particular order.

        Raises:
            SourceError: the folder can't be listed or has no ``train`` in it.
        """
        return _Scan(self.path).files

    def examine(self, files: Sequence[FileStat], digests: DigestCache, progress: Progress) -> None:
        """Digest `files` and look at their headers, as far as `digests` doesn't know them."""
        digests.digest_all([(self.path / file.location, file) for file in files], header_fault, progress)

    def list_rows(self, files: Sequence[FileStat], digests: DigestCache, progress: Progress) -> Manifest:
        """List every image with its label and content digest.

        Raises:
            SourceError: the layout or the classes can't be what the user meant.
        """
        scan = _Scan(self.path)
        files = sorted(files, key=lambda file: [natural(part) for part in file.location.split("/")])
        classes = {name: index for index, name in enumerate(sorted(_class_folders(files, scan), key=natural))}
        if not classes:
            where, expected = self.path / "train", "expected a folder for each class with its images in it"
            raise SourceError(f"{where}: {expected}; got no folder: make train/<class>/ and run again")
        self._check_layout(files, classes)
        self.examine(files, digests, progress)
        splits: dict[str, list[str]] = {}
        for file in files:
            splits.setdefault(file.location.partition("/")[0], []).append(file.location)
        rows = {split: _rows(locations, classes, digests) for split, locations in splits.items()}
        names = tuple(map(printable, classes))
        train = rows.get("train", _rows([], classes, digests))
        check_training(str(self.path / "train"), names, train)
        return Manifest(names, rows, {"source": "folder"}, scan.left_out)

    def load(self, location: str, digest: str, size: int) -> npt.NDArray[np.uint8]:
        """Read one image as (size, size, 3) uint8 RGB. Thread-safe.

        Raises:
            SourceChangedError: the file is not what was listed.
            SourceError: the file can't be read.
            RejectedImageError: the file can't be decoded.
        """
        path = self.path / location
        if ".." in location.split("/") or location.startswith("/"):  # a forged manifest could name /dev/zero
            raise SourceError(
                f"expected images below {str(self.path)!r}; got location={location!r}: run IndexImages --rerun"
            )
        try:
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise SourceChangedError(f"{str(path)!r} is gone since it was listed: run again to list anew") from error
        except OSError as error:
            mend = "mend it or remove the file, then run again"
            raise SourceError(f"{str(path)!r} can't be read: {error.strerror}: {mend}") from error
        if keys.bytes_digest(content) != digest:
            raise SourceChangedError(f"{str(path)!r} changed since it was listed: run again to list anew")
        return decode_rgb(content, size)

    def _check_layout(self, files: Sequence[FileStat], classes: dict[str, int]) -> None:
        parts = [file.location.split("/") for file in files]
        found = {"valid": {p[1] for p in parts if p[0] == "valid"}, "test": {p[1] for p in parts if _in_folder(p)}}
        for split, folders in found.items():
            unexpected = sorted(folders - classes.keys(), key=natural)
            known = folders & classes.keys()
            if unexpected and (split == "valid" or known):
                names = ", ".join(map(repr, unexpected[:5])) + (", ..." if len(unexpected) > 5 else "")
                raise SourceError(
                    f"{self.path / split}: expected folders named like the classes in train; got {names}: "
                    "rename or remove what is no class"
                    + ("" if split == "valid" else ", or give test no class folders")
                )
        flat = [p[1] for p in parts if p[0] == "test" and len(p) == 2]
        if flat and found["test"] & classes.keys():
            raise SourceError(
                f"{self.path / 'test'}: expected all images in class folders or none; got {len(flat)} beside them, "
                f"e.g. {flat[0]!r}: move them into their class's folder or into a folder of their own data set"
            )


def image_files(path: Path) -> Iterator[Path]:
    """Yield every image file in and below a folder, folder by folder in natural order; hidden ones are left out.

    Raises:
        SourceError: a folder can't be listed.
    """
    yield from _image_files(path, frozenset())


def _image_files(path: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    status = path.stat()
    here = above | {(status.st_dev, status.st_ino)}
    if here == above:
        return  # a link to a folder above would never end
    entries = [
        (entry.name, entry.is_dir(), _suffix(entry)) for entry in _visible(path) if entry.is_dir() or entry.is_file()
    ]
    for name, is_folder, suffix in sorted(entries, key=lambda entry: natural(entry[0])):
        if is_folder:
            yield from _image_files(path / name, here)
        elif suffix in SUFFIXES:
            yield path / name


def natural(name: str) -> tuple[list[str | int], str]:
    """Return a sort key by which ``img_2`` stands before ``img_10``, whatever the case."""
    pieces = _NUMBER.split(name.casefold())
    return [int(piece) if index % 2 else piece for index, piece in enumerate(pieces)], name


def printable(name: str) -> str:
    """Return a file name as text that can be written anywhere: bytes that aren't UTF-8 become backslash escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


class _Scan:
    """One walk over the folder: the image files, the class folders, and what was left out."""

    def __init__(self, path: Path):
        self.files: list[FileStat] = []
        self.classes: dict[str, list[str]] = {}
        self.left_out: Counter[str] = Counter()
        if not (path / "train").is_dir():
            expected = "expected the images in train/<class>/ below it"
            raise SourceError(f"{path}: {expected}; got no folder named train: make it, or set [Dataset] path")
        for split in ("train", "valid"):
            if (path / split).is_dir():
                self.classes[split] = [self._class(split, entry) for entry in self._folders(path / split)]
        if (path / "test").is_dir():
            self._tree(path / "test", "test", set())

    def _folders(self, path: Path) -> Iterator[_Entry]:
        for entry in _visible(path):
            if entry.is_dir():
                yield entry
            elif _suffix(entry) in SUFFIXES:
                self.left_out["images outside a class folder"] += 1
            else:
                self._leave_out(entry)

    def _class(self, split: str, folder: _Entry) -> str:
        for entry in _visible(Path(folder.path)):
            if entry.is_dir():
                self.left_out["folders inside a class folder"] += 1
            else:
                self._file(f"{split}/{folder.name}/{entry.name}", entry)
        return folder.name

    def _tree(self, path: Path, location: str, above: set[tuple[int, int]]) -> None:
        status = path.stat()
        here = (status.st_dev, status.st_ino)
        if here in above:
            return  # a link to a folder above would never end
        for entry in _visible(path):
            if entry.is_dir():
                self._tree(Path(entry.path), f"{location}/{entry.name}", above | {here})
            else:
                self._file(f"{location}/{entry.name}", entry)

    def _file(self, location: str, entry: _Entry) -> None:
        if _suffix(entry) in SUFFIXES:
            self.files.append(stat_file(location, entry))
        else:
            self._leave_out(entry)

    def _leave_out(self, entry: _Entry) -> None:
        self.left_out[printable(_suffix(entry)) or "no suffix"] += 1


def _visible(path: Path) -> list[_Entry]:
    try:
        with os.scandir(path) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise SourceError(f"{str(path)!r} can't be listed: {error.strerror}: mend it and run again") from error


def _class_folders(files: Sequence[FileStat], scan: _Scan) -> set[str]:
    """Return the classes of `files`, and the class folders that hold no image: mistakes that must be heard of."""
    listed, filled = (
        {parts[1] for file in which if (parts := file.location.split("/"))[0] == "train"}
        for which in (files, scan.files)
    )
    return listed | (set(scan.classes["train"]) - filled)


def _suffix(entry: _Entry) -> str:
    # A Path for each of 100,000 files takes a second.
    name = entry.name
    return name[name.rfind(".") :].lower() if "." in name else ""


def _in_folder(parts: Sequence[str]) -> bool:
    return parts[0] == "test" and len(parts) > 2


def _rows(locations: Sequence[str], classes: dict[str, int], digests: DigestCache) -> Rows:
    below = [location.split("/")[1:] for location in locations]
    labels = [classes.get(parts[0], UNKNOWN_LABEL) if len(parts) > 1 else UNKNOWN_LABEL for parts in below]
    examined = [digests[location] for location in locations]
    return Rows(
        ids=[printable("/".join(parts)) for parts in below],
        labels=np.array(labels, np.int32),
        groups=[""] * len(locations),
        digests=[item.digest for item in examined],
        reasons=[item.reason for item in examined],
        locations=list(locations),
    )

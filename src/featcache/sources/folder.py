"""Images in folders: ``PATH/train/<class>/*``, ``PATH/valid/<class>/*`` and ``PATH/test/**``."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.errors import SourceChangedError, SourceError
from featcache.progress import Progress
from featcache.rows import SPLITS, UNKNOWN_LABEL, Rows
from featcache.sources.decode import decode_rgb, header_fault, image_digest
from featcache.sources.files import FileStats, stat_file
from featcache.sources.listing import DigestCache, Examinations
from featcache.sources.manifest import Manifest, check_training
from featcache.sources.natural_order import natural, natural_order
from featcache.texts import ComputedTexts, PackedTexts, RepeatedText

# Whatever has an image's name is a row, readable or not: a test image that can't be read keeps its row of the submission.
SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".png", ".apng", ".gif", ".bmp", ".dib", ".webp", ".tif", ".tiff",
    ".avif", ".heic", ".heif", ".hif",
    ".jp2", ".j2k", ".jpf", ".jpx", ".jxl", ".jxr", ".svg", ".psd", ".ico", ".tga", ".exr", ".hdr", ".eps",
    ".pbm", ".pgm", ".ppm", ".pnm", ".dcm",
    ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2", ".raw",
})  # fmt: skip
_NEARLY_VALID = ("val", "validation", "dev")  # what others call it
_Entry = os.DirEntry[str]


class FolderSource:
    """Lists and reads the image files below one folder. A file's location is its path below it, with ``/``."""

    def __init__(self, path: Path):
        self.path = path

    def files(self) -> FileStats:
        """Look at every image file, without reading any; in no particular order.

        Raises:
            SourceError: the folder can't be listed or has no ``train`` in it.
        """
        return _Scan(self.path).files

    def examine(self, files: FileStats, digests: DigestCache, progress: Progress) -> Examinations:
        """Digest `files` and look at their headers, as far as `digests` doesn't know them."""
        return digests.digest_all(files, self.path.joinpath, _looked_at, progress)

    def list_rows(self, files: FileStats, digests: DigestCache, progress: Progress) -> Manifest:
        """List every image with its label and content digest.

        Raises:
            SourceError: the layout or the classes can't be what the user meant.
        """
        scan, layout = _Scan(self.path, keep=False), _Layout(files)
        # A class folder that holds no image is a mistake that must be heard of.
        found = layout.classes["train"] | (scan.classes["train"] - scan.filled)
        classes = {name: index for index, name in enumerate(sorted(found, key=natural))}
        if not classes:
            where, expected = self.path / "train", "expected a folder for each class with its images in it"
            raise SourceError(f"{where}: {expected}; got no folder: make train/<class>/ and run again")
        self._check_layout(layout, classes)
        examined = self.examine(files, digests, progress)
        rows = {split: _rows(layout.rows[split], classes, examined) for split in SPLITS}
        names = tuple(map(printable, classes))
        check_training(str(self.path / "train"), names, rows["train"])
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
        if image_digest(content) != digest:
            raise SourceChangedError(f"{str(path)!r} changed since it was listed: run again to list anew")
        return decode_rgb(content, size)

    def _check_layout(self, layout: "_Layout", classes: dict[str, int]) -> None:
        found = {split: layout.classes[split] for split in ("valid", "test")}
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
        flat = layout.flat_test
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


def _looked_at(content: bytes) -> tuple[str, str]:
    return image_digest(content), header_fault(content)


def printable(name: str) -> str:
    """Return a file name as text that can be written anywhere: bytes that aren't UTF-8 become backslash escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


class _Layout:
    """Files by split, in natural order, and the folders that they are in.

    Attributes:
        rows: split -> positions of its files.
        classes: split -> names of the folders below it that hold images.
        flat_test: names of test images in no class folder.
    """

    def __init__(self, files: FileStats) -> None:
        self.classes: dict[str, set[str]] = {split: set() for split in SPLITS}
        self.flat_test = PackedTexts()
        order = natural_order(files.locations)
        splits = np.empty(len(files), np.uint8)
        for place, row in enumerate(map(int, order)):
            split, name, *below = files.locations[row].split("/", 2)
            splits[place] = SPLITS.index(split)
            if below:
                self.classes[split].add(name)
            elif split == "test":
                self.flat_test.append(name)
        self.rows = {split: order[splits == number] for number, split in enumerate(SPLITS)}


class _Scan:
    """One walk over the folder: the image files, the class folders, and what was left out.

    Attributes:
        files: the image files, unless `keep` is False.
        classes: split -> the class folders of ``train`` and ``valid``.
        filled: the class folders of ``train`` that hold images.
        left_out: how many files aren't listed, by suffix or reason.
    """

    def __init__(self, path: Path, *, keep: bool = True):
        self.files = FileStats()
        self.classes: dict[str, set[str]] = {"train": set(), "valid": set()}
        self.filled: set[str] = set()
        self.left_out: Counter[str] = Counter()
        self._keep = keep
        if not (path / "train").is_dir():
            expected = "expected the images in train/<class>/ below it"
            raise SourceError(f"{path}: {expected}; got no folder named train: make it, or set [Dataset] path")
        for split, classes in self.classes.items():
            if (path / split).is_dir():
                classes.update(self._class(split, entry) for entry in self._folders(path / split))
        if (path / "test").is_dir():
            self._tree(path / "test", "test", set())
        others = (name for name in _NEARLY_VALID if (path / name).is_dir())
        self.left_out.update(f"folder {name}/, as it isn't called valid" for name in others)

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
                is_image = self._file(f"{split}/{folder.name}/{entry.name}", entry)
                if is_image and split == "train":
                    self.filled.add(folder.name)
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

    def _file(self, location: str, entry: _Entry) -> bool:
        is_image = _suffix(entry) in SUFFIXES
        if not is_image:
            self._leave_out(entry)
        elif self._keep:
            self.files.append(stat_file(location, entry))
        return is_image

    def _leave_out(self, entry: _Entry) -> None:
        self.left_out[printable(_suffix(entry)) or "no suffix"] += 1


def _visible(path: Path) -> Iterator[_Entry]:
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    yield entry
    except OSError as error:
        raise SourceError(f"{str(path)!r} can't be listed: {error.strerror}: mend it and run again") from error


def _suffix(entry: _Entry) -> str:
    # A Path for each of 100,000 files takes a second.
    name = entry.name
    return name[name.rfind(".") :].lower() if "." in name else ""


def _rows(rows: npt.NDArray[np.uint32], classes: dict[str, int], examined: Examinations) -> Rows:
    locations, count = examined.files.locations, len(rows)

    def at(row: int) -> str:
        return locations[int(rows[row])]

    def label(location: str) -> int:
        _, name, *below = location.split("/", 2)
        return classes.get(name, UNKNOWN_LABEL) if below else UNKNOWN_LABEL

    return Rows(
        ids=ComputedTexts(count, lambda row: printable(at(row).partition("/")[2])),
        labels=np.fromiter((label(at(row)) for row in range(count)), np.int32, count),
        groups=RepeatedText("", count),
        digests=ComputedTexts(count, lambda row: examined.digest(int(rows[row]))),
        reasons=ComputedTexts(count, lambda row: examined.reasons.get(int(rows[row]), "")),
        locations=ComputedTexts(count, at),
    )

"""Images in folders: ``PATH/train/<class>/*``, ``PATH/valid/<class>/*`` and ``PATH/test/**``."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.core import paths
from featcache.core.formatting import readable_name
from featcache.core.names import IMAGE_SUFFIXES, clash, composed, first_names
from featcache.core.progress import Progress
from featcache.core.rows import SPLITS, UNKNOWN_LABEL, Rows
from featcache.core.texts import ComputedTexts, ConstantText, PackedTexts
from featcache.dataset import decoding
from featcache.dataset.digest_cache import DigestCache, FileChecks
from featcache.dataset.file_stats import MOST_BYTES, FileStats, stat_file
from featcache.dataset.manifest import Manifest, check_training
from featcache.dataset.natural_sort import natural, natural_order
from featcache.dataset.sources import walk
from featcache.dataset.sources.misplaced import count_images, empty_classes, look_alikes, no_training_folder
from featcache.errors import SourceChangedError, SourceError
from featcache.settings import STRETCH

# Whatever has an image's name is a row, readable or not: a test image that can't be read keeps its row of the submission.
SUFFIXES = frozenset(f".{suffix}" for suffix in IMAGE_SUFFIXES)


class FolderSource:
    """Lists and reads the image files below one folder. A file's location is its path below it, with ``/``.

    `fit` says how images become squares, as `decoding.decode_rgb` has it.
    """

    fit = STRETCH

    def __init__(self, path: Path):
        self.path = path

    def files(self) -> FileStats:
        """Return the stats of all image files, without reading any; in no particular order.

        Raises:
            SourceError: a folder can't be listed, there is no ``train``, or something else has a folder's name.
        """
        return _Scan(self.path).files

    def examine(self, files: FileStats, digests: DigestCache, progress: Progress) -> FileChecks:
        """Digest those of `files` that `digests` doesn't know, and look at their headers."""
        return digests.digest_all(files, self.path.joinpath, _looked_at, progress)

    def list_rows(self, files: FileStats, digests: DigestCache, progress: Progress) -> Manifest:
        """List every image with its label and content digest.

        Raises:
            SourceError: layout or labels can't be what the user meant, or a file is damaged.
            SourceChangedError: a file changed meanwhile.
        """
        scan, layout = _Scan(self.path, keep=False), _Layout(files)
        classes = tuple(sorted(layout.classes["train"] | scan.empty, key=natural))
        if not classes:
            fix = "make a folder train/<class>/ for each class, with its images in it"
            raise SourceError(f"{self.path / 'train'} has no folder for a class: {fix}")
        empty = [name for name in classes if name in scan.empty]
        if empty:
            raise SourceError(empty_classes(self.path / "train", empty, len(classes), is_image))
        labels = self._labels(layout, classes)
        self._check_layout(layout, labels)
        examined = self.examine(files, digests, progress)
        rows = {split: _rows(layout.rows[split], labels, examined) for split in SPLITS}
        names = tuple(map(readable_name, classes))
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
            raise SourceError(f"location={location!r} is not below {str(self.path)!r}: run IndexImages --rerun")
        try:
            content = paths.read_bytes(path, MOST_BYTES)
        except FileNotFoundError as error:
            raise SourceChangedError(f"{str(path)!r} was deleted after indexing: run again") from error
        except OSError as error:
            fix = "correct this or remove the file, then run again"
            raise SourceError(f"{str(path)!r} can't be read: {paths.fault(error)}: {fix}") from error
        rules = decoding.decoding_rules(content)
        if decoding.image_digest(content, rules) != digest:
            raise SourceChangedError(f"{str(path)!r} changed after indexing: run again")
        return decoding.decode_rgb(content, size, rules, self.fit)

    def _labels(self, layout: "_Layout", classes: Sequence[str]) -> dict[str, int]:
        """The label of every folder of any split that is called like a class, whichever way accents are encoded."""
        numbers = {composed(name): label for label, name in enumerate(classes)}
        labels: dict[str, int] = {}
        for split, folders in layout.classes.items():
            known = {name: numbers[composed(name)] for name in folders if composed(name) in numbers}
            twice = clash(map(readable_name, known))
            if twice:
                same = sorted(name for name in known if composed(readable_name(name)) == composed(twice[0]))
                names = " and ".join(map(ascii, same))
                raise SourceError(f"{self.path / split}: folders {names} are the same name: merge or rename them")
            labels.update(known)
        return labels

    def _check_layout(self, layout: "_Layout", classes: dict[str, int]) -> None:
        for split in ("valid", "test"):
            folders = layout.classes[split]
            unexpected = sorted(folders - classes.keys(), key=natural)
            if unexpected and (split == "valid" or folders & classes.keys()):
                fix = "rename or remove what is no class" + ", or give test no class folders" * (split == "test")
                fault = f"folders {first_names(unexpected)} are no classes of train"
                raise SourceError(f"{self.path / split}: {fault}: {fix}")
        flat = layout.flat_test
        if flat and layout.classes["test"] & classes.keys():
            fault = f"{self.path / 'test'} has {len(flat)} images beside its class folders, e.g. {flat[0]!r}"
            raise SourceError(f"{fault}: move them into their class's folder or into a folder of their own data set")


def image_files(path: Path) -> Iterator[Path]:
    """Yield every image file in and below a folder, as `files_below` has it."""
    return walk.files_below(path, is_image)


def is_image(name: str) -> bool:
    """Whether a file has an image's suffix."""
    return walk.suffix(name) in SUFFIXES


def _looked_at(content: bytes) -> tuple[str, str]:
    rules = decoding.decoding_rules(content)
    return decoding.image_digest(content, rules), decoding.header_fault(content, rules)


class _Layout:
    """Files by split."""

    def __init__(self, files: FileStats) -> None:
        #: split -> names of the folders below it that hold images
        self.classes: dict[str, set[str]] = {split: set() for split in SPLITS}
        self.flat_test = PackedTexts()  #: names of test images in no class folder
        order = natural_order(files.locations)
        splits = np.empty(len(files), np.uint8)
        for place, row in enumerate(map(int, order)):
            split, name, *deeper = files.locations[row].split("/", 2)
            splits[place] = SPLITS.index(split)
            if deeper:
                self.classes[split].add(name)
            elif split == "test":
                self.flat_test.append(name)
        #: split -> positions of its files, in natural order
        self.rows = {split: order[splits == number] for number, split in enumerate(SPLITS)}


class _Scan:
    """One walk over the folder: what is an image by its name, the class folders, and what was left out."""

    def __init__(self, path: Path, *, keep: bool = True):
        self.files = FileStats()  #: the images, if `keep`
        self.empty: set[str] = set()  #: the class folders of ``train`` without images
        self.left_out: Counter[str] = Counter()  #: how many files aren't listed, by suffix or reason
        self._keep = keep
        found = {split: paths.what_is(path / split) for split in SPLITS}
        for split, what in found.items():
            if what not in (paths.FOLDER, paths.NOTHING):
                raise SourceError(f"{path / split} is not a folder but {what}: correct or remove it and run again")
        if found["train"] == paths.NOTHING:
            raise SourceError(no_training_folder(path, is_image))
        for split in ("train", "valid"):
            if found[split] == paths.FOLDER:
                self._split(path / split, split)
        if found["test"] == paths.FOLDER:
            self._tree(path / "test")
        if not keep:
            self.left_out.update(look_alikes(path))

    def _split(self, path: Path, split: str) -> None:
        for entry in walk.entries(path):
            if walk.is_folder(entry):
                if not self._is_skipped(entry, split):
                    filled = self._class(Path(entry.path), f"{split}/{entry.name}")
                    if split == "train" and not filled:
                        self.empty.add(entry.name)
            elif is_image(entry.name) and not walk.is_hidden(entry):
                self.left_out["images outside a class folder"] += 1
            elif entry.is_symlink() and not walk.is_hidden(entry) and not paths.is_file(Path(entry.path)):
                # a class whose folder is elsewhere, and can't be reached
                what = paths.what_is(Path(entry.path))
                raise SourceError(f"{entry.path!r} is not a class folder but {what}: correct or remove the link")
            else:
                self._leave_out(entry)

    def _class(self, path: Path, location: str) -> bool:
        filled = False
        for entry in walk.entries(path):
            folder = walk.is_folder(entry)
            if not folder or is_image(entry.name):  # a folder called like an image is an image that can't be read
                filled |= self._file(f"{location}/{entry.name}", entry)
            if folder and not self._is_skipped(entry) and not self._keep:
                count = count_images(Path(entry.path), is_image)
                if count:
                    self.left_out["images in folders inside a class folder"] += count
                elif not is_image(entry.name):
                    self.left_out["folders inside a class folder"] += 1
        return filled

    def _tree(self, top: Path) -> None:
        waiting: list[tuple[Path, str, walk.Above]] = [(top, "test", frozenset())]
        while waiting:
            path, location, above = waiting.pop()
            here = walk.below(path, above)
            if here is None:
                continue
            for entry in walk.entries(path):
                if not walk.is_folder(entry) or (is_image(entry.name) and not any(walk.entries(Path(entry.path)))):
                    self._file(f"{location}/{entry.name}", entry)
                elif not self._is_skipped(entry, "" if above else "test"):
                    waiting.append((Path(entry.path), f"{location}/{entry.name}", here))

    def _is_skipped(self, folder: walk.Entry, split: str = "") -> bool:
        """Whether a folder is hidden or a system's; one right in a split that holds images might be meant as a class."""
        if walk.is_hidden(folder):
            if split and not self._keep and count_images(Path(folder.path), is_image):
                self.left_out[f"folder {split}/{readable_name(folder.name)}/, as its name begins with a dot"] += 1
            return True
        if walk.is_system(folder):
            self.left_out[f"system folders ({folder.name})"] += 1
            return True
        return False

    def _file(self, location: str, entry: walk.Entry) -> bool:
        if not is_image(entry.name) or walk.is_hidden(entry):
            self._leave_out(entry)
            return False
        if self._keep:
            self.files.append(stat_file(location, entry))
        return True

    def _leave_out(self, entry: walk.Entry) -> None:
        if not walk.is_hidden(entry):
            if entry.is_symlink() and not paths.is_file(Path(entry.path)):
                self.left_out["links that lead to no file"] += 1
                return
            self.left_out[readable_name(walk.suffix(entry.name)) or "no suffix"] += 1
        elif is_image(entry.name) and not entry.name.startswith("._"):  # macOS keeps a file's attributes there
            self.left_out["images whose names begin with a dot"] += 1


def _rows(rows: npt.NDArray[np.uint32], labels: dict[str, int], examined: FileChecks) -> Rows:
    locations, count = examined.files.locations, len(rows)

    def at(row: int) -> str:
        return locations[int(rows[row])]

    def label(location: str) -> int:
        _, name, *deeper = location.split("/", 2)
        return labels.get(name, UNKNOWN_LABEL) if deeper else UNKNOWN_LABEL

    return Rows(
        ids=ComputedTexts(count, lambda row: readable_name(at(row).partition("/")[2])),
        labels=np.fromiter((label(at(row)) for row in range(count)), np.int32, count),
        groups=ConstantText("", count),
        digests=ComputedTexts(count, lambda row: examined.digest(int(rows[row]))),
        reasons=ComputedTexts(count, lambda row: examined.reasons.get(int(rows[row]), "")),
        locations=ComputedTexts(count, at),
    )

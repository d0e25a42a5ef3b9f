"""Images in folders: ``PATH/train/<class>/*``, ``PATH/valid/<class>/*`` and ``PATH/test/**``, or ``PATH/<class>/*`` alone."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.core import paths
from featcache.core.formatting import readable_name
from featcache.core.names import clash, composed, first_names
from featcache.core.progress import Progress
from featcache.core.rows import SPLITS
from featcache.dataset import decoding
from featcache.dataset.decoding.versions import MOST_BYTES
from featcache.dataset.digest_cache import DigestCache
from featcache.dataset.file_checks import FileChecks
from featcache.dataset.file_stats import FileStats
from featcache.dataset.image_readers import looked_at
from featcache.dataset.manifest import Manifest, check_training
from featcache.dataset.natural_sort import natural
from featcache.dataset.sources.folder_layout import Layout
from featcache.dataset.sources.misplaced import class_folders, empty_classes, look_alikes, no_training_folder
from featcache.dataset.sources.scan import Scan, is_image
from featcache.errors import SourceChangedError, SourceError
from featcache.settings import STRETCH

_VALID = ("valid", "val", "validation")  # what the folder of that split may be called, the first that is there


class ImageFiles:
    """Reads the image files below one folder: what all sources of such share. A location is a path below it, with ``/``.

    `fit` says how images become squares, as `decoding.decode_rgb` has it.
    """

    fit = STRETCH

    def __init__(self, path: Path):
        self.path = path
        self._prefix = f"{path}".rstrip("/") + "/"

    def file(self, location: str) -> Path:
        """Return where the file of a location is."""
        return Path(self._place(location))

    def _place(self, location: str) -> str:
        """The same as a text: of a million files, a `Path` each would take longer than to open them."""
        return f"{self._prefix}{location}"

    def examine(self, files: FileStats, digests: DigestCache, progress: Progress) -> FileChecks:
        """Digest those of `files` that `digests` doesn't know, and look at their headers."""
        return digests.digest_all(files, self._place, looked_at, progress)

    def load(self, location: str, digest: str, size: int) -> npt.NDArray[np.uint8]:
        """Read one image as (size, size, 3) uint8 RGB. Thread-safe.

        Raises:
            SourceChangedError: the file is not what was listed.
            SourceError: the file can't be read.
            RejectedImageError: the file can't be decoded.
        """
        if ".." in location.split("/") or location.startswith("/"):  # a forged manifest could name /dev/zero
            raise SourceError(f"location={location!r} is not below {str(self.path)!r}: run IndexImages --rerun")
        path = self.file(location)
        try:
            content = self.content(location)
        except FileNotFoundError as error:
            raise SourceChangedError(f"{str(path)!r} was deleted after indexing: run again") from error
        except OSError as error:
            fix = "correct this or remove the file, then run again"
            raise SourceError(f"{str(path)!r} can't be read: {paths.fault(error)}: {fix}") from error
        rules = decoding.decoding_rules(content)
        if decoding.image_digest(content, rules) != digest:
            raise SourceChangedError(f"{str(path)!r} changed after indexing: run again")
        return decoding.decode_rgb(content, size, rules, self.fit)

    def content(self, location: str) -> bytes:
        """Return the bytes of an image file; an `OSError` where it can't be read."""
        return paths.read_bytes(self.file(location), MOST_BYTES)


class FolderSource(ImageFiles):
    """Lists images in class folders. A location begins with the split's own name, whatever its folder is called."""

    def files(self) -> FileStats:
        """Return the stats of all image files, without reading any; in no particular order.

        Raises:
            SourceError: a folder can't be listed, there is no ``train``, or something else has a folder's name.
        """
        return self._scan(keep=True)

    def _place(self, location: str) -> str:
        split, slash, below = location.partition("/")
        return f"{self.folders.get(split) or self.path / split}{slash}{below}"

    @cached_property
    def folders(self) -> dict[str, Path]:
        """Split -> its folder, of those that are there; a `SourceError` where there is none for ``train``."""
        found = {split: self.path / split for split in SPLITS}
        found["valid"] = next(
            (self.path / name for name in _VALID if paths.is_folder(self.path / name)), found["valid"]
        )
        for split, folder in list(found.items()):
            what = paths.what_is(folder)
            if what not in (paths.FOLDER, paths.NOTHING):
                raise SourceError(f"{folder} is not a folder but {what}: correct or remove it and run again")
            if what == paths.NOTHING:
                del found[split]
        if "train" not in found and not found and class_folders(self.path, is_image):
            return {"train": self.path}
        if "train" not in found:
            raise SourceError(no_training_folder(self.path, is_image))
        return found

    def _scan(self, *, keep: bool) -> FileStats:
        scan = Scan(keep=keep)
        for split, folder in self.folders.items():
            if split == "test":
                scan.tree(folder, split)
            else:
                scan.classes(folder, split)
        return scan.files

    def list_rows(self, files: FileStats, digests: DigestCache, progress: Progress) -> Manifest:
        """List every image with its label and content digest.

        Raises:
            SourceError: layout or labels can't be what the user meant, or a file is damaged.
            SourceChangedError: a file changed meanwhile.
        """
        seen, layout = self._scan(keep=False) if files.passed_over else files, Layout(files)
        train = self.folders["train"]
        classes = tuple(sorted(layout.classes["train"] | seen.empty, key=natural))
        if not classes:
            fix = "make a folder train/<class>/ for each class, with its images in it"
            raise SourceError(f"{train} has no folder for a class: {fix}")
        empty = [name for name in classes if name in seen.empty]
        if empty:
            raise SourceError(empty_classes(train, empty, len(classes), is_image))
        labels = self._labels(layout, classes)
        self._check_layout(layout, labels)
        with ThreadPoolExecutor(1, thread_name_prefix="featcache-order") as aside:  # what it takes, reading hides
            aside.submit(lambda: layout.rows)
            examined = self.examine(files, digests, progress)
        rows = {split: layout.listed(split, labels, examined) for split in SPLITS}
        names = tuple(map(readable_name, classes))
        check_training(str(train), names, rows["train"])
        left_out = seen.left_out + Counter(look_alikes(self.path, self.folders) if train != self.path else ())
        return Manifest(names, rows, {"source": "folder"}, left_out)

    def _labels(self, layout: Layout, classes: Sequence[str]) -> dict[str, int]:
        """The label of every folder of any split that is called like a class, whichever way accents are encoded."""
        numbers = {composed(name): label for label, name in enumerate(classes)}
        labels: dict[str, int] = {}
        for split, folders in layout.classes.items():
            known = {name: numbers[composed(name)] for name in folders if composed(name) in numbers}
            twice = clash(map(readable_name, known))
            if twice:
                same = sorted(name for name in known if composed(readable_name(name)) == composed(twice[0]))
                names = " and ".join(map(ascii, same))
                raise SourceError(f"{self.folders[split]}: folders {names} are the same name: merge or rename them")
            labels.update(known)
        return labels

    def _check_layout(self, layout: Layout, classes: dict[str, int]) -> None:
        for split in ("valid", "test"):
            folders = layout.classes[split]
            unexpected = sorted(folders - classes.keys(), key=natural)
            if unexpected and (split == "valid" or folders & classes.keys()):
                fix = "rename or remove what is no class" + ", or give test no class folders" * (split == "test")
                fault = f"folders {first_names(unexpected)} are no classes of train"
                raise SourceError(f"{self.folders[split]}: {fault}: {fix}")
        if layout.classes["test"] & classes.keys() and (flat := layout.flat_test):
            fault = f"{self.path / 'test'} has {len(flat)} images beside its class folders, e.g. {flat[0].removeprefix('test/')!r}"
            raise SourceError(f"{fault}: move them into their class's folder or into a folder of their own data set")

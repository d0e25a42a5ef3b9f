"""Sources whose images are pixels in a few files: what `digits`, `csv` and `idx` share."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import numpy as np
import numpy.typing as npt

from featcache.core.names import first_names
from featcache.core.progress import Progress
from featcache.core.rows import UNKNOWN_LABEL, Rows
from featcache.core.texts import ComputedTexts, ConstantText, PackedTexts
from featcache.dataset import decoding
from featcache.dataset.digest_cache import DigestCache
from featcache.dataset.file_checks import FileChecks
from featcache.dataset.file_stats import FileStats, stat_file
from featcache.dataset.manifest import Manifest, check_training
from featcache.errors import SourceChangedError, SourceError
from featcache.settings import STRETCH


@dataclass(frozen=True, eq=False)
class ArraySplit:
    """The n images of one split."""

    images: npt.NDArray[np.uint8]  #: (n, h, w) grey, 0 to 255
    labels: npt.NDArray[np.int64] | None  #: (n,) class numbers; None where unknown
    ids: Sequence[str]  #: n unique row ids
    where: str  #: the file that the labels are in, for messages


@dataclass(eq=False)
class ArraySource:
    """Images that fit in memory, read once, on demand. A location is ``<split>:<row>``, from 0."""

    name: str
    paths: Mapping[str, Path]  #: the files, by location
    read: Callable[[], Mapping[str, ArraySplit]]
    left_out: Mapping[str, int] = field(default_factory=dict)
    fit: str = STRETCH  #: how images become squares
    _splits: Mapping[str, ArraySplit] | None = field(default=None, init=False)
    _lock: Lock = field(default_factory=Lock, init=False)

    def files(self) -> FileStats:
        """Look at the files, without reading any."""
        return FileStats(stat_file(location, path) for location, path in self.paths.items())

    def examine(self, files: FileStats, digests: DigestCache, progress: Progress) -> FileChecks:
        """Digest `files` as far as `digests` doesn't know them; a `SourceChangedError` where any came or went."""
        if files.locations != list(self.paths):
            now = f"now {', '.join(self.paths)}; were {', '.join(files.locations)}"
            raise SourceChangedError(f"files came or went during the listing ({now}): run again")
        return digests.digest_all(files, self.paths.__getitem__, None, progress)

    def list_rows(self, files: FileStats, digests: DigestCache, progress: Progress) -> Manifest:
        """Read the files and list every image with its label and content digest; errors are those of a `FolderSource`."""
        self.examine(files, digests, progress)
        splits = self.read()
        changed = [now.location for now, before in zip(self.files(), files, strict=True) if now != before]
        if changed:
            raise SourceChangedError(f"{self.paths[changed[0]]} changed during the listing: run again")
        train = splits["train"]
        if train.labels is None:
            raise SourceError(f"{train.where} has no labels, which training images need")
        numbers = np.unique(train.labels)
        rows = {name: _rows(name, split, numbers) for name, split in splits.items()}
        names = tuple(map(str, numbers.tolist()))
        check_training(train.where, names, rows["train"])
        with self._lock:
            self._splits = splits
        return Manifest(names, rows, {"source": self.name}, self.left_out)

    def load(self, location: str, digest: str, size: int) -> npt.NDArray[np.uint8]:
        """Return one image as (size, size, 3) uint8 RGB; errors are those of a `FolderSource`. Thread-safe."""
        with self._lock:
            if self._splits is None:
                self._splits = self.read()
        name, _, row = location.partition(":")
        split = self._splits.get(name)
        if split is None or int(row) >= len(split.images) or pixels_digest(split.images[int(row)]) != digest:
            places = ", ".join(map(str, self.paths.values()))
            raise SourceChangedError(f"{places}: image {location} changed after indexing: run again")
        return decoding.resize_rgb(split.images[int(row)], size, self.fit)


def pixels_digest(image: npt.NDArray[np.uint8]) -> str:
    """Return the SHA-256 of an image's shape and raw pixels as 64 hexadecimal digits."""
    shape = "x".join(map(str, image.shape))
    return hashlib.sha256(shape.encode("ascii") + b":" + image.tobytes()).hexdigest()


def _rows(name: str, split: ArraySplit, numbers: npt.NDArray[np.int64]) -> Rows:
    n = len(split.images)
    labels = np.full(n, UNKNOWN_LABEL, np.int32)
    if split.labels is not None:
        unseen = np.setdiff1d(split.labels, numbers)
        if len(unseen):
            seen = first_names(list(map(str, numbers)), 12, str)
            fault = f"label={unseen[0]} does not occur in training, which has {seen}"
            raise SourceError(f"{split.where}: {fault}: remove its rows or add training images")
        labels[:] = np.searchsorted(numbers, split.labels)
    digests = PackedTexts(map(pixels_digest, split.images))
    nothing, locations = ConstantText("", n), ComputedTexts(n, lambda row: f"{name}:{row}")
    return Rows(split.ids, labels, nothing, digests, nothing, locations)

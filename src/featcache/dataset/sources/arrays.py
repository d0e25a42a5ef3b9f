"""Sources whose images are pixels in a few files: what `digits`, `csv` and `idx` share."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import numpy.typing as npt

from featcache.core.names import first_names
from featcache.core.progress import Progress
from featcache.core.rows import UNKNOWN_LABEL, Rows
from featcache.core.texts import ComputedTexts, ConstantText, PackedTexts
from featcache.dataset import decoding
from featcache.dataset.digest_cache import DigestCache, FileChecks
from featcache.dataset.file_stats import FileStats, stat_file
from featcache.dataset.manifest import Manifest, check_training
from featcache.errors import SourceChangedError, SourceError


@dataclass(frozen=True, eq=False)
class ArraySplit:
    """The images of one split.

    Attributes:
        images: (n, h, w) uint8, grey, 0 to 255.
        labels: (n,) int64 class numbers; None where unknown.
        ids: n unique row ids.
        where: the file that the labels are in, for messages.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64] | None
    ids: Sequence[str]
    where: str


class ArraySource:
    """Images that fit in memory, read once, on demand. A location is ``<split>:<row>``, from 0."""

    def __init__(
        self,
        name: str,
        files: Mapping[str, Path],
        read: Callable[[], Mapping[str, ArraySplit]],
        left_out: Mapping[str, int] | None = None,
    ):
        self.name = name
        self.paths = files
        self._read = read
        self._left_out = left_out or {}
        self._splits: Mapping[str, ArraySplit] | None = None
        self._lock = Lock()

    def files(self) -> FileStats:
        """Look at the files, without reading any."""
        return FileStats(stat_file(location, path) for location, path in self.paths.items())

    def examine(self, files: FileStats, digests: DigestCache, progress: Progress) -> FileChecks:
        """Digest `files` as far as `digests` doesn't know them.

        Raises:
            SourceChangedError: files came or went since they were looked at.
        """
        seen = list(files.locations)
        if seen != list(self.paths):
            now = f"now {', '.join(self.paths)}; were {', '.join(seen)}"
            raise SourceChangedError(f"files came or went during the listing ({now}): run again")
        return digests.digest_all(files, self.paths.__getitem__, None, progress)

    def list_rows(self, files: FileStats, digests: DigestCache, progress: Progress) -> Manifest:
        """Read the files and list every image with its label and content digest.

        Raises:
            SourceError: a file is damaged, or the labels can't be trained on.
            SourceChangedError: a file changed meanwhile.
        """
        self.examine(files, digests, progress)
        splits = self._read()
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
        return Manifest(names, rows, {"source": self.name}, self._left_out)

    def load(self, location: str, digest: str, size: int) -> npt.NDArray[np.uint8]:
        """Return one image as (size, size, 3) uint8 RGB. Thread-safe.

        Raises:
            SourceChangedError: the image is not what was listed.
            SourceError: the files can't be read.
        """
        with self._lock:
            if self._splits is None:
                self._splits = self._read()
        name, _, row = location.partition(":")
        split = self._splits.get(name)
        if split is None or int(row) >= len(split.images) or pixels_digest(split.images[int(row)]) != digest:
            places = ", ".join(map(str, self.paths.values()))
            raise SourceChangedError(f"{places}: image {location} changed after indexing: run again")
        return decoding.resize_rgb(split.images[int(row)], size)


def pixels_digest(image: npt.NDArray[np.uint8]) -> str:
    """Return the SHA-256 of an image's shape and raw pixels as 64 hexadecimal digits."""
    shape = "x".join(map(str, image.shape))
    return hashlib.sha256(shape.encode("ascii") + b":" + image.tobytes()).hexdigest()


def _rows(name: str, split: ArraySplit, numbers: npt.NDArray[np.int64]) -> Rows:
    n = len(split.images)
    if split.labels is None:
        labels = np.full(n, UNKNOWN_LABEL, np.int32)
    else:
        unseen = np.setdiff1d(split.labels, numbers)
        if len(unseen):
            seen = first_names(list(map(str, numbers)), 12, str)
            raise SourceError(
                f"{split.where}: label={unseen[0]} does not occur in training, which has {seen}: "
                "remove its rows or add training images"
            )
        labels = np.searchsorted(numbers, split.labels).astype(np.int32)
    digests = PackedTexts(map(pixels_digest, split.images))
    nothing, locations = ConstantText("", n), ComputedTexts(n, lambda row: f"{name}:{row}")
    return Rows(split.ids, labels, nothing, digests, nothing, locations)

"""What every source can do, and the one place that knows all of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from featcache.core import paths
from featcache.core.progress import Progress
from featcache.dataset.digest_cache import DigestCache, FileChecks
from featcache.dataset.file_stats import FileStats
from featcache.dataset.manifest import Manifest
from featcache.dataset.sources.arrays import ArraySource
from featcache.dataset.sources.digits import open_digits
from featcache.dataset.sources.folder import FolderSource
from featcache.dataset.sources.idx import open_idx
from featcache.dataset.sources.pixel_table import open_csv
from featcache.errors import SourceError
from featcache.settings import DatasetSpec


class Source(Protocol):
    """Where images come from. Groups are not its business; `index_images` joins them."""

    def files(self) -> FileStats:
        """Look at every file the listing rests on: a stat each, never a read."""

    def examine(self, files: FileStats, digests: DigestCache, progress: Progress) -> FileChecks:
        """Digest these files as far as `digests` doesn't know them."""

    def list_rows(self, files: FileStats, digests: DigestCache, progress: Progress) -> Manifest:
        """List the images in `files`, which `files()` returned.

        Raises:
            SourceError: the data set is not as the source promises.
        """

    def load(self, location: str, digest: str, size: int) -> npt.NDArray[np.uint8]:
        """Return the image at a manifest row's location, as (size, size, 3) uint8 RGB, 0 to 255. Thread-safe.

        Raises:
            RejectedImageError: it can't be decoded; the message is the reason.
            SourceChangedError: its content is no longer that of `digest`.
        """


def open_source(spec: DatasetSpec) -> Source:
    """Return the source that the settings name; nothing is read yet.

    Raises:
        SourceError: the path is missing or is not laid out as the source expects.
    """
    if spec.source == "digits":
        return open_digits()
    path = _folder(spec)
    openers: dict[str, Callable[[Path], FolderSource | ArraySource]]
    openers = {"folder": FolderSource, "csv": open_csv, "idx": open_idx}
    try:
        return openers[spec.source](path)
    except OSError as error:
        raise SourceError(f"{path} can't be listed: {paths.fault(error)}: mend it and run again") from error


def _folder(spec: DatasetSpec) -> Path:
    if spec.path is None:  # DatasetSpec refuses it; this tells the type checker
        raise SourceError(f"[Dataset] path: expected the folder of the images for source={spec.source!r}; got none")
    path = paths.expanded(spec.path, "[Dataset] path")
    if not paths.is_folder(path):
        got = paths.what_is(path)
        raise SourceError(f"{path}: expected the folder of the images; got {got}: set [Dataset] path")
    return path

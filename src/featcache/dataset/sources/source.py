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
    """Where images come from. Groups are joined by `list_images`, not here."""

    def files(self) -> FileStats:
        """Return the stats of all files that the listing is based on, without reading any."""

    def examine(self, files: FileStats, digests: DigestCache, progress: Progress) -> FileChecks:
        """Digest those of the files that `digests` doesn't know."""

    def list_rows(self, files: FileStats, digests: DigestCache, progress: Progress) -> Manifest:
        """List the images in `files`, which `files()` returned.

        Raises:
            SourceError: the data set isn't laid out as the source expects.
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
    if spec.path is None:  # DatasetSpec refuses it; this is for the type checker
        raise SourceError(f"[Dataset] path is missing, which source={spec.source} needs")
    path = paths.expanded(spec.path, "[Dataset] path")
    if not paths.is_folder(path):
        raise SourceError(f"{path} is not a folder of images but {paths.what_is(path)}: set [Dataset] path")
    openers: dict[str, Callable[[Path], FolderSource | ArraySource]]
    openers = {"folder": FolderSource, "csv": open_csv, "idx": open_idx}
    try:
        return openers[spec.source](path)
    except OSError as error:
        raise SourceError(f"{path} can't be listed: {paths.fault(error)}: correct this and run again") from error

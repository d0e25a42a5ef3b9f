"""The one place that knows all sources."""

from collections.abc import Callable
from pathlib import Path

from featcache.core import paths
from featcache.dataset.sources.arrays import ArraySource
from featcache.dataset.sources.digits import open_digits
from featcache.dataset.sources.filename import FilenameSource
from featcache.dataset.sources.folder import FolderSource
from featcache.dataset.sources.idx import open_idx
from featcache.dataset.sources.parquet import ParquetSource
from featcache.dataset.sources.pixel_table import open_csv
from featcache.dataset.sources.table import TableSource
from featcache.errors import SourceError
from featcache.settings import STRETCH, DatasetSpec

Source = FolderSource | TableSource | ParquetSource | ArraySource


def open_source(spec: DatasetSpec, fit: str = STRETCH) -> Source:
    """Return the source that the settings name; nothing is read yet.

    `fit`, ``stretch``, ``crop`` or ``pad``, is how its images become squares.

    Raises:
        SourceError: the path is missing or is not laid out as the source expects.
    """
    source = _opened(spec)
    source.fit = fit
    return source


def _opened(spec: DatasetSpec) -> Source:
    if spec.source == "digits":
        return open_digits()
    if spec.path is None:  # DatasetSpec refuses it; this is for the type checker
        raise SourceError(f"[Dataset] path is missing, which source={spec.source} needs")
    path = paths.expanded(spec.path, "[Dataset] path")
    if not paths.is_folder(path):
        raise SourceError(f"{path} is not a folder of images but {paths.what_is(path)}: set [Dataset] path")
    openers: dict[str, Callable[[Path], Source]] = {"folder": FolderSource, "csv": open_csv, "idx": open_idx}
    of_tables: dict[str, Callable[[Path, DatasetSpec], Source]] = {
        "table": TableSource,
        "filename": FilenameSource,
        "parquet": ParquetSource,
    }
    try:
        return of_tables[spec.source](path, spec) if spec.source in of_tables else openers[spec.source](path)
    except OSError as error:
        raise SourceError(f"{path} can't be listed: {paths.fault(error)}: correct this and run again") from error

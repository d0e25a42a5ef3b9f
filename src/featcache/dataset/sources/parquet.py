"""Images whose bytes are in a column of Parquet files: the Hugging Face hub's layout."""

import json
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from featcache.core.progress import Progress, Silent
from featcache.core.rows import SPLITS
from featcache.core.texts import ComputedTexts
from featcache.dataset.digest_cache import DigestCache
from featcache.dataset.file_checks import FileChecks
from featcache.dataset.file_stats import FileStats, stat_file
from featcache.dataset.image_readers import looked_at
from featcache.dataset.manifest import Manifest, check_training
from featcache.dataset.natural_sort import natural
from featcache.dataset.sources.folder import ImageFiles
from featcache.dataset.sources.label_sets import MARK, label_set, names_in
from featcache.dataset.sources.labels import (
    SPLIT_NAMES,
    as_lines,
    group_column,
    label_texts,
    number_labels,
    split_numbers,
    whole_numbers,
)
from featcache.dataset.sources.scan import Scan
from featcache.dataset.sources.table import refuse_ungrouped, rows_of_lines
from featcache.dataset.sources.tables import column_names, read_columns, readable
from featcache.errors import SourceChangedError, SourceError
from featcache.settings import DatasetSpec

SUFFIX = ".parquet"
_BATCH, _KEPT, _OPEN = 64, 16, 4  # rows read at once, such batches kept, files kept open


class ParquetSource(ImageFiles):
    """Lists the rows of all Parquet files below a folder, file by file. A location is ``<file>:<row>``, from 0."""

    def __init__(self, path: Path, spec: DatasetSpec):
        super().__init__(path)
        self.spec = spec

    def files(self) -> FileStats:
        """Return the stats of the Parquet files, without reading any; a `SourceError` where there are none."""
        scan = Scan(wanted=lambda name: name.endswith(SUFFIX))
        scan.tree(self.path, "")
        files = scan.files
        if not len(files):
            raise SourceError(f"{self.path} has no *{SUFFIX} files: put them there, or set [Dataset] path")
        return files

    def file(self, location: str) -> Path:
        """Return the Parquet file of a row, or of a file's own location."""
        return self.path / (location if location.endswith(SUFFIX) else location.rpartition(":")[0])

    def examine(self, files: FileStats, digests: DigestCache, progress: Progress) -> FileChecks:
        """Digest those of `files` that `digests` doesn't know, and the images in them."""
        return self._examine(files, digests, progress)[0]

    def list_rows(self, files: FileStats, digests: DigestCache, progress: Progress) -> Manifest:
        """List every image with its label and content digest; errors are those of a `FolderSource`."""
        import pyarrow as pa

        where, groups = str(self.path), group_column(self.spec)
        lines = pa.concat_tables(map(self._lines, _in_order(files))).combine_chunks()
        refuse_ungrouped(where, lines, groups)
        classes, labels = number_labels(where, lines, self.spec.label)
        _, images = self._examine(files, digests, progress)
        changed = [file.location for file in files if stat_file(file.location, self.file(file.location)) != file]
        if changed:
            raise SourceChangedError(f"{self.file(changed[0])} changed during the listing: run again")
        rows = rows_of_lines(lines, labels, np.arange(len(lines)), images)
        check_training(where, classes, rows["train"])
        return Manifest(classes, rows, {"source": "parquet"}, files.left_out)

    def content(self, location: str) -> bytes:
        """Return the bytes of one row's image, b"" where it has none; an `OSError` where that can't be read."""
        return self._reader.read(location)

    @cached_property
    def _reader(self) -> "_Reader":
        return _Reader(self.path, self.spec.images[0] if self.spec.images else "")

    def _examine(self, files: FileStats, digests: DigestCache, progress: Progress) -> tuple[FileChecks, FileChecks]:
        checks = digests.digest_all(files, self.file, None, Silent())
        images = FileStats()
        places = {location: row for row, location in enumerate(files.locations)}
        for name in _in_order(files):
            stat = files[places[name]]
            for row in range(self._reader.begins(name)[-1]):
                images.append(stat._replace(location=f"{name}:{row}"))  # as old as its file
        return checks, digests.digest_all(images, self.file, looked_at, progress, self.content)

    def _lines(self, name: str) -> Any:
        """The lines of one file, whose name tells its split unless a column does."""
        spec, path = self.spec, self.path / name
        split = next((SPLIT_NAMES[word] for word in re.split(r"[/_.-]", name.lower()) if word in SPLIT_NAMES), 0)
        labelled = SPLITS[split] == "train" or bool(spec.split) or set(spec.label) <= set(column_names(path))
        groups = group_column(spec)
        columns = {
            "id": [spec.id] if spec.id else [],
            "label": spec.label if labelled else (),
            "groups": [groups] if groups else [],
            "split": [spec.split] if spec.split else [],
        }
        found = read_columns(path, columns)
        return as_lines(
            found[spec.id] if spec.id else _numbered(name, self._reader.begins(name)[-1]),
            _labels(path, found, spec) if labelled else None,
            whole_numbers(found[groups]) if groups else None,
            split_numbers(path, spec.split, found[spec.split]) if spec.split else split,
        )


class _Reader:
    """Reads images a batch at a time, in the order of rows; those read last are kept. Thread-safe."""

    def __init__(self, folder: Path, column: str) -> None:
        self._folder, self._column = folder, column
        self._lock = Lock()
        self._kept: OrderedDict[tuple[str, int, int], Any] = OrderedDict()
        self._open: OrderedDict[str, tuple[int, int, Iterator[Any]]] = OrderedDict()  # row group, next batch
        self.begins = lru_cache(maxsize=None)(self._begins)

    def read(self, location: str) -> bytes:
        name, _, row = location.rpartition(":")
        begins = self.begins(name)
        group = int(np.searchsorted(begins, int(row), "right")) - 1
        if not 0 <= group < len(begins) - 1:
            raise FileNotFoundError(location)
        number, offset = divmod(int(row) - begins[group], _BATCH)
        with self._lock:
            batch = self._kept.get((name, group, number))
            if batch is None:
                batch = self._advance(name, group, number)
        return batch[offset].as_py() or b""

    def _begins(self, name: str) -> list[int]:
        """The first row of each row group, and the number of rows."""
        import pyarrow.parquet as pq

        with readable(self._folder / name):
            found = pq.read_metadata(self._folder / name)
            return [0, *np.cumsum([found.row_group(group).num_rows for group in range(found.num_row_groups)]).tolist()]

    def _advance(self, name: str, group: int, number: int) -> Any:
        at, following, batches = self._open.pop(name, (-1, 0, iter(())))
        if at != group or following > number:
            following, batches = 0, self._batches(name, group)
        with readable(self._folder / name):
            for each in range(following, number + 1):
                batch = next(batches, None)
                if batch is None:
                    raise FileNotFoundError(name)
                self._kept[name, group, each] = batch
        self._open[name] = group, number + 1, batches
        for cache, most in ((self._kept, _KEPT), (self._open, _OPEN)):
            while len(cache) > most:
                cache.popitem(last=False)
        return batch

    def _batches(self, name: str, group: int) -> Iterator[Any]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        file = pq.ParquetFile(self._folder / name, memory_map=True)
        column = self._column or image_column(self._folder / name)
        if column not in file.schema_arrow.names:
            raise SourceError(f"[Dataset] images: {self._folder / name} has no column {column!r}: correct it")
        nested = pa.types.is_struct(file.schema_arrow.field(column).type)
        for batch in file.iter_batches(_BATCH, [group], [f"{column}.bytes" if nested else column]):
            yield batch.column(0).field("bytes") if nested else batch.column(0)


def image_column(path: Path) -> str:
    """Return the column of a Parquet file that holds images: bytes, alone or in a structure; a `SourceError` without one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with readable(path):
        schema = pq.read_schema(path)
    for field in schema:
        kind = field.type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind = kind.field("bytes").type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return str(field.name)
    raise SourceError(f"{path} has no column of images' bytes: set [Dataset] source = table, or path to other files")


def _in_order(files: FileStats) -> list[str]:
    return sorted(files.locations, key=natural)


def _numbered(name: str, count: int) -> Any:
    import pyarrow as pa

    stem = name.removesuffix(SUFFIX)
    return pa.array(ComputedTexts(count, lambda row: f"{stem}:{row}"), pa.large_string())


def _labels(path: Path, columns: Mapping[str, Any], spec: DatasetSpec) -> Any:
    """Labels by their names, which the Hugging Face hub keeps beside the schema; its -1 is no label."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    column, several = spec.label[0], len(spec.label) > 1 or bool(spec.separator)
    stored = json.loads((pq.read_schema(path).metadata or {}).get(b"huggingface", b"{}"))
    feature = stored.get("info", {}).get("features", {}).get(column, {})
    while isinstance(feature, list) or "feature" in feature:  # of a list
        feature = feature[0] if isinstance(feature, list) else feature["feature"]
    names = feature.get("names")
    if not names or several:
        return label_texts(path, columns, spec.label, spec.separator)
    known = {str(number): name for number, name in enumerate(names)} | {"-1": "", "": ""}
    coded = columns[column].dictionary_encode()
    texts = [
        label_set(known.get(number, number) for number in names_in(cell)) if MARK in cell else known.get(cell, cell)
        for cell in coded.dictionary.to_pylist()
    ]
    return pa.array(texts, pa.large_string()).take(coded.indices)

"""`featcache export` of predictions: one table with the rows' ids, as CSV or Parquet."""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from featcache.core.csv_files import CsvWriter
from featcache.core.disk import replacing
from featcache.core.rows import label_text
from featcache.dataset import Manifest
from featcache.training import Predictions, table_parts


def export_predictions(record: Path, target: Path, form: str) -> Path:
    """Write predictions as a table, and return its path: a line a row and member with id, label, fold, member and classes.

    Labels are class names, "" where unknown, and of several a row these with ``|`` between them; folds are there for out-of-fold predictions; NaN is left empty in a CSV.

    Args:
        record: `predictions.json`, or the `bag.json` or `convnet.json` of members, in an artifacts folder.
        target: the file; it is replaced.
        form: ``csv`` or ``parquet``.

    Raises:
        CacheFormatError: predictions or the manifest are absent or damaged, or not of the same rows.
        StorageError: the disk is full, read-only or not permitted.
    """
    record = record.absolute()
    predictions = Predictions.load(record, *Manifest.load(record.parents[2]).splits.values())
    columns = ["id", "label", *(["fold"] if predictions.folds is not None else []), "member", *predictions.class_names]
    with replacing(target) as temporary:
        (_write_csv if form == "csv" else _write_parquet)(temporary, columns, _parts(predictions))
    return target


def _parts(predictions: Predictions) -> Iterator[list[Any]]:
    """Yield columns, those of one member's part of the rows after the other."""
    every, names = predictions.labels, predictions.class_names
    for rows, values in table_parts(predictions.probabilities):
        labels = [label_text(every, row, names) for row in range(rows.start, rows.stop)]
        folds = [predictions.folds[rows].tolist()] if predictions.folds is not None else []
        for member, probabilities in zip(predictions.members, values, strict=True):
            yield [predictions.ids[rows], labels, *folds, [member] * len(labels), *probabilities.T]


def _write_csv(path: Path, columns: Sequence[str], parts: Iterator[list[Any]]) -> None:
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        lines = CsvWriter(stream)
        lines.row(columns)
        for part in parts:
            texts = [map(_text, column.tolist()) if isinstance(column, np.ndarray) else column for column in part]
            lines.rows(zip(*texts, strict=True))


def _text(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.7g}"


def _write_parquet(path: Path, columns: Sequence[str], parts: Iterator[list[Any]]) -> None:
    import pyarrow
    from pyarrow import parquet

    with ExitStack() as stack:
        writer = None
        for part in parts:
            table = pyarrow.table([pyarrow.array(column) for column in part], names=list(columns))
            writer = writer or stack.enter_context(parquet.ParquetWriter(path, table.schema))
            writer.write_table(table)

"""Kaggle's tables of pixels: ``train.csv`` (label, pixel0, pixel1, ...) and ``test.csv`` (pixel0, ..., perhaps id)."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from featcache.core.csv_files import UnreadableError, csv_files_like, unpacked
from featcache.core.paths import fault
from featcache.core.texts import PackedTexts, first_duplicate
from featcache.dataset.sources.arrays import ArraySource, ArraySplit
from featcache.dataset.sources.table_header import Header, read_header
from featcache.errors import SourceError

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_CHUNK_ROWS = 4096
_PACKED = (".gz", ".zip")


def open_csv(path: Path) -> ArraySource:
    """Return the source of the tables in a folder; a `SourceError` without ``train.csv``, ``test.csv`` may be absent."""
    found = csv_files_like(path, re.compile("train|test"))
    if "train" not in found:
        names = "train.csv, train.csv.gz or train.csv.zip"
        raise SourceError(f"{path} has no {names}: put it there, or set [Dataset] path")
    tables = {split: found[split] for split in ("train", "test") if split in found}
    files = {file.name: file for file in tables.values()}
    return ArraySource("csv", files, lambda: {split: _read_table(tables[split], split) for split in tables})


def _read_table(path: Path, split: str) -> ArraySplit:
    """Read one table; rows without an id of their own are numbered from 1, those of training behind ``train-``."""
    labelled = split == "train"
    try:
        with _opened(path) as stream:
            header = read_header(path, stream.readline(), labelled=labelled)
            table = _parse(stream, header)
        if table is None:
            _explain(path, header)
            raise SourceError(f"{path} is no table of whole numbers that pandas can read: correct the file")
    except csv.Error as error:
        raise SourceError(f"{path} is no CSV ({error}): download it again") from error
    except UnreadableError as error:
        raise SourceError(f"{path} is {error}") from error
    except OSError as error:
        raise SourceError(f"{path} can't be read: {fault(error)}: correct this and run again") from error
    images, labels, ids = table
    if header.row_id is None:
        names: Sequence[str] = [f"{'train-' * labelled}{row + 1}" for row in range(len(images))]
    else:
        names = _checked(path, ids)
    return ArraySplit(images.reshape(-1, *header.shape), labels if labelled else None, names, str(path))


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    with unpacked(path) as stream:
        if path.suffix in _PACKED and isinstance(stream, io.BufferedReader):
            raise UnreadableError("damaged data (nothing is packed in it): download it again")
        yield stream


def _checked(path: Path, ids: Sequence[str]) -> Sequence[str]:
    twice = first_duplicate(ids)
    if twice is not None:
        raise SourceError(f"{path}: id={twice!r} occurs twice: make ids unique")
    odd = next((row for row, text in enumerate(ids) if not text or "\0" in text), None)
    if odd is not None:
        raise SourceError(f"{path}: id={ids[odd]!r} in row {odd + 1} is no id: give each row one")
    return ids


def _parse(
    stream: IO[bytes], header: Header
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], PackedTexts] | None:
    """Read all pixels, labels and ids fast; None if anything is not a whole number in its range, without saying where."""
    import pandas as pd

    order = list(header.pixels)
    numbers = order if header.label is None else [*order, header.label]
    images, labels, ids = [np.empty((0, len(order)), np.uint8)], [np.empty(0, np.int64)], PackedTexts()
    texts = {} if header.row_id is None else {header.row_id: str}
    read = partial(pd.read_csv, header=None, sep=header.delimiter, dtype=texts, na_filter=False, low_memory=False)
    try:
        for chunk in read(stream, chunksize=_CHUNK_ROWS):
            if chunk.shape[1] != len(header.columns) or not (chunk.dtypes[numbers] == np.int64).all():
                return None
            pixels = chunk[order].to_numpy()
            if pixels.min() < 0 or pixels.max() > 255:
                return None
            images.append(pixels.astype(np.uint8))
            if header.label is not None:
                labels.append(chunk[header.label].to_numpy())
            for text in chunk[header.row_id] if header.row_id is not None else ():
                ids.append(text)
    except pd.errors.EmptyDataError:
        pass  # a header and no rows
    except (pd.errors.ParserError, UnicodeDecodeError, OverflowError):
        return None
    return np.concatenate(images), np.concatenate(labels), ids


def _explain(path: Path, header: Header) -> None:
    """Raise a `SourceError` that names line and column of the first wrong value, slowly."""
    pixels = frozenset(header.pixels)
    with _opened(path) as stream:
        text = io.TextIOWrapper(stream, "utf-8-sig", errors="backslashreplace", newline="")
        lines = csv.reader(text, delimiter=header.delimiter)
        next(lines)
        for fields in filter(None, lines):
            where = f"{path}, line {lines.line_num}"
            if len(fields) != len(header.columns):
                raise SourceError(
                    f"{where} has {len(fields)} fields, line 1 has {len(header.columns)}: correct this row"
                )
            for place, field in enumerate(map(str.strip, fields)):
                right = place == header.row_id or _WHOLE.fullmatch(field)
                if not right or (place in pixels and not 0 <= int(field) <= 255):
                    kind = "a whole number from 0 to 255" if place in pixels else "a whole number"
                    column = header.columns[place]
                    raise SourceError(f"{where}, column {column}: {field[:40]!r} is not {kind}: correct this row")

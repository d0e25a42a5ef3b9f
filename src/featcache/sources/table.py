"""Kaggle's digit-recognizer tables: ``train.csv`` (label, pixel0, pixel1, ...) and ``test.csv`` (pixel0, ...)."""

import csv
import gzip
import io
import math
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import numpy as np
import numpy.typing as npt

from featcache import paths
from featcache.errors import SourceError
from featcache.sources.arrays import ArraySource, ArraySplit

_LABEL = "label"
_PIXEL = re.compile(r"pixel(0|[1-9][0-9]{0,8})")
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_CHUNK_ROWS = 4096
_PACKED = (zlib.error, EOFError, gzip.BadGzipFile, zipfile.BadZipFile, NotImplementedError, RuntimeError)


def open_csv(path: Path) -> ArraySource:
    """Return the source of the tables in a folder; ``test.csv`` may be absent.

    Raises:
        SourceError: there is no training table.
    """
    train, test = _table(path, "train"), _table(path, "test")
    if train is None:
        expected = "expected train.csv, train.csv.gz or train.csv.zip"
        raise SourceError(f"{path}: {expected}; got none: put it there, or set [Dataset] path")
    files = {file.name: file for file in (train, test) if file is not None}
    return ArraySource("csv", files, lambda: _read(train, test))


def _table(path: Path, split: str) -> Path | None:
    names = (f"{split}.csv", f"{split}.csv.gz", f"{split}.csv.zip", f"{split}.zip")
    found = [path / name for name in names if paths.what_is(path / name) != paths.NOTHING]
    return next(filter(paths.is_file, found), found[0] if found else None)  # what is no file is refused in words


def _read(train: Path, test: Path | None) -> dict[str, ArraySplit]:
    images, labels = _read_table(train, labelled=True)
    splits = {"train": ArraySplit(images, labels, [f"train-{row + 1}" for row in range(len(images))], str(train))}
    if test is not None:
        images, _ = _read_table(test, labelled=False)
        splits["test"] = ArraySplit(images, None, [str(row + 1) for row in range(len(images))], str(test))
    return splits


def _read_table(path: Path, *, labelled: bool) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64] | None]:
    try:
        with _opened(path) as stream:
            columns = _columns(path, stream.readline())
            order = _pixel_order(path, columns, labelled=labelled)
            table = _parse(stream, len(columns), order, columns.index(_LABEL) if labelled else None)
        if table is None:
            _explain(path)
            raise SourceError(f"{path}: expected whole numbers, comma-separated; pandas can't read them: mend the file")
    except csv.Error as error:
        raise SourceError(f"{path}: expected comma-separated numbers; got text that is none ({error})") from error
    except _PACKED as error:
        expected = f"expected a whole {path.suffix} file"
        raise SourceError(f"{path}: {expected}; got damaged data ({error}): download it again") from error
    except OSError as error:
        raise SourceError(f"{path} can't be read: {paths.fault(error)}: mend it and run again") from error
    side = math.isqrt(len(order))
    return table[0].reshape(-1, side, side), table[1]


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    if path.suffix == ".gz":
        with open(path, "rb", opener=paths.regular) as packed, gzip.open(packed) as stream:
            yield cast("IO[bytes]", stream)
    elif path.suffix == ".zip":
        with open(path, "rb", opener=paths.regular) as packed, zipfile.ZipFile(packed) as archive:
            tables = [name for name in archive.namelist() if name.endswith(".csv") and not name.startswith("__MACOSX")]
            if len(tables) != 1:
                raise SourceError(
                    f"{path}: expected one .csv file inside; got {len(tables)}: pack it alone or unpack it"
                )
            with archive.open(tables[0]) as stream:
                yield stream
    else:
        with open(path, "rb", opener=paths.regular) as stream:
            yield stream


def _columns(path: Path, header: bytes) -> list[str]:
    try:
        text = header.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{path}: expected a CSV file; got line 1 that is no text: is it another file's name?"
        ) from error
    columns = [name.strip() for name in next(csv.reader([text]), [])]
    if not any(columns):
        raise SourceError(f"{path}: expected a header line label,pixel0,...; got an empty one: download the file again")
    return columns


def _pixel_order(path: Path, columns: Sequence[str], *, labelled: bool) -> list[int]:
    """Return where pixel0, pixel1, ... stand in a row."""
    if len(set(columns)) != len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise SourceError(f"{path}, line 1: expected each column once; got column {twice!r} twice: mend the header")
    pixels = {int(match[1]): index for index, name in enumerate(columns) if (match := _PIXEL.fullmatch(name))}
    if not pixels and set(columns) - {_LABEL}:
        what = "looks like a table of image names, out of which docs/kaggle.md makes class folders for source = folder"
        raise SourceError(f"{path}, line 1: expected columns of pixels, pixel0, pixel1, ...; {_some(columns)} {what}")
    if labelled and _LABEL not in columns:
        raise SourceError(f"{path}, line 1: expected a column 'label'; it is missing: columns are {_some(columns)}")
    extra = [name for name in columns if not _PIXEL.fullmatch(name) and not (labelled and name == _LABEL)]
    if extra:
        expected = f"expected columns {'label, ' if labelled else ''}pixel0, pixel1, ..."
        raise SourceError(f"{path}, line 1: {expected}; got column {extra[0]!r}: remove or rename it")
    missing = next((number for number in range(max(pixels, default=0) + 1) if number not in pixels), None)
    if missing is not None:
        raise SourceError(
            f"{path}, line 1: expected columns pixel0 to pixel{max(pixels, default=0)}; pixel{missing} is missing"
        )
    if math.isqrt(len(pixels)) ** 2 != len(pixels):
        expected = "expected the pixels of square images (784 for 28x28)"
        raise SourceError(f"{path}, line 1: {expected}; got {len(pixels)} pixel columns: is the last one missing?")
    return [pixels[number] for number in range(len(pixels))]


def _parse(
    stream: IO[bytes], width: int, order: list[int], label: int | None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64] | None] | None:
    """Read all rows fast; None if anything is not a whole number in its range, without saying where."""
    import pandas as pd

    images, labels = [np.empty((0, len(order)), np.uint8)], [np.empty(0, np.int64)]
    try:
        for chunk in pd.read_csv(stream, header=None, chunksize=_CHUNK_ROWS, low_memory=False):
            if chunk.shape[1] != width or not all(kind == np.int64 for kind in chunk.dtypes):
                return None
            values = chunk.to_numpy()
            pixels = values[:, order]
            if pixels.min() < 0 or pixels.max() > 255:
                return None
            images.append(pixels.astype(np.uint8))
            if label is not None:
                labels.append(values[:, label])
    except pd.errors.EmptyDataError:
        pass  # a header and no rows
    except (pd.errors.ParserError, UnicodeDecodeError, OverflowError):
        return None
    return np.concatenate(images), None if label is None else np.concatenate(labels)


def _explain(path: Path) -> None:
    """Find the first row that is wrong, slowly.

    Raises:
        SourceError: names line and column.
    """
    with _opened(path) as stream:
        lines = csv.reader(io.TextIOWrapper(stream, "utf-8-sig", errors="backslashreplace", newline=""))
        columns = [name.strip() for name in next(lines)]
        for fields in lines:
            where = f"{path}, line {lines.line_num}"
            if not fields:
                continue
            if len(fields) != len(columns):
                raise SourceError(
                    f"{where}: expected {len(columns)} fields as in line 1; got {len(fields)}: mend this row"
                )
            for name, field in zip(columns, fields, strict=True):
                _check_field(f"{where}, column {name}", name, field.strip())


def _check_field(where: str, name: str, field: str) -> None:
    if not _WHOLE.fullmatch(field):
        expected = "a whole number" if name == _LABEL else "a whole number from 0 to 255"
        raise SourceError(f"{where}: expected {expected}; got {field[:40]!r}: mend this row")
    if name != _LABEL and not 0 <= int(field) <= 255:
        raise SourceError(f"{where}: expected a whole number from 0 to 255; got {int(field)}: mend this row")


def _some(columns: Sequence[str]) -> str:
    return ", ".join(map(repr, columns[:4])) + (f", ... ({len(columns)} in all)" if len(columns) > 4 else "")

"""The header of a table of pixels: what each column is, as competitions write it."""

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featcache.core.csv_files import delimiter
from featcache.errors import SourceError

LABEL = "label"
_ID = re.compile(r"((image|img|row)[ _-]?)?id|index", re.IGNORECASE)
_NUMBERED = re.compile(r"(?:pixel|px)[ _-]?([0-9]{1,9})", re.IGNORECASE)
_GRID = re.compile(r"(?:(?:pixel|px)[ _-]?)?([0-9]{1,4})x([0-9]{1,4})", re.IGNORECASE)


@dataclass(frozen=True)
class Header:
    """What stands where in a row.

    Attributes:
        columns: their names.
        delimiter: what separates them.
        label: the place of the label; None where there is none.
        row_id: the place of the row ids; None where there are none.
        pixels: the places of h * w pixels, row by row.
        shape: (h, w).
    """

    columns: tuple[str, ...]
    delimiter: str
    label: int | None
    row_id: int | None
    pixels: tuple[int, ...]
    shape: tuple[int, int]


def read_header(path: Path, line: bytes, *, labelled: bool) -> Header:
    """Understand a table's first line.

    Args:
        path: of the table, for messages.
        line: its first line.
        labelled: whether it must have a label, or mustn't.

    Raises:
        SourceError: it is no such header; the message says what is expected.
        csv.Error: it is no CSV.
    """
    columns, sign = _columns(path, line)
    where = f"{path}, line 1"
    if len(set(columns)) != len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise SourceError(f"{where}: expected each column once; got column {twice!r} twice: mend the header")
    numbered = {int(match[1]): place for place, name in enumerate(columns) if (match := _NUMBERED.fullmatch(name))}
    grid = {
        (int(match[1]), int(match[2])): place for place, name in enumerate(columns) if (match := _GRID.fullmatch(name))
    }
    label = next((place for place, name in enumerate(columns) if name.lower() == LABEL), None)
    row_id = next((place for place, name in enumerate(columns) if _ID.fullmatch(name)), None)
    if not numbered and not grid and set(columns) - {LABEL}:
        what = "looks like a table of image names, out of which docs/kaggle.md makes class folders for source = folder"
        raise SourceError(f"{where}: expected columns of pixels, pixel0, pixel1, ...; {_some(columns)} {what}")
    if labelled and label is None:
        raise SourceError(f"{where}: expected a column 'label'; it is missing: columns are {_some(columns)}")
    known = {*(numbered or grid).values(), row_id, label if labelled else None}
    extra = [name for place, name in enumerate(columns) if place not in known]
    if extra:
        expected = f"expected columns {'label, ' if labelled else ''}pixel0, pixel1, ... and perhaps id"
        raise SourceError(f"{where}: {expected}; got column {extra[0]!r}: remove or rename it")
    pixels, shape = _by_place(where, grid) if grid and not numbered else _by_number(where, numbered)
    return Header(columns, sign, label if labelled else None, row_id, pixels, shape)


def _columns(path: Path, line: bytes) -> tuple[tuple[str, ...], str]:
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise SourceError(
            f"{path}: expected a CSV file; got line 1 that is no UTF-8 text: save it as UTF-8, or is it another file's name?"
        )
    sign = delimiter(text, text)
    columns = tuple(name.strip() for name in next(csv.reader([text], delimiter=sign), []))
    if not any(columns):
        raise SourceError(f"{path}: expected a header line label,pixel0,...; got an empty one: download the file again")
    return columns, sign


def _by_number(where: str, found: dict[int, int]) -> tuple[tuple[int, ...], tuple[int, int]]:
    """The pixels of square images, counted from 0 or from 1."""
    first, last = (0 if 0 in found or 1 not in found else 1), max(found, default=0)
    missing = next((number for number in range(first, last + 1) if number not in found), None)
    if missing is not None:
        raise SourceError(f"{where}: expected columns pixel{first} to pixel{last}; pixel{missing} is missing")
    side = math.isqrt(len(found))
    if side**2 != len(found):
        expected = "expected the pixels of square images (784 for 28x28)"
        raise SourceError(f"{where}: {expected}; got {len(found)} pixel columns: is the last one missing?")
    return tuple(found[number] for number in sorted(found)), (side, side)


def _by_place(where: str, found: dict[tuple[int, int], int]) -> tuple[tuple[int, ...], tuple[int, int]]:
    """The pixels of images of any shape, named ROWxCOLUMN, counted from 0 or from 1."""
    rows, columns = ([numbers[axis] for numbers in found] for axis in (0, 1))
    top, left = (min(numbers) if min(numbers) <= 1 else 1 for numbers in (rows, columns))
    height, width = max(rows) - top + 1, max(columns) - left + 1
    wanted = ((top + row, left + column) for row in range(height) for column in range(width))
    missing = next((place for place in wanted if place not in found), None)
    if missing is not None:
        expected = f"expected columns {top}x{left} to {max(rows)}x{max(columns)}"
        raise SourceError(f"{where}: {expected}; {missing[0]}x{missing[1]} is missing")
    return tuple(found[place] for place in sorted(found)), (height, width)


def _some(columns: Sequence[str]) -> str:
    return ", ".join(map(repr, columns[:4])) + (f", ... ({len(columns)} in all)" if len(columns) > 4 else "")

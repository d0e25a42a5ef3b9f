"""The header of a table of pixels: what each column is, as competitions write it."""

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featcache.core.csv_files import delimiter
from featcache.core.names import first_names
from featcache.errors import SourceError

LABEL = "label"
_ID = re.compile(r"((image|img|row)[ _-]?)?id|index", re.IGNORECASE)
_NUMBERED = re.compile(r"(?:pixel|px)[ _-]?([0-9]{1,9})", re.IGNORECASE)
_GRID = re.compile(r"(?:(?:pixel|px)[ _-]?)?([0-9]{1,4})x([0-9]{1,4})", re.IGNORECASE)


@dataclass(frozen=True)
class Header:
    """The columns of a table, which are numbered from 0."""

    columns: tuple[str, ...]  #: their names
    delimiter: str
    label: int | None  #: the label's column; None where there is none
    row_id: int | None  #: that of the row ids; None where there are none
    pixels: tuple[int, ...]  #: those of h * w pixels, row by row
    shape: tuple[int, int]  #: (h, w)


def names_pixels(columns: Sequence[str]) -> bool:
    """Whether most of a table's columns are pixels, by their names."""
    return sum(bool(_NUMBERED.fullmatch(name) or _GRID.fullmatch(name)) for name in columns) > len(columns) // 2


def read_header(path: Path, line: bytes, *, labelled: bool) -> Header:
    """Parse a table's first line, which must have a label, or mustn't; a `SourceError` or `csv.Error` where it isn't right."""
    columns, sign = _columns(path, line)
    where = f"{path}, line 1"
    if len(set(columns)) != len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise SourceError(f"{where}: column {twice!r} occurs twice: correct the header")
    numbered = {int(match[1]): place for place, name in enumerate(columns) if (match := _NUMBERED.fullmatch(name))}
    grids = ((place, _GRID.fullmatch(name)) for place, name in enumerate(columns))
    grid = {(int(match[1]), int(match[2])): place for place, match in grids if match}
    label = next((place for place, name in enumerate(columns) if name.lower() == LABEL), None)
    row_id = next((place for place, name in enumerate(columns) if _ID.fullmatch(name)), None)
    if not numbered and not grid and set(columns) - {LABEL}:
        fix = "for a table of images' names set source = table (featcache init PATH does)"
        raise SourceError(f"{where} has no columns pixel0, pixel1, ..., but {first_names(columns, 4)}: {fix}")
    if labelled and label is None:
        raise SourceError(f"{where}: column 'label' is missing; columns are {first_names(columns, 4)}")
    known = {*(numbered or grid).values(), row_id, label if labelled else None}
    extra = [name for place, name in enumerate(columns) if place not in known]
    if extra:
        expected = f"{'label, ' * labelled}pixel0, pixel1, ... or an id"
        raise SourceError(f"{where}: column {extra[0]!r} is none of {expected}: remove or rename it")
    pixels, shape = _by_place(where, grid) if grid and not numbered else _by_number(where, numbered)
    return Header(columns, sign, label if labelled else None, row_id, pixels, shape)


def _columns(path: Path, line: bytes) -> tuple[tuple[str, ...], str]:
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise SourceError(f"{path}: line 1 is no UTF-8 text: save it as UTF-8, or is it another file's name?")
    sign = delimiter(text, text)
    columns = tuple(name.strip() for name in next(csv.reader([text], delimiter=sign), []))
    if not any(columns):
        raise SourceError(f"{path} has no header line label,pixel0,...: download the file again")
    return columns, sign


def _by_number(where: str, found: dict[int, int]) -> tuple[tuple[int, ...], tuple[int, int]]:
    """The pixels of square images, counted from 0 or from 1."""
    first, last = (0 if 0 in found or 1 not in found else 1), max(found, default=0)
    missing = next((number for number in range(first, last + 1) if number not in found), None)
    if missing is not None:
        raise SourceError(f"{where}: column pixel{missing} is missing of pixel{first} to pixel{last}")
    side = math.isqrt(len(found))
    if side**2 != len(found):
        fault = f"{len(found)} pixel columns are no square image, as 784 columns are for 28x28"
        raise SourceError(f"{where}: {fault}: is the last one missing?")
    return tuple(found[number] for number in sorted(found)), (side, side)


def _by_place(where: str, found: dict[tuple[int, int], int]) -> tuple[tuple[int, ...], tuple[int, int]]:
    """The pixels of images of any shape, named ROWxCOLUMN, counted from 0 or from 1."""
    rows, columns = ([numbers[axis] for numbers in found] for axis in (0, 1))
    top, left = (min(numbers) if min(numbers) <= 1 else 1 for numbers in (rows, columns))
    height, width = max(rows) - top + 1, max(columns) - left + 1
    wanted = ((top + row, left + column) for row in range(height) for column in range(width))
    missing = next((place for place in wanted if place not in found), None)
    if missing is not None:
        all_of = f"{top}x{left} to {max(rows)}x{max(columns)}"
        raise SourceError(f"{where}: column {missing[0]}x{missing[1]} is missing of {all_of}")
    return tuple(found[place] for place in sorted(found)), (height, width)

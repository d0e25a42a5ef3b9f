"""Labels that people corrected and rows that they dropped: the file of `[Dataset] corrections`, applied to what is listed."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from featcache.core import paths
from featcache.core.csv_files import UnreadableError, opened
from featcache.core.names import composed, did_you_mean, first_names
from featcache.core.rows import BETWEEN_NAMES, Rows, is_several
from featcache.dataset.manifest import Manifest, check_training
from featcache.errors import SourceError

DROP = "drop"  # in place of a label, unless a class is called so
DROPPED = "dropped by [Dataset] corrections"
_CORRECTED = ("train", "valid")
_SETTING = "[Dataset] corrections"


class Correction(NamedTuple):
    """One line of the file."""

    id: str  #: of a training or valid row, or of a case, for all of its rows
    label: str  #: a class, or `DROP`; of several labels a row their names with ``|`` between them
    split: str  #: "" where the file doesn't say


def with_corrections(manifest: Manifest, path: Path) -> Manifest:
    """Return the manifest with corrected labels; a row that is dropped is rejected, with that as its reason.

    The file is a CSV with columns ``id`` and ``label``, and perhaps ``split``, for an id that is in several. A line that
    changes nothing, as the row has this label, doesn't count.

    Raises:
        SourceError: the file can't be read; an id is unknown, of a test image, or has two labels; a label is no class; or a
            class has no usable training image left.
    """
    lines, splits, changed = read_corrections(path), dict(manifest.splits), Counter[str]()
    for split, found in _labels_by_row(path, lines, splits).items():
        splits[split] = _corrected(path, splits[split], found, manifest.class_names, changed)
    if not +changed:
        return manifest
    check_training(f"the data set as {path} corrects it", manifest.class_names, splits["train"])
    summary = ", ".join(f"{count:,} {what}" for what, count in sorted((+changed).items(), reverse=True))
    return replace(manifest, splits=splits, settings={**manifest.settings, "corrections": summary})


def read_corrections(path: Path) -> list[Correction]:
    """Return the lines of a file of corrections.

    Raises:
        SourceError: it can't be read, or lacks a column or a field.
    """
    path = paths.expanded(path, _SETTING)
    try:
        with opened(path, "surrogateescape") as lines:
            filled = iter(lines)
            names = [name.strip().lower() for name in next(filled, [])]
            if not {"id", "label"} <= {*names}:
                fault = f"has the columns {first_names(names)}" if names else "is empty"
                raise SourceError(f"{path}, the file of {_SETTING}, {fault}: columns id and label are needed")
            places = [names.index(name) if name in names else None for name in Correction._fields]
            return [
                Correction(*("" if at is None else fields[at] for at in places))
                for fields in _whole(path, filled, len(names))
            ]
    except FileNotFoundError as error:
        raise SourceError(f"{path}, the file of {_SETTING}, is missing: correct the path or leave it out") from error
    except OSError as error:
        raise SourceError(f"{path}, the file of {_SETTING}, can't be read: {paths.fault(error)}") from error
    except UnreadableError as error:
        raise SourceError(f"{path}, the file of {_SETTING}, is {error}") from error


def _whole(path: Path, lines: Iterator[list[str]], count: int) -> Iterator[list[str]]:
    for fields in lines:
        if len(fields) != count:
            raise SourceError(f"{path}: the line of {fields[0]!r} has {len(fields)} fields, not {count}: correct it")
        yield fields


def _labels_by_row(path: Path, lines: Sequence[Correction], splits: Mapping[str, Rows]) -> dict[str, dict[int, str]]:
    """Split -> row -> the label that the file gives it."""
    wanted = {line.id for line in lines}
    places = {split: _places(rows, wanted) for split, rows in splits.items()}
    found: dict[str, dict[int, str]] = {split: {} for split in splits if split in _CORRECTED}
    for line in lines:
        where = [split for split, rows in places.items() if line.id in rows and line.split in ("", split)]
        mine = [split for split in where if split in found]
        if not mine:
            fault = "is a test image, whose label nobody corrects" if where else "is no training or valid image"
            within = f" of split={line.split!r}" if line.split else ""
            raise SourceError(f"{path}: id={line.id!r}{within} {fault}: remove this line")
        if len(mine) > 1:
            raise SourceError(f"{path}: id={line.id!r} is in {' and '.join(mine)}: say which in a column split")
        for row in places[mine[0]][line.id]:
            if (other := found[mine[0]].setdefault(row, line.label)) != line.label:
                raise SourceError(f"{path}: id={line.id!r} has two labels, {other!r} and {line.label!r}: remove one")
    return found


def _places(rows: Rows, wanted: set[str]) -> dict[str, list[int]]:
    """Id, of a row or of a case, -> its rows; only of ids that are wanted."""
    places: dict[str, list[int]] = {}
    for row, name in enumerate(rows.ids):
        if name in wanted:
            places[name] = [row]
    cases: dict[str, list[int]] = {}
    for row, name in enumerate(rows.cases):
        if name in wanted:
            cases.setdefault(name, []).append(row)
    return places | cases


def _corrected(
    path: Path, rows: Rows, found: Mapping[int, str], class_names: Sequence[str], changed: Counter[str]
) -> Rows:
    """The rows with what was found; `changed` counts what is another now."""
    numbers = {composed(name): number for number, name in enumerate(class_names)}
    labels, dropped = rows.labels.copy(), set[int]()
    for row, label in found.items():
        value = _label(label, numbers, several=is_several(labels))
        if value is not None:
            changed["relabelled"] += int((labels[row] != value).any())
            labels[row] = value
        elif label != DROP:
            hint = did_you_mean(label, class_names)
            raise SourceError(f"{path}: label={label!r} of id={rows.ids[row]!r} is no class and not {DROP!r}{hint}")
        elif rows.listed[row]:
            dropped.add(row)
    changed["dropped"] += len(dropped)
    known: dict[str, int] = {}
    for case, label in zip(rows.cases, labels.tolist(), strict=False):
        if known.setdefault(case, label) != label:
            raise SourceError(f"{path}: the images of id={case!r} have two labels: give the label to this id")
    reasons = [DROPPED if row in dropped else reason for row, reason in enumerate(rows.reasons)] if dropped else None
    return replace(rows, labels=labels, reasons=rows.reasons if reasons is None else reasons)


def _label(text: str, numbers: Mapping[str, int], *, several: bool) -> np.integer | npt.NDArray[np.int8] | None:
    """A label as rows have it, of several labels a row (L,) 0 or 1; None where the text names no class."""
    names = [composed(name) for name in text.split(BETWEEN_NAMES) if name] if several else [composed(text)]
    if not {*names} <= {*numbers}:
        return None
    return np.isin(list(numbers), names).astype(np.int8) if several else np.int32(numbers[names[0]])

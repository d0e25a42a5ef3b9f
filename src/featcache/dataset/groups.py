"""Groups joined to training rows by file name, e.g. State Farm's drivers (``driver_imgs_list.csv:subject``)."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from featcache.core import paths
from featcache.core.csv_files import UnreadableError, opened
from featcache.core.names import clash, composed, did_you_mean, first_names, shown, stem
from featcache.core.rows import label_text
from featcache.dataset.manifest import Manifest
from featcache.errors import SourceError

_Table = Mapping[str, Sequence[str]]
# training rows' names, the table's in the same form, the column that has these
_Found = tuple[list[str], list[str], str]


def group_file(setting: str, root: Path | None) -> tuple[Path, str]:
    """Split the setting ``FILE:COLUMN``; a relative file is below the data set's folder."""
    file, _, column = setting.rpartition(":")
    path = paths.expanded(Path(file.strip()), "[Dataset] groups")
    return (paths.expanded(root, "[Dataset] path") / path if root is not None else path), column.strip()


def with_groups(manifest: Manifest, path: Path, column: str) -> Manifest:
    """Return the manifest with a group for each training row.

    The table's column of file names (or row ids) is found by its values: row ids, paths below ``train/``, or either
    without the suffix of an image. Where file names repeat across class folders, a column of class names distinguishes
    them. Names are compared in Unicode's composed form.

    Raises:
        SourceError: the table can't be read or joined, or rows stay without a group.
    """
    table = _read(path, column)
    train = manifest.splits["train"]
    row_names, names, name_column = found = _names(path, table, column, train.ids)
    classes = [composed(label_text(train.labels, row, manifest.class_names)) for row in range(len(train))]
    groups = _groups(path, table, composed(column), found, classes)
    without = [row for row, group in zip(train.ids, groups, strict=True) if not group]
    if without:
        known = set(row_names)
        strange = [table[name_column][line] for line, name in enumerate(names) if name not in known]
        raise SourceError(
            f"{path}: {len(without)} of {len(train)} training rows have no group in column {column!r}: "
            f"{first_names(without)}; {len(strange)} of {len(names)} names in column {name_column!r} are no training "
            f"row's{': ' * bool(strange)}{first_names(strange)}: add the rows to the table or correct the names"
        )
    cases: dict[str, str] = {}
    for case, group in zip(train.cases, groups, strict=False):
        if cases.setdefault(case, group) != group:
            both = f"{cases[case]!r} and {group!r}"
            raise SourceError(f"{path}: the images of id={case!r} have two groups, {both}: correct the table")
    splits = {**manifest.splits, "train": replace(train, groups=groups)}
    return replace(manifest, splits=splits, settings={**manifest.settings, "groups": column})


def _read(path: Path, column: str) -> dict[str, list[str]]:
    """Return the table's columns by composed name; groups as they are first written, all else composed."""
    try:
        with opened(path, "backslashreplace") as lines:
            filled = iter(lines)
            names = [name.strip() or f"column {number}" for number, name in enumerate(next(filled, []), 1)]
            rows = []
            for line in filled:
                if len(line) != len(names):
                    fault = f"line {lines.number} has {len(line)} fields, line 1 has {len(names)}"
                    raise SourceError(f"{path}: {fault}: correct this row")
                rows.append([field.strip() for field in line])
    except FileNotFoundError as error:
        raise SourceError(f"{path}, the table of [Dataset] groups, is missing; relative to [Dataset] path") from error
    except OSError as error:
        raise SourceError(f"{path} can't be read: {paths.fault(error)}: correct this and run again") from error
    except UnreadableError as error:
        raise SourceError(f"{path}, the table of [Dataset] groups, is {error}") from error
    return _columns(path, names, rows, column)


def _columns(path: Path, names: Sequence[str], rows: Sequence[Sequence[str]], column: str) -> dict[str, list[str]]:
    same = clash(names)
    if same is not None:
        raise SourceError(f"{path} has columns {same[0]!a} and {same[1]!a}, which are the same name: rename one")
    places = {composed(name): place for place, name in enumerate(names)}
    if composed(column) not in places:
        known = list(map(shown, names))
        hint = did_you_mean(column, known)
        raise SourceError(f"[Dataset] groups: {path} has no column {column!r}, but {', '.join(known)}{hint}")
    table = {name: [composed(row[place]) for row in rows] for name, place in places.items()}
    written: dict[str, str] = {}
    group = places[composed(column)]
    table[composed(column)] = [written.setdefault(composed(row[group]), row[group]) for row in rows]
    return table


def _names(path: Path, table: _Table, column: str, ids: Sequence[str]) -> _Found:
    tried = [name for name in table if name != composed(column)]
    best, found = 0, ([""], [""], "")
    for of_ours, of_theirs in _WAYS:  # a whole row id is more certain than a file name
        ours = [of_ours(composed(row)) for row in ids]
        for name in tried:
            theirs = [of_theirs(value) for value in table[name]]
            values = set(theirs)
            count = sum(item in values for item in ours)
            if count > best:
                best, found = count, (ours, theirs, name)
    if best == 0:
        tried_names = ", ".join(map(shown, tried)) or "(none)"
        raise SourceError(f"{path}: no training row's name, such as {_file(ids[0])!r}, is in a column: {tried_names}")
    return found


def _below(name: str) -> str:
    _, found, below = f"/{name}".partition("/train/")
    return below if found else name.removeprefix("./")


def _file(name: str) -> str:
    return name.rpartition("/")[2]


_WAYS: tuple[tuple[Callable[[str], str], Callable[[str], str]], ...] = (
    (str, _below),
    (stem, lambda name: stem(_below(name))),
    (_file, _file),
    (lambda name: stem(_file(name)), lambda name: stem(_file(name))),
)


def _groups(path: Path, table: _Table, column: str, found: _Found, classes: Sequence[str]) -> list[str]:
    """Return the group of every training row, "" for one that has none."""
    row_names, names, name_column = found
    known, twice = set(row_names), {name for name, count in Counter(row_names).items() if count > 1}
    lines: dict[str, str] = {}
    conflict = ""
    for name, group in zip(names, table[column], strict=True):
        if name in known and lines.setdefault(name, group) != group:
            conflict = name
    if not twice and not conflict:
        return [lines.get(name, "") for name in row_names]
    others = (name for name in table if name not in (column, name_column))
    class_column = next((name for name in others if set(classes) <= set(table[name])), None)
    if class_column is None:
        name = conflict or min(twice)
        fix = "add a column of class names or rename the files"
        raise SourceError(f"{path}: name={name!r} is that of several images or groups: {fix}")
    exact: dict[tuple[str, str], str] = {}
    for name, of, group in zip(names, table[class_column], table[column], strict=True):
        if name in known and exact.setdefault((name, of), group) != group:
            both = f"{exact[name, of]!r} and {group!r}"
            raise SourceError(f"{path}: {name!r} of class {of!r} has two groups, {both}: correct the table")
    return [exact.get(key, "") for key in zip(row_names, classes, strict=True)]

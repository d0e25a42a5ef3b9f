"""Groups joined to training rows by file name, e.g. State Farm's drivers (``driver_imgs_list.csv:subject``)."""

import csv
import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from featcache import paths
from featcache.errors import SourceError
from featcache.sources.manifest import Manifest

_Table = Mapping[str, Sequence[str]]


def group_file(setting: str, root: Path | None) -> tuple[Path, str]:
    """Split the setting ``FILE:COLUMN``; a relative file is below the data set's folder."""
    file, _, column = setting.rpartition(":")
    path = paths.expanded(Path(file.strip()), "[Dataset] groups")
    return (paths.expanded(root, "[Dataset] path") / path if root is not None else path), column.strip()


def with_groups(manifest: Manifest, path: Path, column: str) -> Manifest:
    """Return the manifest with a group for each training row.

    The table's column of file names (or row ids) is found by what it holds. Where file names repeat across class
    folders, a column with class names tells them apart.

    Raises:
        SourceError: the table can't be read or joined, or rows stay without a group.
    """
    table = _read(path, column)
    train = manifest.splits["train"]
    row_names, name_column = _names_column(path, table, column, train.ids)
    classes = [manifest.class_names[label] for label in train.labels]
    group_of = _lookup(path, table, column, name_column, row_names, classes)
    groups = [group_of.get(key, "") for key in zip(row_names, classes, strict=True)]
    without = [row for row, group in zip(train.ids, groups, strict=True) if not group]
    if without:
        examples = ", ".join(map(repr, without[:3])) + (", ..." if len(without) > 3 else "")
        expected = f"expected a group in column {column!r} for each of {len(train)} training rows"
        raise SourceError(f"{path}: {expected}; {len(without)} have none: {examples}: add them to the table")
    splits = {**manifest.splits, "train": replace(train, groups=groups)}
    return replace(manifest, splits=splits, settings={**manifest.settings, "groups": column})


def _read(path: Path, column: str) -> dict[str, list[str]]:
    try:
        with open(path, encoding="utf-8-sig", errors="backslashreplace", newline="", opener=paths.regular) as stream:
            lines = csv.reader(stream)
            names = [name.strip() for name in next(lines, [])]
            rows = []
            for line in lines:
                if line and len(line) != len(names):
                    got = f"line {lines.line_num} has {len(line)} fields"
                    raise SourceError(f"{path}: expected {len(names)} fields as in line 1; {got}: mend this row")
                rows += [line] if line else []
    except FileNotFoundError as error:
        raise SourceError(f"{path}: [Dataset] groups: no such file; it is looked for below [Dataset] path") from error
    except (OSError, csv.Error) as error:
        why = paths.fault(error) if isinstance(error, OSError) else error
        raise SourceError(f"{path}: [Dataset] groups: can't be read: {why}: mend it and run again") from error
    if column not in names:
        near = difflib.get_close_matches(column, names, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        expected = f"expected one of the columns {', '.join(names)}"
        raise SourceError(f"{path}: [Dataset] groups: {expected}; got column={column!r}{hint}")
    return {name: [row[index].strip() for row in rows] for index, name in enumerate(names)}


def _names_column(path: Path, table: _Table, column: str, ids: Sequence[str]) -> tuple[list[str], str]:
    """Return the rows' names as the table writes them, and the column that holds them."""
    tried = [name for name in table if name != column]
    files = [row.rpartition("/")[2] for row in ids]
    best, names, where = 0, files, ""
    for written in (list(ids), files):  # a whole row id says more than a file name
        for name in tried:
            values = set(table[name])
            count = sum(item in values for item in written)
            if count > best:
                best, names, where = count, written, name
    if best == 0:
        looked = f"none of them holds a training row's name such as {files[0]!r}"
        raise SourceError(f"{path}: [Dataset] groups: tried the columns {', '.join(tried) or '(none)'}; {looked}")
    return names, where


def _lookup(
    path: Path, table: _Table, column: str, name_column: str, row_names: Sequence[str], classes: Sequence[str]
) -> dict[tuple[str, str], str]:
    """Return the group by (name, class) for every row that has one."""
    twice = {name for name, count in Counter(row_names).items() if count > 1}
    lines: dict[tuple[str, str], str] = {}
    conflict = ""
    for name, group in zip(table[name_column], table[column], strict=True):
        if lines.setdefault((name, ""), group) != group:
            conflict = name
    if not twice and not conflict:
        return {(name, of): lines.get((name, ""), "") for name, of in zip(row_names, classes, strict=True)}
    class_column = _class_column(table, {column, name_column}, set(classes))
    if class_column is None:
        which = repr(conflict or min(twice))
        told = "expected a column with the class names, as this file name stands for several images or groups"
        raise SourceError(f"{path}: [Dataset] groups: {told}; got name={which}: add such a column or rename the files")
    exact: dict[tuple[str, str], str] = {}
    for name, of, group in zip(table[name_column], table[class_column], table[column], strict=True):
        if exact.setdefault((name, of), group) != group:
            got = f"{name!r} of class {of!r} has {exact[name, of]!r} and {group!r}"
            raise SourceError(f"{path}: [Dataset] groups: expected one group for each image; {got}: mend the table")
    return exact


def _class_column(table: _Table, taken: set[str], classes: set[str]) -> str | None:
    return next((name for name in table if name not in taken and classes <= set(table[name])), None)

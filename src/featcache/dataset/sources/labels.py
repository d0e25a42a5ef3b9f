"""What the lines of a table say of images: id, label, group, split and case, as an Arrow table of these columns."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.names import first_names
from featcache.core.rows import SPLITS, UNKNOWN_LABEL
from featcache.dataset.natural_sort import natural
from featcache.dataset.sources.label_sets import (
    MARK,
    found_separator,
    number_sets,
    one_class_each,
    refuse_unseen,
    sets_of_columns,
    shown_set,
    split_tags,
)
from featcache.dataset.sources.misplaced import LOOK_ALIKES
from featcache.dataset.sources.tables import column_names, read_columns
from featcache.errors import SourceError
from featcache.settings import DatasetSpec

_WHOLE = r"^(-?[0-9]+)\.0+$"
SPLIT_NAMES = {name: SPLITS.index(split) for split, known in LOOK_ALIKES.items() for name in known}


def read_lines(
    path: Path,
    row_id: str,
    label: Sequence[str],
    group: str,
    split: str,
    left_out: Counter[str],
    default: str = "train",
    separator: str = "",
) -> Any:
    """Read a table's lines: those with an id, each once.

    Args:
        path: of the table.
        row_id: the column of ids, "" for the first.
        label: the column of labels, or one a class; () for none.
        group: the column of groups, "" for none.
        split: the column of splits, "" where all are of `default`.
        left_out: counts the lines that are left out.
        default: the split of all lines.
        separator: what separates the labels of a cell, "" where it is one.

    Raises:
        SourceError: the table can't be read as the settings ask, or an id has two labels, groups or splits.
    """
    import pyarrow.compute as pc

    row_id = row_id or column_names(path)[0]
    wanted = {"id": [row_id], "label": label, "groups": [group] if group else [], "split": [split] if split else []}
    columns = read_columns(path, wanted)
    ids = columns[row_id]
    lines = as_lines(
        ids,
        label_texts(path, columns, label, separator) if label else None,
        whole_numbers(columns[group]) if group else None,
        split_numbers(path, split, columns[split]) if split else SPLITS.index(default),
    )
    named = pc.not_equal(ids, "")
    blank = len(ids) - pc.sum(named).as_py() if len(ids) else 0
    if blank:
        left_out["lines of a table without an id"] += blank
        lines = lines.filter(named)
    if not len(lines):
        raise SourceError(f"{path} has no rows: download it again, or correct [Dataset]")
    once = _once(path, lines)
    if len(once) < len(lines):
        left_out["lines of a table that repeat another"] += len(lines) - len(once)
    return once


def as_lines(ids: Any, labels: Any = None, groups: Any = None, split: Any = 0, cases: Any = None) -> Any:
    """Return lines made of columns: (n,) Arrow texts, "" where there is nothing, and `split` a place in `SPLITS` or (n,)."""
    import pyarrow as pa

    nothing = pa.repeat(pa.scalar("", pa.large_string()), len(ids))
    splits = pa.array(np.broadcast_to(np.asarray(split, np.int8), len(ids)))
    columns = [ids, nothing if labels is None else labels, nothing if groups is None else groups, splits]
    columns.append(nothing if cases is None else cases)
    return pa.table(columns, names=["id", "label", "group", "split", "case"])


def number_labels(
    where: str, lines: Any, label: Sequence[str] = ()
) -> tuple[tuple[str, ...], npt.NDArray[np.int32] | npt.NDArray[np.int8]]:
    """Return the classes, in natural order, and (n,) int32 the number of each line's, -1 where it has no label.

    Of several labels a row, (n, L) int8, 1 for each that a line has, -1 where it has no label.

    Args:
        where: the table, for messages.
        lines: as `as_lines` makes them.
        label: the columns of labels; of several ones a row has one class unless a training row has two.

    Raises:
        SourceError: lists of labels without a separator; or a label that no training row has.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    labels = one_class_each(where, lines) if len(label) > 1 else lines["label"]
    train = pc.equal(lines["split"], SPLITS.index("train"))
    if pc.any(pc.starts_with(labels, MARK)).as_py():
        return number_sets(where, labels, train.to_numpy())
    names = [name for name in pc.unique(labels.filter(train)).to_pylist() if name]
    refuse_several(where, names)
    classes = tuple(sorted(names, key=natural))
    found = pc.index_in(labels, value_set=pa.array(classes, pa.large_string()))
    unseen = pc.and_(pc.is_null(found), pc.not_equal(labels, ""))
    if pc.any(unseen).as_py():
        refuse_unseen(where, [labels.filter(unseen)[0].as_py()], classes)
    return classes, pc.fill_null(found, UNKNOWN_LABEL).to_numpy().astype(np.int32)


def group_column(spec: DatasetSpec) -> str:
    """Return the table's own column of groups, "" where there is none: ``FILE:COLUMN`` is joined later."""
    return "" if ":" in spec.groups else spec.groups


def whole_numbers(texts: Any) -> Any:
    """Return texts as they are; where all that aren't empty are whole numbers written as ``1.0``, without the zero."""
    import pyarrow.compute as pc

    whole = pc.or_(pc.match_substring_regex(texts, _WHOLE), pc.equal(texts, ""))
    return pc.replace_substring_regex(texts, _WHOLE, r"\1") if pc.all(whole).as_py() else texts


def refuse_several(where: str, labels: Sequence[str]) -> None:
    """Raise a `SourceError` where labels are lists of labels, but no separator is set."""
    found = found_separator(labels)
    if found:
        sign, example, count = found
        shown = "blanks" if sign == "blank" else repr(sign)
        fault = f"label={example!r} and others are lists of {count} labels, separated by {shown}"
        fix = f"set [Dataset] separator = {sign}, or write the names of single classes with _"
        raise SourceError(f"{where}: {fault}: {fix}")


def label_texts(path: Path, columns: Mapping[str, Any], names: Sequence[str], separator: str) -> Any:
    """Return the labels in the columns `names`: (n,) texts, of `label_set` where a row may have several, "" where unknown."""
    if len(names) > 1:
        return sets_of_columns(path, columns, names)
    texts = columns[names[0]]
    return split_tags(texts, separator) if separator else whole_numbers(texts)


def split_numbers(path: Path, column: str, texts: Any) -> npt.NDArray[np.int8]:
    """Return (n,) the place in `SPLITS` of what a column calls splits; a `SourceError` for what is none."""
    coded = texts.dictionary_encode()
    names = coded.dictionary.to_pylist()
    unknown = [name for name in names if name.lower() not in SPLIT_NAMES]
    if unknown:
        known = "train, valid and test, or names like these"
        raise SourceError(f"[Dataset] split: {path}, column {column!r} holds {first_names(unknown)}, not {known}")
    numbers = np.array([SPLIT_NAMES[name.lower()] for name in names], np.int8)
    found: npt.NDArray[np.int8] = numbers[coded.indices.to_numpy(False)]
    return found


def _once(path: Path, lines: Any) -> Any:
    """The lines without those that repeat another; a `SourceError` where one says something else of the same id."""
    codes = _codes(lines["id"])
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    if len(first) == len(lines):
        return lines
    for name in ("label", "group", "split"):
        values = _codes(lines[name])
        differ = np.flatnonzero(values != values[first[inverse]])
        if len(differ):
            row = int(differ[0])
            both = [lines[name][int(place)].as_py() for place in (first[inverse[row]], row)]
            shown = " and ".join(repr(SPLITS[each] if name == "split" else shown_set(each)) for each in both)
            fix = "correct the table" + ", or write all labels of an id into one line" * (name == "label")
            raise SourceError(f"{path}: id={lines['id'][row].as_py()!r} has two {name}s, {shown}: {fix}")
    return lines.take(np.sort(first))


def _codes(column: Any) -> npt.NDArray[np.int32]:
    codes: npt.NDArray[np.int32] = column.combine_chunks().dictionary_encode().indices.to_numpy()
    return codes

"""Several labels a row, while tables are read: one text of sorted names, each behind a NUL; a NUL alone where there are none."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.names import composed, first_names
from featcache.core.rows import BETWEEN_NAMES, SPLITS, UNKNOWN_LABEL
from featcache.dataset.natural_sort import natural
from featcache.errors import SourceError

MARK = "\0"
YES, NO = ("1", "1.0", "true", "True", "TRUE"), ("0", "0.0", "false", "False", "FALSE", "")
_BLANK = "blank"  # the setting's word for a sign that can't be seen
_SIGNS = ("|", " ", ",", ";")
_MOST_LABELS = 100_000  # distinct ones that are looked at for several in one


def label_set(names: Iterable[str]) -> str:
    """Return names as one text, each once, in one order."""
    return MARK + MARK.join(sorted({composed(name.strip()) for name in names} - {""}))


def names_in(text: str) -> list[str]:
    """Return the names in a text of `label_set`, or the text itself where it is one class."""
    return [name for name in text.split(MARK) if name]


def shown_set(text: str) -> str:
    """Return a text of `label_set` for messages."""
    return BETWEEN_NAMES.join(names_in(text))


def split_tags(texts: Any, separator: str) -> Any:
    """Return (n,) Arrow texts of tags as label sets; "" stays "": a cell without any tag says nothing."""
    import pyarrow as pa

    coded, sign = texts.dictionary_encode(), None if separator == _BLANK else separator
    sets = [label_set(cell.split(sign)) for cell in coded.dictionary.to_pylist()]
    return pa.array(["" if each == MARK else each for each in sets], pa.large_string()).take(coded.indices)


def sets_of_lists(path: Path, name: str, lists: Iterable[Sequence[Any] | None]) -> Any:
    """Return lists of names or numbers as label sets; None is "", unknown, and an empty list a row without labels.

    Raises:
        SourceError: lists of lists, or of anything else that is no name.
    """
    import pyarrow as pa

    def each() -> Iterable[str]:
        for found in lists:
            if any(not isinstance(value, str | int | float | None) for value in found or ()):
                raise SourceError(f"{path}: column {name!r} has lists of lists, not of names: choose another column")
            yield "" if found is None else label_set(str(value) for value in found if value is not None)

    return pa.array(each(), pa.large_string())


def sets_of_columns(path: Path, columns: Mapping[str, Any], names: Sequence[str]) -> Any:
    """Return label sets of columns of 0 and 1, "" for a row that is blank in all; a `SourceError` for other values."""
    import pyarrow as pa
    import pyarrow.compute as pc

    held, blank = [], True
    for name in names:
        yes = pc.is_in(columns[name], value_set=pa.array(YES, pa.large_string()))
        known = pc.or_(yes, pc.is_in(columns[name], value_set=pa.array(NO, pa.large_string())))
        if not pc.all(known).as_py():
            value = columns[name].filter(pc.invert(known))[0].as_py()
            raise SourceError(f"{path}: column {name!r} holds {value!r}, not 0 or 1: correct [Dataset] label")
        held.append(pc.if_else(yes, name, pa.scalar(None, pa.large_string())))
        blank = pc.and_(blank, pc.equal(columns[name], ""))
    empty, mark = (pa.scalar(text, pa.large_string()) for text in ("", MARK))
    joined = pc.binary_join_element_wise(empty, *held, mark, null_handling="skip")
    return pc.if_else(blank, empty, pc.if_else(pc.equal(joined, ""), mark, joined))


def one_class_each(where: str, lines: Any) -> Any:
    """Return the labels of lines that columns of 0 and 1 have, without `MARK` if no training row has two or more.

    Raises:
        SourceError: only rows of other splits have two or more.
    """
    import pyarrow.compute as pc

    labels = lines["label"]
    two = pc.greater(pc.count_substring(labels, MARK), 1)
    train = pc.equal(lines["split"], SPLITS.index("train"))
    if pc.any(pc.and_(two, train)).as_py():
        return labels
    if pc.any(two).as_py():
        row = lines.filter(two)
        both, split = shown_set(row["label"][0].as_py()), SPLITS[row["split"][0].as_py()]
        fault = f"id={row['id'][0].as_py()!r} of {split} has several labels, {both}, but no training row has"
        raise SourceError(f"{where}: {fault}: correct the table")
    return pc.replace_substring(labels, MARK, "")


def number_sets(where: str, labels: Any, train: npt.NDArray[np.bool_]) -> tuple[tuple[str, ...], npt.NDArray[np.int8]]:
    """Return the labels' names, in natural order, and (n, L) int8, 1 for each that a line has, -1 where they are unknown.

    Raises:
        SourceError: a label that no training row has.
    """
    coded = labels.combine_chunks().dictionary_encode()
    sets, codes = coded.dictionary.to_pylist(), np.asarray(coded.indices)
    trained = np.zeros(len(sets), bool)
    trained[codes[train]] = True
    classes = tuple(sorted({name for each in np.flatnonzero(trained) for name in names_in(sets[each])}, key=natural))
    numbers = {name: number for number, name in enumerate(classes)}
    table = np.zeros((len(sets), len(classes)), np.int8)
    for row, each in enumerate(sets):
        names = names_in(each)
        refuse_unseen(where, [name for name in names if name not in numbers], classes)
        table[row, [numbers[name] for name in names]] = 1
        if not each:
            table[row] = UNKNOWN_LABEL
    return classes, table[codes]


def refuse_unseen(where: str, names: Sequence[str], classes: Sequence[str]) -> None:
    """Raise a `SourceError` where there are names of labels that no training row has."""
    if names:
        fault = f"label={names[0]!r} does not occur in training, which has {first_names(classes, 12, str)}"
        raise SourceError(f"{where}: {fault}: remove its rows or add training images")


def found_separator(labels: Sequence[str]) -> tuple[str, str, int] | None:
    """Return the `separator` of labels that are lists: lists of fewer words, some of which stand alone, too.

    Beside it one of these lists, and the number of words: the fewest that a separator gives.
    """
    found = []
    for sign in _SIGNS:
        words = {label: frozenset(map(str.strip, label.split(sign))) for label in labels[:_MOST_LABELS]}
        several = [label for label, parts in words.items() if len(parts) > 1]
        known = frozenset().union(*words.values())
        if several and len(known) < len(labels) and any(label in known for label in labels):
            found.append((sign if sign.strip() else _BLANK, several[0], len(known)))
    return min(found, key=lambda each: each[2], default=None)

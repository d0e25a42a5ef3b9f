"""`manifest.arrow`: the manifest's rows as an uncompressed Arrow IPC file (Feather v2), memory-mapped when it is read.

pyarrow takes a moment to import, so this module's functions are called where work is done, never where Luigi schedules.
"""

import mmap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from featcache.core.joined_texts import arrow_column
from featcache.core.paths import regular
from featcache.core.rows import SPLITS, UNKNOWN_LABEL, Rows, is_several, known_labels
from featcache.core.texts import ConstantText, Texts, encoded_part

_BATCH = 1 << 16  # rows that are in memory at once while they are written
_STATUS = ("ok", "rejected")
_TEXTS = {"id": "ids", "group": "groups", "digest": "digests", "reason": "reasons"}
_CASES = "case"  # a column that is there only where some rows have cases


def write_rows(
    path: Path, class_names: Sequence[str], splits: Mapping[str, Rows], *, several: bool
) -> dict[str, object]:
    """Write the rows of all splits, one below the other; return the size and checksum that `read_rows` wants to see.

    Columns: split, id, label (a class name, or of several labels a list of them; null where unknown), group, digest,
    status (ok or rejected), reason, and location as the bytes of the file's name. All others are texts; where one isn't
    UTF-8, the column type is binary.
    """
    texts, binary = _schemas(cases=any(len(rows.cases) for rows in splits.values()), several=several)
    try:
        _write(path, class_names, splits, texts)
    except UnicodeEncodeError:
        _write(path, class_names, splits, binary)
    return _fingerprint(_mapped(path))


def _write(path: Path, class_names: Sequence[str], splits: Mapping[str, Rows], schema: Any) -> None:
    import pyarrow as pa

    with open(path, "wb") as stream, pa.ipc.new_file(stream, schema) as file:
        for split, rows in splits.items():
            for start in range(0, len(rows), _BATCH):
                part = slice(start, min(start + _BATCH, len(rows)))
                file.write_batch(_batch(schema, SPLITS.index(split), class_names, rows, part))


def _schemas(*, cases: bool, several: bool) -> Iterator[Any]:
    """Yield the file's schema where all texts are UTF-8, and else."""
    import pyarrow as pa

    one_of = pa.dictionary(pa.int32(), pa.string())
    label = pa.list_(pa.string()) if several else one_of
    for text in (pa.string(), pa.binary()):
        fields = {"split": one_of, "id": text, "label": label, "group": text, "digest": text, "status": one_of}
        yield pa.schema({**fields, "reason": text, "location": pa.binary(), **({_CASES: text} if cases else {})})


def _batch(schema: Any, split: int, class_names: Sequence[str], rows: Rows, part: slice) -> Any:
    import pyarrow as pa

    def one_of(values: Sequence[str], numbers: Any) -> Any:
        numbers = np.asarray(numbers, np.int32)
        return pa.DictionaryArray.from_arrays(_array(numbers, numbers >= 0), _column(values, slice(None), pa.string()))

    columns = {name: _column(getattr(rows, texts), part, schema.field(name).type) for name, texts in _TEXTS.items()}
    columns["split"] = one_of(SPLITS, np.full(part.stop - part.start, split))
    labels = rows.labels[part]
    columns["label"] = _lists(class_names, labels) if is_several(labels) else one_of(class_names, labels)
    columns["status"] = one_of(_STATUS, ~rows.listed[part])
    columns["location"] = _column(rows.locations, part, pa.binary())
    if _CASES in schema.names:
        cases = rows.cases if len(rows.cases) else ConstantText("", len(rows))
        columns[_CASES] = _column(cases, part, schema.field(_CASES).type)
    return pa.record_batch(columns, schema=schema)


def _lists(class_names: Sequence[str], labels: npt.NDArray[np.integer]) -> Any:
    """(k,) lists of the names of each row's labels, null where they are unknown."""
    import pyarrow as pa

    known, has = known_labels(labels), labels == 1
    names = _column(class_names, slice(None), pa.string()).take(_array(np.nonzero(has)[1].astype(np.int32)))
    ends = np.cumsum([0, *has.sum(axis=1).tolist()], dtype=np.int32)
    validity = None if known.all() else pa.py_buffer(np.packbits(known, bitorder="little"))
    return pa.Array.from_buffers(pa.list_(pa.string()), len(known), [validity, pa.py_buffer(ends)], children=[names])


def _array(numbers: npt.NDArray[np.int32], known: npt.NDArray[np.bool_] | None = None) -> Any:
    """Arrow's int32 array, null where a number isn't `known`; `pyarrow.array` would import pandas."""
    import pyarrow as pa

    validity = None if known is None or known.all() else pa.py_buffer(np.packbits(known, bitorder="little"))
    return pa.Array.from_buffers(pa.int32(), len(numbers), [validity, pa.py_buffer(np.ascontiguousarray(numbers))])


def _column(texts: Sequence[str], part: slice, kind: Any) -> Any:
    """Arrow's array of some of the texts."""
    import pyarrow as pa

    start, stop, _ = part.indices(len(texts))
    return arrow_column(encoded_part(texts, start, stop, "strict" if kind == pa.string() else "surrogateescape"), kind)


def read_rows(path: Path, stored: Mapping[str, Any]) -> dict[str, Rows]:
    """Return the rows of every split; their texts stay in the file, which may be replaced meanwhile, but not changed.

    `stored` is the content of `manifest.json`.

    Raises:
        OSError: it can't be read.
        ValueError: it isn't the file that `manifest.json` was written for, or it is damaged.
    """
    import pyarrow as pa

    buffer = _mapped(path)
    if _fingerprint(buffer) != stored["arrow"]:
        raise ValueError("checksum mismatch")
    try:
        with pa.ipc.open_file(pa.py_buffer(buffer), options=pa.ipc.IpcReadOptions(use_threads=False)) as file:
            texts, binary = _schemas(cases=_CASES in file.schema.names, several=bool(stored.get("several")))
            if file.schema not in (texts, binary):
                raise ValueError("it has other columns")
            table = file.read_all().cast(binary)  # a view
        table.validate(full=True)
        return dict(_split_rows(table, stored["splits"], stored["class_names"]))
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error


def _split_rows(
    table: Any, splits: Mapping[str, Mapping[str, Any]], class_names: Sequence[str]
) -> Iterator[tuple[str, Rows]]:
    start = 0
    for split, facts in splits.items():
        count, part = facts["rows"], table.slice(start, facts["rows"])
        columns: dict[str, Texts] = {texts: ArrowTexts(part[name]) for name, texts in _TEXTS.items()}
        columns["ids"].is_unique = True  # or they would not have been written
        if not facts["rejected"]:
            columns["reasons"] = ConstantText("", count)
        labels = _stored_labels(part["label"], class_names)
        if _CASES in part.column_names and any(part[_CASES].slice(0, 1).to_pylist()):
            columns["cases"] = ArrowTexts(part[_CASES])
        rows = Rows(labels=labels, locations=ArrowTexts(part["location"]), **columns)
        rows.__dict__["key"] = facts["key"]  # as the cached property would find it, at the cost of reading all rows
        yield split, rows
        start += count
    if start != len(table):
        raise ValueError(f"{len(table):,} rows, but manifest.json lists {start:,}")


def _stored_labels(column: Any, class_names: Sequence[str]) -> npt.NDArray[np.int32] | npt.NDArray[np.int8]:
    """The labels of rows, from names: (n,) int32, or of a column of lists (n, L) int8."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_list(column.type):
        return np.concatenate([np.empty(0, np.int32), *(_labels(chunk.indices) for chunk in column.chunks)])
    column = column.combine_chunks()
    coded, labels = column.flatten().dictionary_encode(), np.zeros((len(column), len(class_names)), np.int8)
    places = np.array([class_names.index(name) for name in coded.dictionary.to_pylist()], np.intp)
    labels[_numbers(pc.list_parent_indices(column), np.int64), places[_numbers(coded.indices, np.int32)]] = 1
    labels[_numbers(pc.is_null(column).cast(pa.uint8()), np.uint8) == 1] = UNKNOWN_LABEL
    return labels


def _numbers(array: Any, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """An array of numbers without nulls, from its buffer: Arrow's own way imports pandas."""
    start = array.offset
    return np.frombuffer(array.buffers()[1] or b"", dtype)[start : start + len(array)]


def _labels(indices: Any) -> npt.NDArray[np.int32]:
    """An int32 array with nulls."""
    labels, known = _numbers(indices, np.int32).copy(), indices.buffers()[0]
    place = slice(indices.offset, indices.offset + len(indices))
    if known is not None:
        labels[np.unpackbits(np.frombuffer(known, np.uint8), bitorder="little")[place] == 0] = UNKNOWN_LABEL
    return labels


class ArrowTexts(Texts):
    """A binary column as texts."""

    def __init__(self, column: Any) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    def decode(self, start: int, stop: int) -> list[str]:
        """Return the texts [start, stop)."""
        found = self._column.slice(start, stop - start).to_pylist()
        return [raw.decode("utf-8", "surrogateescape") for raw in found]


def _mapped(path: Path) -> mmap.mmap:
    with open(path, "rb", opener=regular) as stream:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)  # ValueError where it is empty


def _fingerprint(buffer: mmap.mmap) -> dict[str, object]:
    return {"bytes": len(buffer), "xxh3_128": xxhash.xxh3_128(buffer).hexdigest()}

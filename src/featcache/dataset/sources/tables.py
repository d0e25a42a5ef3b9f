"""Tables of ids and labels, CSV, TSV, JSON lines or Parquet: every column as text, so that ids keep their zeros."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from featcache.core import paths
from featcache.core.csv_files import UnreadableError, opened, text_encoding, unpacked
from featcache.core.names import clash, composed, did_you_mean, first_names
from featcache.core.texts import PackedTexts
from featcache.dataset.sources.label_sets import MARK, sets_of_lists
from featcache.errors import SourceError

SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".parquet", ".csv.gz", ".csv.zip", ".tsv.gz", ".jsonl.gz")
_PARQUET, _JSON = ".parquet", (".jsonl", ".ndjson", ".jsonl.gz")
_MOST_SHOWN = 200  # characters of a message of Arrow's, which may hold the whole row
_ONE_VALUE = ("id", "groups", "split")  # settings of columns that mustn't have lists


def column_names(path: Path) -> list[str]:
    """Return the names of a table's columns, in their order and Unicode's composed form; a `SourceError` as `read_columns`."""
    return _columns(path)[0]


def _columns(path: Path) -> tuple[list[str], str, str]:
    """The names of `column_names`, the delimiter and the encoding, which a whole text file is read for; "" of Parquet."""
    delimiter = encoding = ""
    with readable(path):
        if path.name.endswith(_PARQUET):
            import pyarrow.parquet as pq

            names = pq.read_schema(path).names
        else:
            encoding = text_encoding(path)
            if path.name.lower().endswith(_JSON):
                names = list(next(_records(path, encoding), {}))
            else:
                with opened(path, encoding=encoding) as lines:
                    names, delimiter = next(iter(lines), []), lines.delimiter
    shown = [composed(name.strip()) for name in names]
    if not any(shown):
        raise SourceError(f"{path} has no columns: download it again")
    same = clash(filter(None, shown))
    if same is not None:
        raise SourceError(f"{path} has two columns {same[0]!r}: rename one")
    return shown, delimiter, encoding


def read_columns(path: Path, wanted: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return columns of a table as (n,) Arrow arrays of texts: trimmed, composed, "" where there is nothing.

    Lists, of names or numbers, are texts of `label_sets.label_set`.

    Args:
        path: of the table; its suffix tells which kind it is, and everything but Parquet may be gzipped.
        wanted: setting -> the columns that it names.

    Raises:
        SourceError: the table is absent, damaged, cut off or ragged, or has no such column.
    """
    names, delimiter, encoding = _columns(path)
    for setting, columns in wanted.items():
        for column in columns:
            if composed(column) not in names:
                hint = did_you_mean(column, names)
                known = first_names(names, 8, str)
                raise SourceError(f"[Dataset] {setting}: {path} has no column {column!r}, but {known}{hint}")
    columns = list(dict.fromkeys(composed(column) for columns in wanted.values() for column in columns))
    places = {name: names.index(name) for name in columns}
    with readable(path):
        if path.name.endswith(_PARQUET):
            found = _from_parquet(path, places)
        elif path.name.lower().endswith(_JSON):
            found = _from_json(path, places, encoding)
        else:
            found = _from_csv(path, places, len(names), delimiter, encoding)
            _refuse_breaks(path, found)
        texts = {name: _texts(path, name, found[name]) for name in columns}
    _refuse_lists(path, {composed(name): setting for setting in _ONE_VALUE for name in wanted.get(setting, ())}, texts)
    return texts


def _refuse_lists(path: Path, settings: Mapping[str, str], columns: Mapping[str, Any]) -> None:
    import pyarrow.compute as pc

    for name, setting in settings.items():
        if pc.any(pc.starts_with(columns[name], MARK)).as_py():
            raise SourceError(
                f"{path}: column {name!r} has lists, [Dataset] {setting} needs one value a row: correct it"
            )


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn whatever is wrong with a table's file into a `SourceError` of one line."""
    import pyarrow as pa

    try:
        yield
    except UnreadableError as error:
        raise SourceError(f"{path} is {error}") from error
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        why = " ".join(str(error).split())[:_MOST_SHOWN].rstrip(".")
        raise SourceError(f"{path} is damaged or no table: {why}: correct it or download it again") from error
    except FileNotFoundError as error:
        raise SourceError(f"{path.parent} has no table {path.name}: put it there or correct [Dataset]") from error
    except OSError as error:
        raise SourceError(f"{path} can't be read: {paths.fault(error)}: correct this and run again") from error


def _from_csv(path: Path, places: Mapping[str, int], columns: int, delimiter: str, encoding: str) -> dict[str, Any]:
    import pyarrow as pa
    from pyarrow import csv

    numbers = [str(number) for number in range(columns)]
    wanted = [numbers[place] for place in places.values()]
    with unpacked(path) as stream:
        table = csv.read_csv(
            stream,
            csv.ReadOptions(encoding="utf8" if encoding == "utf-8-sig" else encoding, column_names=numbers),
            csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            csv.ConvertOptions(include_columns=wanted, column_types=dict.fromkeys(numbers, pa.large_string())),
        )
    return {name: table[number][1:] for name, number in zip(places, wanted, strict=True)}  # the header is a row, too


def _refuse_breaks(path: Path, columns: Mapping[str, Any]) -> None:
    """A quote that isn't closed swallows the lines after it."""
    import pyarrow.compute as pc

    for name, texts in columns.items():
        broken = texts.filter(pc.match_substring(texts, "\n"))
        if len(broken):
            begin = broken[0].as_py()[:40]
            raise SourceError(f"{path}: column {name!r} has a line break, in {begin!r}: close the quote before it")


def _from_parquet(path: Path, places: Mapping[str, int]) -> dict[str, Any]:
    import pyarrow.parquet as pq

    raw = pq.read_schema(path).names
    table = pq.ParquetFile(path).read([raw[place] for place in places.values()])
    return {name: table[raw[place]] for name, place in places.items()}


def _from_json(path: Path, places: Mapping[str, int], encoding: str) -> dict[str, Any]:
    import pyarrow as pa

    columns = {name: PackedTexts() for name in places}
    for record in _records(path, encoding):
        values = {composed(name.strip()): value for name, value in record.items()}
        for name, texts in columns.items():
            value = values.get(name)
            if isinstance(value, list):
                value = sets_of_lists(path, name, [value])[0].as_py()
            texts.append(value if isinstance(value, str) else "" if value is None else json.dumps(value))
    return {name: pa.array(texts, pa.large_string()) for name, texts in columns.items()}


def _records(path: Path, encoding: str) -> Iterator[dict[str, Any]]:
    with unpacked(path) as stream, io.TextIOWrapper(stream, encoding) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    record = json.loads(line)
                except ValueError:
                    record = None
                if not isinstance(record, dict):
                    raise SourceError(f"{path}, line {number} is no JSON object: write one a line")
                yield record


def _texts(path: Path, name: str, column: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return sets_of_lists(path, name, column.to_pylist())
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    texts = pc.fill_null(pc.utf8_trim_whitespace(column.cast(pa.large_string())), "")
    return texts if pc.all(pc.string_is_ascii(texts)).as_py() else pc.utf8_normalize(texts, "NFC")

"""Reading a sample submission, and finding which of our rows each of its ids means. No Keras."""

import csv
import gzip
import io
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TextIO, cast

import numpy as np
import numpy.typing as npt

from featcache.errors import SubmissionError
from featcache.paths import regular
from featcache.texts import NOWHERE, PackedTexts, positions, repeated


@dataclass(frozen=True)
class Sample:
    """A sample submission: its header and its ids, in its order."""

    path: Path
    columns: tuple[str, ...]
    ids: Sequence[str]


def read_sample(path: Path) -> Sample:
    """Read a CSV, plain, ``.gz`` or ``.zip`` with one CSV inside.

    Raises:
        SubmissionError: absent, damaged, empty, ragged, or ids that repeat.
    """
    try:
        with _opened(path) as text:
            return _read(path, csv.reader(text))
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, UnicodeDecodeError, csv.Error) as error:
        raise SubmissionError(f"{path}: expected a sample submission as CSV, .gz or .zip; {error}") from error


def _read(path: Path, lines: Iterable[list[str]]) -> Sample:
    filled = filter(None, lines)
    header = next(filled, [])
    count = 1 if header else 0

    def first_column() -> Iterator[str]:
        nonlocal count
        for row in filled:
            count += 1
            if len(row) != len(header):
                got = f"{len(row)} in line {count}"
                raise SubmissionError(f"{path}: expected {len(header)} values in each line; got {got}")
            yield row[0]

    ids = PackedTexts(first_column())
    if not len(ids) or len(header) < 2:
        raise SubmissionError(f"{path}: expected a header of an id column and more, and rows; got lines={count}")
    twice = repeated(ids)
    if twice is not None:
        raise SubmissionError(f"{path}: expected unique ids; id={twice!r} stands twice")
    return Sample(path, tuple(name.strip() for name in header), ids)


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """The CSV in a file as text, unpacked on the way."""
    with ExitStack() as stack:
        stream: IO[bytes] = stack.enter_context(open(path, "rb", opener=regular))
        begin = stream.read(4)
        stream.seek(0)
        if begin[:2] == b"\x1f\x8b":
            stream = cast("IO[bytes]", stack.enter_context(gzip.open(stream)))
        elif begin == b"PK\x03\x04":
            stream = stack.enter_context(_only_table(path, stack.enter_context(zipfile.ZipFile(stream))))
        yield stack.enter_context(io.TextIOWrapper(stream, "utf-8-sig", newline=""))


def _only_table(path: Path, archive: zipfile.ZipFile) -> IO[bytes]:
    names = archive.namelist()
    tables = [name for name in names if name.lower().endswith(".csv") and not name.startswith("__MACOSX/")]
    if len(tables) != 1:
        raise SubmissionError(f"{path}: expected one CSV inside; got {len(tables)}")
    return archive.open(tables[0])


def match_ids(ours: Sequence[str], sample: Sample) -> npt.NDArray[np.int64]:
    """Return (k,) the index into `ours` of each of the sample's k ids.

    Ids are compared as they stand, else as file names, else as file names without suffix, else as paths below
    ``test/``: the first way by which both sides name the same rows, each once. But for the first way, it doesn't
    matter how a letter and its accent are encoded: archives made on macOS have them apart (NFD).

    Raises:
        SubmissionError: none does; how many are missing and extra is told for the way that matches most.
    """
    best: tuple[int, list[int], list[int]] | None = None
    for name in _WAYS:
        theirs, mine = ((ids if name is _exact else PackedTexts(map(name, ids))) for ids in (sample.ids, ours))
        if repeated(theirs) is not None or repeated(mine) is not None:
            continue
        places = positions(theirs, mine)
        named = np.zeros(len(mine), bool)
        named[places[places != NOWHERE]] = True
        missing, extra = np.flatnonzero(places == NOWHERE), np.flatnonzero(~named)
        if not len(missing) and not len(extra):
            return places
        if best is None or len(missing) + len(extra) < best[0]:
            best = len(missing) + len(extra), missing.tolist(), extra.tolist()
    _, missing_rows, extra_rows = best or (0, [*range(len(sample.ids))], [*range(len(ours))])
    raise SubmissionError(
        f"{sample.path}: expected the ids of the test images; {len(missing_rows)} of {len(sample.ids)} have no image"
        f"{_few(sample.ids, missing_rows)} and {len(extra_rows)} of {len(ours)} images are not in the sample"
        f"{_few(ours, extra_rows)}: correct [Dataset] path or sample_submission"
    )


def _few(ids: Sequence[str], rows: Sequence[int]) -> str:
    shown = ", ".join(repr(ids[row]) for row in rows[:3])
    return f" ({shown}{', ...' if len(rows) > 3 else ''})" if rows else ""


def _exact(row_id: str) -> str:
    return row_id


def _file_name(row_id: str) -> str:
    return PurePosixPath(_composed(row_id)).name


def _stem(row_id: str) -> str:
    return PurePosixPath(_composed(row_id)).stem


def _below(row_id: str) -> str:
    composed = _composed(row_id)
    _, found, below = f"/{composed}".partition("/test/")
    return below if found else composed


def _composed(row_id: str) -> str:
    return unicodedata.normalize("NFC", row_id)


_WAYS: tuple[Callable[[str], str], ...] = (_exact, _file_name, _stem, _below)

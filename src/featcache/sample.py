"""Reading a sample submission, and finding which of our rows each of its ids means. No Keras."""

import csv
import gzip
import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from featcache.errors import SubmissionError


@dataclass(frozen=True)
class Sample:
    """A sample submission: its header and its ids, in its order."""

    path: Path
    columns: tuple[str, ...]
    ids: tuple[str, ...]


def read_sample(path: Path) -> Sample:
    """Read a CSV, plain, ``.gz`` or ``.zip`` with one CSV inside.

    Raises:
        SubmissionError: absent, damaged, empty, ragged, or ids that repeat.
    """
    try:
        rows = [row for row in csv.reader(io.StringIO(_text(path), newline="")) if row]
    except (OSError, EOFError, zipfile.BadZipFile, UnicodeDecodeError, csv.Error) as error:
        raise SubmissionError(f"{path}: expected a sample submission as CSV, .gz or .zip; {error}") from error
    if len(rows) < 2 or len(rows[0]) < 2:
        raise SubmissionError(f"{path}: expected a header of an id column and more, and rows; got lines={len(rows)}")
    ragged = next((line for line, row in enumerate(rows, 1) if len(row) != len(rows[0])), None)
    if ragged:
        got = f"{len(rows[ragged - 1])} in line {ragged}"
        raise SubmissionError(f"{path}: expected {len(rows[0])} values in each line; got {got}")
    ids = tuple(row[0] for row in rows[1:])
    if len(set(ids)) != len(ids):
        twice = next(row_id for row_id in ids if ids.count(row_id) > 1)
        raise SubmissionError(f"{path}: expected unique ids; id={twice!r} stands twice")
    return Sample(path, tuple(name.strip() for name in rows[0]), ids)


def _text(path: Path) -> str:
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    elif content[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            tables = [
                name
                for name in archive.namelist()
                if name.lower().endswith(".csv") and not name.startswith("__MACOSX/")
            ]
            if len(tables) != 1:
                raise SubmissionError(f"{path}: expected one CSV inside; got {len(tables)}")
            content = archive.read(tables[0])
    return content.decode("utf-8-sig")


def match_ids(ours: Sequence[str], sample: Sample) -> list[int]:
    """Return the index into `ours` of each of the sample's ids.

    Ids are compared as they stand, else as file names, else as file names without suffix, else as paths below
    ``test/``: the first way by which both sides name the same rows, each once.

    Raises:
        SubmissionError: none does; how many are missing and extra is told for the way that matches most.
    """
    best: tuple[int, list[str], list[str]] | None = None
    for name in _WAYS:
        theirs = [name(row_id) for row_id in sample.ids]
        places = {name(row_id): row for row, row_id in enumerate(ours)}
        if len(places) < len(ours) or len(set(theirs)) < len(theirs):
            continue
        wanted = set(theirs)
        missing = [row_id for row_id, key in zip(sample.ids, theirs, strict=True) if key not in places]
        extra = [row_id for row_id in ours if name(row_id) not in wanted]
        if not missing and not extra:
            return [places[key] for key in theirs]
        if best is None or len(missing) + len(extra) < best[0]:
            best = len(missing) + len(extra), missing, extra
    _, missing, extra = best if best else (0, list(sample.ids), list(ours))
    raise SubmissionError(
        f"{sample.path}: expected the ids of the test images; {len(missing)} of {len(sample.ids)} have no image"
        f"{_few(missing)} and {len(extra)} of {len(ours)} images are not in the sample{_few(extra)}: "
        "correct [Dataset] path or sample_submission"
    )


def _few(ids: Sequence[str]) -> str:
    return f" ({', '.join(map(repr, ids[:3]))}{', ...' if len(ids) > 3 else ''})" if ids else ""


def _exact(row_id: str) -> str:
    return row_id


def _file_name(row_id: str) -> str:
    return PurePosixPath(row_id).name


def _stem(row_id: str) -> str:
    return PurePosixPath(row_id).stem


def _below(row_id: str) -> str:
    _, found, below = f"/{row_id}".partition("/test/")
    return below if found else row_id


_WAYS: tuple[Callable[[str], str], ...] = (_exact, _file_name, _stem, _below)

"""Finding and reading a sample submission, and finding which of our rows each of its ids means. No Keras."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from featcache.core.csv_files import CsvLines, UnreadableError, csv_files_like, opened
from featcache.core.names import clash, composed, stem
from featcache.core.paths import fault, is_file, what_is
from featcache.core.texts import NOT_FOUND, PackedTexts, first_duplicate, index_of
from featcache.errors import SettingsError, SubmissionError

_USUAL = "sample_submission"
# sampleSubmission, SampleSubmission, stage1_sample_submission, ...
_LIKE_SAMPLE = re.compile(r".*sample[ _-]?submission.*", re.IGNORECASE)
_MOST_LABELS = 1000  # of those that a sample may hold this many tell how classes are written
_NO_NAME = ("", "Unnamed: 0")  # what pandas calls an index when it writes and reads one


@dataclass(frozen=True)
class Sample:
    """A sample submission: its header and its ids, in its order.

    Attributes:
        labels: the different texts in its second column, at most 1,000, where it has two.
        delimiter: what separates its fields.
    """

    path: Path
    columns: tuple[str, ...]
    ids: Sequence[str]
    labels: tuple[str, ...] = ()
    delimiter: str = ","


def read_sample(path: Path) -> Sample:
    """Read a CSV, plain, ``.gz`` or ``.zip`` with one CSV inside.

    Raises:
        SubmissionError: absent, damaged, empty, ragged, or columns or ids that repeat.
    """
    try:
        with opened(path) as lines:
            return _read(path, lines)
    except (UnreadableError, OSError) as error:
        reason = fault(error) if isinstance(error, OSError) else error
        raise SubmissionError(f"{path} is no sample submission as CSV, .gz or .zip: {reason}") from error


def find_sample(named: Path | None, folder: Path | None) -> Path | None:
    """Return the sample submission that is named, or else the one that lies in the data set's folder, if any.

    Raises:
        SettingsError: the named one isn't there or is no file, or several lie there, none of them called ``sample_submission``.
    """
    if named is None:
        found = csv_files_like(folder, _LIKE_SAMPLE) if folder else {}
        if len(found) > 1 and _USUAL not in found:
            names = ", ".join(sorted(path.name for path in found.values()))
            raise SettingsError(
                f"{folder} has several sample submissions, {names}: set it to one of them, [Dataset] sample_submission"
            )
        candidates = [found[_USUAL]] if _USUAL in found else [*found.values()]
    else:
        candidates = [named, *([folder / named] if folder else [])]
    sample = next(filter(is_file, candidates), None)
    if sample is None and candidates:
        there = next(filter(os.path.lexists, candidates), None)
        problem = f"={str(named)!r} is not there" if there is None else f": {there} is {what_is(there)}, not a file"
        raise SettingsError(f"[Dataset] sample_submission{problem}: correct the path or leave it out")
    return sample


def _read(path: Path, lines: CsvLines) -> Sample:
    filled = iter(lines)
    header = next(filled, [])
    labels: dict[str, None] = {}

    def first_column() -> Iterator[str]:
        for row in filled:
            if len(row) != len(header):
                raise SubmissionError(
                    f"{path}: line {lines.number} has {len(row)} values, not the header's {len(header)}: correct the file"
                )
            if not row[0]:
                raise SubmissionError(f"{path}: line {lines.number} has no id: correct the file")
            if len(row) == 2 and len(labels) < _MOST_LABELS:
                labels[row[1].strip()] = None
            yield row[0]

    ids = PackedTexts(first_column())
    if not len(ids) or len(header) < 2:
        raise SubmissionError(
            f"{path} has lines={lines.number}, columns={len(header)}: it needs a header of an id column and more, "
            "comma-separated, and rows"
        )
    twice = first_duplicate(ids)
    if twice is not None:
        raise SubmissionError(f"{path}: id={twice!r} is there twice: correct the file")
    check_forms(ids, str(path))
    columns = tuple(name.strip().strip("\ufeff") for name in header)
    if not all(columns[1:]):
        raise SubmissionError(f"{path}: column {columns.index('', 1) + 1} has no name: remove it")
    same = clash(columns)
    if same is not None:
        raise SubmissionError(f"{path}: columns {same[0]!a} and {same[1]!a} have the same name: correct the file")
    return Sample(path, columns, ids, tuple(labels), lines.delimiter)


def check_forms(ids: Sequence[str], where: str) -> None:
    """Refuse ids that differ only in how letters and their accents are encoded.

    Raises:
        SubmissionError: there are such two.
    """
    if all(map(str.isascii, ids)):
        return
    twice = first_duplicate(PackedTexts(map(composed, ids)))
    if twice is not None:
        first, second, *_ = (ascii(name) for name in ids if composed(name) == twice)
        raise SubmissionError(f"{where}: {first} and {second} are one name in two Unicode forms: rename one")


def match_ids(ours: Sequence[str], sample: Sample) -> npt.NDArray[np.int64]:
    """Return (k,) the index into `ours` of each of the sample's k ids.

    Ids are compared as they are, else as file names, else as file names without an image's suffix, else as paths below
    ``test/``, with it or without: the first way by which both sides name the same rows, each once. But for the first way,
    it doesn't matter how a letter and its accent are encoded: archives made on macOS have them apart (NFD).

    Raises:
        SubmissionError: none does; the message counts missing and extra ids for the way that matches most.
    """
    best = (len(sample.ids) + len(ours), [*range(len(sample.ids))], [*range(len(ours))])
    for of_theirs, of_mine in _WAYS:
        theirs, mine = _named(sample.ids, of_theirs), _named(ours, of_mine)
        if first_duplicate(theirs) is not None or first_duplicate(mine) is not None:
            continue
        places = index_of(theirs, mine)
        named = np.zeros(len(mine), bool)
        named[places[places != NOT_FOUND]] = True
        missing, extra = np.flatnonzero(places == NOT_FOUND), np.flatnonzero(~named)
        if not len(missing) and not len(extra):
            return places
        best = min(best, (len(missing) + len(extra), missing.tolist(), extra.tolist()), key=lambda each: each[0])
    _, missing_rows, extra_rows = best
    raise SubmissionError(
        f"{sample.path} has other ids than the test images: {len(missing_rows)} of {len(sample.ids)} have no image"
        f"{_few(sample.ids, missing_rows)} and {len(extra_rows)} of {len(ours)} images are not in the sample"
        f"{_few(ours, extra_rows)}{_likely(sample, ours)}: correct [Dataset] path or sample_submission"
    )


def _few(ids: Sequence[str], rows: Sequence[int]) -> str:
    shown = ", ".join(repr(ids[row]) for row in rows[:3])
    return f" ({shown}{', ...' if len(rows) > 3 else ''})" if rows else ""


def _likely(sample: Sample, ours: Sequence[str]) -> str:
    """What probably became of the ids, in some words; no ids are ever matched by it."""
    if sample.columns[0] in _NO_NAME:
        return "; its first column has no name, like an index that pandas wrote (index=False leaves it out): remove it"

    def equal(form: Callable[[str], str]) -> bool:
        theirs, mine = (_named(ids, lambda row_id: form(_stem(row_id))) for ids in (sample.ids, ours))
        return NOT_FOUND not in index_of(theirs, mine)

    if equal(lambda name: name.lstrip("0")):
        return "; they differ in leading zeros, which a spreadsheet drops: take the sample as it was downloaded"
    if equal(str.casefold):
        return "; they differ in upper and lower case, which counts in ids: rename the images"
    return ""


def _named(ids: Sequence[str], name: Callable[[str], str] | None) -> Sequence[str]:
    return ids if name is None else PackedTexts(map(name, ids))


def _file_name(row_id: str) -> str:
    return PurePosixPath(composed(row_id)).name


def _stem(row_id: str) -> str:
    return stem(_file_name(row_id))


def _below(row_id: str) -> str:
    name = composed(row_id)
    _, found, below = f"/{name}".partition("/test/")
    return below if found else name


def _stem_below(row_id: str) -> str:
    return stem(_below(row_id))


# of their ids, and of ours; None: as they are
_WAYS: tuple[tuple[Callable[[str], str] | None, Callable[[str], str] | None], ...] = (
    (None, None),
    (_file_name, _file_name),
    (_file_name, _stem),  # an id that ends in .jpg for a file that ends in .jpg.png
    (_stem, _stem),
    (_below, _below),
    (_below, _stem_below),
    (_stem_below, _stem_below),
)

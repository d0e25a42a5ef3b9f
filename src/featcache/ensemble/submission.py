"""The submission: written, checked against the sample submission, read back. No Keras."""

import csv
import gzip
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.core.csv_files import CsvWriter
from featcache.core.disk import replacing
from featcache.core.texts import first_duplicate
from featcache.ensemble.columns import Layout, layout_of
from featcache.ensemble.decisions import Decision, plain_decision
from featcache.ensemble.ensemble import Decided
from featcache.ensemble.sample_submission import check_forms, match_ids, read_sample
from featcache.errors import SubmissionError
from featcache.settings import LOG_LOSS, SubmissionSpec
from featcache.training import row_parts

_TEXT_VALUES = 16  # a number as text takes so much more memory than as float32


@dataclass(frozen=True)
class SubmissionReport:
    """What was written: rows, the header, and what a person should look at, a line each."""

    rows: int
    columns: tuple[str, ...]
    notices: tuple[str, ...]


def write_submission_file(
    path: Path,
    ids: Sequence[str],
    probabilities: npt.NDArray[np.floating],
    class_names: Sequence[str],
    spec: SubmissionSpec,
    sample: Path | None = None,
    rejected: int = 0,
    decided: Decided | None = None,
    *,
    several: bool = False,
) -> SubmissionReport:
    """Replace `path` by the submission; the same predictions give the same bytes.

    Args:
        path: ends in ``.gz`` where `spec.gzip`.
        ids: n unique row ids, in the source's natural order.
        probabilities: (n, C), finite, in [0, 1]; rejected rows are already filled in.
        class_names: C names.
        spec: format, columns, gzip. A clip is already applied.
        sample: a sample submission, which fixes ids, columns and order.
        rejected: how many rows' images could not be used.
        decided: by the metric, which label is written, and with format ``auto`` and no sample what; None: log-loss.
        several: whether a row may have several of the classes.

    Raises:
        SubmissionError: the sample has other ids or columns, or a value isn't a probability.
        StorageError: the disk is full, read-only or not permitted.

    Example:
        >>> path, probabilities = Path("submission.csv"), np.array([[0.9, 0.1], [0.2, 0.8]])
        >>> write_submission_file(path, ["a.jpg", "b.jpg"], probabilities, ["cat", "dog"], SubmissionSpec()).rows
        2
        >>> path.read_text().split()
        ['id,label', 'a.jpg,cat', 'b.jpg,dog']
    """
    _check(ids, probabilities, class_names)
    example = read_sample(sample) if sample else None
    names, order = (example.ids, match_ids(ids, example)) if example else (ids, np.arange(len(ids)))
    layout = layout_of(spec, class_names, example, decided.metric if decided else LOG_LOSS, several=several)
    decision = decided.whole if decided else plain_decision(len(class_names), several=several)
    table = partial(_table, names, order, probabilities, class_names, layout, decision)
    _write(path, table(), spec.gzip)
    _read_back(path, table())
    notices = list(layout.notices)
    if rejected:
        notices.append(
            f"{rejected} of {len(ids)} test images could not be used; their rows hold the classes' shares in training"
        )
    return SubmissionReport(len(names), layout.columns, tuple(notices))


def _check(ids: Sequence[str], probabilities: npt.NDArray[np.floating], class_names: Sequence[str]) -> None:
    if probabilities.shape != (len(ids), len(class_names)):
        raise SubmissionError(
            f"probabilities{probabilities.shape} are not of {len(ids)} rows, {len(class_names)} classes"
        )
    if not len(ids):
        raise SubmissionError("there are no test images to submit predictions for: add PATH/test")
    twice = first_duplicate(ids)
    if twice is not None:
        raise SubmissionError(f"row id {twice!r} is there twice: rename one")
    check_forms(ids, "test images")
    bad = [
        part.start + row
        for part in row_parts(*probabilities.shape)
        for row in np.flatnonzero(~((probabilities[part] >= 0) & (probabilities[part] <= 1)).all(axis=1)).tolist()
    ]
    if bad:
        raise SubmissionError(
            f"{len(bad)} rows have probabilities outside [0, 1], first id={ids[bad[0]]!r}: run BuildEnsemble"
        )


def _table(
    names: Sequence[str],
    order: npt.NDArray[np.integer],
    probabilities: npt.NDArray[np.floating],
    class_names: Sequence[str],
    layout: Layout,
    decision: Decision,
) -> Iterator[list[str]]:
    """Yield the lines of the submission, the header first; some rows at a time are made into texts."""
    yield list(layout.columns)
    for part in row_parts(len(names), _TEXT_VALUES * len(class_names)):
        own = probabilities[order[part]]
        if layout.top:
            ranked = np.argsort(-own, axis=1, kind="stable")[:, : layout.top]
            labels = (" ".join(class_names[each] for each in row) for row in ranked)
            yield from ([name, label] for name, label in zip(names[part], labels, strict=True))
            continue
        if decision.thresholds and (layout.decided or layout.classes is None):
            yield from _label_lines(names[part], own, class_names, layout, decision)
            continue
        if layout.classes is None:
            classes = decision.classes(own)
            yield from ([name, class_names[best]] for name, best in zip(names[part], classes, strict=True))
            continue
        values = own[:, list(layout.classes)].astype(np.float64).tolist()
        for name, row in zip(names[part], values, strict=True):
            # seven digits are all that float32 has; "g" keeps them for the small ones too, where log-loss looks
            yield [name, *(f"{value:.7g}" for value in row)]


def _label_lines(
    names: Sequence[str],
    probabilities: npt.NDArray[np.floating],
    class_names: Sequence[str],
    layout: Layout,
    decision: Decision,
) -> Iterator[list[str]]:
    """Lines of rows with several labels: 0 or 1 a column, or all in one, which is never empty: at least the likeliest."""
    if layout.classes is not None:
        given = decision.classes(probabilities)[:, list(layout.classes)]
        yield from ([name, *map(str, row)] for name, row in zip(names, given.tolist(), strict=True))
        return
    for name, row in zip(names, replace(decision, filled=True).classes(probabilities), strict=True):
        yield [name, " ".join(class_names[label] for label in np.flatnonzero(row).tolist())]


def _write(path: Path, table: Iterable[Sequence[str]], compress: bool) -> None:
    with replacing(path) as temporary, open(temporary, "wb") as stream, ExitStack() as inner:
        # no name and no time in the header: same predictions, same bytes
        zipped = gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0) if compress else None
        packed = inner.enter_context(zipped) if zipped else stream
        CsvWriter(inner.enter_context(io.TextIOWrapper(packed, "utf-8", "surrogateescape", newline=""))).rows(table)


def _read_back(path: Path, table: Iterable[Sequence[str]]) -> None:
    """Refuse a file that does not hold what was meant."""
    with open(path, "rb") as stream:
        opener = gzip.open if stream.read(2) == b"\x1f\x8b" else open
    with opener(path, "rt", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        for number, (stored, meant) in enumerate(zip_longest(csv.reader(stream), table), 1):
            if stored != meant:
                raise SubmissionError(f"{path}: line {number} is not what was just written: run WriteSubmission again")

"""What rejected images leave of each class, split and tap: too little is an error, much less a notice."""

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.cache import Reader, Status, open_cache
from featcache.core.disk import storage_errors
from featcache.core.rows import Rows, has_label, label_counts
from featcache.dataset import Loader
from featcache.errors import CacheError, RejectedImageError, SourceChangedError, SubmissionError, TrainingError
from featcache.project.artifact import Artifact
from featcache.project.project import Project

REJECTED_CSV = "rejected.csv"
_REASONS = "rejections.jsonl"
_NAMED = 3
_COMPARED = 64  # rows of a tap, evenly spaced


@dataclass(frozen=True, eq=False)
class SplitRows:
    """Which of the n rows of one split can be used."""

    split: str  #: ``train``, ``valid`` or ``test``
    labels: npt.NDArray[np.integer]  #: (n,) class indices, or (n, L) 0 and 1 of several labels; -1 where unknown
    usable: npt.NDArray[np.bool_]  #: (n,)

    @classmethod
    def of(cls, cache: Reader) -> "SplitRows":
        """The rows of a feature cache."""
        return cls(cache.split, cache.labels, cache.status == Status.OK)

    def by_class(self, classes: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Return (C,) listed and (C,) usable rows of each class."""
        return label_counts(self.labels, classes), label_counts(self.labels[self.usable], classes)


def keeping_reasons(folder: Path, load: Loader) -> Loader:
    """Return `load`, which first writes down why it rejects an image: in the file before its row is in a cache.

    So neither a kill nor a later run has to decode the image again to say why. Thread-safe; several processes may append.
    """
    path, known = folder / _REASONS, cache(lambda: kept_reasons(folder))  # read at the first rejection, if there is one

    def load_and_keep(location: str, digest: str, size: int) -> npt.NDArray[np.uint8]:
        try:
            return load(location, digest, size)
        except RejectedImageError as error:
            if known().get((location, digest)) != str(error):
                line = json.dumps([location, digest, str(error)]).encode() + b"\n"
                with storage_errors(path, "could not write"), open(path, "ab", buffering=0) as stream:
                    stream.write(line)
            raise

    return load_and_keep


def kept_reasons(folder: Path) -> dict[tuple[str, str], str]:
    """Return (location, digest) -> why it was rejected, as `keeping_reasons` wrote it; a damaged line is left out."""
    found, path = {}, folder / _REASONS
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        with suppress(ValueError, TypeError):
            location, digest, reason = json.loads(line)
            found[location, digest] = reason
    return found


def rejection_reason(rows: Rows, row: int, load: Loader, size: int) -> str:
    """Return why a row was rejected, by decoding it again: the reason doesn't change, and no kept one is needed."""
    try:
        if not rows.reasons[row]:
            load(rows.locations[row], rows.digests[row], size)
    except (RejectedImageError, SourceChangedError) as error:
        return str(error)
    return rows.reasons[row]


def check_usable(found: SplitRows, class_names: Sequence[str], describe: Callable[[int], str], where: str = "") -> None:
    """Refuse a class that can't be trained on, and test images of which none is usable.

    Messages give one row that is missed as `describe` has it (its id and why it was rejected), then `where`.

    Raises:
        TrainingError: a class of the training images has no usable one.
        SubmissionError: no test image is usable: a submission would hold nothing but the classes' shares.
    """
    if found.split == "test" and not found.usable.any():
        count, first = f"{len(found.usable):,}", f"{describe(0)}{where}"
        raise SubmissionError(f"none of {count} test images can be used, the first: {first}: repair or remove them")
    if found.split != "train":
        return
    listed, usable = found.by_class(len(class_names))
    scarce = np.flatnonzero(usable == 0).tolist()
    if scarce:
        counts = [f"0 of {listed[k]:,} for class {class_names[k]!r}" for k in scarce[:_NAMED]]
        more = f" and {len(scarce) - _NAMED:,} more" if len(scarce) > _NAMED else ""
        missed = np.flatnonzero(~found.usable & has_label(found.labels, scarce[0])).tolist()
        first = f"; the first: {describe(missed[0])}{where}" if missed else ""
        raise TrainingError(
            f"no usable images: {', '.join(counts)}{more}{first}: repair these images, add others, or remove the class"
        )


def losses(splits: Iterable[SplitRows], class_names: Sequence[str]) -> list[str]:
    """Return a line for each split that lost more than half of its rows, or of those of a class."""
    lines = []
    for found in splits:
        rows, usable = len(found.usable), int(found.usable.sum())
        if 2 * usable < rows:
            kept = "" if usable or found.split != "valid" else ", so it has no score"
            lines.append(f"{found.split}: {rows - usable:,} of {rows:,} images could not be used{kept}")
        listed, left = found.by_class(len(class_names))
        lost = np.flatnonzero(2 * left < listed).tolist() if usable else []
        if lost:
            named = [f"{listed[k] - left[k]:,} of {listed[k]:,} images of class {class_names[k]!r}" for k in lost]
            more = f" and of {len(lost) - _NAMED:,} more classes" if len(lost) > _NAMED else ""
            lines.append(f"{found.split}: {', '.join(named[:_NAMED])}{more} could not be used")
    return lines


def usable_rows(cache: Reader) -> npt.NDArray[np.int64]:
    """Return (m,) the rows with status ok: which rows of the file the rows of ``cache.dask(tap, usable=True)`` are."""
    return np.flatnonzero(np.asarray(cache.status) == Status.OK)


def alike(cache: Reader) -> list[str]:
    """Return a line for each tap whose features don't tell one image from another, by evenly spaced rows."""
    usable = usable_rows(cache)
    rows = usable[np.unique(np.linspace(0, len(usable) - 1, _COMPARED).astype(np.intp))] if len(usable) else usable
    if len(np.unique(cache.digest_column[rows])) < 2:
        return []
    return [
        f"tap {tap}: the features of {len(rows)} images, evenly spaced, are all the same, so heads can't tell them apart: "
        "another layer or other weights"
        for tap in cache.taps
        if (features := cache[tap][rows].view(np.uint16))[1:].tobytes() == features[:-1].tobytes()
    ]


def notices(project: Project) -> list[str]:
    """Return what nobody may miss: `losses`, taps that say nothing, unused GPUs, classes that are not scored; a line each.

    As they were recorded with features and members; of older features computed now, as far as these are there.
    """
    members = (source for sources in project.member_sources().values() for source in sources)
    of_members = dict.fromkeys(line for source in members for line in _recorded(source) or ())
    of_features = _recorded(project.all_features())
    if of_features is not None:
        return [*of_features, *of_members]
    try:
        plain = [open_cache(backbone.cache(split, 0).path) for backbone, split, copy in project.caches() if copy == 0]
        return [*found_notices(plain), *of_members]
    except CacheError:
        return [*of_members]


def _recorded(artifact: Artifact) -> list[str] | None:
    recorded = (artifact.record() or {}).get("notices")
    return [str(line) for line in recorded] if isinstance(recorded, list) else None


def found_notices(plain: Sequence[Reader]) -> list[str]:
    """Return the lines about features of `notices`, from each split's plain cache."""
    found = losses(map(SplitRows.of, plain), plain[0].class_names if plain else ())
    found += [line for cache in plain if cache.split == "train" for line in alike(cache)]
    found += [str(cache.run["device_problem"]) for cache in plain if "device_problem" in cache.run]
    return [*dict.fromkeys(found)]


def rejected_csv(folder: Path) -> str:
    """Return the phrase by which a message leads to the file with all reasons."""
    return f" ({folder / REJECTED_CSV} has all)"

"""What `FindDuplicates` found, and which rows it keeps together in one fold."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from featcache.errors import CacheFormatError
from featcache.project.project import Project
from featcache.settings import GROUP


class TwinGroup(NamedTuple):
    """Images that are the same or nearly so: at least two."""

    places: list[tuple[str, int]]  #: split and row
    alike: list[float]  #: of each its similarity to the nearest other, at most 1


def twin_groups(project: Project) -> list[TwinGroup]:
    """Return the groups that were found; none where near duplicates are ignored.

    Raises:
        CacheFormatError: they haven't been looked for, or the record is damaged.
    """
    artifact = project.duplicates()
    record: Any = artifact.record() if artifact.is_complete() else None
    if record is None:
        fix = "run luigi --module pipeline FindDuplicates"
        raise CacheFormatError(f"{artifact.path} is missing, damaged or of other features: {fix}")
    return groups_of(record["groups"])


def groups_of(stored: Sequence[Sequence[tuple[str, int, float]]]) -> list[TwinGroup]:
    """Return groups as `TwinGroup`, of (split, row, similarity) each."""
    return [TwinGroup([(split, row) for split, row, _ in each], [a for *_, a in each]) for each in stored]


def twins_summary(project: Project) -> str:
    """Return what was found in one line; "" for nothing, or where it hasn't been looked for."""
    artifact = project.duplicates()
    return str((artifact.record() or {}).get("summary", "")) if artifact.is_complete() else ""


def unlike_record(project: Project) -> Mapping[str, Any]:
    """Return what `FindDuplicates` recorded of images unlike anything seen, {} where it hasn't run.

    Returns:
        ``quantiles``, as `SeenImages.quantiles`; ``rows``: [split, row, share] of all images but those of training that
        are unlike anything seen, the farthest first; ``of``: split -> how many images were compared.
    """
    artifact = project.duplicates()
    record: Any = artifact.record() if artifact.is_complete() else None
    found: Mapping[str, Any] = (record or {}).get("unlike", {})
    return found


def fold_digests(
    project: Project, digests: Sequence[str] | npt.NDArray[np.bytes_]
) -> Sequence[str] | npt.NDArray[np.bytes_]:
    """Return the training rows' digests as folds are dealt by them: near duplicates have one where the settings say so.

    Raises:
        CacheFormatError: as `twin_groups`.
    """
    if project.settings.dataset.near_duplicates != GROUP:
        return digests
    column = np.array(digests) if isinstance(digests, np.ndarray) else np.fromiter(digests, "S64", len(digests))
    for group in twin_groups(project):
        rows = [row for split, row in group.places if split == "train"]
        column[rows] = column[rows[:1]]
    return column

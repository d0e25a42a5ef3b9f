"""What all members of a project say of its training rows, and what those who combine them must know of the rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.cache import Reader, Status
from featcache.core.texts import NOT_FOUND, index_of
from featcache.dataset import Manifest
from featcache.ensemble import Ensemble, normalised
from featcache.errors import CacheMismatchError, TrainingError
from featcache.project.project import Project
from featcache.project.rejected_rows import usable_labels
from featcache.training import OUT_OF_FOLD_FILE, Predictions, joined_members, judge_parts


def out_of_fold(project: Project) -> Predictions:
    """Return what all members say of the training rows, each row by models that haven't seen its fold.

    Raises:
        CacheFormatError: the predictions are absent or damaged.
        CacheMismatchError: they don't belong together.
    """
    sources = [source for stage in project.member_sources().values() for source in stage]
    return joined_members([Predictions.load(source.path.parent / OUT_OF_FOLD_FILE) for source in sources])


def groups_of(project: Project, ids: Sequence[str]) -> Sequence[str]:
    """Return the groups of the training rows `ids`; none at all where no training row has one.

    Raises:
        CacheFormatError: the manifest is absent or damaged.
        CacheMismatchError: it lacks a row.
    """
    rows = Manifest.load(project.folder).splits["train"]
    if not any(rows.groups):
        return ()
    places = index_of(ids, rows.ids)
    if (places == NOT_FOUND).any():
        row = ids[int(np.argmax(places == NOT_FOUND))]
        raise CacheMismatchError(f"expected the rows of the manifest; id={row!r} isn't one: run TrainHeads")
    return [rows.groups[place] for place in places.tolist()]


def all_scores(project: Project, built: Ensemble, clip: float | None = None) -> dict[str, Any]:
    """Return split -> scores of the ensemble on rows with a known label, then its nested ones as ``out of fold``.

    Rows are brought to sum 1, as who scores log-loss does. Those that can't be used aren't scored, as nothing told them;
    ``unusable`` counts them. A split without rows to score isn't there.

    Args:
        project: whose predictions are complete.
        built: its ensemble.
        clip: another upper bound of a probability than the ensemble's.

    Raises:
        CacheFormatError: predictions are absent or damaged.
    """
    found: dict[str, Any] = {}
    for split in project.scored_splits():
        predictions = Predictions.load(project.predictions(split).path)
        labels = usable_labels(project, split, predictions.labels)
        if (labels >= 0).any():
            known, told = labels >= 0, built.parts(predictions, clip)
            parts = ((rows.start + np.flatnonzero(known[rows]), normalised(said[known[rows]])) for rows, said in told)
            judged = judge_parts(parts, labels)
            unusable = int((predictions.labels[~known] >= 0).sum())
            counts = {"rows": int(known.sum()), "unusable": unusable, "right": int(judged.right[known].sum())}
            found[split] = {**counts, **vars(judged.scores(known))}
    return {**found, "out of fold": {**vars(built.scores), "interval": vars(built.interval)}}


def class_prior(train: Reader) -> npt.NDArray[np.float64]:
    """Return (C,) the classes' shares among the usable training rows.

    Raises:
        TrainingError: a class has none, so nothing was trained on it: features of an older version may be such.
    """
    counts = np.bincount(train.labels[train.status == Status.OK], minlength=len(train.class_names))
    if not counts.all():
        name = train.class_names[int(counts.argmin())]
        raise TrainingError(
            f"{train.path}: expected usable training images of each class; got 0 for class {name!r}: mend its images, add "
            "others, or take the class away"
        )
    return np.asarray(counts / counts.sum(), np.float64)

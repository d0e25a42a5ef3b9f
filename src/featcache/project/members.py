"""The predictions of all members of a project, and what the ensemble of them scores."""

from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.cache import Reader, Status
from featcache.dataset import Manifest
from featcache.ensemble import Ensemble, normalised
from featcache.errors import TrainingError
from featcache.project.project import Project
from featcache.project.rejected_rows import usable_labels
from featcache.training import Predictions, joined_members, judge_parts


def out_of_fold(project: Project) -> Predictions:
    """Return all members' predictions of the training rows, each row by models that haven't seen its fold.

    Raises:
        CacheFormatError: the predictions or the manifest are absent or damaged.
        CacheMismatchError: they don't belong together.
    """
    rows = Manifest.load(project.folder).splits["train"]
    sources = [source for stage in project.member_sources().values() for source in stage]
    return joined_members([Predictions.load(source.path, rows) for source in sources])


def predictions_of(project: Project, split: str) -> Predictions:
    """Return all members' predictions of a split that nothing is trained on.

    Raises:
        CacheFormatError: the predictions or the manifest are absent or damaged.
    """
    return Predictions.load(project.predictions(split).path, Manifest.load(project.folder).splits[split])


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
        predictions = predictions_of(project, split)
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

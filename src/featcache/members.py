"""What all members of a project say of its training rows, and what those who combine them must know of the rows."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from featcache.bag_file import OUT_OF_FOLD_FILE
from featcache.cache.layout import Status
from featcache.cache.reader import Reader
from featcache.errors import CacheMismatchError
from featcache.predictions import Predictions, joined_members
from featcache.project import Project
from featcache.sources import Manifest
from featcache.texts import NOWHERE, positions


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
    places = positions(ids, rows.ids)
    if (places == NOWHERE).any():
        row = ids[int(np.argmax(places == NOWHERE))]
        raise CacheMismatchError(f"expected the rows of the manifest; id={row!r} isn't one: run TrainHeads")
    return [rows.groups[place] for place in places.tolist()]


def class_prior(train: Reader) -> npt.NDArray[np.float64]:
    """Return (C,) the classes' shares among the usable training rows."""
    counts = np.bincount(train.labels[train.status == Status.OK], minlength=len(train.class_names))
    return np.asarray(counts / counts.sum(), np.float64)

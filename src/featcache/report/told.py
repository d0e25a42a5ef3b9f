"""What the ensemble says of the rows of each split, as the report shows it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from featcache.cache.layout import Status
from featcache.cache.reader import open_cache
from featcache.combination import Combination, normalised
from featcache.ensemble import Ensemble
from featcache.members import out_of_fold
from featcache.predictions import Predictions
from featcache.project import Project

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Told:
    """n usable rows of one split, each told by models that were not trained on it.

    Attributes:
        split: ``train``, ``valid`` or ``test``.
        ids: n row ids.
        labels: (n,) int32, -1 where unknown.
        probabilities: (n, C) float64 of the ensemble, rows sum to 1; of training rows nested: by the combination that
            was fitted without their fold.
        uncalibrated: (n, C) float64, the same before temperature and clip.
    """

    split: str
    ids: Sequence[str]
    labels: npt.NDArray[np.int32]
    probabilities: Floats
    uncalibrated: Floats

    @property
    def predicted(self) -> npt.NDArray[np.intp]:
        """(n,) the most probable class; the first of equals."""
        most: npt.NDArray[np.intp] = self.probabilities.argmax(axis=1)
        return most

    def known(self) -> "Told":
        """The rows whose label is known."""
        rows = np.flatnonzero(self.labels >= 0)
        if len(rows) == len(self.labels):
            return self
        ids = [self.ids[row] for row in rows.tolist()]
        return Told(self.split, ids, self.labels[rows], self.probabilities[rows], self.uncalibrated[rows])


def told_rows(project: Project, built: Ensemble) -> dict[str, Told]:
    """Return split -> its rows, ``train`` first.

    Raises:
        CacheFormatError: predictions or features are absent or damaged.
        CacheMismatchError: they don't belong together.
    """
    plain = replace(
        built,
        whole=_uncalibrated(built.whole),
        folds={fold: _uncalibrated(chosen) for fold, chosen in built.folds.items()},
    )
    known = out_of_fold(project).scored()
    nested = [normalised(each.apply_nested(known)) for each in (built, plain)]
    found = {"train": Told("train", known.ids, known.labels, *nested)}
    for split in project.scored_splits():
        predictions = Predictions.load(project.predictions(split).path)
        usable = np.asarray(open_cache(project.features(split, 0).path).status) == Status.OK
        rows = np.flatnonzero(usable).tolist()
        predictions = predictions.align([predictions.ids[row] for row in rows])
        applied = [normalised(each.apply(predictions)) for each in (built, plain)]
        found[split] = Told(split, predictions.ids, predictions.labels, *applied)
    return {split: told for split, told in found.items() if len(told.ids)}


def _uncalibrated(chosen: Combination) -> Combination:
    return replace(chosen, temperature=1.0, clip=1.0)

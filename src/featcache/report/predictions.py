"""The ensemble's predictions for the rows of each split."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from featcache.core.scratch_arrays import allocate
from featcache.ensemble import Combination, Ensemble, normalised
from featcache.project import Project, out_of_fold, split_predictions
from featcache.training import Float64s, Predictions, RowNumbers


@dataclass(frozen=True, eq=False)
class EnsemblePredictions:
    """n usable rows of one split, each predicted by models that were not trained on it.

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
    probabilities: Float64s
    uncalibrated: Float64s

    @cached_property
    def predicted(self) -> npt.NDArray[np.intp]:
        """(n,) the most probable class; the first of equals."""
        most: npt.NDArray[np.intp] = self.probabilities.argmax(axis=1)
        return most


def ensemble_predictions(project: Project, built: Ensemble) -> dict[str, EnsemblePredictions]:
    """Return split -> its rows, ``train`` first.

    Raises:
        CacheFormatError: predictions or features are missing or damaged.
        CacheMismatchError: they are of different rows.
    """
    plain = replace(
        built,
        whole=_uncalibrated(built.whole),
        folds={fold: _uncalibrated(chosen) for fold, chosen in built.folds.items()},
    )
    known = out_of_fold(project).scored()
    nested = [_gathered(project, known, each.nested_parts(known)) for each in (built, plain)]
    found = {"train": EnsemblePredictions("train", known.ids, known.labels, *nested)}
    for split, whole in split_predictions(project).items():
        predictions = whole.take(np.flatnonzero(whole.predicted()))
        applied = [_gathered(project, predictions, each.parts(predictions)) for each in (built, plain)]
        found[split] = EnsemblePredictions(split, predictions.ids, predictions.labels, *applied)
    return {split: predictions for split, predictions in found.items() if len(predictions.ids)}


def _gathered(
    project: Project, predictions: Predictions, parts: Iterable[tuple[slice | RowNumbers, Float64s]]
) -> Float64s:
    """(n, C) of these parts, rows normalised to sum 1; a large table is in a file without a name."""
    shape = len(predictions.ids), len(predictions.class_names)
    table: Float64s = allocate(shape, np.float64, project.folder)
    table[:] = np.nan
    for rows, part in parts:
        table[rows] = normalised(part)
    return table


def _uncalibrated(chosen: Combination) -> Combination:
    return replace(chosen, temperature=1.0, clip=1.0)

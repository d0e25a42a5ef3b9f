"""The finished run that the report is about: its artifacts, and the ensemble's predictions for the rows of each split."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.cache import Reader, open_cache
from featcache.core.scratch_arrays import allocate
from featcache.core.texts import index_of
from featcache.dataset import Manifest
from featcache.ensemble import Combination, Ensemble
from featcache.inspection import leaderboard_record
from featcache.project import BackboneFeatures, Project, out_of_fold, split_predictions
from featcache.training import Float64s, Predictions, RowNumbers


@dataclass(frozen=True, eq=False)
class EnsemblePredictions:
    """n usable rows of one split, each predicted by models that were not trained on it.

    Attributes:
        split: ``train``, ``valid`` or ``test``.
        ids: n row ids.
        labels: (n,) int32, -1 where unknown; of several labels a row (n, C) int8, as `Rows` has them.
        probabilities: (n, C) float64 of the ensemble, rows sum to 1 but of several labels; of training rows nested: by the combination that
            was fitted without their fold.
        uncalibrated: (n, C) float64, the same before temperature and clip.
        decided: (n,) the class that the metric decides for; None: the most probable. Of several labels (n, C), 0 and 1.
    """

    split: str
    ids: Sequence[str]
    labels: npt.NDArray[np.integer]
    probabilities: Float64s
    uncalibrated: Float64s
    decided: RowNumbers | None = None

    @cached_property
    def predicted(self) -> RowNumbers:
        """(n,) the class that is decided for, or the most probable one; the first of equals."""
        return np.asarray(self.probabilities.argmax(axis=1)) if self.decided is None else self.decided


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run's project and artifacts, each read once.

    `predictions` are the ensemble's, of the splits that have any, ``train`` first; `rows` are the rows of these, the first
    one of a case, in the manifest, and so in the split's plain cache, which `readers` has of one `backbone`: its `tap`
    defines which rows are near each other.
    """

    project: Project
    manifest: Manifest
    built: Ensemble
    leaderboard: Mapping[str, Any]
    predictions: Mapping[str, EnsemblePredictions]
    rows: Mapping[str, npt.NDArray[np.int64]]
    readers: Mapping[str, Reader]
    backbone: BackboneFeatures
    tap: str

    @property
    def names(self) -> tuple[str, ...]:
        """The classes."""
        return self.built.class_names


def load_run(project: Project) -> Run:
    """Read what a finished run left.

    Raises:
        CacheError: an artifact is missing, damaged or of other settings.
        TrainingError: no member is trained.
    """
    manifest, built = Manifest.load(project.folder), Ensemble.load(project.ensemble().path)
    leaderboard = leaderboard_record(project, manifest)
    predictions = {each.split: each for each in ensemble_predictions(project, manifest, built)}
    listed = {split: manifest.splits[split] for split in predictions}
    rows = {
        split: index_of(each.ids, listed[split].cases if len(listed[split].cases) else listed[split].ids)
        for split, each in predictions.items()
    }
    backbone, tap = _last_tap(project, leaderboard)
    readers = {split: open_cache(backbone.cache(split, 0).path) for split in manifest.splits}
    return Run(project, manifest, built, leaderboard, predictions, rows, readers, backbone, tap)


def _last_tap(project: Project, leaderboard: Mapping[str, Any]) -> tuple[BackboneFeatures, str]:
    """The last tap of the best member that looks at any, and its backbone."""
    seen = next(entry["tap"] for entry in leaderboard["entries"] if entry["tap"])
    last = project.inputs()[str(seen)][-1]
    backbone = next(backbone for backbone in project.backbones if backbone.owns(last))
    return backbone, next(tap.name for tap in backbone.spec.taps if backbone.input_name(tap.name) == last)


def ensemble_predictions(project: Project, manifest: Manifest, built: Ensemble) -> Iterator[EnsemblePredictions]:
    """Yield the predictions of each split that has any, ``train`` first.

    Raises:
        CacheError: predictions are missing, damaged or of other settings.
    """
    plain = replace(
        built,
        whole=_uncalibrated(built.whole),
        folds={fold: _uncalibrated(chosen) for fold, chosen in built.folds.items()},
    )
    for split, known in _members_predictions(project, manifest):
        if len(known.ids):
            table, uncalibrated = (_combined(project, each, known) for each in (built, plain))
            classes = _decided(built, table, known.folds)
            yield EnsemblePredictions(split, known.ids, known.labels, table, uncalibrated, classes)


def _members_predictions(project: Project, manifest: Manifest) -> Iterator[tuple[str, Predictions]]:
    yield "train", out_of_fold(project, manifest).scored()
    for split, whole in split_predictions(project, manifest=manifest).items():
        yield split, whole.take(np.flatnonzero(whole.predicted()))


def _combined(project: Project, built: Ensemble, known: Predictions) -> Float64s:
    """(n, C), rows normalised to sum 1; a large table is in a file without a name."""
    shape = len(known.ids), len(known.class_names)
    table: Float64s = allocate(shape, np.float64, project.folder)
    table[:] = np.nan
    for rows, part in built.parts(known) if known.folds is None else built.nested_parts(known):
        table[rows] = built.shares(part)
    return table


def _decided(built: Ensemble, table: Float64s, folds: npt.NDArray[np.int32] | None) -> RowNumbers | None:
    """(n,) the classes by the metric's decisions, of training rows by that of the other folds; None where there are none."""
    if built.decided is None:
        return built.decision.classes(table) if built.several else None
    if folds is None:
        return built.decision.classes(table)
    classes = np.empty(table.shape if built.several else len(table), np.intp)
    for fold, decision in built.decided.folds.items():
        classes[folds == fold] = decision.classes(table[folds == fold])
    return classes


def _uncalibrated(chosen: Combination) -> Combination:
    return replace(chosen, temperature=1.0, clip=1.0, clips=(1.0,) * len(chosen.clips))

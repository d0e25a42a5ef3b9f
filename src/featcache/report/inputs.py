"""The artifacts that the parts of the report are made from, each read once."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.cache import Reader, open_cache
from featcache.core.texts import index_of
from featcache.dataset import Manifest
from featcache.ensemble import Ensemble
from featcache.inspection import leaderboard_record
from featcache.project import Project
from featcache.report.predictions import EnsemblePredictions, ensemble_predictions


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run's project and artifacts."""

    project: Project

    @cached_property
    def built(self) -> Ensemble:
        """The ensemble."""
        return Ensemble.load(self.project.ensemble().path)

    @cached_property
    def predictions(self) -> dict[str, EnsemblePredictions]:
        """Split -> the ensemble's predictions."""
        return ensemble_predictions(self.project, self.built)

    @cached_property
    def manifest(self) -> Manifest:
        """All rows."""
        return Manifest.load(self.project.folder)

    @cached_property
    def rows(self) -> dict[str, npt.NDArray[np.int64]]:
        """Split -> (n,) row of each prediction in the manifest, and so in the cache."""
        return {split: index_of(each.ids, self.manifest.splits[split].ids) for split, each in self.predictions.items()}

    @cached_property
    def readers(self) -> dict[str, Reader]:
        """Split -> its plain cache."""
        return {split: open_cache(self.project.features(split, 0).path) for split in self.manifest.splits}

    @cached_property
    def leaderboard(self) -> dict[str, Any]:
        """Every member beside the ensemble."""
        return leaderboard_record(self.project)

    @property
    def names(self) -> tuple[str, ...]:
        """The classes."""
        return self.built.class_names

    @property
    def tap(self) -> str:
        """The tap of the best member that has one; its features define which rows are near each other."""
        return str(next(entry["tap"] for entry in self.leaderboard["entries"] if entry["tap"]))

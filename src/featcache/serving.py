"""What it takes to tell images that no run has seen: the ensemble of the settings in force, and its chosen members' heads."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.bags import OUT_OF_FOLD_FILE, Bag, load_bag
from featcache.combination import Combination
from featcache.ensemble import Ensemble
from featcache.errors import CacheMismatchError, SettingsError, WeightsError
from featcache.predictions import Predictions
from featcache.project import Artifact, Project
from featcache.stages.results import submission_clip

_RUN = "run luigi --module pipeline Submit (featcache status says what it would do)"


@dataclass(frozen=True, eq=False)
class ServedBag:
    """The chosen members of one bag.

    Attributes:
        tap: the tap that they see.
        bag: their heads alone.
        members: their names, in the order of the bag's seeds.
    """

    tap: str
    bag: Bag
    members: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ServedEnsemble:
    """An ensemble and all that it needs of the artifacts, in memory.

    Attributes:
        ensemble: members and their combination.
        clip: upper bound of a probability, as in the submission; 1 for none.
        bags: of the chosen members, only these.
    """

    ensemble: Ensemble
    clip: float
    bags: tuple[ServedBag, ...]

    def probabilities(self, features: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
        """Return (n, C), what the pipeline says of rows with these features.

        Args:
            features: tap name -> (n, h, w, c) or (n, c) float16.

        Raises:
            TrainingError: features of another shape than the heads were trained on.
        """
        said = np.concatenate([served.bag.member_predictions(features[served.tap]) for served in self.bags])
        members = tuple(name for served in self.bags for name in served.members)
        rows = tuple(map(str, range(said.shape[1])))
        unknown = np.full(len(rows), -1, np.int32)
        predictions = Predictions(rows, unknown, members, said, self.ensemble.class_names)
        return self.ensemble.apply(predictions, self.clip)


def load_served(project: Project, member: str | None = None) -> ServedEnsemble:
    """Load the ensemble that the settings in force ask for; images and their listing are not looked at.

    Args:
        project: from then on derives its keys from the manifest as it was last saved.
        member: this one alone, without temperature and clip; None for the ensemble.

    Raises:
        CacheError: there is no trained ensemble of these settings, or it is damaged.
        SettingsError: no such member, or one that is a small CNN.
        WeightsError: the weights file is another than the one that the features were computed with.
    """
    project.recall()
    _check_weights(project)
    artifact = project.ensemble()
    if not artifact.is_complete():
        raise CacheMismatchError(f"expected an ensemble of these settings in {project.folder}; got none: {_RUN}")
    built = Ensemble.load(artifact.path)
    clip = submission_clip(project, built)
    if member is not None:
        built, clip = _alone(built, member), 1.0
    bags = [bag for source in project.member_sources()["TrainHeads"] if (bag := _served(source, built.members))]
    others = set(built.members) - {name for bag in bags for name in bag.members}
    if others:
        raise SettingsError(
            f"expected members that are heads on the backbone's features; got member={min(others)!r}, a small CNN on images of "
            "its own size: set [ConvNet] members = 0 and run luigi --module pipeline Submit, or export one head by --member"
        )
    return ServedEnsemble(built, clip, tuple(bags))


def _check_weights(project: Project) -> None:
    """A user's weights file counts by its content; another one would make features that the heads don't know."""
    recorded, digest = project.resolved("weights"), project.weights_digest()
    if recorded is not None and recorded.get("digest") != digest:
        raise WeightsError(
            f"[Features] weights: expected the file of digest {recorded.get('digest')}, by which the heads were trained; "
            f"got {digest}: put that file back, or {_RUN}"
        )


def _alone(built: Ensemble, member: str) -> Ensemble:
    if member not in built.candidates:
        known = ", ".join(built.candidates)
        raise SettingsError(f"--member: expected one of {known}; got member={member!r}")
    alone = tuple(float(name == member) for name in built.candidates)
    return replace(built, whole=Combination("mean", alone, temperature=1.0, clip=1.0))


def _served(source: Artifact, chosen: tuple[str, ...]) -> ServedBag | None:
    """The chosen members of one bag; None where there are none."""
    if not source.is_complete():
        raise CacheMismatchError(f"expected the heads of the ensemble in {source.path.parent}; got none: {_RUN}")
    names = Predictions.load(source.path.parent / OUT_OF_FOLD_FILE).members
    members = tuple(name for name in names if name in chosen)
    if not members:
        return None
    bag = load_bag(source.path.parent)
    seeds = [seed for seed, name in zip(bag.seeds, names, strict=True) if name in members]
    return ServedBag(str((source.record() or {}).get("tap")), bag.of_seeds(seeds), members)
